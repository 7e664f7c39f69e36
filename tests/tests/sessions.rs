//! Sessions that clients resume through the appliance.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;

/// `visit NAME FLAGS`: one request; says whether the session was new.
const VISIT: &str = "visit() { name=$1; shift; \
    printf 'GET /echo HTTP/1.0\\r\\nHost: '$name'\\r\\n\\r\\n' | timeout 10 openssl s_client -connect any.lab.name:443 -servername $name \
        -ign_eof \"$@\" 2>/dev/null | grep -oE '^(New|Reused)|Early data was [a-z ]*|peer.:.[^,]*' | grep -v peer | tr '\\n' ' '; echo \"$name\"; }; ";

#[test]
fn threat_42_openssl_resumes_where_nothing_has_changed_and_nowhere_else() -> Result<()> {
    for version in ["tls1_2", "tls1_3"] {
        let outcome = Lab::new()?
            .config("[[rule]]\naction = 'pass'\nserver-name = 'passed.*'\n[[rule]]\nname = 'b'\nserver-name = 'b.*'\naction = 'intercept'\n[[rule]]\naction = 'intercept'\n")?
            .shell(&format!(
                "cd $(mktemp -d); {VISIT} visit any.lab.name -{version} -sess_out one; visit any.lab.name -{version} -sess_in one; \
                 visit b.lab.name -{version} -sess_in one; visit passed.lab.name -{version} -sess_in one; \
                 visit passed.lab.name -{version} -sess_out raw; visit any.lab.name -{version} -sess_in raw; \
                 visit any.lab.name -{version} -no_ticket -sess_out id; visit any.lab.name -{version} -no_ticket -sess_in id"
            ))?;
        let lines: Vec<&str> = outcome.stdout.lines().map(str::trim).collect();
        let word = |line: usize| {
            let words = lines.get(line).map(|line| line.split(' '));
            words.and_then(|mut words| words.next()).unwrap_or("")
        };
        let seen: Vec<&str> = (0..8).map(word).collect();
        ensure!(
            seen[..7] == ["New", "Reused", "New", "New", "New", "New", "New"],
            "{version}: {lines:?}"
        );
        ensure!(
            seen[7]
                == if version == "tls1_2" {
                    "Reused"
                } else {
                    seen[7]
                },
            "{version}: by session id: {lines:?}"
        );
        let client = outcome.metric("flowdog_tls_resumed_total", "client");
        ensure!(client >= 1.0, "{client}");
        let server = outcome.metric("flowdog_tls_resumed_total", "server");
        ensure!(
            server >= 1.0,
            "{version}: the server leg resumes as well: {server}"
        );
    }
    Ok(())
}

#[test]
fn threat_43_no_early_data_is_taken() -> Result<()> {
    let outcome = Lab::new()?
        .config("[[rule]]\naction = 'intercept'\n")?
        .shell(&format!(
            "cd $(mktemp -d); {VISIT} visit any.lab.name -tls1_3 -sess_out one; echo early > data; \
             visit any.lab.name -tls1_3 -sess_in one -early_data data"
        ))?;
    ensure!(
        outcome.stdout.contains("Reused") && outcome.stdout.contains("Early data was not sent"),
        "{}",
        outcome.stdout
    );
    Ok(())
}
