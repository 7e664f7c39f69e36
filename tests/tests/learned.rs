//! Clients and servers that cannot be intercepted are passed from the next connection on.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;

#[test]
fn threat_47_a_client_that_rejects_the_certificate_is_passed_the_next_time_and_others_are_not()
-> Result<()> {
    // A pinned client believes in one authority, and it is not ours.
    let lab = Lab::new()?;
    let outcome = lab.shell(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout own.key -out own.pem -subj /CN=Own -days 1 2>/dev/null; \
         for try in 1 2; do curl -sS --cacert own.pem https://pinned.lab.name/ && echo SERVED; done; \
         curl -sS -o /dev/null https://any.lab.name/ && echo other; \
         curl -sS -v -k -o /dev/null https://pinned.lab.name/ 2>&1 | grep -i 'issuer:'; \
         curl -sS -v -k -o /dev/null https://any.lab.name/ 2>&1 | grep -i 'issuer:'; rm -f own.*",
    )?;
    let rejected = outcome.metric(
        "flowdog_tls_handshakes_total",
        "client_rejected_certificate",
    );
    ensure!(rejected == 1.0, "{rejected}: {}", outcome.stdout);
    let learned = outcome.metric("flowdog_flows_passed_total", "learned");
    ensure!(learned == 2.0, "{learned}: {}", outcome.stdout);
    ensure!(!outcome.stdout.contains("SERVED"), "{}", outcome.stdout);
    ensure!(outcome.stdout.contains("other"), "{}", outcome.stdout);
    let issuers: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| line.contains("issuer:"))
        .collect();
    ensure!(issuers.len() == 2, "{}", outcome.stdout);
    ensure!(
        !issuers[0].contains("flowdog intermediate") && issuers[1].contains("flowdog intermediate"),
        "the one is passed, the other is not: {issuers:?}"
    );
    ensure!(
        outcome.log.contains("passed unread from here on"),
        "{}",
        outcome.log
    );
    Ok(())
}

#[test]
fn lessons_are_listed_and_revoked_by_command() -> Result<()> {
    let lab = Lab::new()?
        .config("[control]\nsocket = 'control.sock'\n[[rule]]\naction = 'intercept'\n")?;
    let outcome = lab.shell(&format!(
            "cd $(mktemp -d); export FLOWDOG_CONTROL_SOCKET={folder}/control.sock; learned() {{ {program} learned \"$@\"; }}; \
             openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout own.key -out own.pem -subj /CN=Own -days 1 2>/dev/null; \
             learned list; \
             curl -sS --cacert own.pem https://pinned.lab.name/ || true; \
             learned list; learned list --json; \
             learned forget --server-name other.lab.name; learned forget --server-name PINNED.lab.name; learned list --json; \
             curl -sS https://pinned.lab.name/ >/dev/null && echo intercepted again; \
             learned forget --source me || echo wrong; stat -c %a {folder}/control.sock",
            folder = lab.folder().display(),
            program = flowdog_tests::flowdog().get_program().display(),
        ))?;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    ensure!(lines[0].starts_with("endpoint"), "{lines:?}");
    ensure!(
        lines[1].starts_with("endpoint"),
        "nothing was learned: {lines:?}"
    );
    let row = lines[2];
    ensure!(
        row.contains("client_rejected")
            && row.contains(" yes ")
            && row.ends_with("pinned.lab.name"),
        "{row}"
    );
    let rest = lines[3..].join("\n");
    for expected in [
        "\"server-name\": \"pinned.lab.name\"",
        "\"source\": \"",
        "0 forgotten",
        "1 forgotten",
        "[]",
        "intercepted again",
        "wrong",
        "600",
    ] {
        ensure!(
            rest.contains(expected),
            "{expected}: {rest}\n{}",
            outcome.stderr
        );
    }
    Ok(())
}
