//! Programs that people use, through the appliance to servers of their own: h2load, git, gRPC, boto3,
//! the AWS CLI and Chromium.

use std::process::Command;

use anyhow::{Context, Result};
use flowdog_tests::lab::{Lab, Outcome};

/// Rules under which every exchange is looked at and changed.
const RULES: &str = r#"
[[interceptor]]
name = "who"
use = "geneve-headers"
[[rule]]
action = "intercept"
interceptors = ["who"]
"#;

/// A lab whose servers have a certificate for `v4only.lab.name` in `cert.pem` and `key.pem`.
fn lab(server: &str) -> Result<Lab> {
    lab_with(RULES, server)
}

fn lab_with(rules: &str, server: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_owned();
    flowdog_tests::pki::server_certificate(&folder, "v4only.lab.name")?;
    let roots = format!(
        "[tls.upstream]\nroots = [\"system\", {:?}]\n",
        folder.join("cert.pem")
    );
    let server = format!("import os\nos.chdir({folder:?})\n{server}");
    lab.config(&format!("{roots}{rules}"))?.server(&server)
}

fn intercepted(outcome: &Outcome) -> f64 {
    outcome.metric("flowdog_tls_handshakes_total", "\"intercepted\"")
}

#[test]
fn h2load_has_every_request_answered() -> Result<()> {
    let outcome = Lab::new()?.config(RULES)?.shell(
        "h2load -n 2000 -c 4 -m 20 https://any.lab.name/bytes/1000
         h2load -n 200 -c 4 --h1 https://any.lab.name/bytes/1000",
    )?;
    for all in ["2000", "200"] {
        let told = format!("{all} total, {all} started, {all} done, {all} succeeded, 0 failed");
        assert!(outcome.stdout.contains(&told), "{}", outcome.stdout);
        assert!(
            outcome.stdout.contains(&format!("status codes: {all} 2xx")),
            "{}",
            outcome.stdout
        );
    }
    Ok(())
}

