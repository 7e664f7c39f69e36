//! Watching packets with flowdogshark, read by tshark.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::{moto, pki};

/// Runs `$PLAN` while flowdogshark writes `$OUT`.
const WATCHED: &str = r#"
set -e
"$SHARK" capture -w out.pcapng --target "unix:$PWD/capture.sock" "$@" 2>shark.log &
pid=$!
for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
sh ./plan.sh
sleep 1
kill -TERM $pid
wait $pid
cat shark.log >&2
"#;

/// Runs a program where the appliance is: its loopback is not the client's. The brackets keep the
/// pattern from finding the shell that has it in its own command.
const INSIDE: &str = r#"
inside() {
    nsenter -t "$(pgrep -f "[f]lowdog run --config $PWD/lab.toml")" -n "$@"
}
"#;

fn shark() -> Result<String> {
    let program = flowdog_tests::flowdogshark();
    Ok(program.to_str().context("path of flowdogshark")?.to_owned())
}

/// A lab whose appliance can be watched.
fn lab(extra: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    let socket = lab.folder().join("capture.sock");
    lab.config(&format!(
        "[capture]\nlisten = 'unix:{}'\nsecrets = 'on'\n{extra}",
        socket.display()
    ))
}

fn watched(lab: Lab, arguments: &[&str], plan: &str) -> Result<Lab> {
    let folder = lab.folder().to_owned();
    std::fs::write(folder.join("plan.sh"), plan)?;
    let script = format!(
        "cd {}\nSHARK={}\nset -- {}\n{WATCHED}",
        folder.display(),
        shark()?,
        arguments
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    let outcome = lab.shell(&script)?;
    ensure!(
        outcome.code == Some(0),
        "{}\n{}\n{}",
        outcome.stdout,
        outcome.stderr,
        outcome.log
    );
    Ok(lab)
}

fn tool(program: &str, folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Fields of the packets that pass a display filter, a line each.
fn fields(folder: &Path, filter: &str, fields: &[&str]) -> Result<Vec<String>> {
    let mut arguments = vec!["-n", "-r", "out.pcapng", "-Y", filter, "-T", "fields"];
    for field in fields {
        arguments.extend(["-e", field]);
    }
    let text = tool("tshark", folder, &arguments)?;
    Ok(text.lines().map(str::to_owned).collect())
}

const INTERCEPT: &str = "
[[interceptor]]
name = 'mark'
use = 'edit-headers'
request = [{ set = 'x-marked', value = 'yes' }]

[[rule]]
action = 'intercept'
interceptors = ['mark']
";

#[test]
fn an_intercepted_session_is_clear_on_both_sides_and_changed_only_after_rewriting() -> Result<()> {
    for (side, marked) in [("client", 0), ("server", 1)] {
        let lab = watched(
            lab(INTERCEPT)?,
            &["--side", side],
            "curl -sS --http2 https://any.lab.name/one >/dev/null
             curl -sS --http1.1 --tls-max 1.2 https://any.lab.name/two >/dev/null
             curl -sS http://any.lab.name/three >/dev/null",
        )?;
        let folder = lab.folder();
        // The file alone decrypts.
        let paths = fields(folder, "http2.headers.path", &["http2.headers.path"])?;
        ensure!(paths == ["/one"], "HTTP/2, {side}: {paths:?}");
        let found = fields(
            folder,
            "http2.header.name == \"x-marked\"",
            &["frame.number"],
        )?;
        ensure!(found.len() == marked, "{side}: {found:?}");
        let clear = fields(folder, "http.request", &["http.request.uri"])?;
        ensure!(clear == ["/two", "/three"], "HTTP/1, {side}: {clear:?}");
        let lines = fields(
            folder,
            "http.request.line contains \"x-marked\"",
            &["http.request.uri"],
        )?;
        ensure!(lines.len() == 2 * marked, "{side}: {lines:?}");
        let names = fields(folder, "tcp", &["frame.interface_name"])?;
        ensure!(names.iter().all(|name| *name == format!("{side} side")));
        let named = fields(
            folder,
            "frame.comment contains \"vpce-\"",
            &["frame.number"],
        )?;
        ensure!(!named.is_empty(), "no flow is named");
    }
    Ok(())
}

/// Changes the head of a request and the text of WebSocket messages.
const CHANGING: &str = "
[[interceptor]]
name = 'mark'
use = 'edit-headers'
request = [{ set = 'x-marked', value = 'yes' }]

[[interceptor]]
name = 'words'
use = 'edit-body'
message = [{ find = 'cat', replace = 'dog' }]

[[rule]]
action = 'intercept'
interceptors = ['mark', 'words']
";

/// One HTTP/2 exchange and one WebSocket inside TLS.
const TALK: &str = r#"
curl -sS --http2 https://any.lab.name/one >/dev/null
"$PYTHON" - <<'END'
import asyncio, websockets
async def main():
    async with websockets.connect("wss://any.lab.name/ws", compression=None) as ws:
        await ws.send("a black cat")
        assert await ws.recv() == "a black dog"
asyncio.run(main())
END
"#;

/// tshark as Wireshark runs us: it lists, starts and stops us.
const THROUGH_EXTCAP: &str = r#"
set -e
cd "$FOLDER"
export HOME="$FOLDER" XDG_CONFIG_HOME="$FOLDER/config" FLOWDOGSHARK_TARGET="unix:$FOLDER/capture.sock"
"$SHARK" install >/dev/null
curl -sS http://any.lab.name/ >/dev/null
tshark -D 2>/dev/null >interfaces.txt
tshark -i flowdog -o extcap.flowdog.side:both -f "tcp port 443" -w out.pcapng 2>tshark.log &
pid=$!
for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
sh ./plan.sh
sleep 2
kill -TERM $pid
wait $pid || { cat tshark.log >&2; exit 1; }
for i in $(seq 100); do grep -q 'capture detached' appliance.log && break; sleep 0.05; done
"#;

#[test]
fn tshark_lists_us_and_reads_both_sides_of_a_live_session_in_clear() -> Result<()> {
    let lab = lab(CHANGING)?;
    let folder = lab.folder().to_owned();
    std::fs::write(folder.join("plan.sh"), TALK)?;
    let outcome = lab.shell(&format!(
        "export FOLDER={} SHARK={} PYTHON={}\n{THROUGH_EXTCAP}",
        folder.display(),
        shark()?,
        flowdog_tests::python().display()
    ))?;
    let listed = std::fs::read_to_string(folder.join("interfaces.txt"))?;
    ensure!(listed.contains(". flowdog (flowdog on "), "{listed}");
    ensure!(listed.contains(". flowdog-vpce-"), "{listed}");
    ensure!(
        outcome.log.contains("capture detached"),
        "the capture was not stopped"
    );
    both_sides_are_clear(&folder)
}

/// In `out.pcapng` each side is a connection of its own, decrypted, and changed on the server's side.
fn both_sides_are_clear(folder: &Path) -> Result<()> {
    let mut streams = HashSet::new();
    for (interface, marked, word) in [("0", 0, "cat"), ("1", 1, "dog")] {
        let on = |filter: &str| format!("frame.interface_id == {interface} && ({filter})");
        let paths = fields(folder, &on("http2.headers.path"), &["http2.headers.path"])?;
        ensure!(paths == ["/one"], "HTTP/2 of {interface}: {paths:?}");
        let found = fields(
            folder,
            &on("http2.header.name == \"x-marked\""),
            &["frame.number"],
        )?;
        ensure!(found.len() == marked, "marks of {interface}: {found:?}");
        let upgrade = fields(
            folder,
            &on("http.request.line contains \"x-marked\""),
            &["frame.number"],
        )?;
        ensure!(upgrade.len() == marked, "marks of {interface}: {upgrade:?}");
        // Masked on the way there, in clear on the way back.
        let texts = fields(
            folder,
            &on("websocket.payload.text"),
            &["websocket.payload.text"],
        )?;
        let said = format!("a black {word}");
        ensure!(
            texts.first() == Some(&said) && texts.len() == 2,
            "WebSocket of {interface}: {texts:?}"
        );
        let mut own = fields(folder, &on("tcp"), &["tcp.stream"])?;
        own.sort();
        own.dedup();
        ensure!(
            own.iter().all(|stream| streams.insert(stream.clone())),
            "taken for one connection: {own:?}"
        );
    }
    Ok(())
}

#[test]
fn both_sides_in_one_file_or_in_two_decrypt_with_no_option() -> Result<()> {
    let plan = format!("PYTHON={}\n{TALK}", flowdog_tests::python().display());
    // IPv4 and IPv6 are kept apart in different ways.
    for name in ["ipv4.lab.name", "any.lab.name"] {
        let lab = watched(
            lab(CHANGING)?,
            &["--side", "client,server"],
            &plan.replace("any.lab.name", name),
        )?;
        both_sides_are_clear(lab.folder()).with_context(|| name.to_owned())?;
        let bad = fields(
            lab.folder(),
            "_ws.malformed || tcp.checksum.status == \"Bad\" || _ws.expert.severity == error",
            &["frame.number", "_ws.expert.message"],
        )?;
        ensure!(bad.is_empty(), "{name}: {bad:?}");
    }
    let lab = watched(
        lab(CHANGING)?,
        &["--side", "client,server", "--split"],
        &plan,
    )?;
    for (side, marked) in [("client", 0), ("server", 1)] {
        let file = lab.folder().join(format!("out-{side}.pcapng"));
        std::fs::copy(file, lab.folder().join("out.pcapng"))?;
        let found = fields(
            lab.folder(),
            "http2.header.name == \"x-marked\"",
            &["frame.number"],
        )?;
        ensure!(found.len() == marked, "{side}: {found:?}");
        let mapped = fields(
            lab.folder(),
            "ipv6.addr == ::ffff:0:0/96",
            &["frame.number"],
        )?;
        ensure!(mapped.is_empty(), "{side}: {mapped:?}");
    }
    Ok(())
}

#[test]
fn files_follow_each_other_in_a_folder() -> Result<()> {
    let lab = lab(CHANGING)?;
    let folder = lab.folder().to_owned();
    let flowdog = flowdog_tests::flowdog();
    let outcome = lab.shell(&format!(
        "cd {}
         {} capture -c lab.toml --folder kept --size 100KiB --files 2 --filter 'sni any.lab.name' 2>capture.log &
         pid=$!
         for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
         curl -sS https://other.lab.name/bytes/400000 >/dev/null
         for i in 1 2 3 4 5; do curl -sS https://any.lab.name/bytes/120000 >/dev/null; done
         curl -sS https://any.lab.name/last >/dev/null
         sleep 1
         kill -TERM $pid
         wait $pid
         cat capture.log",
        folder.display(),
        Path::new(flowdog.get_program()).display()
    ))?;
    ensure!(
        outcome.stdout.contains(" packets written, "),
        "{}",
        outcome.stdout
    );
    let mut names: Vec<_> = std::fs::read_dir(folder.join("kept"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    ensure!(names.len() == 2, "{names:?}");
    let mut clear = Vec::new();
    for name in &names {
        ensure!(name.ends_with(".pcapng"), "{names:?}");
        std::fs::copy(folder.join("kept").join(name), folder.join("out.pcapng"))?;
        clear.extend(fields(
            &folder,
            "http2.headers.path",
            &["http2.headers.path"],
        )?);
        let others = fields(
            &folder,
            "tls.handshake.extensions_server_name == \"other.lab.name\"",
            &["frame.number"],
        )?;
        ensure!(others.is_empty(), "the filter let another name through");
    }
    ensure!(
        clear.last().map(String::as_str) == Some("/last"),
        "{clear:?}"
    );
    Ok(())
}

#[test]
fn what_is_said_in_clear_is_tcp_for_tools_that_cannot_decrypt() -> Result<()> {
    let lab = lab("pcap-over-ip = '127.0.0.1:57012'\n[[rule]]\naction = 'intercept'\n")?;
    let folder = lab.folder().to_owned();
    lab.shell(&format!(
        "cd {}
         {INSIDE}
         {} capture -w out.pcapng --side decrypted --target \"unix:$PWD/capture.sock\" 2>shark.log &
         pid=$!
         for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
         inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/57012; exec timeout 60 cat <&3 >over-ip.pcap' &
         reader=$!
         for i in $(seq 200); do [ $(grep -c 'capture attached' appliance.log) = 2 ] && break; sleep 0.05; done
         curl -sS --http1.1 https://any.lab.name/bytes/9000 >/dev/null
         curl -sS --http2 https://any.lab.name/two >/dev/null
         curl -sS http://any.lab.name/three >/dev/null
         sleep 1
         kill -TERM $pid $reader
         wait $pid; wait $reader || true",
        folder.display(),
        shark()?
    ))?;
    for file in ["out.pcapng", "over-ip.pcap"] {
        if file != "out.pcapng" {
            std::fs::copy(folder.join(file), folder.join("out.pcapng"))?;
        }
        let asked = fields(&folder, "http.request", &["http.request.uri"])?;
        ensure!(asked == ["/bytes/9000", "/three"], "{file}: {asked:?}");
        let asked = fields(&folder, "http2.headers.path", &["http2.headers.path"])?;
        ensure!(asked == ["/two"], "{file}: {asked:?}");
        let bad = fields(
            &folder,
            "tcp.analysis.flags || _ws.malformed || tcp.checksum.status == \"Bad\" || tls",
            &["frame.number", "_ws.col.Info"],
        )?;
        ensure!(bad.is_empty(), "{file}: {bad:?}");
        let objects = format!("http,{}", folder.join("objects").display());
        let _ = std::fs::remove_dir_all(folder.join("objects"));
        tool(
            "tshark",
            &folder,
            &["-r", "out.pcapng", "-q", "--export-objects", &objects],
        )?;
        let len = std::fs::metadata(folder.join("objects/9000"))?.len();
        ensure!(len == 9000, "{file}: an object of {len} bytes");
        // tcpdump reads it too, and finds every checksum right.
        let lines = tool("tcpdump", &folder, &["-n", "-v", "-r", "out.pcapng"])?;
        ensure!(lines.contains("GET /bytes/9000 HTTP/1.1"), "{lines}");
        ensure!(!lines.contains("incorrect"), "{lines}");
    }
    Ok(())
}

#[test]
fn threat_65_over_tcp_only_the_token_or_a_certificate_lets_in() -> Result<()> {
    let keys = tempfile::tempdir()?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/capture_pki.py");
    pki::python_now(&program, &[keys.path().to_str().context("path")?])?;
    let pki = keys.path().display().to_string();
    let shark = shark()?;
    // Each way has a service of its own; each line says what must become of it.
    let cases = [
        (
            format!("token-file = '{pki}/token'\n"),
            vec![
                (true, format!("--token-file {pki}/token")),
                (false, format!("--token-file {pki}/wrong")),
                (false, String::new()),
            ],
        ),
        (
            format!(
                "certificate = '{pki}/server.pem'\nkey = '{pki}/server.key'\nclient-ca = '{pki}/ca.pem'\n"
            ),
            vec![
                (
                    true,
                    format!(
                        "--ca {pki}/ca.pem --server-name capture --certificate {pki}/client.pem --key {pki}/client.key"
                    ),
                ),
                (
                    false,
                    format!(
                        "--ca {pki}/ca.pem --server-name capture --certificate {pki}/stranger.pem --key {pki}/stranger.key"
                    ),
                ),
                (false, format!("--ca {pki}/ca.pem --server-name capture")),
                (
                    false,
                    format!(
                        "--ca {pki}/stranger.pem --server-name capture --certificate {pki}/client.pem --key {pki}/client.key"
                    ),
                ),
                (false, String::new()),
            ],
        ),
    ];
    for (config, readers) in cases {
        let lab = Lab::new()?.config(&format!("[capture]\nlisten = '127.0.0.1:7081'\n{config}"))?;
        let mut script = format!("cd {}\n{INSIDE}", lab.folder().display());
        for (number, (_, arguments)) in readers.iter().enumerate() {
            script.push_str(&format!(
                "inside {shark} capture -w {number}.pcapng --target 127.0.0.1:7081 {arguments} --duration 200ms 2>>said.log && echo in {number} || echo out {number}\n"
            ));
        }
        let outcome = lab.shell(&script)?;
        for (number, (lets_in, arguments)) in readers.iter().enumerate() {
            let word = if *lets_in { "in" } else { "out" };
            ensure!(
                outcome.stdout.contains(&format!("{word} {number}\n")),
                "{arguments}: {}\n{}",
                outcome.stdout,
                outcome.log
            );
        }
        let attached = outcome.log.matches("capture attached").count();
        ensure!(attached == 1, "{attached} attached: {}", outcome.log);
        let token = std::fs::read_to_string(format!("{pki}/token"))?;
        ensure!(
            !outcome.log.contains(token.trim()),
            "the token is in the log"
        );
    }
    Ok(())
}

/// The first flowdog's client, written against its names alone.
const LEGACY: &str = r#"
import sys, grpc

def varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])

def fields(data):
    found, at = {}, 0
    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
    while at < len(data):
        key = number()
        if key & 7 == 2:
            length = number()
            found[key >> 3] = data[at:at + length]
            at += length
        elif key & 7 == 0:
            found[key >> 3] = number()
        else:
            raise SystemExit(f"wire type {key & 7}")
    return found

def question(text, kind):
    text = text.encode()
    return bytes([10]) + varint(len(text)) + text + bytes([16]) + varint(kind)

kind, count, keys = int(sys.argv[1]), 0, 0
channel = grpc.insecure_channel("127.0.0.1:7081")
ask = channel.unary_stream("/Vpcshark/GetPackets", lambda raw: raw, lambda raw: raw)
call = ask(question("tcp port 443", kind), timeout=60)
for raw in call:
    answer = fields(raw)
    if answer.get(3):
        assert answer[3].split()[0].isupper() and not answer.get(1), answer
        keys += 1
    else:
        payload, time = answer[1], fields(answer[2])
        assert time[1] > 1_700_000_000, time
        # GENEVE, with IPv4 or IPv6 inside.
        assert payload[0] >> 6 == 0 and payload[2:4].hex() in ("0800", "86dd"), payload[:8]
        count += 1
    if keys >= 4 and count >= 8:
        print("OK", kind)
        call.cancel()
        sys.exit()
"#;

#[test]
fn the_first_flowdogs_clients_are_answered() -> Result<()> {
    let lab = Lab::new()?.config(
        "[capture]\nlisten = '127.0.0.1:7081'\naccess = 'anyone-on-loopback'\nsecrets = 'on'\n[[rule]]\naction = 'intercept'\n",
    )?;
    let folder = lab.folder().to_owned();
    std::fs::write(folder.join("legacy.py"), LEGACY)?;
    let outcome = lab.shell(&format!(
        "cd {}
         {INSIDE}
         for kind in 1 2; do
           inside {python} legacy.py $kind & pid=$!
           for i in $(seq 200); do [ $(grep -c 'capture attached' appliance.log) = $kind ] && break; sleep 0.05; done
           curl -sS https://any.lab.name/one >/dev/null
           curl -sS https://any.lab.name/two >/dev/null
           wait $pid
         done
         if inside {python} legacy.py 0 2>refused.log; then exit 1; fi
         grep -q 'PRE or POST' refused.log",
        folder.display(),
        python = flowdog_tests::python().display()
    ))?;
    ensure!(outcome.stdout.contains("OK 1") && outcome.stdout.contains("OK 2"));
    ensure!(
        outcome.metric("flowdog_capture_packets_total", "") >= 16.0,
        "{:#}",
        outcome.report
    );
    Ok(())
}

/// Wireshark's part: the pipes, the toolbar, a filter in its field at each keystroke.
const TOOLBAR: &str = r#"
import os, signal, subprocess, sys, time

shark, target = sys.argv[1:]

def says(*arguments):
    done = subprocess.run([shark, *arguments], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done
    return done.stdout

typed = "tcp port 443 and sni *.example.com"
valid = [typed[:n] for n in range(len(typed) + 1)
         if not says("--extcap-interface", "flowdog", "--extcap-capture-filter", typed[:n])]
assert "" in valid and "tcp" in valid and "tcp port 443" in valid and typed in valid, valid
assert "tcp port" not in valid and "tcp port 443 and" not in valid and "tcp port 443 and sni" not in valid, valid
assert "character" in says("--extcap-interface", "flowdog", "--extcap-capture-filter", "tcp port")
assert says("--extcap-interface", "flowdog", "--extcap-dlts").startswith("dlt {number=101}")
config = says("--extcap-interface", "flowdog", "--extcap-config", "--target", target)
for call in ["target", "token-file", "ca", "endpoint", "side", "secrets", "snap-length", "sample"]:
    assert "{call=--" + call + "}" in config, call
listed = says("--extcap-interface", "flowdog", "--extcap-config", "--extcap-reload-option", "endpoint", "--target", target)
assert listed.count("value {arg=6}") >= 2 and "vpce-" in listed, listed

def message(control, command, payload=b""):
    return b"T" + (len(payload) + 2).to_bytes(3, "big") + bytes([control, command]) + payload

def watch(*more):
    for name in ["fifo", "to", "from"]:
        if os.path.exists(name):
            os.remove(name)
        os.mkfifo(name)
    child = subprocess.Popen([shark, "--capture", "--extcap-interface", "flowdog", "--fifo", "fifo",
        "--extcap-control-in", "to", "--extcap-control-out", "from", "--target", target, *more],
        stderr=subprocess.PIPE)
    packets = open("fifo", "rb")
    # Opened by the other end in whatever order.
    return child, packets, open("to", "wb", buffering=0), open("from", "rb", buffering=0)

def heard(pipe):
    head = pipe.read(6)
    assert head[:1] == b"T", head
    return head[4], head[5], pipe.read(int.from_bytes(head[1:4], "big") - 2).decode()

def drain(packets):
    os.set_blocking(packets.fileno(), False)
    time.sleep(0.5)
    return packets.read() or b""

def fetch(path):
    subprocess.run(["curl", "-sS", f"http://any.lab.name{path}"], check=True, stdout=subprocess.DEVNULL)

child, packets, to, back = watch("--side", "client")
# Nothing is said before the other end says that it is ready.
os.set_blocking(back.fileno(), False)
time.sleep(0.5)
assert back.read(1) is None
os.set_blocking(back.fileno(), True)
to.write(message(0, 0))
assert heard(back) == (0, 6, "flowdog: watching")
fetch("/seen")
assert b"GET /seen" in drain(packets)
to.write(message(2, 1, b"\1"))
assert heard(back) == (0, 6, "flowdog: paused")
fetch("/paused")
assert b"/paused" not in drain(packets)
to.write(message(2, 1, b"\0"))
assert heard(back) == (0, 6, "flowdog: watching")
to.write(message(0, 1, b"tcp port"))
control, command, text = heard(back)
assert (control, command) == (0, 6) and "not changed" in text, text
fetch("/again")
assert b"GET /again" in drain(packets)
to.write(message(0, 1, b"tcp port 9"))
time.sleep(0.3)
fetch("/filtered")
assert b"/filtered" not in drain(packets)
to.write(message(0, 1, b""))
to.write(message(1, 1, b"server"))
time.sleep(0.3)
fetch("/server")
bytes_seen = drain(packets)
assert b"GET /server" in bytes_seen and b"x-marked" in bytes_seen, bytes_seen
to.write(message(9, 200, b"what a newer Wireshark says"))
child.send_signal(signal.SIGTERM)
tail = b""
os.set_blocking(packets.fileno(), True)
tail = packets.read()
assert child.wait(10) == 0, child.stderr.read()
# The file ends with the statistics of its interfaces.
assert (5).to_bytes(4, "little") in tail, tail

# What is no message ends the toolbar and not the capture.
for broken in [b"X\0\0\2\0\0", b"T\0\0\1\0\0", b"T\xff\xff\xff\0\1"]:
    child, packets, to, back = watch()
    to.write(message(0, 0))
    heard(back)
    to.write(broken)
    time.sleep(0.2)
    fetch("/still")
    assert b"GET /still" in drain(packets), broken
    # Wireshark stops by closing the pipe, too.
    packets.close()
    fetch("/gone")
    assert child.wait(10) == 0, child.stderr.read()
    assert b"control pipe" in child.stderr.read()
print("OK")
"#;

#[test]
fn a_scripted_wireshark_turns_the_toolbar_and_breaks_its_pipe() -> Result<()> {
    let lab = lab(INTERCEPT)?;
    let folder = lab.folder().to_owned();
    std::fs::write(folder.join("toolbar.py"), TOOLBAR)?;
    let outcome = lab.shell(&format!(
        "cd {}
         curl -sS http://any.lab.name/first >/dev/null
         {} toolbar.py {} \"unix:$PWD/capture.sock\"",
        folder.display(),
        flowdog_tests::python().display(),
        shark()?
    ))?;
    ensure!(outcome.stdout.contains("OK"), "{}", outcome.stdout);
    Ok(())
}

#[test]
fn threat_75_every_packet_of_a_file_is_read_without_a_warning() -> Result<()> {
    let lab = watched(
        lab("")?,
        &["--side", "client,outer"],
        "curl -sS https://any.lab.name/one >/dev/null; curl -sS http://any.lab.name/ >/dev/null",
    )?;
    let folder = lab.folder();
    let bad = fields(
        folder,
        "_ws.malformed || _ws.short || ip.checksum.status == \"Bad\" || _ws.expert.severity == error",
        &["frame.number", "_ws.expert.message"],
    )?;
    ensure!(bad.is_empty(), "{bad:?}");
    let geneve = fields(
        folder,
        "frame.interface_id == 1 && geneve",
        &["udp.dstport"],
    )?;
    ensure!(!geneve.is_empty(), "no GENEVE on the outer interface");
    let about = tool("capinfos", folder, &["-T", "-m", "-c", "-o", "out.pcapng"])?;
    ensure!(about.contains("True"), "out of order: {about}");
    let output = Command::new("tshark")
        .args(["-r", "out.pcapng", "-q"])
        .current_dir(folder)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<_> = said
        .lines()
        .filter(|line| !line.contains("Running as user"))
        .collect();
    ensure!(said.is_empty(), "tshark warns: {said:?}");
    tool("editcap", folder, &["-d", "out.pcapng", "again.pcapng"])?;
    tool(
        "mergecap",
        folder,
        &["-w", "both.pcapng", "out.pcapng", "again.pcapng"],
    )?;
    Ok(())
}

#[test]
fn a_filter_a_snap_length_and_no_secrets_are_kept_to() -> Result<()> {
    let lab = watched(
        lab("")?,
        &["-f", "tcp port 80", "--snap-length", "60", "--no-secrets"],
        "curl -sS https://any.lab.name/one >/dev/null; curl -sS http://any.lab.name/ >/dev/null",
    )?;
    let folder = lab.folder();
    let ports = fields(folder, "tcp", &["tcp.port", "frame.cap_len"])?;
    ensure!(!ports.is_empty());
    for line in ports {
        let (ports, len) = line.split_once('\t').context("fields")?;
        ensure!(ports.split(',').any(|port| port == "80"), "{line}");
        ensure!(len.parse::<u32>()? <= 60, "{line}");
    }
    let bytes = std::fs::read(folder.join("out.pcapng"))?;
    ensure!(!bytes.windows(13).any(|part| part == b"CLIENT_RANDOM"));
    ensure!(!bytes.windows(14).any(|part| part == b"TRAFFIC_SECRET"));
    Ok(())
}

#[test]
fn threat_65_attaching_is_in_the_log_and_secrets_are_off_unless_allowed() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_owned();
    let socket = folder.join("capture.sock");
    let lab = lab.config(&format!(
        "[capture]\nlisten = 'unix:{}'\n",
        socket.display()
    ))?;
    let shark = shark()?;
    let folder = folder.display();
    let outcome = lab.shell(&format!(
        "cd {folder}
         {shark} interfaces --target unix:{folder}/capture.sock --json
         {shark} capture -w bad.pcapng --target unix:{folder}/capture.sock -f 'frobnicate' || echo code $?
         {shark} capture -w one.pcapng --target unix:{folder}/capture.sock -f 'host 1.2.3.4' --duration 1s"
    ))?;
    ensure!(
        outcome.stdout.contains("\"secrets\":false"),
        "{}",
        outcome.stdout
    );
    ensure!(outcome.stdout.contains("code 1"), "{}", outcome.stdout);
    ensure!(
        outcome.stderr.contains("`frobnicate` is not known"),
        "{}",
        outcome.stderr
    );
    ensure!(
        outcome.log.contains("capture attached") && outcome.log.contains("host 1.2.3.4"),
        "{}",
        outcome.log
    );
    Ok(())
}

const SETUP: &str = r#"
import boto3, os
boto3.client("s3", endpoint_url=os.environ["URL"]).create_bucket(Bucket="packets",
    CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
"#;

/// Fetches all objects into the folder `fetched` and prints their names.
const FETCH: &str = r#"
import boto3, os, pathlib
s3 = boto3.client("s3", endpoint_url=os.environ["URL"])
folder = pathlib.Path("fetched")
folder.mkdir()
for found in s3.list_objects_v2(Bucket="packets").get("Contents", []):
    s3.download_file("packets", found["Key"], folder / found["Key"].split("/")[-1])
    print("object", found["Key"])
"#;

#[test]
fn files_are_moved_to_s3_where_tshark_reads_every_one() -> Result<()> {
    let lab = moto::with_credentials(lab(CHANGING)?);
    let folder = lab.folder().to_owned();
    let flowdog = flowdog_tests::flowdog();
    // What an earlier run left, larger than a part of an upload.
    let left: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::create_dir(folder.join("kept"))?;
    std::fs::write(
        folder.join("kept/flowdog-20200101T000000.000Z.pcapng"),
        &left,
    )?;
    let steps = format!(
        "touch away
         nsenter --net=/proc/$appliance/ns/net {} capture -c lab.toml --folder kept --size 100KiB --files 20 --filter 'sni any.lab.name' \
             --to s3://packets/all --to-region eu-central-1 --to-endpoint {} 2>capture.log &
         pid=$!
         for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
         for i in 1 2 3; do curl -sS https://any.lab.name/bytes/120000 >/dev/null; done
         for n in $(seq 100); do [ $(ls kept/*.pcapng | wc -l) -ge 3 ] && break; sleep 0.1; done
         echo waiting $(ls kept/*.pcapng | wc -l); rm away
         curl -sS https://any.lab.name/last >/dev/null
         sleep 3
         kill -TERM $pid; wait $pid || {{ cat capture.log; exit 1; }}
         cat capture.log; echo left $(ls kept | wc -l)",
        Path::new(flowdog.get_program()).display(),
        moto::ENDPOINT,
    );
    let outcome = lab.shell(&moto::script(&lab, SETUP, &steps, FETCH)?)?;
    let said = |start: &str| {
        let line = outcome
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(start));
        line.and_then(|rest| rest.parse::<usize>().ok())
            .with_context(|| format!("{start:?} in {}\n{}", outcome.stdout, outcome.log))
    };
    ensure!(said("waiting ")? >= 3, "{}", outcome.stdout);
    ensure!(said("left ")? == 0, "{}", outcome.stdout);
    let names: Vec<_> = outcome
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("object all/"))
        .collect();
    ensure!(names.len() >= 4, "{}", outcome.stdout);
    ensure!(
        outcome
            .stdout
            .contains(&format!("{} files moved", names.len())),
        "{}",
        outcome.stdout
    );
    let (mut clear, mut packets) = (Vec::new(), 0);
    for name in &names {
        let (_, name) = name.split_once('/').context("a day")?;
        let file = folder.join("fetched").join(name);
        if name.starts_with("flowdog-2020") {
            ensure!(std::fs::read(&file)? == left, "not what was there");
            continue;
        }
        std::fs::copy(&file, folder.join("out.pcapng"))?;
        let about = tool("capinfos", &folder, &["-T", "-m", "-r", "-c", "out.pcapng"])?;
        let count = about.trim().rsplit(',').next().context("a count")?;
        let count: usize = count
            .trim_matches('"')
            .parse()
            .with_context(|| about.clone())?;
        let read = tool(
            "tshark",
            &folder,
            &["-r", "out.pcapng", "-T", "fields", "-e", "frame.number"],
        )?;
        ensure!(read.lines().count() == count, "{about}");
        packets += count;
        clear.extend(fields(
            &folder,
            "http2.headers.path",
            &["http2.headers.path"],
        )?);
    }
    let written = format!("{packets} packets written, ");
    ensure!(
        outcome.stdout.contains(&written),
        "{packets}: {}",
        outcome.stdout
    );
    ensure!(
        clear.last().map(String::as_str) == Some("/last"),
        "{clear:?}"
    );
    Ok(())
}
