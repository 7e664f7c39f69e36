//! Servers that ask for the client's certificate.

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::pki;

/// Asks for a certificate of the test's authority and says whose it got.
const ORIGIN: &str = r#"
import pathlib, socket, ssl, threading
folder = pathlib.Path(__file__).parent
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "asks.lab.name.pem")
context.load_verify_locations(folder / "root.pem")
context.verify_mode = ssl.CERT_REQUIRED
listener = socket.create_server(("0.0.0.0", 9501))
def one(sock):
    try:
        tls = context.wrap_socket(sock, server_side=True)
        tls.recv(65536)
        subject = dict(pair[0] for pair in tls.getpeercert()["subject"])["commonName"].encode()
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(subject), subject))
        tls.unwrap()
    except OSError:
        pass
    sock.close()
while True:
    threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()
"#;

const WAIT: &str = "until (exec 3<>/dev/tcp/asks.lab.name/9501) 2>/dev/null; do sleep 0.1; done; ";

fn lab(rule: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    pki::certificates(lab.folder(), &["asks.lab.name", "workload", "human"])?;
    let config = format!(
        "[tls.upstream]\nroots = ['system', 'root.pem']\n[[rule]]\naction = 'intercept'\n{rule}"
    );
    lab.config(&config)?.server(ORIGIN)
}

#[test]
fn threat_46_a_configured_certificate_is_shown_in_the_place_of_the_client() -> Result<()> {
    for version in ["1.2", "1.3"] {
        let outcome = lab("client-certificate = 'workload.pem'\n")?.shell(&format!(
            "{WAIT} for try in 1 2 3; do curl -sS --tls-max {version} https://asks.lab.name:9501/; echo; done"
        ))?;
        let served = outcome.stdout.matches("workload").count();
        ensure!(served == 3, "{version}: {}", outcome.stdout);
        let asked = outcome.metric(
            "flowdog_tls_handshakes_total",
            "client_certificate_requested",
        );
        ensure!(asked == 0.0, "{asked}");
    }
    Ok(())
}

#[test]
fn threat_46_the_connection_that_is_lost_to_learning_is_reset_and_a_program_that_retries_is_served()
-> Result<()> {
    let lab = lab("")?;
    let folder = lab.folder().display().to_string();
    let outcome = lab.shell(&format!(
        "{WAIT} curl -sS --retry 1 --retry-delay 1 --retry-all-errors --cacert {folder}/root.pem --cert {folder}/human.pem \
            https://asks.lab.name:9501/ 2>&1; echo"
    ))?;
    // One reset and no alert, which would be a verdict; then the server's answer.
    let said = &outcome.stdout;
    ensure!(said.matches("reset by peer").count() == 1, "{said}");
    ensure!(!said.contains("alert"), "{said}");
    ensure!(said.ends_with("human\n"), "{said}");
    Ok(())
}

#[test]
fn threat_46_without_one_the_client_shows_its_own_from_the_next_connection_on() -> Result<()> {
    let lab = lab("")?;
    let folder = lab.folder().display().to_string();
    let outcome = lab.shell(&format!(
        "{WAIT} for try in 1 2 3; do curl -sS --cacert {folder}/root.pem --cert {folder}/human.pem \
            https://asks.lab.name:9501/ || echo failed; echo; done"
    ))?;
    let lines: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    ensure!(lines == ["failed", "human", "human"], "{lines:?}");
    let asked = outcome.metric(
        "flowdog_tls_handshakes_total",
        "client_certificate_requested",
    );
    ensure!(asked == 1.0, "{asked}");
    let learned = outcome.metric("flowdog_flows_passed_total", "learned");
    ensure!(learned == 2.0, "{learned}");
    Ok(())
}
