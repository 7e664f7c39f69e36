//! Thousands of generated exchanges, direct and through flowdog with an empty chain: client and origin
//! see the same, but for what `http/differential.py` says it does not keep: chunk boundaries and
//! extensions, blanks around values, and in HTTP/2 the case of names and the order of different names.
//! An HTTP/2 reset may overtake interim responses, with and without flowdog.

use anyhow::Result;
use flowdog_tests::lab::Lab;

const EXCHANGES: &str = include_str!("http/differential.py");

#[test]
fn exchanges_through_an_empty_chain_are_the_same_as_direct_ones() -> Result<()> {
    let count = std::env::var("FLOWDOG_EXCHANGES").unwrap_or_else(|_| "1500".to_owned());
    let outcome = Lab::new()?
        .config("[[rule]]\naction = \"intercept\"\n")?
        .server(&format!("{EXCHANGES}\norigin({count})\n"))?
        .python(&format!("{EXCHANGES}\ncompare({count})\n"))?;
    println!("{}", outcome.stdout);
    assert!(outcome.stdout.contains("OK"), "{}", outcome.stdout);
    // They were read, and not relayed.
    let taken_over = outcome.metric("flowdog_dataplane_takeovers_total", "");
    assert!(
        taken_over > 100.0,
        "only {taken_over} flows were taken over"
    );
    Ok(())
}

#[test]
fn exchanges_inside_tls_are_the_same_as_direct_ones() -> Result<()> {
    let count = std::env::var("FLOWDOG_EXCHANGES").unwrap_or_else(|_| "1000".to_owned());
    let lab = Lab::new()?;
    flowdog_tests::pki::server_certificate(lab.folder(), "v4only.lab.name")?;
    let roots = lab.folder().join("cert.pem");
    let outcome = lab
        .config(&format!(
            "[tls.upstream]\nroots = [\"system\", {roots:?}]\n[[rule]]\naction = \"intercept\"\n"
        ))?
        .server(&format!("{EXCHANGES}\nTLS = True\norigin({count})\n"))?
        .python(&format!("{EXCHANGES}\nTLS = True\ncompare({count})\n"))?;
    println!("{}", outcome.stdout);
    assert!(outcome.stdout.contains("OK"), "{}", outcome.stdout);
    let intercepted = outcome.metric("flowdog_tls_handshakes_total", "\"intercepted\"");
    assert!(intercepted > 100.0, "only {intercepted} were intercepted");
    Ok(())
}
