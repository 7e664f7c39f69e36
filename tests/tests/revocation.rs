//! Servers whose certificates were revoked, by a stapled answer or by a list.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::pki;

/// An `openssl s_server` for each state; with the port, the certificate and what is stapled.
const ORIGINS: &str = r#"
import pathlib, subprocess, sys
folder = pathlib.Path(__file__).parent
for port, name, staple in [(9401, "good", "good"), (9402, "revoked", "revoked"), (9403, "promised", "promised"),
                           (9404, "broken", None), (9405, "listed", None)]:
    staple = ["-status_file", folder / f"{staple}.der"] if staple else []
    last = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "openssl", "s_server", "-accept", str(port), "-cert", folder / f"{name}.pem",
        "-cert_chain", folder / "root.pem", "-key", folder / f"{name}.pem", "-www", "-quiet", *staple])
last.wait()
"#;

#[test]
fn revoked_certificates_are_treated_as_each_rule_says_whether_stapled_or_listed() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_str().unwrap_or_default().to_owned();
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/revocation_pki.py");
    pki::python_now(program.as_ref(), &[&folder])?;
    let outcome = lab
        .config(
            "[tls.upstream]\nroots = ['system', 'root.pem']\n[tls.revocation]\nlists = ['revoked.crl']\n\
             [[rule]]\naction = 'intercept'\nserver-name = 'mirror.*'\nverify = 'mirror'\n\
             [[rule]]\naction = 'intercept'\nserver-name = 'tag.*'\nverify = 'tag'\n\
             [[rule]]\naction = 'intercept'\nserver-name = 'bypass-*'\nverify = 'bypass'\n\
             [[rule]]\naction = 'intercept'\n",
        )?
        .server(ORIGINS)?
        .shell(&
            // A client that looks at no revocation, so that what is passed is served.
            "cd FOLDER; cat $SSL_CERT_FILE root.pem >both.pem; export CURL_CA_BUNDLE=$PWD/both.pem; \
             for port in 9401 9402 9403 9404 9405; do until (exec 3<>/dev/tcp/tag.lab.name/$port) 2>/dev/null; do sleep 0.1; done; done; \
             ask() { curl -sS ${3-} -o /dev/null https://$1.lab.name:$2/ 2>/dev/null && echo \"$1 $2 ${3-} served\" || echo \"$1 $2 ${3-} refused\"; }; \
             for port in 9401 9402 9403 9404 9405; do ask strict $port; ask tag $port; ask mirror $port; ask mirror $port -k; \
                ask bypass-$port $port; ask bypass-$port $port | sed 's/^/again /'; done"
                .replace("FOLDER", &folder),
        )?;
    for port in [9401, 9402, 9403, 9404, 9405] {
        let good = matches!(port, 9401 | 9403);
        let word = if good { "served" } else { "refused" };
        for (policy, flag, expected) in [
            ("strict", "", word),
            ("tag", "", "served"),
            ("mirror", "", word),
            ("mirror", "-k", "served"),
        ] {
            let line = format!("{policy} {port} {flag} {expected}");
            ensure!(outcome.stdout.contains(&line), "{line}: {}", outcome.stdout);
        }
        for line in [
            format!("\nbypass-{port} {port}  {word}\n"),
            format!("again bypass-{port} {port}  served"),
        ] {
            ensure!(outcome.stdout.contains(&line), "{line}: {}", outcome.stdout);
        }
    }
    for (reason, least) in [("revoked", 2.0), ("revocation_unknown", 1.0)] {
        let label = format!("server_certificate_{reason}\"");
        let count = outcome.metric("flowdog_tls_handshakes_total", &label);
        ensure!(count >= least, "{reason}: {count}");
    }
    Ok(())
}
