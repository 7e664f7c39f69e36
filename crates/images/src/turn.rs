//! One image in, the same image upside down and blurred out, in the format it came in.
//!
//! What an image costs is known before anything is allocated for it: sizes are read from its head
//! and held against [`Bounds`]. Everything a decoder makes of the bytes beyond that is held against
//! a limit on memory, the output against one on its length, and animations against a deadline
//! between their frames.

use std::io::{Cursor, Write};
use std::panic::AssertUnwindSafe;

use image::codecs::gif::{GifDecoder, GifEncoder, Repeat};
use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::codecs::png::{CompressionType, FilterType, PngDecoder, PngEncoder};
use image::codecs::webp::{WebPDecoder, WebPEncoder};
use image::metadata::LoopCount;
use image::{
    AnimationDecoder, DynamicImage, Frame, ImageBuffer, ImageDecoder, ImageEncoder, ImageError,
    Pixel,
};

use crate::animation::{Animation, ApngWriter, GifWriter, WebpWriter};

/// Colour profiles are copied unread up to this size, in bytes; larger ones are left out.
const MAX_PROFILE: usize = 1 << 20;
/// How good JPEG images are written, of 100.
const JPEG_QUALITY: u8 = 85;

/// What an image may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// Width times height.
    pub(crate) pixels: u64,
    /// Frames of an animation.
    pub(crate) frames: u32,
    /// Bytes of the result.
    pub(crate) output: usize,
}

impl Bounds {
    fn decoder(&self) -> image::Limits {
        let mut limits = image::Limits::default();
        // A decoder holds a picture in at most 8 bytes a pixel, an animation's three times in 4.
        limits.max_alloc = Some(self.pixels.saturating_mul(16).saturating_add(1 << 20));
        limits
    }

    /// Refuses a picture by what its head says.
    fn check(&self, (width, height): (u32, u32)) -> Result<(), Fault> {
        if width == 0 || height == 0 {
            return Err(Fault::Broken("an empty picture".to_owned()));
        }
        if u64::from(width) * u64::from(height) > self.pixels {
            return Err(Fault::TooManyPixels);
        }
        Ok(())
    }
}

/// Why an image stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the image is broken: {0}")]
    Broken(String),
    #[error("the result is over the limit")]
    ResultTooLarge,
    #[error("the animation has too many frames")]
    TooManyFrames,
    #[error("the picture has too many pixels")]
    TooManyPixels,
    #[error("the image took too long")]
    TooSlow,
    #[error("the format is not one of those that are turned")]
    UnknownFormat,
}

impl Fault {
    /// The word in metrics.
    pub(crate) fn note(&self) -> &'static str {
        match self {
            Self::Broken(_) => "broken",
            Self::ResultTooLarge => "result-too-large",
            Self::TooManyFrames => "too-many-frames",
            Self::TooManyPixels => "too-many-pixels",
            Self::TooSlow => "too-slow",
            Self::UnknownFormat => "unknown-format",
        }
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooManyPixels,
            ImageError::Unsupported(_) => Self::UnknownFormat,
            error => Self::Broken(error.to_string()),
        }
    }
}

/// The formats, told by the first bytes: what Content-Type says is often wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Gif,
    Jpeg,
    Png,
    Webp,
}

impl Format {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Self::Gif),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Some(Self::Webp),
            _ => None,
        }
    }
}

/// Turns an image by 180 degrees and blurs it with a Gaussian of `blur` pixels; 0 does not blur.
///
/// `is_late` is asked between frames and ends the work.
pub(crate) fn upside_down(
    bytes: &[u8],
    blur: f32,
    bounds: &Bounds,
    is_late: &dyn Fn() -> bool,
) -> Result<Vec<u8>, Fault> {
    // The decoders are other people's and their input is anybody's.
    std::panic::catch_unwind(AssertUnwindSafe(|| dispatch(bytes, blur, bounds, is_late)))
        .unwrap_or_else(|_| Err(Fault::Broken("a decoder panicked".to_owned())))
}

