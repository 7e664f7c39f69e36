use std::path::PathBuf;

use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageReader, RgbaImage};
use sdk::testing::Playbook;
use sdk::{Body, Bytes};

use super::*;
use crate::turn::{Fault, upside_down};

const BOUNDS: Bounds = Bounds {
    pixels: 1 << 20,
    frames: 10,
    output: 1 << 20,
};

/// An image that Pillow has made, of those that fuzzing begins with.
fn seed(name: &str) -> Vec<u8> {
    std::fs::read(corpus().join(name)).unwrap()
}

fn corpus() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/image")
}

fn turn(bytes: &[u8], blur: f32) -> Result<Vec<u8>, Fault> {
    upside_down(bytes, blur, &BOUNDS, &|| false)
}

fn decoded(bytes: &[u8]) -> DynamicImage {
    ImageReader::new(std::io::Cursor::new(bytes))
        .with_guessed_format()
        .unwrap()
        .decode()
        .unwrap()
}

/// The largest difference of two samples that can be seen.
fn difference(one: &RgbaImage, other: &RgbaImage) -> u8 {
    assert_eq!(one.dimensions(), other.dimensions());
    let seen = |image: &RgbaImage| -> Vec<[u8; 4]> {
        let black = |pixel: &image::Rgba<u8>| if pixel.0[3] == 0 { [0; 4] } else { pixel.0 };
        image.pixels().map(black).collect()
    };
    let (one, other) = (seen(one), seen(other));
    let pairs = one.iter().flatten().zip(other.iter().flatten());
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or_default()
}

#[test]
fn every_kind_of_still_picture_is_turned_in_its_format() {
    for (name, most) in [
        ("png-1", 0),
        ("png-l", 0),
        ("png-la", 0),
        ("png-p", 0),
        ("png-rgb", 0),
        ("png-rgba", 0),
        ("png-i16", 0),
        ("jpeg-l", 40),
        ("jpeg-rgb", 90),
        ("jpeg-cmyk", 90),
        ("jpeg-progressive", 90),
        ("gif-still", 0),
        ("webp-lossy", 0),
        ("webp-lossless", 0),
        ("webp-alpha", 0),
    ] {
        let before = seed(name);
        let after = turn(&before, 0.0).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!(
            image::guess_format(&after).unwrap(),
            image::guess_format(&before).unwrap(),
            "{name}"
        );
        let wanted = decoded(&before).rotate180().to_rgba8();
        let found = difference(&decoded(&after).to_rgba8(), &wanted);
        assert!(found <= most, "{name}: {found}");
        let blurred = turn(&before, 2.0).unwrap();
        let found = difference(&decoded(&blurred).to_rgba8(), &wanted);
        assert!(found > 30, "{name} is not blurred: {found}");
    }
}

#[test]
fn orientation_is_applied_before_the_turn_and_gone_after_it() {
    let before = seed("jpeg-orientation");
    let after = turn(&before, 0.0).unwrap();
    let mut wanted = decoded(&before);
    assert_eq!((wanted.width(), wanted.height()), (16, 8));
    wanted.apply_orientation(Orientation::Rotate90);
    let wanted = wanted.rotate180().to_rgba8();
    let found = difference(&decoded(&after).to_rgba8(), &wanted);
    assert!(found < 90, "{found}");
    assert!(!after.windows(4).any(|part| part == b"Exif"));
}

/// Frames with their times in milliseconds.
fn frames(bytes: &[u8]) -> Vec<(RgbaImage, u32)> {
    let input = std::io::Cursor::new(bytes);
    let frames = match image::guess_format(bytes).unwrap() {
        image::ImageFormat::Gif => image::codecs::gif::GifDecoder::new(input)
            .unwrap()
            .into_frames(),
        image::ImageFormat::Png => image::codecs::png::PngDecoder::new(input)
            .unwrap()
            .apng()
            .unwrap()
            .into_frames(),
        _ => image::codecs::webp::WebPDecoder::new(input)
            .unwrap()
            .into_frames(),
    };
    frames
        .map(|frame| {
            let frame = frame.unwrap();
            let (time, unit) = frame.delay().numer_denom_ms();
            (frame.into_buffer(), time / unit)
        })
        .collect()
}

