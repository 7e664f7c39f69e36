//! Servers with bad certificates are refused to the client by default, and the reason can be found.

use anyhow::Result;
use flowdog_tests::lab::Lab;

#[test]
fn threat_36_bad_upstream_certificates_are_refused_with_a_reason() -> Result<()> {
    let lab = Lab::new()?;
    let outcome = lab.shell(
        "for host in expired self-signed wrong-host untrusted-root; do for version in 1.2 1.3; do \
            curl -sS -k --tls-max $version https://$host.lab.name/ -o body && echo \"$host SERVED\" || echo \"$host refused $?\"; \
         done; done; rm -f body; \
         curl -sS https://any.lab.name/ >/dev/null && echo good",
    )?;
    assert_eq!(
        outcome.stdout.matches(" refused ").count(),
        8,
        "{}",
        outcome.stdout
    );
    assert!(outcome.stdout.contains("good"), "{}", outcome.stdout);
    let log = outcome.log.to_lowercase();
    for (host, reason) in [
        ("expired.lab.name", "expired"),
        ("self-signed.lab.name", "self"),
        ("wrong-host.lab.name", "name"),
        ("untrusted-root.lab.name", "issuer"),
    ] {
        assert!(
            log.lines()
                .any(|line| line.contains(host) && line.replace(host, "").contains(reason)),
            "no line says that {host} was refused for {reason}:\n{log}"
        );
    }
    for reason in ["expired", "self_signed", "wrong_name", "unknown_issuer"] {
        let outcome = outcome.metric(
            "flowdog_tls_handshakes_total",
            &format!("server_certificate_{reason}"),
        );
        assert!(outcome == 2.0, "{reason}: {outcome}");
    }
    Ok(())
}