fn dispatch(
    bytes: &[u8],
    blur: f32,
    bounds: &Bounds,
    is_late: &dyn Fn() -> bool,
) -> Result<Vec<u8>, Fault> {
    let mut out = Sink::new(bounds.output);
    let result = turn(bytes, blur, bounds, is_late, &mut out);
    // What an encoder makes of a full sink differs from one to the next.
    if out.is_full {
        return Err(Fault::ResultTooLarge);
    }
    result.map(|()| out.bytes)
}

fn turn(
    bytes: &[u8],
    blur: f32,
    bounds: &Bounds,
    is_late: &dyn Fn() -> bool,
    out: &mut Sink,
) -> Result<(), Fault> {
    let input = Cursor::new(bytes);
    match Format::of(bytes).ok_or(Fault::UnknownFormat)? {
        Format::Gif => {
            let mut decoder = GifDecoder::new(input)?;
            bounds.check(decoder.dimensions())?;
            decoder.set_limits(bounds.decoder())?;
            let mut encoder = GifEncoder::new_with_speed(&mut *out, 20);
            // Without this extension an animation is played once, which the decoder does not tell.
            let loops = [b"NETSCAPE2.0", b"ANIMEXTS1.0"];
            if bytes
                .windows(11)
                .any(|part| loops.iter().any(|name| part == *name))
            {
                encoder.set_repeat(match decoder.loop_count() {
                    LoopCount::Finite(count) => {
                        Repeat::Finite(u16::try_from(count.get()).unwrap_or(u16::MAX))
                    }
                    LoopCount::Infinite => Repeat::Infinite,
                })?;
            }
            animation(decoder, GifWriter(encoder), blur, bounds, is_late)?;
        }
        Format::Jpeg => {
            let (image, profile) = still(JpegDecoder::new(input)?, blur, bounds)?;
            let encoder = JpegEncoder::new_with_quality(&mut *out, JPEG_QUALITY);
            write(encoder, &image, profile)?;
        }
        Format::Png => {
            let decoder = PngDecoder::with_limits(input, bounds.decoder())?;
            bounds.check(decoder.dimensions())?;
            if decoder.is_apng()? {
                let writer = ApngWriter::new(bytes, &mut *out, bounds.frames)?;
                animation(decoder.apng()?, writer, blur, bounds, is_late)?;
            } else {
                let (image, profile) = still(decoder, blur, bounds)?;
                let (fast, adaptive) = (CompressionType::Fast, FilterType::Adaptive);
                let encoder = PngEncoder::new_with_quality(&mut *out, fast, adaptive);
                write(encoder, &image, profile)?;
            }
        }
        Format::Webp => {
            let mut decoder = WebPDecoder::new(input)?;
            if decoder.has_animation() {
                let size = decoder.dimensions();
                bounds.check(size)?;
                decoder.set_limits(bounds.decoder())?;
                let writer = WebpWriter::new(&mut *out, size, decoder.loop_count());
                animation(decoder, writer, blur, bounds, is_late)?;
            } else {
                let (image, profile) = still(decoder, blur, bounds)?;
                write(WebPEncoder::new_lossless(&mut *out), &image, profile)?;
            }
        }
    }
    Ok(())
}

/// A picture, as it is meant to be seen and then turned, and its colour profile.
fn still(
    mut decoder: impl ImageDecoder,
    blur: f32,
    bounds: &Bounds,
) -> Result<(DynamicImage, Option<Vec<u8>>), Fault> {
    bounds.check(decoder.dimensions())?;
    decoder.set_limits(bounds.decoder())?;
    let orientation = decoder.orientation()?;
    let profile = decoder.icc_profile().ok().flatten();
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let image = match image {
        DynamicImage::ImageLuma8(image) => turned(image, blur).into(),
        DynamicImage::ImageLumaA8(image) => turned(image, blur).into(),
        DynamicImage::ImageRgba8(image) => turned(image, blur).into(),
        DynamicImage::ImageLuma16(_) => turned(image.into_luma8(), blur).into(),
        DynamicImage::ImageLumaA16(_) => turned(image.into_luma_alpha8(), blur).into(),
        DynamicImage::ImageRgba16(_) => turned(image.into_rgba8(), blur).into(),
        image => turned(image.into_rgb8(), blur).into(),
    };
    Ok((image, profile))
}