#[test]
fn every_frame_of_an_animation_is_turned_and_keeps_its_time() {
    for name in ["gif-animated", "gif-once", "png-animated", "webp-animated"] {
        let before = seed(name);
        let after = turn(&before, 0.0).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let (before, after) = (frames(&before), frames(&after));
        assert_eq!((before.len(), after.len()), (3, 3), "{name}");
        for ((before, time), (after, new_time)) in before.into_iter().zip(after) {
            let wanted = image::imageops::rotate180(&before);
            let gif_alpha = name.starts_with("gif");
            let found = difference(&after, &wanted);
            assert!(found <= if gif_alpha { 8 } else { 0 }, "{name}: {found}");
            assert_eq!(time, new_time, "{name}");
        }
    }
    let loops = |name: &str| turn(&seed(name), 0.0).unwrap();
    let repeats = |bytes: &[u8]| bytes.windows(11).any(|part| part == b"NETSCAPE2.0");
    assert!(repeats(&loops("gif-animated")) && !repeats(&loops("gif-once")));
}

#[test]
fn transparent_pixels_lend_no_colour_to_their_neighbours() {
    let mut image = RgbaImage::from_pixel(20, 20, image::Rgba([255, 255, 255, 255]));
    for x in 0..20 {
        for y in 0..10 {
            image.put_pixel(x, y, image::Rgba([0, 0, 0, 0]));
        }
    }
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let after = decoded(&turn(bytes.get_ref(), 3.0).unwrap()).to_rgba8();
    for pixel in after.pixels().filter(|pixel| pixel.0[3] > 60) {
        assert!(pixel.0[0] > 230, "{pixel:?}");
    }
}

#[test]
fn tiny_and_narrow_pictures_and_wide_blurs_are_no_trouble() {
    for (width, height) in [(1, 1), (1, 300), (300, 1), (2, 3)] {
        let image = RgbaImage::from_fn(width, height, |x, y| {
            image::Rgba([(x * 7) as u8, (y * 3) as u8, 9, 255])
        });
        for format in ["png", "gif", "webp"] {
            let format = image::ImageFormat::from_extension(format).unwrap();
            let mut bytes = std::io::Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).unwrap();
            for blur in [0.1, 1.0, 100.0] {
                let after = turn(bytes.get_ref(), blur).unwrap();
                assert_eq!(decoded(&after).width(), width);
            }
        }
    }
}

#[test]
fn threat_30_image_bombs_are_refused_by_their_heads() {
    for (name, fault) in [
        ("bomb-png", Fault::TooManyPixels),
        ("bomb-jpeg", Fault::TooManyPixels),
        ("bomb-gif-screen", Fault::TooManyPixels),
        ("bomb-gif-frame", Fault::TooManyPixels),
        ("bomb-gif-frames", Fault::TooManyFrames),
        ("bomb-webp", Fault::TooManyPixels),
    ] {
        assert_eq!(turn(&seed(name), 2.0).unwrap_err(), fault, "{name}");
    }
    let animation = seed("png-animated");
    let few = Bounds {
        frames: 2,
        ..BOUNDS
    };
    for name in ["png-animated", "webp-animated", "gif-animated"] {
        let result = upside_down(&seed(name), 2.0, &few, &|| false);
        assert_eq!(result.unwrap_err(), Fault::TooManyFrames, "{name}");
        let result = upside_down(&seed(name), 2.0, &BOUNDS, &|| true);
        assert_eq!(result.unwrap_err(), Fault::TooSlow, "{name}");
    }
    let small = Bounds {
        output: 100,
        ..BOUNDS
    };
    for name in [
        "png-animated",
        "webp-animated",
        "gif-animated",
        "png-rgb",
        "jpeg-rgb",
        "webp-alpha",
    ] {
        let result = upside_down(&seed(name), 0.0, &small, &|| false);
        assert!(
            matches!(result, Err(Fault::ResultTooLarge))
                || result.as_ref().is_ok_and(|r| r.len() <= 100),
            "{name}: {result:?}"
        );
    }
    assert!(matches!(
        turn(&seed("truncated-png"), 2.0),
        Err(Fault::Broken(_))
    ));
    // All but the end mark, which decoders do without.
    for length in 0..animation.len() - 12 {
        assert!(turn(&animation[..length], 2.0).is_err(), "{length}");
    }
}

#[test]
fn threat_30_committed_corpus_and_damaged_images_break_nothing() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        crate::fuzzing::image(&seed);
        for _ in 0..20 {
            let mut changed = seed.clone();
            for _ in 0..3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = usize::try_from(state >> 8).unwrap() % changed.len().max(1);
                if let Some(byte) = changed.get_mut(at) {
                    *byte = state.to_le_bytes()[0];
                }
            }
            crate::fuzzing::image(&changed);
        }
        seeds += 1;
    }
    assert!(seeds >= 25, "{seeds}");
}

fn play(config: &str) -> Playbook {
    Playbook::from_arc(UpsideDown::build(&config.parse().unwrap()).unwrap())
}

