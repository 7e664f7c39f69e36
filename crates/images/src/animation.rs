//! Writers of animations: whole frames one after the other.

use std::io::Write;

use image::codecs::gif::GifEncoder;
use image::codecs::webp::WebPEncoder;
use image::metadata::LoopCount;
use image::{ExtendedColorType, Frame};

use crate::turn::{Fault, Sink};

/// Takes the frames of an animation.
pub(crate) trait Animation {
    /// Writes one more frame, which is as large as the whole.
    fn frame(&mut self, frame: Frame) -> Result<(), Fault>;

    /// Writes what comes behind the last.
    fn finish(self) -> Result<(), Fault>;
}

fn milliseconds(frame: &Frame) -> u32 {
    let (numerator, denominator) = frame.delay().numer_denom_ms();
    numerator / denominator.max(1)
}

/// GIF: up to 256 colours a frame, and a pixel is seen or not.
pub(crate) struct GifWriter<W: Write>(pub(crate) GifEncoder<W>);

impl<W: Write> Animation for GifWriter<W> {
    fn frame(&mut self, frame: Frame) -> Result<(), Fault> {
        let delay = frame.delay();
        let mut image = frame.into_buffer();
        for pixel in image.pixels_mut() {
            let [.., alpha] = &mut pixel.0;
            if *alpha < 128 {
                pixel.0 = [0; 4];
            } else {
                *alpha = 255;
            }
        }
        self.0.encode_frame(Frame::from_parts(image, 0, 0, delay))?;
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        Ok(())
    }
}

/// PNG with animation (the acTL, fcTL and fdAT chunks of PNG's third edition).
pub(crate) struct ApngWriter<'a> {
    writer: png::Writer<&'a mut Sink>,
}

impl<'a> ApngWriter<'a> {
    /// Takes size, number of frames and number of loops from `original`.
    pub(crate) fn new(original: &[u8], out: &'a mut Sink, most_frames: u32) -> Result<Self, Fault> {
        let reader = png::Decoder::new(std::io::Cursor::new(original))
            .read_info()
            .map_err(|error| Fault::Broken(error.to_string()))?;
        let info = reader.info();
        let control = info
            .animation_control()
            .ok_or_else(|| Fault::Broken("no animation".to_owned()))?;
        if control.num_frames > most_frames {
            return Err(Fault::TooManyFrames);
        }
        let mut encoder = png::Encoder::new(out, info.width, info.height);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_compression(png::Compression::Fast);
        encoder
            .set_animated(control.num_frames, control.num_plays)
            .map_err(fault)?;
        encoder.set_blend_op(png::BlendOp::Source).map_err(fault)?;
        encoder
            .set_dispose_op(png::DisposeOp::None)
            .map_err(fault)?;
        let writer = encoder.write_header().map_err(fault)?;
        Ok(Self { writer })
    }
}

impl Animation for ApngWriter<'_> {
    fn frame(&mut self, frame: Frame) -> Result<(), Fault> {
        let delay = u16::try_from(milliseconds(&frame)).unwrap_or(u16::MAX);
        self.writer.set_frame_delay(delay, 1000).map_err(fault)?;
        self.writer
            .write_image_data(frame.buffer().as_raw())
            .map_err(fault)
    }

    fn finish(self) -> Result<(), Fault> {
        self.writer.finish().map_err(fault)
    }
}

fn fault(error: png::EncodingError) -> Fault {
    Fault::Broken(error.to_string())
}

/// WebP with animation: `image` writes still pictures alone, so the container is written here
/// (developers.google.com/speed/webp/docs/riff_container).
pub(crate) struct WebpWriter<'a> {
    out: &'a mut Sink,
    size: (u32, u32),
    loops: u16,
    /// The chunks of the frames so far.
    frames: Sink,
}

impl<'a> WebpWriter<'a> {
    pub(crate) fn new(out: &'a mut Sink, size: (u32, u32), loops: LoopCount) -> Self {
        let loops = match loops {
            LoopCount::Finite(count) => u16::try_from(count.get()).unwrap_or(u16::MAX),
            LoopCount::Infinite => 0,
        };
        let frames = Sink::new(out.limit());
        Self {
            out,
            size,
            loops,
            frames,
        }
    }

    /// A size as the container writes it: less one, in three bytes.
    fn canvas(&self) -> [u8; 6] {
        let [a, b, c, _] = self.size.0.saturating_sub(1).to_le_bytes();
        let [d, e, f, _] = self.size.1.saturating_sub(1).to_le_bytes();
        [a, b, c, d, e, f]
    }
}

impl Animation for WebpWriter<'_> {
    fn frame(&mut self, frame: Frame) -> Result<(), Fault> {
        /// `RIFF`, a length and `WEBP`, before the chunk that holds the picture.
        const FILE_HEAD: usize = 12;
        /// Replace what is there, and leave it there.
        const NO_BLENDING: u8 = 0b10;
        let mut file = Sink::new(self.frames.limit());
        let image = frame.buffer();
        let encoded = WebPEncoder::new_lossless(&mut file).encode(
            image.as_raw(),
            image.width(),
            image.height(),
            ExtendedColorType::Rgba8,
        );
        if file.is_full {
            return Err(Fault::ResultTooLarge);
        }
        encoded?;
        let picture = file.bytes.get(FILE_HEAD..).unwrap_or_default();
        let [a, b, c, _] = milliseconds(&frame).min(0xff_ffff).to_le_bytes();
        let mut head = Vec::with_capacity(16);
        // The place of the frame, then its size and its time.
        head.extend_from_slice(&[0; 6]);
        head.extend_from_slice(&self.canvas());
        head.extend_from_slice(&[a, b, c, NO_BLENDING]);
        chunk(&mut self.frames, b"ANMF", &[&head, picture])
    }

    fn finish(self) -> Result<(), Fault> {
        const ANIMATION_AND_ALPHA: u8 = 0b1_0010;
        let mut extended = vec![ANIMATION_AND_ALPHA, 0, 0, 0];
        extended.extend_from_slice(&self.canvas());
        let [low, high] = self.loops.to_le_bytes();
        let animation = [0, 0, 0, 0, low, high];
        // A head of 8 bytes each, and `WEBP`.
        let length = self.frames.bytes.len() + extended.len() + animation.len() + 2 * 8 + 4;
        let length = u32::try_from(length).map_err(|_| Fault::ResultTooLarge)?;
        put(self.out, b"RIFF")?;
        put(self.out, &length.to_le_bytes())?;
        put(self.out, b"WEBP")?;
        chunk(self.out, b"VP8X", &[&extended])?;
        chunk(self.out, b"ANIM", &[&animation])?;
        put(self.out, &self.frames.bytes)
    }
}

/// Writes a chunk; `parts` together have an even length, as all that is written here has.
fn chunk(out: &mut Sink, name: &[u8; 4], parts: &[&[u8]]) -> Result<(), Fault> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| Fault::ResultTooLarge)?;
    put(out, name)?;
    put(out, &length.to_le_bytes())?;
    parts.iter().try_for_each(|part| put(out, part))
}

fn put(out: &mut Sink, bytes: &[u8]) -> Result<(), Fault> {
    out.write_all(bytes).map_err(|_| Fault::ResultTooLarge)
}
