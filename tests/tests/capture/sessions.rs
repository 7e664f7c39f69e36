//! What a session looks like to who watches it.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::watching::{CHANGING, INSIDE, INTERCEPT, fields, lab, shark, tool, watched};

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