fn write(
    mut encoder: impl ImageEncoder,
    image: &DynamicImage,
    profile: Option<Vec<u8>>,
) -> Result<(), Fault> {
    let is_gray = !image.color().has_color();
    // A profile for inks, say, does not fit what was decoded to colours.
    let space: &[u8] = if is_gray { b"GRAY" } else { b"RGB " };
    let fits =
        |profile: &Vec<u8>| profile.len() <= MAX_PROFILE && profile.get(16..20) == Some(space);
    if let Some(profile) = profile.filter(fits) {
        // Formats that hold none do without.
        let _ = encoder.set_icc_profile(profile);
    }
    let (width, height) = (image.width(), image.height());
    encoder.write_image(image.as_bytes(), width, height, image.color().into())?;
    Ok(())
}

fn animation<'a>(
    decoder: impl AnimationDecoder<'a>,
    mut writer: impl Animation,
    blur: f32,
    bounds: &Bounds,
    is_late: &dyn Fn() -> bool,
) -> Result<(), Fault> {
    let mut count = 0;
    for frame in decoder.into_frames() {
        let frame = frame?;
        if count == bounds.frames {
            return Err(Fault::TooManyFrames);
        }
        if is_late() {
            return Err(Fault::TooSlow);
        }
        count += 1;
        let delay = frame.delay();
        let image = turned(frame.into_buffer(), blur);
        writer.frame(Frame::from_parts(image, 0, 0, delay))?;
    }
    if count == 0 {
        return Err(Fault::Broken("no picture".to_owned()));
    }
    writer.finish()
}

/// The picture turned by 180 degrees and blurred.
fn turned<P>(mut image: ImageBuffer<P, Vec<u8>>, blur: f32) -> ImageBuffer<P, Vec<u8>>
where
    P: Pixel<Subpixel = u8>,
{
    let channels = usize::from(P::CHANNEL_COUNT);
    let samples: &mut [u8] = &mut image;
    // The last pixel comes first, each with its channels in order.
    samples.reverse();
    samples.chunks_exact_mut(channels).for_each(<[u8]>::reverse);
    if blur <= 0.0 {
        return image;
    }
    let has_alpha = P::HAS_ALPHA
        && image
            .chunks_exact(channels)
            .any(|pixel| pixel.last() != Some(&255));
    if !has_alpha {
        return image::imageops::fast_blur(&image, blur);
    }
    // The colour of what cannot be seen must not bleed into what can.
    for pixel in image.chunks_exact_mut(channels) {
        if let Some((alpha, colors)) = pixel.split_last_mut() {
            for color in colors {
                *color = (u16::from(*color) * u16::from(*alpha) / 255) as u8;
            }
        }
    }
    let mut image = image::imageops::fast_blur(&image, blur);
    for pixel in image.chunks_exact_mut(channels) {
        if let Some((alpha, colors)) = pixel.split_last_mut() {
            for color in colors {
                let full = u16::from(*color) * 255 / u16::from(*alpha).max(1);
                *color = full.min(255) as u8;
            }
        }
    }
    image
}

/// Where a result goes: memory, up to a limit.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) bytes: Vec<u8>,
    limit: usize,
    /// Whether more was written than it holds.
    pub(crate) is_full: bool,
}

impl Sink {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            limit,
            is_full: false,
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.limit {
            self.is_full = true;
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
