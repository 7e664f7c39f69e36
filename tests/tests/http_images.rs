//! `upsidedown`: images that Pillow has made, through the appliance to curl, and read by Pillow.

use anyhow::Result;
use flowdog_tests::lab::Lab;

/// A server with images, entity tags, ranges, and a log of what it was asked.
const SITE: &str = r#"
import io, json, struct, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from PIL import Image

def picture(mode, size=(64, 48)):
    image = Image.new("RGBA", size, (255, 255, 255, 255))
    image.paste((255, 0, 0, 255), (0, 0, size[0] // 2, size[1] // 2))
    image.paste((0, 0, 255, 255), (size[0] // 2, size[1] // 2, *size))
    return image.convert(mode)

def saved(image, kind, **more):
    out = io.BytesIO(); image.save(out, kind, **more); return out.getvalue()

frames = [picture("RGBA").rotate(angle) for angle in (0, 180, 0)]
def animation(kind, **more):
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=[50, 100, 150], loop=3, **more)

exif = Image.Exif(); exif[0x0112] = 3
bomb = b"\x89PNG\r\n\x1a\n"
for name, data in ((b"IHDR", struct.pack(">IIBBBBB", 65535, 65535, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(1 << 20), 9)), (b"IEND", b"")):
    bomb += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
FILES = {
    "/rgb.png": saved(picture("RGB"), "PNG"), "/palette.png": saved(picture("P"), "PNG"),
    "/alpha.png": saved(picture("RGBA"), "PNG"), "/gray.png": saved(picture("L"), "PNG"),
    "/photo.jpg": saved(picture("RGB"), "JPEG", quality=90), "/inks.jpg": saved(picture("CMYK"), "JPEG", quality=90),
    "/held.jpg": saved(picture("RGB"), "JPEG", quality=90, exif=exif),
    "/still.gif": saved(picture("P"), "GIF"), "/moving.gif": animation("GIF"),
    "/lossy.webp": saved(picture("RGB"), "WEBP", quality=90), "/lossless.webp": saved(picture("RGBA"), "WEBP", lossless=True),
    "/moving.webp": animation("WEBP"), "/moving.png": animation("PNG"),
    "/bomb.png": bomb, "/cut.png": saved(picture("RGB"), "PNG")[:-40],
}
SEEN = []

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        SEEN.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        if self.path == "/seen":
            return self.give(200, json.dumps(SEEN[:-1]).encode(), "application/json")
        data = FILES[self.path]
        fields = {"ETag": '"v1"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT", "Accept-Ranges": "bytes"}
        if self.headers["If-None-Match"] == '"v1"': return self.give(304, b"", None, fields)
        if self.headers["Range"]: return self.give(206, data[:10], "image/" + self.path.split(".")[1], fields)
        self.give(200, data, "image/" + self.path.split(".")[1].replace("jpg", "jpeg"), fields)
    do_HEAD = do_GET
    def give(self, status, body, kind, fields={}):
        self.send_response(status)
        for name, value in fields.items(): self.send_header(name, value)
        if kind: self.send_header("Content-Type", kind)
        if status != 304: self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)
    def log_message(self, *arguments): pass

if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 9080), Handler).serve_forever()
"#;

#[test]
fn every_image_that_curl_gets_is_upside_down_and_caches_stay_right() -> Result<()> {
    let lab = Lab::new()?;
    std::fs::write(lab.folder().join("lab_site.py"), SITE)?;
    let folder = lab.folder().to_owned();
    let lab = lab
        .config(
            r#"
[[interceptor]]
name = "australia"
use = "upsidedown"
blur = 1.0
[[rule]]
action = "intercept"
interceptors = ["australia"]
"#,
        )?
        .server(SITE)?;
    let outcome = lab.python(&format!(
        r#"
import io, json, subprocess, sys, time
sys.path.insert(0, {folder:?})
from PIL import Image, ImageSequence
from lab_site import FILES

def curl(path, *more):
    out = subprocess.run(["curl", "-sS", "-i", *more, "http://v4only.lab.name:9080" + path], capture_output=True, check=True).stdout
    head, _, body = out.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), {{name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}}, body

for attempt in range(100):
    if subprocess.run(["curl", "-s", "-o", "/dev/null", "http://v4only.lab.name:9080/seen"]).returncode == 0: break
    time.sleep(0.1)

def corners(image):
    # Well inside each quarter, where the blur does not reach.
    image = image.convert("RGB"); w, h = image.size
    return [image.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]

def close(one, other):
    return all(abs(a - b) < 60 for x, y in zip(one, other) for a, b in zip(x, y))

for path, data in FILES.items():
    if path in ("/bomb.png", "/cut.png"): continue
    status, fields, body = curl(path)
    assert status == 200 and int(fields["content-length"]) == len(body), (path, fields)
    assert fields["etag"].startswith('W/"upsidedown-') and "last-modified" not in fields and fields["accept-ranges"] == "none", (path, fields)
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(body))
    assert before.format == after.format and before.size == after.size, (path, after)
    frames = list(zip(ImageSequence.Iterator(before), ImageSequence.Iterator(after)))
    assert getattr(before, "n_frames", 1) == getattr(after, "n_frames", 1) == len(frames), path
    for number, (old, new) in enumerate(frames):
        assert (old.info.get("duration") or 0) == (new.info.get("duration") or 0), (path, number)
        if path == "/held.jpg": old = old.rotate(180)
        assert close(corners(old.convert("RGB").rotate(180)), corners(new)), (path, number, corners(old), corners(new))
        if path == "/rgb.png": assert new.convert("RGB").getpixel((31, 10)) not in ((255, 0, 0), (255, 255, 255), (0, 0, 255)), "not blurred"
    assert before.info.get("loop") == after.info.get("loop"), path

for path in ("/bomb.png", "/cut.png"):
    status, fields, body = curl(path)
    assert body == FILES[path] and fields["etag"] == '"v1"', path

# A download that goes on, a cache that has the server's image, and one that has the turned one.
status, fields, body = curl("/rgb.png", "-r", "0-9")
assert status == 200 and len(body) > 10, status
status, fields, _ = curl("/rgb.png", "-H", 'If-None-Match: "v1"', "-H", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT")
assert status == 200, status
tag = fields["etag"]
status, fields, body = curl("/rgb.png", "-H", "If-None-Match: " + tag)
assert (status, fields["etag"], body) == (304, tag, b""), (status, fields)
status, fields, body = curl("/rgb.png", "-I")
assert status == 200 and "content-length" not in fields and fields["etag"] == tag, fields
seen = json.loads(curl("/seen")[2])
asked = [fields for path, fields in seen if path == "/rgb.png"]
assert not any(name in fields for fields in asked for name in ("range", "if-range", "if-modified-since")), asked
assert [fields.get("if-none-match") for fields in asked] == [None, None, None, '"v1"', None], asked

# As many at once as wait for a thread.
load = subprocess.run("for n in $(seq 40); do curl -sS -o /dev/null -w '%{{http_code}}\\n' http://v4only.lab.name:9080/photo.jpg & done; wait", shell=True, capture_output=True, text=True)
assert load.stdout.split() == ["200"] * 40, load
print("DONE")
"#
    ))?;
    assert!(outcome.stdout.contains("DONE"), "{}", outcome.stdout);
    let noted = |note: &str| {
        outcome.metric(
            "flowdog_interceptor_notes_total",
            &format!("note=\"{note}\""),
        )
    };
    assert!(noted("turned") >= 50.0);
    assert_eq!(noted("too-many-pixels"), 1.0);
    assert_eq!(noted("broken"), 1.0);
    assert_eq!(outcome.violations(), 0);
    Ok(())
}
