//! Recordings played back to the rules with `flowdog replay`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;
use serde_json::Value;

/// The rules that recordings are tried with; the lab itself ran without any.
const RULES: &str = "
[[interceptor]]
name = 'mark'
use = 'edit-headers'
request = [{ set = 'x-marked', value = 'yes' }]
response = [{ remove = 'content-type' }]

[[interceptor]]
name = 'wall'
use = 'block'
when = 'path == \"/blocked\"'

[[rule]]
name = 'no-dns'
action = 'drop'
port = 53

[[rule]]
name = 'bad-names'
action = 'reset'
server-name = 'tls12.lab.name'

[[rule]]
name = 'the-rest'
action = 'intercept'
interceptors = ['mark', 'wall']
";

const TALK: &str = "
curl -sS https://any.lab.name/one >/dev/null
curl -sS https://tls12.lab.name/two >/dev/null
curl -sS http://any.lab.name/three http://any.lab.name/bytes/50000 >/dev/null
curl -sS http://any.lab.name/blocked >/dev/null
";

fn recorded(side: &str, config: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_owned();
    let lab = lab.config(&format!(
        "[capture]\nlisten = 'unix:{}/capture.sock'\n{config}",
        folder.display()
    ))?;
    lab.shell(&format!(
        "cd {}
         {} capture -w out.pcapng --side {side} --target \"unix:$PWD/capture.sock\" 2>shark.log & pid=$!
         for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
         {TALK}
         sleep 1
         kill -TERM $pid
         wait $pid",
        folder.display(),
        flowdog_tests::flowdogshark().display()
    ))?;
    std::fs::write(folder.join("rules.toml"), RULES)?;
    Ok(lab)
}

/// The flows of a replay, and its last line.
fn replayed(folder: &Path, file: &str) -> Result<(Vec<Value>, Value)> {
    let output = flowdog_tests::flowdog()
        .args(["replay", file, "-c", "rules.toml", "--json"])
        .current_dir(folder)
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let mut lines = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    let sums = lines.pop().context("no sums")?;
    Ok((lines, sums))
}

fn of<'f>(flows: &'f [Value], key: &str, value: &str) -> Vec<&'f Value> {
    flows
        .iter()
        .filter(|flow| flow.get(key).and_then(Value::as_str) == Some(value))
        .collect()
}

/// What interceptors did with the exchange of this request.
fn changes(flow: &Value, request: &str) -> Vec<String> {
    let exchanges = flow.get("exchanges").and_then(Value::as_array);
    let exchange = exchanges
        .into_iter()
        .flatten()
        .find(|one| one.get("request").and_then(Value::as_str) == Some(request));
    let changes = exchange
        .and_then(|one| one.get("changes"))
        .and_then(Value::as_array);
    let word = |change: &Value, key| change.get(key).and_then(Value::as_str).map(str::to_owned);
    changes
        .into_iter()
        .flatten()
        .filter_map(|change| {
            Some(format!(
                "{}: {}",
                word(change, "interceptor")?,
                word(change, "what")?
            ))
        })
        .collect()
}

#[test]
fn rules_and_interceptors_say_what_they_would_have_done() -> Result<()> {
    for side in ["client", "outer"] {
        let lab = recorded(side, "")?;
        let (flows, sums) = replayed(lab.folder(), "out.pcapng")?;
        ensure!(
            !of(&flows, "rule", "no-dns").is_empty(),
            "{side}: {flows:#?}"
        );
        let bad = of(&flows, "rule", "bad-names");
        ensure!(bad.len() == 1 && bad[0]["outcome"] == "reset", "{bad:?}");
        // These rules have no certificate authority, and the report says so.
        let tls = of(&flows, "server_name", "any.lab.name");
        ensure!(tls.len() == 1 && tls[0]["rule"] == "the-rest", "{tls:?}");
        let why = tls[0]["why"].as_str().unwrap_or_default();
        ensure!(why.contains("[tls.ca]"), "{tls:?}");
        let clear = of(&flows, "application", "http1");
        ensure!(clear.len() == 2, "{side}: {clear:#?}");
        let marked = changes(clear[0], "GET /three");
        ensure!(
            marked
                == [
                    "mark: request field x-marked added",
                    "mark: response field content-type removed",
                ],
            "{side}: {:#?}",
            clear[0]
        );
        // The second exchange on the same connection.
        ensure!(
            !changes(clear[0], "GET /bytes/50000").is_empty(),
            "{clear:#?}"
        );
        let blocked = changes(clear[1], "GET /blocked");
        ensure!(
            blocked
                .iter()
                .any(|what| what == "wall: answered by itself: 403"),
            "{side}: {:#?}",
            clear[1]
        );
        ensure!(
            clear.iter().all(|flow| flow["note"].is_null()),
            "{clear:#?}"
        );
        ensure!(sums["totals"]["refused"] == 0, "{sums}");
        // The same recording gives the same report.
        ensure!(replayed(lab.folder(), "out.pcapng")?.0 == flows);
    }
    Ok(())
}

