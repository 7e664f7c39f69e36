//! `websocket-records`: what a real client and a real server say over WebSocket, in a file.

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;
use serde_json::Value;

/// Says texts, bytes and secrets; compressed, over TLS, to two hosts.
const TALK: &str = r#"
import asyncio, json, ssl, websockets

SAID = ["a text", b"\0\1\2", json.dumps({"token": "planted-member", "inner": json.dumps({"password": "planted-inner"})}),
        "Authorization: Bearer planted-word", "x" * 3000, "caf\u00e9 \U0001f436 \"quoted\"\nnext"]

async def talk(host, said):
    uri = f"wss://{host}/ws?token=planted-query"
    async with websockets.connect(uri, ssl=ssl.create_default_context(), additional_headers={"Cookie": "id=planted-cookie"}) as ws:
        for message in said:
            await ws.send(message)
            assert await ws.recv() == message, "nothing is changed"

asyncio.run(talk("any.lab.name", SAID))
asyncio.run(talk("other.lab.name", ["not meant"]))
"#;

#[test]
fn messages_of_real_peers_are_records_and_threat_67_no_secret_is_in_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("records.jsonl");
    let lab = Lab::new()?.config(&format!(
        "[records]\noutput = '{}'\n
         [[interceptor]]\nname = 'chats'\nuse = 'websocket-records'\n\
         max-content = '1KiB'\nwhen = 'host == \"any.lab.name\"'\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['chats']\n",
        path.display()
    ))?;
    let program = lab.folder().join("talk.py");
    std::fs::write(&program, TALK)?;
    let python = flowdog_tests::python();
    let outcome = lab.shell(&format!("{} {}", python.display(), program.display()))?;
    let text = std::fs::read_to_string(&path)?;
    for place in [&text, &outcome.log] {
        ensure!(!place.contains("planted"), "{place}");
    }
    let records: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(records.len() == 12, "{text}\n{}", outcome.log);
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record["type"], "websocket-message");
        assert_eq!(
            (&record["host"], &record["path"]),
            (&"any.lab.name".into(), &"/ws".into())
        );
        assert_eq!(
            record["number"],
            at as u64 + records[0]["number"].as_u64().context("number")?
        );
        let way = if at % 2 == 0 {
            "to-server"
        } else {
            "to-client"
        };
        assert_eq!(record["direction"], way, "{record}");
        let endpoint = record["endpoint"].as_str().context("an endpoint")?;
        ensure!(endpoint.starts_with("vpce-"), "{record}");
        let server = record["server"].as_str().context("a server")?;
        ensure!(server.ends_with(":443"), "{record}");
    }
    // The echo says the same as was said.
    let said = |number: usize| -> Result<&Value> {
        let (one, other) = (&records[number * 2], &records[number * 2 + 1]);
        for field in ["text", "data", "size", "opcode", "truncated"] {
            assert_eq!(one[field], other[field], "{field}");
        }
        Ok(one)
    };
    assert_eq!(said(0)?["text"], "a text");
    let binary = said(1)?;
    assert_eq!(
        (&binary["opcode"], &binary["data"]),
        (&2.into(), &"AAEC".into())
    );
    let json: Value = serde_json::from_str(said(2)?["text"].as_str().context("a text")?)?;
    assert_eq!(json["token"], "(redacted)");
    let inner: Value = serde_json::from_str(json["inner"].as_str().context("a text")?)?;
    assert_eq!(inner["password"], "(redacted)");
    assert_eq!(said(3)?["text"], "Authorization: Bearer (redacted)");
    let long = said(4)?;
    assert_eq!(
        (&long["size"], &long["truncated"]),
        (&3000.into(), &true.into())
    );
    assert_eq!(long["text"].as_str().map(str::len), Some(1024));
    assert_eq!(said(5)?["text"], "caf\u{e9} \u{1f436} \"quoted\"\nnext");
    Ok(())
}