/// `git http-backend` behind TLS.
const GIT_SERVER: &str = r#"
import ssl, subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def chunked(self):
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
    def serve(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked": body = self.chunked()
        else: body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        environment = dict(os.environ, GIT_PROJECT_ROOT=os.getcwd(), GIT_HTTP_EXPORT_ALL="1", PATH_INFO=path,
            QUERY_STRING=query, REQUEST_METHOD=self.command, REMOTE_USER="me", REMOTE_ADDR="10.0.0.10",
            CONTENT_TYPE=self.headers.get("Content-Type", ""), CONTENT_LENGTH=str(len(body)),
            HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
            GIT_PROTOCOL=self.headers.get("Git-Protocol", ""),
            GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")
        out = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True).stdout
        head, _, content = out.partition(b"\r\n\r\n")
        fields = [line.split(b": ", 1) for line in head.split(b"\r\n")]
        status = [int(value.split()[0]) for name, value in fields if name == b"Status"] or [200]
        self.send_response(status[0])
        for name, value in fields:
            if name != b"Status": self.send_header(name.decode(), value.decode())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    do_GET = do_POST = serve
    def log_message(self, *arguments): pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server = ThreadingHTTPServer(("0.0.0.0", 9443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

#[test]
fn git_clones_and_pushes_over_https() -> Result<()> {
    let lab = lab(GIT_SERVER)?;
    let script = format!(
        r#"cd {}
        export HOME=$PWD GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        git config --global safe.directory '*'
        git config --global init.defaultBranch main
        git init -q --bare repo.git; git -C repo.git config http.receivepack true
        git init -q work; cd work
        for i in $(seq 100); do echo "file $i" > f$i; done
        head -c 3000000 /dev/urandom > big; git add .; git commit -qm one; git push -q ../repo.git main; cd ..
        for i in $(seq 50); do curl -s -o /dev/null https://v4only.lab.name:9443/ && break; sleep 0.1; done
        git clone -q https://v4only.lab.name:9443/repo.git copy
        diff -r --exclude .git work copy && echo CLONED $(git -C copy rev-parse HEAD) $(git -C work rev-parse HEAD)
        cd copy; head -c 5000000 /dev/urandom > bigger; git add .; git commit -qm two
        git push -q origin main
        echo PUSHED $(git rev-parse HEAD) $(git -C ../repo.git rev-parse main)
        "#,
        lab.folder().display()
    );
    let outcome = lab.shell(&script)?;
    for word in ["CLONED", "PUSHED"] {
        let line = outcome.stdout.lines().find(|line| line.starts_with(word));
        let words: Vec<&str> = line.context(word)?.split(' ').collect();
        assert!(words[1].len() == 40 && words[1] == words[2], "{words:?}");
    }
    assert!(intercepted(&outcome) >= 2.0);
    Ok(())
}

const GRPC_SERVER: &str = r#"
import grpc, time
from concurrent import futures

def echo(request, context):
    metadata = dict(context.invocation_metadata())
    if request == b"fail":
        context.set_trailing_metadata((("why", "as asked"), ("why-bin", b"\x00\xff")))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: \u00e4")
    if request == b"slow": time.sleep(5)
    context.send_initial_metadata((("seen-endpoint", metadata.get("x-gwlb-vpc-endpoint-id", "")),))
    return request * 2

def talk(requests, context):
    for request in requests:
        yield b"heard " + request

handlers = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Count": grpc.unary_stream_rpc_method_handler(lambda n, _: (b"x" * 10000 for _ in range(int(n)))),
}
server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Test", handlers),))
pair = (open("key.pem", "rb").read(), open("cert.pem", "rb").read())
server.add_secure_port("0.0.0.0:9443", grpc.ssl_server_credentials([pair]))
server.start()
server.wait_for_termination()
"#;

#[test]
fn grpc_calls_and_conversations_are_neither_held_nor_changed() -> Result<()> {
    let outcome = lab(GRPC_SERVER)?.python(
        r#"
import grpc, os, queue, time
os.environ["GRPC_DNS_RESOLVER"] = "native"
roots = open(os.environ["SSL_CERT_FILE"], "rb").read()
channel = grpc.secure_channel("v4only.lab.name:9443", grpc.ssl_channel_credentials(roots))
grpc.channel_ready_future(channel).result(10)
echo, talk, count = channel.unary_unary("/t.Test/Echo"), channel.stream_stream("/t.Test/Talk"), channel.unary_stream("/t.Test/Count")

answer, call = echo.with_call(b"hello", metadata=(("key", "value"),))
assert answer == b"hellohello"
assert dict(call.initial_metadata())["seen-endpoint"].startswith("vpce-"), call.initial_metadata()
assert len(echo(b"z" * 1_500_000)) == 3_000_000

try:
    echo(b"fail")
    raise SystemExit("no error")
except grpc.RpcError as error:
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing: \u00e4"), error
    trailers = dict(error.trailing_metadata())
    assert trailers["why"] == "as asked" and trailers["why-bin"] == b"\x00\xff", trailers

began = time.monotonic()
try:
    echo(b"slow", timeout=0.5)
    raise SystemExit("no deadline")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
assert time.monotonic() - began < 2

# Each sentence waits for the answer to the one before.
said = queue.Queue()
said.put(b"0")
answers = talk(iter(said.get, None))
for n in range(200):
    assert next(answers) == b"heard %d" % n
    said.put(b"%d" % (n + 1) if n < 199 else None)
assert list(answers) == []
assert sum(map(len, count(b"300"))) == 3_000_000
print("DONE")
"#,
    )?;
    assert!(outcome.stdout.contains("DONE"), "{}", outcome.stdout);
    assert!(intercepted(&outcome) >= 1.0);
    Ok(())
}

const MOTO: &str = r#"
import sys
# The host is no name of a bucket.
os.environ["S3_IGNORE_SUBDOMAIN_BUCKETNAME"] = "true"
sys.argv = ["moto_server", "-H", "0.0.0.0", "-p", "9443", "-c", "cert.pem", "-k", "key.pem"]
from moto.server import main
main()
"#;

#[test]
fn boto3_and_the_aws_cli_are_served_with_their_signatures_intact() -> Result<()> {
    let lab = lab(MOTO)?;
    let outcome = lab.python(&format!(
        r#"
import boto3, hashlib, json, os, subprocess, sys, time, urllib.request
from boto3.s3.transfer import TransferConfig
os.chdir({:?})
os.environ.update(AWS_ACCESS_KEY_ID="AKIAEXAMPLE", AWS_SECRET_ACCESS_KEY="secret", AWS_DEFAULT_REGION="eu-west-1",
    AWS_ENDPOINT_URL="https://v4only.lab.name:9443", AWS_EC2_METADATA_DISABLED="true")
for attempt in range(200):
    try:
        urllib.request.urlopen("https://v4only.lab.name:9443/moto-api/").read()
        break
    except OSError:
        time.sleep(0.1)
assert boto3.client("sts").get_caller_identity()["Account"] == "123456789012"
s3 = boto3.client("s3")
s3.create_bucket(Bucket="bucket", CreateBucketConfiguration=dict(LocationConstraint="eu-west-1"))
data = os.urandom(12_000_000)
s3.put_object(Bucket="bucket", Key="whole", Body=data[:5_000_000], ChecksumAlgorithm="SHA256")
open("file", "wb").write(data)
s3.upload_file("file", "bucket", "parts", Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20))
assert s3.get_object(Bucket="bucket", Key="parts")["Body"].read() == data
assert s3.get_object(Bucket="bucket", Key="parts", Range="bytes=100-199")["Body"].read() == data[100:200]
table = boto3.resource("dynamodb").create_table(TableName="t", BillingMode="PAY_PER_REQUEST",
    KeySchema=[dict(AttributeName="k", KeyType="HASH")], AttributeDefinitions=[dict(AttributeName="k", AttributeType="S")])
table.put_item(Item=dict(k="a", v="\u00e4"))
assert table.get_item(Key=dict(k="a"))["Item"]["v"] == "\u00e4"

def aws(*arguments):
    program = os.path.join(os.path.dirname(sys.executable), "aws")
    done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True)
    if done.returncode == -11:
        # The interpreter has crashed, which it does now and then as its threads end. What is tested is
        # whether the program is served.
        done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout

assert json.loads(aws("sts", "get-caller-identity"))["Account"] == "123456789012"
aws("s3", "cp", "file", "s3://bucket/by-cli")
aws("s3", "cp", "s3://bucket/by-cli", "back")
assert hashlib.sha256(open("back", "rb").read()).digest() == hashlib.sha256(data).digest()
print("DONE")
"#,
        lab.folder()
    ))?;
    assert!(outcome.stdout.contains("DONE"), "{}", outcome.stdout);
    assert!(intercepted(&outcome) >= 3.0);
    Ok(())
}

