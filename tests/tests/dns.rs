//! DNS through the appliance: dig and kdig against unbound, over UDP and TCP.

use anyhow::{Context, Result};
use flowdog_tests::lab::{Lab, Outcome};
use serde_json::Value;

/// A name for each purpose. `ech.test` has ALPN h2, keys of Encrypted ClientHello and an address hint;
/// `big.test` does not fit into 512 bytes.
const ZONE: &str = r#"
server:
    port: 5353
    interface: 0.0.0.0
    interface: ::0
    interface-automatic: yes
    access-control: 0.0.0.0/0 allow
    access-control: ::0/0 allow
    do-daemonize: no
    use-syslog: no
    username: ""
    chroot: ""
    directory: "."
    pidfile: ""
    local-zone: "test." static
    local-data: "one.test. 600 A 203.0.113.5"
    local-data: "one.test. 600 AAAA 2001:db8::5"
    local-data: "two.test. 600 A 203.0.113.6"
    local-data: "x.ads.test. 600 A 203.0.113.7"
    local-data: "null.test. 600 A 203.0.113.8"
    local-data: "ech.test. 600 HTTPS 1 . alpn=h2 ipv4hint=1.2.3.4 ech=AAtzZWNyZXQta2V5cw=="
"#;

const CONFIG: &str = r#"
[records]
output = "records.jsonl"

[[hook]]
name = "names"
use = "dns"
strip-ech = true
max-ttl = 300
rule = [
    { name = ["*.ads.test"], action = "nxdomain" },
    { name = ["null.test"], action = "null" },
    { name = ["refused.test"], action = "refuse" },
    { name = ["mine.test"], action = "answer", address = ["10.9.8.7"], ttl = 42 },
]
replace = [{ from = "203.0.113.5", to = "10.0.0.5" }]

[[rule]]
action = "intercept"
port = 5353
hooks = ["names"]
"#;

/// Runs a script in the lab; `@` in it is the server.
fn run(config: &str, script: &str) -> Result<(Outcome, Vec<Value>)> {
    let lab = Lab::new()?;
    let path = lab.folder().join("records.jsonl");
    let config = config.replace("records.jsonl", path.to_str().context("path")?);
    let lab = lab.config(&config)?;
    let zone = lab.folder().join("unbound.conf");
    let big = (0..30).map(|at| format!("    local-data: 'big.test. 600 TXT \"{at:060}\"'\n"));
    std::fs::write(&zone, format!("{ZONE}{}", big.collect::<String>()))?;
    let server = format!("exec unbound -c {}", zone.display());
    let lab = lab.argument("--server").argument(&server);
    let script = format!(
        "for i in $(seq 50); do dig @any.lab.name -p 5353 +time=1 +tries=1 two.test +short | grep -q 203 && break; sleep 0.1; done\n\
         ask() {{ echo \"CASE $*\"; dig @any.lab.name -p 5353 +time=3 +tries=2 \"$@\"; }}\n{script}"
    );
    let outcome = lab.shell(&script)?;
    let records = std::fs::read_to_string(path).unwrap_or_default();
    let records = records.lines().map(|line| Ok(serde_json::from_str(line)?));
    let records = records.collect::<Result<Vec<Value>>>()?;
    Ok((outcome, records))
}

/// What was printed for a case.
fn case<'o>(outcome: &'o Outcome, name: &str) -> Result<&'o str> {
    let found = outcome
        .stdout
        .split("CASE ")
        .find(|text| text.lines().next() == Some(name));
    found.with_context(|| format!("no case {name}\n{}", outcome.stdout))
}

