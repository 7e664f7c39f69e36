//! Who may open a flow, seen by real clients: by rules and by what an acceptor answers, when a flow opens
//! and once its first bytes are seen.

use std::path::Path;

use anyhow::{Context, Result};
use flowdog_tests::lab::{Lab, Outcome};
use serde_json::Value;

/// Answers by server name or host, and tells what it saw.
const BY_NAME: &str = r#"
function onFlow(event) {
  var seen = event.Application;
  if (!seen) return {action: 'deny', reason: 'no application'};
  var name = seen.ServerName || seen.HttpHost || seen.Protocol;
  var what = name.split('.')[0];
  var answer = {reason: seen.Protocol + ' ' + name, context: {team: what}};
  var actions = {read: 'intercept', raw: 'pass', silent: 'drop', denied: 'reset', other: 'deny'};
  answer.action = actions[what] || 'allow';
  return answer;
}
"#;

/// What each case of a script said, as `NAME WORDS`.
fn case<'o>(outcome: &'o Outcome, name: &str) -> Result<&'o str> {
    let prefix = format!("{name} ");
    let mut lines = outcome.stdout.lines();
    lines
        .find_map(|line| line.strip_prefix(&prefix))
        .with_context(|| format!("no case {name} in {}\n{}", outcome.stdout, outcome.log))
}