/// Every request body has a word replaced; `force` edits signed ones, too.
fn replaced(force: bool) -> String {
    format!(
        "[[interceptor]]\nname = \"edit\"\nuse = \"edit-body\"\ntypes = [\"*\"]\nforce-signed = {force}\n\
         request = [{{ find = \"a secret\", replace = \"no matter\", literal = true }}]\n\
         [[rule]]\naction = \"intercept\"\ninterceptors = [\"edit\"]\n"
    )
}

#[test]
fn bodies_that_are_signed_are_left_alone_with_a_warning_unless_forced() -> Result<()> {
    for force in [false, true] {
        let lab = lab_with(&replaced(force), MOTO)?;
        let outcome = lab.python(&format!(
            r#"
import boto3, os, time, urllib.request
os.chdir({:?})
os.environ.update(AWS_ACCESS_KEY_ID="AKIAEXAMPLE", AWS_SECRET_ACCESS_KEY="secret", AWS_DEFAULT_REGION="eu-west-1",
    AWS_ENDPOINT_URL="https://v4only.lab.name:9443", AWS_EC2_METADATA_DISABLED="true")
for attempt in range(200):
    try:
        urllib.request.urlopen("https://v4only.lab.name:9443/moto-api/").read()
        break
    except OSError:
        time.sleep(0.1)
s3 = boto3.client("s3")
s3.create_bucket(Bucket="bucket", CreateBucketConfiguration=dict(LocationConstraint="eu-west-1"))
def told(request, **more):
    print("SENT", request.headers["X-Amz-Content-SHA256"], request.headers.get("Content-Encoding"))
s3.meta.events.register("before-send.s3.PutObject", told)
s3.put_object(Bucket="bucket", Key="streamed", Body=b"a secret in chunks", ContentType="text/plain")
print("STORED", s3.get_object(Bucket="bucket", Key="streamed")["Body"].read())
table = boto3.resource("dynamodb").create_table(TableName="t", BillingMode="PAY_PER_REQUEST",
    KeySchema=[dict(AttributeName="k", KeyType="HASH")], AttributeDefinitions=[dict(AttributeName="k", AttributeType="S")])
table.put_item(Item=dict(k="a", v="a secret"))
print("ITEM", table.get_item(Key=dict(k="a"))["Item"]["v"])
"#,
            lab.folder()
        ))?;
        let out = &outcome.stdout;
        // As S3's own clients upload since 2025: in chunks with a trailer, under a coding of their own.
        assert!(
            out.contains("SENT b'STREAMING-UNSIGNED-PAYLOAD-TRAILER' b'aws-chunked'"),
            "{out}{}",
            outcome.stderr
        );
        let stored = "STORED b'a secret in chunks'";
        assert!(
            out.contains(stored),
            "never edited inside its chunks: {out}"
        );
        let notes = |kind| outcome.metric("flowdog_interceptor_notes_total", kind);
        let log = &outcome.log;
        if force {
            assert!(out.contains("ITEM no matter"), "{out}");
            assert!(notes("\"coding-unknown\"") >= 1.0);
            assert_eq!(notes("\"request-signed\""), 0.0);
        } else {
            assert!(out.contains("ITEM a secret"), "{out}");
            assert!(notes("\"request-signed\"") >= 2.0);
            assert!(log.contains("request-signed"), "a warning: {log}");
        }
    }
    Ok(())
}