/// What hooks of packets would have done with names.
const HOOKS: &str = "
[[hook]]
name = 'names'
use = 'dns'
max-ttl = 1
rule = [{ name = ['tls12.lab.name'], action = 'drop' }]

[[hook]]
name = 'watch'
use = 'dns'

[[rule]]
name = 'dns'
action = 'pass'
port = 53
protocol = 'udp'
hooks = ['watch', 'names']

[[rule]]
name = 'the-rest'
action = 'pass'
";

#[test]
fn hooks_say_what_they_would_have_done_with_packets() -> Result<()> {
    for side in ["client", "outer"] {
        let lab = recorded(side, "")?;
        std::fs::write(lab.folder().join("rules.toml"), HOOKS)?;
        let (flows, _) = replayed(lab.folder(), "out.pcapng")?;
        let names = of(&flows, "rule", "dns");
        ensure!(!names.is_empty(), "{side}: {flows:#?}");
        let mut sums = [0; 3];
        for flow in &names {
            let hooks = &flow["hooks"];
            ensure!(
                hooks["names"] == serde_json::json!(["watch", "names"]),
                "{flow}"
            );
            for (sum, key) in sums.iter_mut().zip(["packets", "edited", "dropped"]) {
                *sum += hooks[key].as_u64().context("a count")?;
            }
        }
        let [packets, edited, dropped] = sums;
        // The queries for one name are lost; answers about the others live for a second.
        ensure!(dropped >= 1, "{side}: {names:#?}");
        ensure!(edited >= 1, "{side}: {names:#?}");
        ensure!(packets > edited + dropped, "{side}: {names:#?}");
        for flow in of(&flows, "rule", "the-rest") {
            ensure!(flow["hooks"].is_null(), "only the rule's own flows: {flow}");
        }
        // For people.
        let told = flowdog_tests::flowdog()
            .args(["replay", "out.pcapng", "-c", "rules.toml"])
            .current_dir(lab.folder())
            .output()?;
        let told = String::from_utf8(told.stdout)?;
        ensure!(told.contains("packets seen by hooks: "), "{told}");
    }
    Ok(())
}

#[test]
fn what_was_recorded_in_clear_is_shown_to_interceptors() -> Result<()> {
    let lab = recorded("decrypted", "[[rule]]\naction = 'intercept'\n")?;
    let (flows, _) = replayed(lab.folder(), "out.pcapng")?;
    let h2 = of(&flows, "application", "http2");
    ensure!(h2.len() == 2, "{flows:#?}");
    ensure!(
        changes(h2[0], "GET https://any.lab.name/one")
            .first()
            .map(String::as_str)
            == Some("mark: request field x-marked added"),
        "{:#?}",
        h2[0]
    );
    Ok(())
}

#[test]
fn a_file_that_is_none_or_is_cut_is_an_error_that_says_where() -> Result<()> {
    let lab = recorded("client", "")?;
    let folder = lab.folder();
    let whole = std::fs::read(folder.join("out.pcapng"))?;
    std::fs::write(folder.join("cut.pcapng"), &whole[..whole.len() / 2 + 1])?;
    std::fs::write(folder.join("text.pcapng"), "not a capture")?;
    for (file, said) in [
        ("cut.pcapng", "in the middle of a packet"),
        ("text.pcapng", "neither a pcap nor a pcapng"),
        ("missing.pcapng", "No such file"),
    ] {
        let output = flowdog_tests::flowdog()
            .args(["replay", file])
            .current_dir(folder)
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(1),
            "{file}: {:?}",
            output.status
        );
        ensure!(
            error.contains(said) && error.contains(file),
            "{file}: {error}"
        );
    }
    Ok(())
}
