//! The key log has what decrypts a connection, and nothing else that flowdog writes has it.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;

#[test]
fn threat_48_secrets_are_in_the_key_log_alone() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_path_buf();
    let lab = lab.config(&format!(
        "[log]\nlevel = \"trace\"\n\
         [tls.key-log]\nfile = \"{0}/keys\"\n\
         [flow-log]\noutput = \"{0}/flows\"\n\
         [[rule]]\naction = \"intercept\"\n",
        folder.display()
    ))?;
    let planted = "planted-5ecret-c00kie";
    let outcome = lab.shell(&format!(
        "for version in 1.2 1.3; do \
            curl -sS --fail --tls-max $version -H 'Cookie: {planted}' -H 'Authorization: Bearer {planted}' \
               https://any.lab.name/echo >&2; done; \
         curl -sS -k https://expired.lab.name/ >&2 || true"
    ))?;
    let keys = folder.join("keys");
    let mode = std::fs::metadata(&keys)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let keys = std::fs::read_to_string(keys)?;
    let mut secrets = vec![planted.to_owned()];
    for line in keys.lines().filter(|line| !line.starts_with('#')) {
        let secret = line.split(' ').nth(2).context("label, random, secret")?;
        ensure!(secret.len() >= 64, "{line}");
        secrets.push(secret.to_owned());
    }
    for leg in ["# client leg\n", "# server leg\n"] {
        // One secret for TLS 1.2, five for TLS 1.3.
        ensure!(keys.matches(leg).count() >= 6, "{keys}");
    }
    let flows = std::fs::read_to_string(folder.join("flows"))?;
    ensure!(flows.contains("any.lab.name"), "{flows}");
    ensure!(
        outcome.log.contains("TLS intercepted"),
        "the log is on trace"
    );
    let written = [outcome.log, flows, outcome.report.to_string()];
    for text in written {
        for secret in &secrets {
            ensure!(!text.contains(secret.as_str()), "{secret} was written");
        }
        ensure!(!text.contains("PRIVATE KEY"));
    }
    Ok(())
}