/// The same, and images are upside down.
const TURNED: &str = r#"
[[interceptor]]
name = "who"
use = "geneve-headers"
[[interceptor]]
name = "australia"
use = "upsidedown"
[[rule]]
action = "intercept"
interceptors = ["who", "australia"]
"#;

const SITE: &str = r#"
import io, json, ssl, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from PIL import Image

def picture():
    image = Image.new("RGB", (30, 20), (20, 20, 250))
    image.paste((250, 20, 20), (0, 0, 30, 10))
    return image

def saved(kind, **more):
    out = io.BytesIO(); picture().save(out, kind, **more); return out.getvalue()

moving = dict(save_all=True, append_images=[picture(), picture()], duration=50, loop=0)
IMAGES = {"/a.png": saved("PNG"), "/a.jpeg": saved("JPEG", quality=95), "/a.gif": saved("GIF", **moving),
          "/a.webp": saved("WEBP", **moving), "/b.webp": saved("WEBP"), "/b.png": saved("PNG", **moving)}
PAGE = b"""<!doctype html><title>loading</title><img id=i src=/a.png><a id=d href=/file download>get</a><script>
const wait = event => new Promise((done, fail) => { event(done, fail); setTimeout(() => fail("late"), 8000); });
(async () => {
  const result = {};
  await wait(done => { const i = document.getElementById("i"); i.complete ? done() : i.onload = done; });
  result.image = document.getElementById("i").naturalWidth;
  result.colors = {};
  for (const name of ["a.png", "a.jpeg", "a.gif", "a.webp", "b.webp", "b.png"]) {
    const image = new Image();
    image.src = "/" + name;
    await image.decode();
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.drawImage(image, 0, 0);
    result.colors[name] = [3, 16].map(y => { const d = canvas.getImageData(15, y, 1, 1).data; return d[0] > 150 ? "red" : d[2] > 150 ? "blue" : "?"; });
  }
  const answer = await fetch("/data", { method: "POST", body: "\\u00e4".repeat(50000), headers: { "X-Mine": "1" } });
  result.fetch = await answer.json();
  result.sse = await wait(done => {
    const events = [], source = new EventSource("/events");
    source.onmessage = event => { events.push([event.data, performance.now()]);
      if (events.length == 3) { source.close(); done(events.map((e, n) => [e[0], n ? e[1] - events[n-1][1] > 100 : true])); } };
  });
  result.websocket = await wait((done, fail) => {
    const said = [], socket = new WebSocket("wss://v4only.lab.name/ws");
    socket.onopen = () => socket.send("hello"); socket.onerror = () => fail("websocket");
    socket.onmessage = event => { said.push(event.data.length);
      if (said.length == 1) socket.send("x".repeat(200000)); else { socket.close(); done(said); } };
  });
  return result;
})().then(r => document.title = "done " + JSON.stringify(r), e => document.title = "failed " + e);
</script>"""

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def give(self, kind, body, **more):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        for name, value in more.items(): self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        if self.path in IMAGES: self.give("image/" + self.path.split(".")[1], IMAGES[self.path])
        elif self.path == "/file": self.give("application/octet-stream", bytes(range(256)) * 10000, Content_Disposition="attachment; filename=download.bin")
        elif self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for n in range(3):
                self.wfile.write(b"data: %d\n\n" % n); self.wfile.flush(); time.sleep(0.3)
            self.close_connection = True
        else: self.give("text/html", PAGE)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.give("application/json", json.dumps(dict(length=len(body), mine=self.headers["X-Mine"],
            endpoint=self.headers["X-Gwlb-Vpc-Endpoint-Id"][:5])).encode())
    def log_message(self, *arguments): pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server = ThreadingHTTPServer(("0.0.0.0", 9443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;

/// Chromium is too large to be installed for one test: it is driven where it is.
#[test]
fn chromium_loads_a_page_with_all_that_pages_do() -> Result<()> {
    let present = ["chromium", "chromedriver", "certutil"].map(|program| {
        Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .output()
            .is_ok_and(|found| found.status.success())
    });
    let has_selenium = Command::new(flowdog_tests::python())
        .args(["-c", "import selenium"])
        .output()
        .is_ok_and(|done| done.status.success());
    if present.contains(&false) || !has_selenium {
        eprintln!(
            "NOT RUN: Chromium. It needs chromium, chromium-driver and libnss3-tools from Debian \
             and selenium from PyPI; see docs/lab.md"
        );
        return Ok(());
    }
    let lab = lab_with(TURNED, SITE)?;
    let outcome = lab.python(&format!(
        r#"
import json, os, re, subprocess, time
folder = {:?}
os.chdir(folder)
os.environ["HOME"] = folder
os.makedirs(".pki/nssdb"); os.makedirs("downloads")
subprocess.run(["certutil", "-d", "sql:.pki/nssdb", "-N", "--empty-password"], check=True)
roots = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", open(os.environ["SSL_CERT_FILE"]).read(), re.S)
for n, root in enumerate(roots):
    subprocess.run(["certutil", "-d", "sql:.pki/nssdb", "-A", "-t", "C,,", "-n", "root%d" % n], input=root, text=True, check=True)
for attempt in range(100):
    if subprocess.run(["curl", "-s", "-o", "/dev/null", "https://v4only.lab.name:9443/"]).returncode == 0: break
    time.sleep(0.1)

from selenium import webdriver
options = webdriver.ChromeOptions()
options.binary_location = "/usr/bin/chromium"
for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync"):
    options.add_argument(flag)
options.add_experimental_option("prefs", {{"download.default_directory": folder + "/downloads"}})
driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
try:
    driver.get("https://v4only.lab.name:9443/")
    for attempt in range(200):
        if not driver.title.startswith("loading"): break
        time.sleep(0.1)
    word, _, result = driver.title.partition(" ")
    assert word == "done", driver.title
    result = json.loads(result)
    assert result["image"] == 30, result
    assert len(result["colors"]) == 6 and set(map(tuple, result["colors"].values())) == {{("blue", "red")}}, result
    assert result["fetch"] == dict(length=100000, mine="1", endpoint="vpce-"), result
    assert result["sse"] == [["0", True], ["1", True], ["2", True]], result
    assert result["websocket"] == [5, 200000], result
    driver.find_element("id", "d").click()
    path = folder + "/downloads/download.bin"
    for attempt in range(100):
        if os.path.exists(path) and os.path.getsize(path) == 2560000: break
        time.sleep(0.1)
    assert open(path, "rb").read() == bytes(range(256)) * 10000
finally:
    driver.quit()
print("DONE", result)
"#,
        lab.folder()
    ))?;
    assert!(outcome.stdout.contains("DONE"), "{}", outcome.stdout);
    assert!(intercepted(&outcome) >= 2.0);
    Ok(())
}
