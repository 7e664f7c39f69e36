//! Who may attach, and what reads beside flowdogshark: the first flowdog's clients, a Wireshark that is scripted.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::pki;

use crate::watching::{INSIDE, INTERCEPT, lab, shark};

#[test]
fn threat_65_over_tcp_only_the_token_or_a_certificate_lets_in() -> Result<()> {
    let keys = tempfile::tempdir()?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/capture/pki.py");
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