#[test]
fn names_are_blocked_given_and_edited_over_udp_and_tcp() -> Result<()> {
    let (outcome, records) = run(
        CONFIG,
        "for way in +notcp +tcp; do
            for name in two.test x.ads.test null.test refused.test mine.test one.test; do
                ask $way $name A
            done
            ask $way one.test AAAA
            ask $way mine.test AAAA
            ask $way ech.test TYPE65
            ask $way +noedns x.ads.test A
         done",
    )?;
    for way in ["+notcp", "+tcp"] {
        for (query, wanted) in [
            (
                "two.test A",
                &["NOERROR", "\t203.0.113.6\n", "300\tIN\tA"][..],
            ),
            ("x.ads.test A", &["NXDOMAIN", "EDE: 15 (Blocked)"]),
            ("null.test A", &["NOERROR", "\t0.0.0.0\n"]),
            ("refused.test A", &["REFUSED"]),
            (
                "mine.test A",
                &["NOERROR", "42\tIN\tA\t10.9.8.7\n", "EDE: 4 (Forged Answer)"],
            ),
            ("mine.test AAAA", &["NOERROR", "ANSWER: 0"]),
            ("one.test A", &["NOERROR", "\t10.0.0.5\n"]),
            ("one.test AAAA", &["NOERROR", "\t2001:db8::5\n"]),
            ("+noedns x.ads.test A", &["NXDOMAIN", "ADDITIONAL: 0"]),
            (
                "ech.test TYPE65",
                &["NOERROR", "alpn=\"h2\"", "ipv4hint=1.2.3.4"],
            ),
        ] {
            let text = case(&outcome, &format!("{way} {query}"))?;
            for wanted in wanted {
                assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
            }
            assert!(
                !text.contains("WARNING") && !text.contains("ech="),
                "{text}"
            );
        }
    }
    let notes = |note: &str| outcome.metric("flowdog_hook_notes_total", note);
    assert_eq!((notes("\"nxdomain\""), notes("\"refused\"")), (4.0, 2.0));
    assert_eq!((notes("ech-stripped"), notes("malformed")), (2.0, 0.0));
    assert!(outcome.metric("flowdog_hook_calls_total", "\"stream\"") >= 10.0);

    let told = |transport: &str, name: &str, message: &str| {
        let found = records.iter().find(|record| {
            record["transport"] == transport
                && record["name"] == name
                && record["message"] == message
        });
        found
            .cloned()
            .with_context(|| format!("{transport} {name} {message}"))
    };
    for transport in ["udp", "tcp"] {
        let blocked = told(transport, "x.ads.test", "query")?;
        assert_eq!(
            (&blocked["action"], &blocked["recordType"]),
            (&"nxdomain".into(), &"A".into())
        );
        assert!(
            told(transport, "x.ads.test", "answer").is_err(),
            "the server never saw it"
        );
        let answer = told(transport, "two.test", "answer")?;
        assert_eq!(answer["answers"][0]["data"], "203.0.113.6");
        assert_eq!(
            (&answer["type"], &answer["rcode"]),
            (&"dns".into(), &"NOERROR".into())
        );
        assert!(
            answer["client"]
                .as_str()
                .is_some_and(|ip| ip.starts_with("10.0.0.10:") || ip.starts_with("[fd00:a::10]:"))
        );
        assert!(
            answer["server"]
                .as_str()
                .is_some_and(|ip| ip.ends_with(":5353"))
        );
    }
    Ok(())
}

#[test]
fn without_the_hook_the_same_server_says_what_the_hook_hides() -> Result<()> {
    let (outcome, records) = run(
        "[[rule]]\naction = 'pass'\n",
        "ask ech.test TYPE65; ask one.test A; ask x.ads.test A",
    )?;
    assert!(
        case(&outcome, "ech.test TYPE65")?.contains("ech="),
        "{}",
        outcome.stdout
    );
    assert!(case(&outcome, "one.test A")?.contains("203.0.113.5"));
    assert!(case(&outcome, "x.ads.test A")?.contains("203.0.113.7"));
    assert!(records.is_empty());
    Ok(())
}

#[test]
fn truncated_answers_are_asked_for_again_over_tcp_and_queries_may_share_a_connection() -> Result<()>
{
    let (outcome, records) = run(
        CONFIG,
        "ask big.test TXT +bufsize=512
         ask +noedns +ignore big.test TXT
         echo CASE kdig
         kdig @any.lab.name -p 5353 +tcp +keepopen two.test A x.ads.test A one.test A +short
         echo CASE odd
         exec 3<>/dev/udp/any.lab.name/5353; printf 'no dns' >&3; exec 3>&-",
    )?;
    let big = case(&outcome, "big.test TXT +bufsize=512")?;
    assert!(big.contains("Truncated, retrying in TCP mode"), "{big}");
    assert!(big.contains("ANSWER: 30"), "{big}");
    let cut = case(&outcome, "+noedns +ignore big.test TXT")?;
    assert!(cut.contains("flags: qr aa tc"), "{cut}");
    let kdig = case(&outcome, "kdig")?;
    assert!(
        kdig.contains("203.0.113.6") && kdig.contains("10.0.0.5"),
        "{kdig}"
    );
    assert!(records.iter().any(|record| record["truncated"] == true));
    assert_eq!(outcome.metric("flowdog_hook_notes_total", "malformed"), 1.0);
    Ok(())
}

/// Blocks, answers, edits, drops and fails, by the name.
const JUDGE: &str = r#"
function onDns(event) {
    const dns = event.dns;
    if (event.context.flow.client.address !== event.viewer.ip) throw new Error("no flow");
    if (dns.message === "query") {
        console.log(dns.transport + " " + dns.name + " " + dns.type);
        if (dns.name.endsWith(".ads.test")) return { rcode: "NXDOMAIN" };
        if (dns.name === "mine.test") return { addresses: ["10.9.8.7", "2001:db8::7"], ttl: 42 };
        if (dns.name === "silent.test") return null;
        if (dns.name === "odd.test") return { rcode: "WHAT" };
        if (dns.name === "loop.test") for (;;);
        return dns;
    }
    for (const one of dns.answers) {
        one.ttl = Math.min(one.ttl, 300);
        if (one.data === "203.0.113.5") one.data = "10.0.0.5";
    }
    return dns.answers.some((one) => one.data === "203.0.113.8") ? { rcode: "REFUSED" } : dns;
}
"#;

