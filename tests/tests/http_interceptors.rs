//! `block`, `edit-body`, `map-local` and `map-remote` seen by a real client, in HTTP/1.1 and HTTP/2.

use anyhow::Result;
use flowdog_tests::lab::Lab;

#[test]
fn exchanges_are_blocked_edited_and_mapped_as_the_filters_say() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("mine.txt");
    std::fs::write(&file, "from a file\n")?;
    let lab = lab.config(&format!(
        r#"
[[interceptor]]
name = "no-admin"
use = "block"
when = 'path like "/admin*"'
status = 451
[[interceptor]]
name = "mine"
use = "map-local"
when = 'path == "/mine"'
file = {file:?}
[[interceptor]]
name = "move"
use = "map-remote"
path = '^/moved/(\d+)$'
to = '/status/$1'
[[interceptor]]
name = "words"
use = "edit-body"
when = 'path == "/gzip" and status == 200'
response = [{{ find = '[a-z]+', replace = 'woof' }}]
[[rule]]
action = "intercept"
interceptors = ["no-admin", "mine", "move", "words"]
"#
    ))?;
    let outcome = lab.shell(
        "for version in --http1.1 --http2; do \
           curl -sS $version -w '%{http_code} %{http_version}\\n' https://any.lab.name/admin/x; \
           curl -sS $version -w '%{http_code} %{http_version}\\n' https://any.lab.name/mine; \
           curl -sS $version -o /dev/null -w '%{http_code} moved\\n' https://any.lab.name/moved/418; \
           curl -sS $version --compressed https://any.lab.name/gzip | grep -c woof; \
           curl -sS $version -D - -o /dev/null https://any.lab.name/gzip | grep -ci '^content-encoding: gzip'; \
         done",
    )?;
    let out = &outcome.stdout;
    for expected in [
        "blocked\n451 1.1\n",
        "blocked\n451 2\n",
        "from a file\n200 1.1\n",
        "from a file\n200 2\n",
    ] {
        assert!(out.contains(expected), "{expected:?} is missing in {out}");
    }
    assert_eq!(out.matches("418 moved").count(), 2, "{out}");
    let counts: Vec<&str> = out.lines().filter(|line| line.len() == 1).collect();
    assert_eq!(counts.len(), 4, "{out}");
    assert!(!counts.contains(&"0"), "{out}");
    assert_eq!(
        outcome.metric("flowdog_interceptor_notes_total", "blocked"),
        2.0
    );
    assert_eq!(
        outcome.metric("flowdog_interceptor_notes_total", "edited"),
        4.0
    );
    Ok(())
}

#[test]
fn what_an_acceptor_says_of_a_flow_chooses_its_exchanges() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("gate.js");
    std::fs::write(
        &file,
        "function onFlow(event) {\n\
           const owner = event.Destination.Port === 80 ? 'payments' : 'web';\n\
           return { Accept: true, context: { owner, port: event.Destination.Port } };\n}\n",
    )?;
    let lab = lab.config(&format!(
        r#"
[[acceptor]]
name = "gate"
use = "javascript-acceptor"
file = {file:?}
[[interceptor]]
name = "no-payments"
use = "block"
when = 'tag "owner" == "payments" and method == "GET" and not tag "none"'
status = 451
[[rule]]
action = "ask"
acceptor = "gate"
[[rule]]
action = "intercept"
interceptors = ["no-payments"]
"#
    ))?;
    let outcome = lab.shell(
        "curl -sS -o /dev/null -w '%{http_code} ' http://any.lab.name/status/200; \
         curl -sS -o /dev/null -w '%{http_code} ' -d x http://any.lab.name/status/200; \
         curl -sS -o /dev/null -w '%{http_code}' https://any.lab.name/status/200",
    )?;
    assert_eq!(outcome.stdout, "451 200 200");
    Ok(())
}

/// Twenty megabytes with secrets in them, events one at a time, and a request's body back.
const SECRETS: &str = r#"
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        if self.path == "/large":
            body = b"padding and secret-1234 and more padding\n" * 500000
            self.send_header("Content-Type", "text/plain"); self.send_header("ETag", '"v1"')
            self.send_header("Content-Length", str(len(body))); self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Content-Type", "text/event-stream"); self.send_header("Connection", "close"); self.end_headers()
        for n in range(4):
            self.wfile.write(b"data: secret-%04d is %d\n\n" % (n, n)); self.wfile.flush(); time.sleep(0.4)
        self.close_connection = True
    def do_POST(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size); self.rfile.readline()
        self.rfile.readline()
        self.send_response(200); self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *arguments): pass

ThreadingHTTPServer(("0.0.0.0", 9080), Handler).serve_forever()
"#;

#[test]
fn bodies_of_any_size_and_event_streams_are_edited_as_they_pass() -> Result<()> {
    let outcome = Lab::new()?
        .config(
            r#"
[[interceptor]]
name = "discreet"
use = "edit-body"
request = [{ find = 'secret-\d{4}', replace = '(hidden)' }]
response = [{ find = 'secret-(\d{4})', replace = '(hidden $1)' }]
[[rule]]
action = "intercept"
interceptors = ["discreet"]
"#,
        )?
        .server(SECRETS)?
        .python(
            r#"
import http.client, time
def connect():
    return http.client.HTTPConnection("v4only.lab.name", 9080, timeout=30)
for attempt in range(100):
    try: connect().connect(); break
    except OSError: time.sleep(0.05)
server = connect()
server.request("GET", "/large")
answer = server.getresponse()
assert answer.getheader("Content-Length") is None and answer.getheader("ETag") == 'W/"v1"', answer.getheaders()
assert answer.read() == b"padding and (hidden 1234) and more padding\n" * 500000
server = connect()
server.request("GET", "/events")
answer, seen = server.getresponse(), []
while line := answer.readline():
    if line.strip(): seen.append((line, time.monotonic()))
assert [line for line, _ in seen] == [b"data: (hidden %04d) is %d\n" % (n, n) for n in range(4)], seen
gaps = [after - before for (_, before), (_, after) in zip(seen, seen[1:])]
assert all(0.2 < gap < 1.5 for gap in gaps), gaps
server = connect()
pieces = [b"a sec", b"ret-12", b"34 and ", b"secret-5678"] * 3000
server.request("POST", "/", iter(pieces), {"Content-Type": "text/plain"}, encode_chunked=True)
assert server.getresponse().read() == b"a (hidden) and (hidden)" * 3000
print("DONE")
"#,
        )?;
    assert!(outcome.stdout.contains("DONE"), "{}", outcome.stdout);
    assert_eq!(
        outcome.metric("flowdog_interceptor_notes_total", "edited-in-passing"),
        3.0
    );
    Ok(())
}
