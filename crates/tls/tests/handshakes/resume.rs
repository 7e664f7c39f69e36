//! Sessions that are resumed on either leg, and the places where they must not be.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tls::{Handling, Impersonator, Resumptions, Scope, Verify};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::*;

const NAME: &str = "www.example.com";

fn scope(client: u8, rule: &str) -> Handling {
    let client = IpAddr::from([10, 0, 0, client]);
    Handling {
        scope: Some(Scope::new(1, client, (ADDRESS, 443).into(), rule)),
        ..Handling::default()
    }
}

/// A connection on which a byte went the whole way down; whether the client's leg and the server's were
/// resumed.
async fn visit(
    impersonator: &Impersonator,
    client: &ClientConfig,
    name: &str,
    server: &ServerConfig,
    handling: Handling,
) -> (bool, bool) {
    let run = run_as(impersonator, client.clone(), name, server.clone(), handling).await;
    let (mut client, mut between, mut server) = (
        run.client.unwrap(),
        run.between.unwrap(),
        run.server.unwrap(),
    );
    let mut byte = [0];
    server.write_all(b"x").await.unwrap();
    server.flush().await.unwrap();
    between.server.read_exact(&mut byte).await.unwrap();
    between.client.write_all(&byte).await.unwrap();
    between.client.flush().await.unwrap();
    client.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"x");
    let resumed = |kind| kind == Some(HandshakeKind::Resumed);
    (
        resumed(client.get_ref().1.handshake_kind()),
        resumed(server.get_ref().1.handshake_kind()),
    )
}

#[tokio::test]
async fn sessions_are_resumed_on_both_legs_in_their_scope() {
    for versions in [ONLY12, ONLY13] {
        let pki = Pki::new();
        let identity = pki.issue(&leaf_params(&[NAME]));
        let impersonator = pki.impersonator();
        let client = client(&impersonator, versions, &[]);
        let mut server = identity.server(versions, &[]);
        server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(visit(&impersonator, &client, NAME, &server, scope(1, "a")).await);
        }
        assert_eq!(
            seen,
            [(false, false), (true, true), (true, true), (true, true)]
        );
        assert_eq!(
            impersonator.resumptions(),
            Resumptions {
                client: 3,
                server: 3
            }
        );
        // Without a scope nothing is.
        let plain = visit(&impersonator, &client, NAME, &server, Handling::default()).await;
        assert_eq!(plain, (false, false));
    }
}

#[tokio::test]
async fn threat_42_no_session_crosses_to_another_client_rule_policy_name_or_configuration() {
    for versions in [ONLY12, ONLY13] {
        let pki = Pki::new();
        let identity = pki.issue(&leaf_params(&[NAME, "other.example.com"]));
        let impersonator = pki.impersonator();
        // One client that offers its session wherever it goes.
        let client = client(&impersonator, versions, &[]);
        let server = identity.server(versions, &[]);
        visit(&impersonator, &client, NAME, &server, scope(1, "a")).await;
        let full = (false, false);
        let see = |handling| visit(&impersonator, &client, NAME, &server, handling);
        assert_eq!(see(scope(2, "a")).await, full, "another source");
        assert_eq!(see(scope(1, "b")).await, full, "another rule");
        let tag = Handling {
            verify: Verify::Tag,
            ..scope(1, "a")
        };
        assert_eq!(see(tag).await, full, "another policy");
        assert!(see(scope(1, "a")).await.1, "and back");
        // The library keeps clients' sessions by name; the server's certificate is the same here.
        let other = "other.example.com";
        let crossed = visit(&impersonator, &client, other, &server, scope(1, "a")).await;
        assert_eq!(crossed, full, "another name");
        // A new configuration is a new impersonator.
        let again = pki.impersonator_with(
            tls::Authority::generate("Another Root").unwrap(),
            tls::ImpersonatorConfig::default(),
        );
        let fresh = run_as(&again, client.clone(), NAME, server.clone(), scope(1, "a")).await;
        assert!(
            fresh.client.is_err(),
            "the client has to look at the new leaf, and knows no such root"
        );
    }
}

#[tokio::test]
async fn threat_42_a_server_with_another_certificate_gets_no_session_of_the_client() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let client = client(&impersonator, ONLY13, &[]);
    let first = pki.issue(&leaf_params(&[NAME])).server(ONLY13, &[]);
    let second = pki.issue(&leaf_params(&[NAME])).server(ONLY13, &[]);
    visit(&impersonator, &client, NAME, &first, scope(1, "a")).await;
    let seen = visit(&impersonator, &client, NAME, &second, scope(1, "a")).await;
    assert_eq!(seen, (false, false), "another leaf has to be looked at");
}

#[tokio::test]
async fn threat_43_early_data_is_neither_offered_nor_taken() {
    let pki = Pki::new();
    let identity = pki.issue(&leaf_params(&[NAME]));
    let impersonator = pki.impersonator();
    let mut client = client(&impersonator, ONLY13, &[]);
    client.enable_early_data = true;
    let mut server = identity.server(ONLY13, &[]);
    // A server that would take it.
    server.max_early_data_size = 16_384;
    visit(&impersonator, &client, NAME, &server, scope(1, "a")).await;
    let run = run_as(
        &impersonator,
        client.clone(),
        NAME,
        server.clone(),
        scope(1, "a"),
    )
    .await;
    let client = run.client.unwrap();
    assert_eq!(
        client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::Resumed)
    );
    assert!(!client.get_ref().1.is_early_data_accepted());
    let mut server = run.server.unwrap();
    assert!(server.get_mut().1.early_data().is_none_or(|mut early| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut early, &mut bytes).unwrap_or(0) == 0
    }));
    drop(Arc::new(client));
}
