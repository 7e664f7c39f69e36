//! OpenSSL's command line on both sides, over real sockets: peers that share no code with us.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::rig::*;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn pem_of(identity: &Identity) -> (String, String) {
    use base64::Engine as _;
    let encode = |label: &str, der: &[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = body
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    };
    (
        encode("CERTIFICATE", &identity.chain[0]),
        encode("PRIVATE KEY", identity.key.secret_der()),
    )
}

/// Starts `openssl s_server` on a free port and waits until it listens.
async fn s_server(
    directory: &Path,
    identity: &Identity,
    arguments: &[&str],
) -> (tokio::process::Child, SocketAddr) {
    let (certificate, key) = pem_of(identity);
    std::fs::write(directory.join("server.pem"), certificate).unwrap();
    std::fs::write(directory.join("server.key"), key).unwrap();
    let free = std::net::TcpListener::bind((LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let child = Command::new("openssl")
        .current_dir(directory)
        .args([
            "s_server",
            "-quiet",
            "-rev",
            "-cert",
            "server.pem",
            "-key",
            "server.key",
            "-accept",
        ])
        .arg(free.to_string())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if TcpStream::connect(free).await.is_ok() {
            return (child, free);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("openssl s_server does not listen");
}

/// Runs `openssl s_client` through an impersonator to a server; it sends one line and waits for
/// the answer.
async fn s_client(pki: &Pki, directory: &Path, server: SocketAddr, arguments: &[&str]) -> Output {
    let impersonator = pki.impersonator();
    std::fs::write(
        directory.join("root.pem"),
        impersonator.mint().authority().root_pem(),
    )
    .unwrap();
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let between = async {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(server).await.unwrap();
        if let Ok(mut flow) = impersonator.intercept(client, server, LOCALHOST).await {
            let _ = tokio::io::copy_bidirectional(&mut flow.client, &mut flow.server).await;
        }
    };
    let client = async {
        let script = format!(
            "(echo dogflow; sleep 1) | openssl s_client -connect {} -CAfile root.pem -verify_return_error \
             -showcerts {}",
            listener.local_addr().unwrap(),
            arguments.join(" ")
        );
        Command::new("sh")
            .current_dir(directory)
            .args(["-c", &script])
            .output()
            .await
            .unwrap()
    };
    tokio::select! {
        output = client => output,
        output = async { between.await; std::future::pending::<Output>().await } => output,
    }
}

#[tokio::test]
async fn openssl_on_both_sides_agrees_in_every_version() {
    let pki = Pki::new();
    let directory = tempfile::tempdir().unwrap();
    let identity = pki.issue(&leaf_params(&["www.example.com", "127.0.0.1"]));
    let (_server, address) = s_server(directory.path(), &identity, &["-alpn", "http/1.1"]).await;
    for (arguments, expected) in [
        (
            &["-servername www.example.com -verify_hostname www.example.com -tls1_2"][..],
            "TLSv1.2",
        ),
        (
            &[
                "-servername www.example.com -verify_hostname www.example.com -tls1_3 -alpn h2,http/1.1",
            ],
            "TLSv1.3",
        ),
        (&["-noservername -verify_ip 127.0.0.1"], "TLSv1.3"),
        // HelloRetryRequest on the client leg: its key share is for a group that we lack.
        (
            &["-servername www.example.com -groups P-521:P-256"],
            "TLSv1.3",
        ),
    ] {
        let output = s_client(&pki, directory.path(), address, arguments).await;
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            text.contains(expected) && text.contains("Verify return code: 0 (ok)"),
            "{arguments:?}: {text}"
        );
        assert!(
            text.contains("wolfgod"),
            "the reversed line is missing: {text}"
        );
        if arguments[0].contains("-alpn") {
            assert!(text.contains("ALPN protocol: http/1.1"), "{text}");
        }
    }
}

#[tokio::test]
async fn openssl_finds_a_minted_leaf_strictly_right() {
    let pki = Pki::new();
    let directory = tempfile::tempdir().unwrap();
    let identity = pki.issue(&leaf_params(&["www.example.com"]));
    let (_server, address) = s_server(directory.path(), &identity, &[]).await;
    let output = s_client(
        &pki,
        directory.path(),
        address,
        &["-servername www.example.com"],
    )
    .await;
    let text = String::from_utf8_lossy(&output.stdout);
    let (start, end) = (
        text.find("-----BEGIN CERTIFICATE").unwrap(),
        text.find("-----END CERTIFICATE-----").unwrap(),
    );
    std::fs::write(
        directory.path().join("leaf.pem"),
        format!("{}-----END CERTIFICATE-----\n", &text[start..end]),
    )
    .unwrap();
    let verify = Command::new("openssl")
        .current_dir(directory.path())
        .args([
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-verify_hostname",
            "www.example.com",
        ])
        .args(["-CAfile", "root.pem", "leaf.pem"])
        .output()
        .await
        .unwrap();
    assert!(
        verify.status.success(),
        "{}{}",
        String::from_utf8_lossy(&verify.stdout),
        String::from_utf8_lossy(&verify.stderr)
    );
}

#[tokio::test]
async fn openssl_is_told_that_the_servers_certificate_has_expired() {
    let pki = Pki::new();
    let directory = tempfile::tempdir().unwrap();
    let mut expired = leaf_params(&["www.example.com"]);
    expired.not_after = days_from_now(-2);
    let (_server, address) = s_server(directory.path(), &pki.issue(&expired), &[]).await;
    let output = s_client(
        &pki,
        directory.path(),
        address,
        &["-servername www.example.com"],
    )
    .await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("alert certificate expired"),
        "{text}"
    );
}