#[test]
fn a_function_blocks_answers_edits_and_drops_over_udp_and_tcp() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dns.js");
    std::fs::write(&file, JUDGE)?;
    let (outcome, records) = run(
        &format!(
            "[records]\noutput = \"records.jsonl\"\n\
             [[hook]]\nname = 'js'\nuse = 'dns-function'\nfile = {file:?}\ncpu = '50ms'\nnames = ['*.test']\n\
             [[hook]]\nname = 'log'\nuse = 'dns'\n\
             [[rule]]\naction = 'intercept'\nport = 5353\nhooks = ['js', 'log']\n"
        ),
        "for way in +notcp +tcp; do
            for name in two.test x.ads.test mine.test one.test null.test odd.test loop.test; do
                ask $way $name A
            done
            ask $way mine.test AAAA
            ask $way one.test AAAA
            ask $way +timeout=1 +tries=1 silent.test A || true
         done
         echo CASE crowd
         list=$(mktemp)
         for at in $(seq 60); do echo two.test A; done > $list
         dig @any.lab.name -p 5353 +notcp +time=3 +tries=1 +short -f $list | grep -c 203.0.113.6
         rm $list",
    )?;
    for way in ["+notcp", "+tcp"] {
        for (query, wanted) in [
            ("two.test A", &["NOERROR", "300\tIN\tA\t203.0.113.6\n"][..]),
            ("x.ads.test A", &["NXDOMAIN", "EDE: 15 (Blocked)"]),
            ("mine.test A", &["NOERROR", "42\tIN\tA\t10.9.8.7\n"]),
            ("mine.test AAAA", &["42\tIN\tAAAA\t2001:db8::7\n"]),
            ("one.test A", &["300\tIN\tA\t10.0.0.5\n"]),
            ("one.test AAAA", &["300\tIN\tAAAA\t2001:db8::5\n"]),
            ("null.test A", &["REFUSED", "ANSWER: 0"]),
            ("odd.test A", &["SERVFAIL"]),
            ("loop.test A", &["SERVFAIL"]),
        ] {
            let text = case(&outcome, &format!("{way} {query}"))?;
            for wanted in wanted {
                assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
            }
            assert!(!text.contains("WARNING"), "{text}");
        }
        let silent = case(
            &outcome,
            &format!("{way} +timeout=1 +tries=1 silent.test A"),
        )?;
        assert!(!silent.contains("HEADER"), "{silent}");
    }
    assert!(
        case(&outcome, "crowd")?.contains("\n60\n"),
        "{}",
        outcome.stdout
    );
    let notes = |note: &str| outcome.metric("flowdog_hook_notes_total", note);
    assert!(notes("hook=\"js\",note=\"answered\"") >= 8.0);
    assert_eq!(notes("script-invalid-result"), 2.0);
    // dig asks once more over UDP, and over TCP, where SERVFAIL is no answer to it.
    assert!(notes("script-too-slow") >= 2.0 && notes("failed-servfail") >= 4.0);
    assert!(outcome.metric("flowdog_hook_actions_total", "\"held\"") >= 70.0);
    assert_eq!(
        outcome.metric("flowdog_hook_actions_total", "\"unheld\""),
        0.0
    );
    // What the function answers itself, neither the hook after it nor the server sees.
    let seen = |name: &str| records.iter().any(|record| record["name"] == name);
    assert!(seen("two.test") && !seen("x.ads.test") && !seen("mine.test"));
    Ok(())
}

#[test]
fn a_function_that_does_not_answer_lets_queries_go_where_that_is_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dns.js");
    // Neither the engine's interrupt nor its clock reaches into this call.
    std::fs::write(
        &file,
        "function onDns(event) { return event.dns.name === 'one.test' ? (new Array(3e8) + '') : event.dns; }",
    )?;
    let config = |more: &str| {
        format!(
            "[[hook]]\nname = 'js'\nuse = 'dns-function'\nfile = {file:?}\ncpu = '50ms'\nmemory = '256MiB'\ngive-up = '100ms'\n{more}\n\
             [[rule]]\naction = 'pass'\nport = 5353\nhooks = ['js']\n"
        )
    };
    let script = "ask +notcp one.test A || true; ask +notcp two.test A";
    let (outcome, _) = run(&config("on-error = 'pass'\nmessages = ['query']"), script)?;
    assert!(
        case(&outcome, "+notcp one.test A")?.contains("203.0.113.5"),
        "{}",
        outcome.stdout
    );
    assert!(
        case(&outcome, "+notcp two.test A")?.contains("203.0.113.6"),
        "{}",
        outcome.stdout
    );
    assert_eq!(
        outcome.metric("flowdog_hook_notes_total", "failed-passed"),
        1.0
    );
    let (outcome, _) = run(&config("on-error = 'drop'\nmessages = ['query']"), script)?;
    let one = case(&outcome, "+notcp one.test A")?;
    assert!(
        one.contains("timed out") || one.contains("no servers"),
        "{one}"
    );
    Ok(())
}
