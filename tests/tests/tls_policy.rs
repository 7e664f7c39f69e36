//! What rules say about TLS that is no ordinary connection to the host it names.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;

#[test]
fn threat_40_41_a_request_for_another_host_is_misdirected_and_repeated_elsewhere_it_is_served()
-> Result<()> {
    let outcome = Lab::new()?
        .config(
            "[[interceptor]]\nname = 'no-fronting'\nuse = 'same-host'\n\
             [[rule]]\naction = 'reset'\nserver-name = 'hidden.*'\n\
             [[rule]]\naction = 'intercept'\ninterceptors = ['no-fronting']\n",
        )?
        .shell(
            "for version in 1.1 2; do \
                curl -sS --http$version -o /dev/null -w '%{http_version} %{http_code}\\n' -H 'Host: hidden.lab.name' https://front.lab.name/; \
                curl -sS --http$version -o /dev/null -w '%{http_version} %{http_code}\\n' https://front.lab.name/; \
                curl -sS --http$version https://hidden.lab.name/ 2>/dev/null || echo reset; \
             done",
        )?;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let expected = ["1.1 421", "1.1 200", "reset", "2 421", "2 200", "reset"];
    ensure!(lines == expected, "{lines:?}");
    Ok(())
}

#[test]
fn clients_of_old_tls_are_passed_or_refused_as_the_rule_says() -> Result<()> {
    for (rule, alert) in [("", false), ("old-tls = 'refuse'\n", true)] {
        let outcome = Lab::new()?
            .config(&format!("[[rule]]\naction = 'intercept'\n{rule}"))?
            .shell(
                "for version in tls1 tls1_1; do echo | timeout 10 openssl s_client -connect any.lab.name:443 -servername any.lab.name \
                    -$version -cipher DEFAULT:@SECLEVEL=0 2>&1 | grep -o 'alert protocol version' || echo none; done; \
                 curl -sS https://any.lab.name/ >/dev/null && echo new",
            )?;
        // The lab's origins speak no old TLS either, so the word comes in both cases; whose it is, the
        // counters say.
        ensure!(outcome.stdout.ends_with("new\n"), "{}", outcome.stdout);
        let refused = outcome.metric("flowdog_tls_handshakes_total", "unsupported_offer");
        let passed = outcome.metric("flowdog_flows_passed_total", "unsupported_hello");
        let (expected_refused, expected_passed) = if alert { (2.0, 0.0) } else { (0.0, 2.0) };
        ensure!(
            refused == expected_refused && passed == expected_passed,
            "{rule}: {refused} refused, {passed} passed: {}",
            outcome.stdout
        );
        ensure!(
            !alert || outcome.stdout.matches("alert protocol version").count() == 2,
            "{}",
            outcome.stdout
        );
    }
    Ok(())
}

#[test]
fn threat_45_hellos_with_ech_are_intercepted_passed_or_refused_as_the_rule_says() -> Result<()> {
    let lab = Lab::new()?.config(
        "[[rule]]\naction = 'intercept'\nserver-name = 'pass.*'\nech = 'pass'\n\
         [[rule]]\naction = 'intercept'\nserver-name = 'refuse.*'\nech = 'refuse'\n\
         [[rule]]\naction = 'intercept'\n",
    )?;
    let program = lab.folder().join("odd_hellos.py");
    std::fs::write(&program, include_str!("tls/odd_hellos.py"))?;
    let outcome = lab.shell(&format!(
        "for name in any pass refuse; do HOST=$name.lab.name {} {} ech; done",
        flowdog_tests::python().display(),
        program.display(),
    ))?;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let (ours, theirs) = ("(3, 4) 200 flowdog", "(3, 4) 200 other");
    let expected = [
        format!("ech: {ours}"),
        format!("none: {ours}"),
        format!("ech: {theirs}"),
        format!("none: {ours}"),
        // access_denied (RFC 8446 §6.2).
        "ech: alert 49".to_owned(),
        format!("none: {ours}"),
    ];
    ensure!(lines == expected, "{lines:?}");
    let passed = outcome.metric("flowdog_flows_passed_total", "encrypted_hello");
    let refused = outcome.metric("flowdog_tls_handshakes_total", "encrypted_hello");
    ensure!(
        (passed, refused) == (1.0, 1.0),
        "{passed} passed, {refused} refused"
    );
    Ok(())
}