fn answer(fields: &[(&'static str, &'static str)], body: Vec<u8>) -> Response {
    let mut response = Response::new(StatusCode::OK);
    for (name, value) in fields {
        response.headers.append(
            FieldName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    response.body = Body::from(body);
    response
}

async fn body(mut response: Response) -> Bytes {
    response.body.buffer(1 << 20).await.unwrap().data
}

#[tokio::test]
async fn an_image_is_turned_and_its_fields_say_so() {
    let mut play = play("blur = 0.0");
    let sent = play
        .request("GET /a HTTP/1.1\nHost: h\nSec-Fetch-Dest: image\nRange: bytes=0-9\nIf-None-Match: \"v1\"\n\n")
        .await
        .to_server();
    assert_eq!(sent, "GET /a HTTP/1.1\nHost: h\nSec-Fetch-Dest: image\n\n");
    let fields = [
        ("Content-Type", "image/png"),
        ("Content-Length", "1"),
        ("ETag", "\"v1\""),
        ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("Accept-Ranges", "bytes"),
        ("Content-MD5", "AAAA"),
        ("Repr-Digest", "sha-256=:AAAA:"),
    ];
    let turned = play.answer(answer(&fields, seed("png-rgb"))).await.unwrap();
    assert_eq!(play.stats().notes.get("turned"), Some(&1));
    let names: Vec<_> = turned
        .headers
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["Content-Type", "Content-Length", "ETag", "Accept-Ranges"]
    );
    let tag = turned.headers.get_str("etag").unwrap().to_owned();
    let length = turned
        .headers
        .get_str("content-length")
        .unwrap()
        .parse::<usize>();
    let bytes = body(turned).await;
    assert_eq!(length, Ok(bytes.len()));
    let wanted = decoded(&seed("png-rgb")).rotate180();
    assert_eq!(decoded(&bytes).to_rgba8(), wanted.to_rgba8());

    // The client asks again with what it was given.
    let sent = play
        .request(&format!(
            "GET /a HTTP/1.1\nHost: h\nIf-None-Match: {tag}\n\n"
        ))
        .await
        .to_server();
    assert_eq!(sent, "GET /a HTTP/1.1\nHost: h\nIf-None-Match: \"v1\"\n\n");
    let same = play
        .response("HTTP/1.1 304 Not Modified\nETag: \"v1\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\n\n")
        .await;
    assert_eq!(same, format!("HTTP/1.1 304 Not Modified\nETag: {tag}\n\n"));
}

#[tokio::test]
async fn parts_other_contents_and_other_exchanges_pass_as_they_are() {
    let part = "HTTP/1.1 206 Partial Content\nContent-Type: image/png\nContent-Range: bytes 0-1/9\nETag: \"a\"\n\nab";
    let text = "HTTP/1.1 200 OK\nContent-Type: text/plain\nETag: \"a\"\nLast-Modified: x\n\nab";
    let drawing = "HTTP/1.1 200 OK\nContent-Type: image/svg+xml\nETag: \"a\"\n\n<svg/>";
    let unsaid = "HTTP/1.1 200 OK\nContent-Type: application/octet-stream\n\nGIF89a";
    let same = "HTTP/1.1 304 Not Modified\nETag: \"a\"\nLast-Modified: x\n\n";
    let mut play = play("");
    for response in [part, text, drawing, unsaid, same] {
        let request = "GET /data HTTP/1.1\nHost: h\nRange: bytes=0-1\nIf-None-Match: \"a\"\n\n";
        assert_eq!(play.request(request).await.to_server(), request);
        assert_eq!(play.response(response).await, response);
    }
    assert_eq!(play.stats().notes.get("partial"), Some(&1));

    let mut elsewhere = self::play("when = 'host == \"other.example\"'");
    let request = "GET /a.png HTTP/1.1\nHost: h\nRange: bytes=0-1\n\n";
    assert_eq!(elsewhere.request(request).await.to_server(), request);
    let image = || answer(&[("Content-Type", "image/png")], seed("png-rgb"));
    let passed = elsewhere.answer(image()).await.unwrap();
    assert_eq!(body(passed).await, seed("png-rgb"));
}

#[tokio::test]
async fn servers_that_choose_are_not_asked_for_formats_that_are_not_turned() {
    let mut play = play("");
    for (accept, sent) in [
        (
            "image/avif,image/webp;q=0.9, */*;q=0.8",
            "image/webp;q=0.9,*/*;q=0.8",
        ),
        ("image/jxl, image/AVIF;q=1,image/png", "image/png"),
        ("image/avif", "image/avif"),
        ("image/png, */*", "image/png, */*"),
        ("text/html,image/avif", "text/html,image/avif"),
    ] {
        let request = |accept| format!("GET /a HTTP/1.1\nHost: h\nAccept: {accept}\n\n");
        assert_eq!(
            play.request(&request(accept)).await.to_server(),
            request(sent)
        );
    }
    let signed = "GET /a.png HTTP/1.1\nHost: h\nAccept: image/avif, image/png\nRange: bytes=0-1\n\
                  Authorization: AWS4-HMAC-SHA256 Credential=a, SignedHeaders=accept;host;range, Signature=b\n\n";
    assert_eq!(play.request(signed).await.to_server(), signed);
}

#[tokio::test]
async fn head_says_nothing_of_the_old_length() {
    let mut play = play("");
    play.request("HEAD /a.png HTTP/1.1\nHost: h\n\n").await;
    let head = play
        .response("HTTP/1.1 200 OK\nContent-Type: image/png\nContent-Length: 10\nETag: W/\"a\"\n\n")
        .await;
    assert_eq!(
        head,
        "HTTP/1.1 200 OK\nContent-Type: image/png\nETag: W/\"upsidedown-40000000-W-a\"\n\n"
    );
    // What passes as it is keeps its length.
    play.request("HEAD /a.avif HTTP/1.1\nHost: h\n\n").await;
    let head = "HTTP/1.1 200 OK\nContent-Type: image/avif\nContent-Length: 10\nETag: \"a\"\n\n";
    assert_eq!(play.response(head).await, head);
}

#[tokio::test]
async fn images_without_a_type_and_in_a_coding_are_turned() {
    for fields in [
        &[("Content-Type", "binary/octet-stream")][..],
        &[],
        &[
            ("Content-Type", "IMAGE/JPG; x=y"),
            ("Content-Encoding", "gzip"),
        ],
    ] {
        let mut play = play("blur = 0.0");
        play.request("GET /a.PNG HTTP/1.1\nHost: h\n\n").await;
        let mut image = answer(fields, seed("png-rgb"));
        if image.headers.contains("content-encoding") {
            image.set_content(seed("png-rgb"), Coding::Gzip);
        }
        let turned = play.answer(image).await.unwrap();
        assert!(!turned.headers.contains("content-encoding"));
        let bytes = body(turned).await;
        assert_eq!(decoded(&bytes), decoded(&seed("png-rgb")).rotate180());
    }
}

#[tokio::test]
async fn threat_30_what_cannot_be_turned_passes_byte_for_byte_and_is_counted() {
    for (config, name, note) in [
        ("", "bomb-png", "too-many-pixels"),
        ("", "truncated-png", "broken"),
        ("max-frames = 2", "gif-animated", "too-many-frames"),
        ("max-pixels = 95", "png-rgb", "too-many-pixels"),
        ("max-body = '50B'", "png-rgb", "body-too-large"),
    ] {
        let mut play = play(config);
        play.request("GET /a.png HTTP/1.1\nHost: h\n\n").await;
        let fields = [
            ("Content-Type", "image/png"),
            ("ETag", "\"a\""),
            ("Last-Modified", "x"),
        ];
        let passed = play.answer(answer(&fields, seed(name))).await.unwrap();
        assert_eq!(passed.headers.get_str("etag"), Some("\"a\""));
        assert!(passed.headers.contains("last-modified"));
        assert_eq!(body(passed).await, seed(name));
        assert_eq!(play.stats().notes.get(note), Some(&1), "{note}");
    }
    let mut play = play("");
    play.request("GET /a.png HTTP/1.1\nHost: h\n\n").await;
    let text = "HTTP/1.1 200 OK\nContent-Type: image/png\n\nno image";
    assert_eq!(play.response(text).await, text);
    assert_eq!(play.stats().notes.get("unknown-format"), Some(&1));
}

#[test]
fn faults_name_the_key_and_what_is_allowed() {
    for (config, expected) in [
        ("blur = -1.0", "blur: -1 is out of range; allowed: 0 to 100"),
        (
            "max-body = '1GiB'",
            "max-body: 1GiB is out of range; allowed: 1B to 64MiB",
        ),
        ("max-pixels = 0", "max-pixels: 0 is out of range"),
        ("max-frames = 0", "max-frames: 0 is out of range"),
        (
            "max-milliseconds = 70000",
            "max-milliseconds: 70000 is out of range",
        ),
        (
            "radius = 1",
            "radius: unknown key; allowed: when, blur, max-body",
        ),
    ] {
        let fault = UpsideDown::build(&config.parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(fault.starts_with(expected), "{config}: {fault}");
    }
}
