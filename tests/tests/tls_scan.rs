//! A scanner's findings through flowdog beside those of the same server without it.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;

#[test]
fn threat_37_a_scanner_finds_nothing_worse_than_at_the_server_itself() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_str().context("folder name")?.to_owned();
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 \
             -subj /CN=World -addext keyUsage=critical,keyCertSign\n\
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=any.lab.name\n\
         printf 'subjectAltName=DNS:any.lab.name\\nextendedKeyUsage=serverAuth\\nkeyUsage=digitalSignature\\n' >extensions\n\
         openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 20 -extfile extensions -out server.pem\n";
    let made = Command::new("bash")
        .args(["-euc", script])
        .current_dir(&folder)
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let nginx = include_str!("tls/nginx.conf").replace("FOLDER", &folder);
    std::fs::write(lab.folder().join("nginx.conf"), nginx)?;
    let python = flowdog_tests::python();
    let scanner = python.with_file_name("sslyze");
    let lab = lab
        .config(&format!(
            "[tls.upstream]\nroots = [\"{folder}/ca.pem\"]\n[tls.learn]\nbypass = \"off\"\n\
             [[rule]]\nport = 9444\naction = \"pass\"\n[[rule]]\naction = \"intercept\"\n"
        ))?
        .argument("--server")
        .argument(&format!(
            "PATH=$PATH:/usr/sbin exec nginx -c {folder}/nginx.conf"
        ));
    std::fs::write(lab.folder().join("scan.py"), include_str!("tls/scan.py"))?;
    let outcome = lab.shell(&format!(
        "until curl -sk -o /dev/null https://any.lab.name:9444/; do sleep 0.1; done\n\
         exec {} {folder}/scan.py {} {folder}",
        python.display(),
        scanner.display(),
    ))?;
    ensure!(
        outcome.stdout.ends_with("compared 20\n"),
        "{}",
        outcome.stdout
    );
    // Connections that do not offer what we speak are passed; those that do are not.
    let intercepted = outcome.metric("flowdog_tls_handshakes_total", "\"intercepted\"");
    ensure!(intercepted > 10.0, "{intercepted}");
    Ok(())
}
