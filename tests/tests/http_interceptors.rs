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
