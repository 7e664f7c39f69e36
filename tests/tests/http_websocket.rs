//! WebSocket with permessage-deflate while an interceptor reads and edits messages.

use anyhow::Result;
use flowdog_tests::lab::Lab;

/// Echoes each message, compressed if it came so.
const ECHO: &str = r#"
import asyncio, websockets

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with websockets.serve(echo, "0.0.0.0", 8081, max_size=None):
        await asyncio.Future()

asyncio.run(main())
"#;

const TALK: &str = r#"
import asyncio, os, websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory as Deflate

async def connect(**how):
    for _ in range(100):
        try:
            return await websockets.connect("ws://any.lab.name:8081/", max_size=None, **how)
        except (OSError, websockets.InvalidHandshake):
            await asyncio.sleep(0.05)
    raise SystemExit("no server")

async def main():
    ways = [dict(), dict(compression=None)] + [
        dict(compression=None, extensions=[Deflate(**p)]) for p in [
            dict(client_max_window_bits=True),
            dict(client_max_window_bits=9, server_max_window_bits=9),
            dict(server_no_context_takeover=True, client_no_context_takeover=True),
        ]
    ]
    for how in ways:
        ws = await connect(**how)
        names = [e.name for e in ws.protocol.extensions]
        assert names == ([] if how == dict(compression=None) else ["permessage-deflate"]), names
        for message in ["a cat", "cat " * 5000, os.urandom(70000), b"\0" * 300000, "", "plain", "x" * 40 + "cat"]:
            for _ in range(3):
                await ws.send(message)
                answer = await ws.recv()
                want = message.replace("cat", "dog") if isinstance(message, str) else message
                assert answer == want, (how, len(answer), len(want))
        async def parts():
            for part in ["in several c", "at", " frames"]:
                yield part
        await ws.send(parts())
        assert await ws.recv() == "in several dog frames"
        # Over the limit of messages that are read: closed with 1009, however small it was compressed.
        try:
            await ws.send("a" * (3 << 20))
            await ws.recv()
            raise SystemExit("a message over the limit came back")
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd and closed.rcvd.code == 1009, closed
        print("OK", names, how)

asyncio.run(main())
"#;

#[test]
fn threat_52_messages_are_edited_inside_permessage_deflate_and_bombs_end_it() -> Result<()> {
    let outcome = Lab::new()?
        .config(
            "[proxy]\nwebsocket-message = \"2MiB\"\n\
             [[interceptor]]\nname = \"vet\"\nuse = \"edit-body\"\n\
             message = [{ find = \"cat\", replace = \"dog\" }]\n\
             [[rule]]\naction = \"intercept\"\ninterceptors = [\"vet\"]\n",
        )?
        .server(ECHO)?
        .python(TALK)?;
    assert_eq!(
        outcome.stdout.matches("OK").count(),
        5,
        "{}",
        outcome.stdout
    );
    Ok(())
}

#[test]
fn compressed_messages_of_any_size_pass_unread_where_nobody_reads_them() -> Result<()> {
    let outcome = Lab::new()?
        .config("[[rule]]\naction = \"intercept\"\n")?
        .server(ECHO)?
        .python(
            &TALK
                .replace(".replace(\"cat\", \"dog\")", "")
                .replace("in several dog frames", "in several cat frames")
                .replace(
                    "raise SystemExit(\"a message over the limit came back\")",
                    "raise websockets.ConnectionClosedOK(websockets.frames.Close(1009, ''), None)",
                ),
        )?;
    assert_eq!(
        outcome.stdout.matches("OK").count(),
        5,
        "{}",
        outcome.stdout
    );
    Ok(())
}

#[test]
fn threat_51_52_messages_over_http2_are_read_and_edited_stream_by_stream() -> Result<()> {
    let program = include_str!("http/websocket_h2.py");
    let server = program.replace("sys.argv[1:] == [\"server\"]", "True");
    let outcome = Lab::new()?
        .config(
            "[proxy]\nwebsocket-message = \"256KiB\"\n\
             [[interceptor]]\nname = \"vet\"\nuse = \"edit-body\"\n\
             message = [{ find = \"cat\", replace = \"dog\" }]\n\
             [[rule]]\naction = \"intercept\"\ninterceptors = [\"vet\"]\n",
        )?
        .server(&server)?
        .python(program)?;
    assert!(outcome.stdout.contains("DONE"), "{}", outcome.stdout);
    let refused = |fault| outcome.metric("flowdog_http_refused_total", fault);
    assert_eq!(refused("websocket-message-too-large"), 2.0);
    assert_eq!(refused("websocket-frame"), 1.0);
    Ok(())
}