fn records(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines();
    Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// A lab in which intercepted answers are marked, with a function as acceptor and a flow log.
fn lab(function: &str, settings: &str, rules: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    let (file, log) = (
        lab.folder().join("gate.js"),
        lab.folder().join("flows.json"),
    );
    std::fs::write(&file, function)?;
    lab.config(&format!(
        "[flow-log]\noutput = {log:?}\n\
         [flow-metrics]\nlabels = ['context.team', 'verdict']\n\
         [[interceptor]]\nname = 'mark'\nuse = 'cloudfront-function'\nfile = {mark:?}\ncpu = '50ms'\n\
         [[acceptor]]\nname = 'gate'\nuse = 'javascript-acceptor'\nfile = {file:?}\n{settings}\n{rules}",
        mark = {
            let mark = log.with_file_name("mark.js");
            std::fs::write(
                &mark,
                "function onResponse(event) { event.response.headers['x-mark'] = {value: 'yes'}; return event.response; }",
            )?;
            mark
        },
    ))
}

/// Shell functions: `web NAME URL` prints the status and whether the answer was marked; `silent NAME URL`
/// prints curl's exit code.
const SHELL: &str = "web() { local name=$1; shift; local code=0; \
     curl -sS -o /dev/null -D headers --max-time 4 -w \"$name %{http_code}\" \"$@\" 2>/dev/null || code=$?; \
     grep -qi '^x-mark' headers 2>/dev/null && printf ' marked'; rm -f headers; echo \" exit $code\"; }\n\
     cd \"$(mktemp -d)\"\n";

#[test]
fn an_acceptor_decides_by_names_once_the_first_bytes_are_seen() -> Result<()> {
    let lab = lab(
        BY_NAME,
        "",
        "[[rule]]\nname = 'free'\naction = 'pass'\nserver-name = 'free.lab.name'\n\
         [[rule]]\nname = 'ask'\naction = 'ask'\nacceptor = 'gate'\napplication = ['tls', 'http1']\ninterceptors = ['mark']\n\
         [[rule]]\nname = 'host'\naction = 'reset'\nhttp-host = 'never.lab.name'\n\
         [[rule]]\nname = 'rest'\naction = 'intercept'\n",
    )?;
    let folder = lab.folder().to_owned();
    // A raw connection counts as ended some seconds after its last packet.
    let outcome = lab.shell(&format!(
        "{SHELL}\
         web free https://free.lab.name/\n\
         web read https://read.lab.name/\n\
         web raw https://raw.lab.name/\n\
         web raw-again https://raw.lab.name/\n\
         web denied https://denied.lab.name/\n\
         web silent https://silent.lab.name/\n\
         web allowed https://any.lab.name/\n\
         web clear-read http://read.lab.name/\n\
         web clear-denied http://denied.lab.name/\n\
         web clear-rule http://never.lab.name/\n\
         sleep 5.5\n"
    ))?;
    for (name, expected) in [
        ("free", "200 exit 0"),
        ("read", "200 marked exit 0"),
        ("raw", "200 exit 0"),
        ("raw-again", "200 exit 0"),
        ("allowed", "200 exit 0"),
        ("clear-read", "200 marked exit 0"),
    ] {
        assert_eq!(case(&outcome, name)?, expected, "{name}");
    }
    for name in ["denied", "silent", "clear-denied", "clear-rule"] {
        let said = case(&outcome, name)?;
        assert!(
            said.starts_with("000 exit ") && !said.ends_with(" 0"),
            "{name}: {said}"
        );
    }
    let records = records(&folder.join("flows.json"))?;
    let of = |name: &str| {
        let is = |one: &&Value| one["serverName"] == name || one["httpHost"] == name;
        records.iter().filter(is).collect::<Vec<_>>()
    };
    let denied = of("denied.lab.name");
    assert_eq!(denied.len(), 2, "{records:?}");
    for one in denied {
        assert_eq!(
            (&one["verdict"], &one["rule"]),
            (&"reset".into(), &"ask".into())
        );
        assert_eq!(one["context"]["team"], "denied");
        assert!(
            one["reason"]
                .as_str()
                .is_some_and(|r| r.ends_with(" denied.lab.name")),
            "{one}"
        );
    }
    let verdicts = |name| {
        of(name)
            .iter()
            .map(|one| one["verdict"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(verdicts("free.lab.name"), ["pass"]);
    assert_eq!(verdicts("raw.lab.name"), ["pass", "pass"]);
    assert_eq!(verdicts("any.lab.name"), ["intercept"]);
    assert!(
        of("free.lab.name")[0].get("acceptor").is_none(),
        "nobody was asked"
    );
    // The first is relayed, because it was asked about; the answer about the second is known.
    let labelled = "flowdog_labelled_flows_total";
    assert_eq!(
        outcome.metric(labelled, "context_team=\"raw\",verdict=\"pass\""),
        2.0
    );
    assert_eq!(
        outcome.metric(labelled, "context_team=\"denied\",verdict=\"reset\""),
        2.0
    );
    assert!(
        outcome.metric(
            "flowdog_labelled_bytes_total",
            "from=\"server\",context_team=\"read\""
        ) > 100.0
    );
    assert_eq!(
        outcome.metric("flowdog_acceptor_answers_total", "\"cached\""),
        1.0
    );
    Ok(())
}

/// Greets and greeted: what each port's server says first, or how the connection ends.
const GREETED: &str = r#"
import socket
def greeting(port):
    s = socket.socket()
    s.settimeout(3)
    try:
        s.connect((socket.gethostbyname("any.lab.name"), port))
        return s.recv(100).decode() or "closed"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "silence"
for name, port in (("smtp", 25), ("ssh", 2222)):
    print(name, greeting(port))
s = socket.socket()
s.settimeout(3)
s.connect((socket.gethostbyname("any.lab.name"), 9999))
try:
    s.sendall(b"\x00\xfe\x00\xff")
    print("binary", s.recv(100).hex() or "closed")
except ConnectionResetError:
    print("binary reset")
except TimeoutError:
    print("binary silence")
# A connection in which nobody says a word.
s = socket.socket()
s.settimeout(3)
s.connect((socket.gethostbyname("any.lab.name"), 8999))
s.shutdown(socket.SHUT_WR)
try:
    print("mute", s.recv(100).hex() or "closed")
except ConnectionResetError:
    print("mute reset")
except TimeoutError:
    print("mute silence")
"#;

#[test]
fn threat_60_a_server_that_speaks_first_evades_no_rule_below_those_on_first_bytes() -> Result<()> {
    let free = "[[rule]]\naction = 'pass'\nserver-name = 'free.lab.name'\n";
    for (action, smtp, ssh, binary) in [
        ("reset", "220 ", "reset", "reset"),
        ("drop", "220 ", "silence", "silence"),
    ] {
        let lab = Lab::new()?.config(&format!(
            "{free}[[rule]]\naction = 'pass'\nport = 25\n[[rule]]\naction = '{action}'\nprotocol = 'tcp'\n"
        ))?;
        let outcome = lab.python(GREETED)?;
        assert!(
            case(&outcome, "smtp")?.starts_with(smtp),
            "{}",
            outcome.stdout
        );
        assert_eq!(case(&outcome, "ssh")?, ssh, "{action}");
        assert_eq!(case(&outcome, "binary")?, binary, "{action}");
        assert_ne!(case(&outcome, "mute")?, "closed", "{action}");
    }
    Ok(())
}

#[test]
fn threat_60_a_server_that_speaks_first_is_asked_about_before_its_client_hears_it() -> Result<()> {
    // Below a rule on first bytes, without a condition on them.
    let function = "function onFlow(event) { \
         if (!event.Application) return {action: 'deny', reason: 'early'}; \
         return {Accept: event.Destination.Port !== 2222 && event.Application.Protocol === 'other', ttl: 0}; }";
    let rules = "[[rule]]\naction = 'pass'\nserver-name = 'free.lab.name'\n\
         [[rule]]\naction = 'ask'\nacceptor = 'gate'\nprotocol = 'tcp'\n\
         [[rule]]\naction = 'intercept'\n";
    let outcome = lab(function, "", rules)?.python(GREETED)?;
    assert!(
        case(&outcome, "smtp")?.starts_with("220 "),
        "{}",
        outcome.stdout
    );
    assert_eq!(case(&outcome, "ssh")?, "reset");
    assert_eq!(case(&outcome, "binary")?, "00fe00ff");
    // It shows no first bytes, so nobody could be asked.
    assert_eq!(case(&outcome, "mute")?, "reset");
    assert!(outcome.metric("flowdog_dataplane_guarded_refused_total", "") >= 1.0);
    Ok(())
}

#[test]
fn answers_drop_reset_pass_and_intercept_hold_when_a_flow_opens() -> Result<()> {
    let function = "function onFlow(event) { \
         if (event.Application) return {action: 'deny'}; \
         return {action: {80: 'intercept', 443: 'intercept', 8080: 'pass', 8443: 'bypass', 2222: 'reset', 9999: 'drop', 25: 'allow'}[event.Destination.Port]}; }";
    let rules = "[[rule]]\naction = 'ask'\nacceptor = 'gate'\nprotocol = 'tcp'\ninterceptors = ['mark']\n\
         [[rule]]\naction = 'reset'\nprotocol = 'tcp'\n";
    let outcome = lab(function, "", rules)?.shell(&format!(
        "{SHELL}\
         web clear http://any.lab.name/\n\
         web tls https://any.lab.name/\n\
         web h2 --http2 https://any.lab.name/\n\
         web pass http://any.lab.name:8080/\n\
         web bypass https://any.lab.name:8443/\n\
         web reset telnet://any.lab.name:2222 </dev/null\n\
         web drop --connect-timeout 2 telnet://any.lab.name:9999 </dev/null\n\
         web allow telnet://any.lab.name:25 </dev/null\n"
    ))?;
    for (name, expected) in [
        ("clear", "200 marked exit 0"),
        ("tls", "200 marked exit 0"),
        ("h2", "200 marked exit 0"),
        ("pass", "200 exit 0"),
        ("bypass", "200 exit 0"),
        ("reset", "000 exit 7"),
        ("drop", "000 exit 28"),
        // Accepted, and refused by the rule below.
        ("allow", "000 exit 7"),
    ] {
        assert_eq!(
            case(&outcome, name)?,
            expected,
            "{name}\n{}",
            outcome.stdout
        );
    }
    Ok(())
}

#[test]
fn an_answer_holds_for_its_ttl() -> Result<()> {
    let function = "function onFlow(event) { \
         return {Accept: true, ttl: {80: 0, 8080: 1, 443: 3000}[event.Destination.Port]}; }";
    let rules = "[[rule]]\naction = 'ask'\nacceptor = 'gate'\nprotocol = 'tcp'\n";
    // How often it was asked, and how often its answer was known.
    let count = |script: &str| -> Result<(f64, f64)> {
        let outcome = lab(function, "", rules)?.shell(&format!("{SHELL}{script}"))?;
        let of = |kind: &str| outcome.metric("flowdog_acceptor_answers_total", kind);
        Ok((of("\"accepted\""), of("\"cached\"")))
    };
    let twice = |url: &str, pause: f64| format!("web a {url}\nsleep {pause}\nweb b {url}\n");
    assert_eq!(count(&twice("http://any.lab.name/", 0.0))?, (2.0, 0.0));
    assert_eq!(count(&twice("http://any.lab.name:8080/", 1.3))?, (2.0, 0.0));
    assert_eq!(count(&twice("https://any.lab.name/", 1.3))?, (1.0, 1.0));
    Ok(())
}

#[test]
fn what_is_not_tcp_is_refused_in_the_words_of_icmp() -> Result<()> {
    let lab = Lab::new()?.config("[[rule]]\naction = 'reset'\nport = 7777\n")?;
    let outcome = lab.python(
        r#"
import errno, socket, struct
for family, raw, kind in ((socket.AF_INET, socket.IPPROTO_ICMP, (3, 13)), (socket.AF_INET6, socket.IPPROTO_ICMPV6, (1, 1))):
    listener = socket.socket(family, socket.SOCK_RAW, raw)
    listener.settimeout(3)
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(3)
    s.connect(socket.getaddrinfo("any.lab.name", 7777, family)[0][4])
    s.send(b"refuse me")
    try:
        s.recv(100)
        print(family.name, "answered")
    except OSError as error:
        print(family.name, errno.errorcode.get(error.errno, error))
    while True:
        said = listener.recv(2000)
        said = said[20:] if family == socket.AF_INET else said
        if tuple(said[:2]) == kind:
            assert b"refuse me" in said, said
            break
"#,
    )?;
    // RFC 1812 5.2.7.1 and RFC 4443 3.1, as Linux tells them to the program.
    assert_eq!(case(&outcome, "AF_INET")?, "EHOSTUNREACH");
    assert_eq!(case(&outcome, "AF_INET6")?, "EACCES");
    Ok(())
}

#[test]
fn threat_64_a_flow_to_the_appliance_or_to_the_metadata_service_reaches_neither() -> Result<()> {
    // The appliance's own health server and GENEVE port, at addresses that a client can only name through
    // the load balancer; what it intercepts goes where the packets were bound and nowhere else.
    let outcome = Lab::new()?.shell(&format!(
        "{SHELL}\
         for target in 100.64.0.10:8080/metrics 100.64.0.10:6081/ 169.254.169.254/latest/meta-data/ 127.0.0.53:8080/health; do \
           code=0; curl -sS -o body --max-time 2 \"http://$target\" 2>/dev/null || code=$?; echo \"$target $code $(grep -c flowdog_ body 2>/dev/null)\"; rm -f body; \
         done\n\
         web named -H 'Host: 169.254.169.254' http://any.lab.name/\n\
         web proxied -x http://any.lab.name:80 http://100.64.0.10:8080/metrics\n"
    ))?;
    let lines = outcome.stdout.lines();
    for line in lines.filter(|line| line.contains('/')) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_ne!(words[1], "0", "{line}");
        assert_ne!(words[2], "1", "{line}");
    }
    // The name in a request chooses nothing: the server that was connected to answers.
    assert_eq!(case(&outcome, "named")?, "200 exit 0");
    assert!(!case(&outcome, "proxied")?.contains("marked"));
    Ok(())
}
