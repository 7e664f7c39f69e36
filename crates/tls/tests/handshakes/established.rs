//! Interceptions that come about.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{KeyPair, RsaKeySize};
use rustls::client::{EchGreaseConfig, EchMode, EchStatus};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::hpke::Hpke as _;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, ServerConfig, SignatureScheme};
use rustls_pki_types::ServerName;
use tls::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::rig::*;

fn names(run: &Run) -> Vec<String> {
    let (_, session) = run.client.as_ref().unwrap().get_ref();
    let leaf = session.peer_certificates().unwrap()[0].clone();
    let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    names
        .value
        .general_names
        .iter()
        .map(|name| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(std::net::IpAddr::from)
                .unwrap()
                .to_string(),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// The key algorithm in the leaf that the client saw.
fn is_rsa(run: &Run) -> bool {
    let (_, session) = run.client.as_ref().unwrap().get_ref();
    let leaf = session.peer_certificates().unwrap()[0].clone();
    let (_, certificate) = X509Certificate::from_der(&leaf).unwrap();
    certificate.public_key().algorithm.algorithm.to_id_string() == "1.2.840.113549.1.1.1"
}

#[tokio::test]
async fn bytes_flow_both_ways_for_every_version_and_protocol() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for versions in [ONLY12, ONLY13] {
        for (client_alpn, server_alpn, agreed) in [
            (&["h2", "http/1.1"][..], &["h2", "http/1.1"][..], Some("h2")),
            (&["h2", "http/1.1"], &["http/1.1"], Some("http/1.1")),
            (&["http/1.1"], &["h2", "http/1.1"], Some("http/1.1")),
            (&["h2"], &[], None),
            (&[], &["h2"], None),
        ] {
            let origin = pki
                .issue(&leaf_params(&["www.example.com"]))
                .server(versions, server_alpn);
            let client = client(&impersonator, BOTH, client_alpn);
            let run = run(&impersonator, client, "www.example.com", origin).await;
            let (mut near, mut between, mut far) = (
                run.client.unwrap(),
                run.between.unwrap(),
                run.server.unwrap(),
            );
            let agreed = agreed.map(|name| name.as_bytes().to_vec());
            assert_eq!(between.alpn, agreed);
            assert_eq!(near.get_ref().1.alpn_protocol(), agreed.as_deref());
            assert_eq!(far.get_ref().1.alpn_protocol(), agreed.as_deref());
            assert_eq!(far.get_ref().1.server_name(), Some("www.example.com"));
            let version = if versions == ONLY12 { 0x0303 } else { 0x0304 };
            assert_eq!(
                (between.info.client_version, between.info.server_version),
                (version, version)
            );
            assert!(between.info.client_cipher_suite != 0 && between.info.server_cipher_suite != 0);
            assert_eq!(between.info.server_name.as_deref(), Some("www.example.com"));
            assert_eq!(between.outcome().as_str(), "intercepted");

            let pump = tokio::io::copy_bidirectional(&mut between.client, &mut between.server);
            let talk = async {
                near.write_all(b"from the client").await.unwrap();
                near.shutdown().await.unwrap();
                let mut request = Vec::new();
                far.read_to_end(&mut request).await.unwrap();
                assert_eq!(request, b"from the client");
                // The client's half is closed; the server's half still works.
                far.write_all(b"from the server").await.unwrap();
                far.shutdown().await.unwrap();
                let mut response = Vec::new();
                near.read_to_end(&mut response).await.unwrap();
                assert_eq!(response, b"from the server");
            };
            let (pumped, ()) = tokio::join!(pump, talk);
            assert_eq!(pumped.unwrap(), (15, 15));
        }
    }
}

#[tokio::test]
async fn an_end_without_close_notify_is_not_taken_for_an_orderly_one() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let origin = pki
        .issue(&leaf_params(&["www.example.com"]))
        .server(BOTH, &[]);
    let run = run(
        &impersonator,
        client(&impersonator, BOTH, &[]),
        "www.example.com",
        origin,
    )
    .await;
    let mut between = run.between.unwrap();
    let (mut raw, _session) = run.server.unwrap().into_inner();
    raw.shutdown().await.unwrap();
    let error = between.server.read(&mut [0; 16]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_end_is_passed_on_with_close_notify_only_if_it_came_with_one() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for versions in [ONLY12, ONLY13] {
        for is_orderly in [true, false] {
            for from_client in [true, false] {
                let run = run(
                    &impersonator,
                    client(&impersonator, versions, &[]),
                    "www.example.com",
                    pki.issue(&leaf_params(&["www.example.com"]))
                        .server(BOTH, &[]),
                )
                .await;
                let between = run.between.unwrap();
                let (mut client_leg, mut server_leg) =
                    tls::ends_alike(between.client, between.server);
                let (mut client, mut server) = (run.client.unwrap(), run.server.unwrap());
                let mut seen = Vec::new();
                let end = if from_client {
                    client.write_all(b"last").await.unwrap();
                    client.flush().await.unwrap();
                    if is_orderly {
                        client.shutdown().await.unwrap();
                    } else {
                        client.get_mut().0.shutdown().await.unwrap();
                    }
                    let mut passed = Vec::new();
                    let read = client_leg.read_to_end(&mut passed).await;
                    assert_eq!(read.is_ok(), is_orderly);
                    server_leg.write_all(&passed).await.unwrap();
                    server_leg.shutdown().await.unwrap();
                    server.read_to_end(&mut seen).await
                } else {
                    server.write_all(b"last").await.unwrap();
                    server.flush().await.unwrap();
                    if is_orderly {
                        server.shutdown().await.unwrap();
                    } else {
                        server.get_mut().0.shutdown().await.unwrap();
                    }
                    let mut passed = Vec::new();
                    let read = server_leg.read_to_end(&mut passed).await;
                    assert_eq!(read.is_ok(), is_orderly);
                    client_leg.write_all(&passed).await.unwrap();
                    client_leg.shutdown().await.unwrap();
                    client.read_to_end(&mut seen).await
                };
                assert_eq!(seen, b"last");
                let expected = (!is_orderly).then_some(io::ErrorKind::UnexpectedEof);
                assert_eq!(end.err().map(|error| error.kind()), expected);
            }
        }
    }
}

#[tokio::test]
async fn threat_41_the_client_sees_the_servers_names_and_no_other() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let all = ["www.example.com", "*.example.net", "192.0.2.10"];
    let origin = pki.issue(&leaf_params(&all)).server(BOTH, &[]);
    let run = run(
        &impersonator,
        client(&impersonator, BOTH, &[]),
        "deep.example.net",
        origin,
    )
    .await;
    assert_eq!(names(&run), all);
}

#[tokio::test]
async fn threat_49_a_certificate_with_thousands_of_names_is_intercepted_with_few() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    // The largest that fits a handshake message of the TLS library.
    let all: Vec<String> = (0..2500)
        .map(|number| format!("host-{number}.example.com"))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let origin = pki.issue(&leaf_params(&all)).server(BOTH, &[]);
    let run = run(
        &impersonator,
        client(&impersonator, BOTH, &[]),
        "host-2499.example.com",
        origin,
    )
    .await;
    let names = names(&run);
    assert_eq!(
        (names.len(), names[0].as_str()),
        (100, "host-2499.example.com")
    );
}

#[tokio::test]
async fn threat_37_the_version_is_the_one_client_and_server_would_have_spoken() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for (client_versions, server_versions, agreed) in [
        (BOTH, BOTH, Some(ProtocolVersion::TLSv1_3)),
        (BOTH, ONLY12, Some(ProtocolVersion::TLSv1_2)),
        (ONLY12, BOTH, Some(ProtocolVersion::TLSv1_2)),
        (ONLY13, BOTH, Some(ProtocolVersion::TLSv1_3)),
        (ONLY12, ONLY13, None),
        (ONLY13, ONLY12, None),
    ] {
        let origin = pki
            .issue(&leaf_params(&["www.example.com"]))
            .server(server_versions, &[]);
        let run = run(
            &impersonator,
            client(&impersonator, client_versions, &[]),
            "www.example.com",
            origin,
        )
        .await;
        match agreed {
            Some(version) => {
                assert_eq!(
                    run.client.unwrap().get_ref().1.protocol_version(),
                    Some(version)
                );
                assert_eq!(
                    run.server.unwrap().get_ref().1.protocol_version(),
                    Some(version)
                );
            }
            None => {
                assert!(run.client.is_err() && run.server.is_err());
                assert_eq!(run.between.unwrap_err().outcome().as_str(), "server_alert");
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_knows_only_rsa_gets_an_rsa_leaf() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for versions in [ONLY12, ONLY13] {
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let origin = pki
            .issue_for(&leaf_params(&["www.example.com"]), key)
            .server(BOTH, &[]);
        let mut config = client(&impersonator, versions, &[]);
        only_schemes(
            &impersonator,
            &mut config,
            &[
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PKCS1_SHA256,
            ],
        );
        let run = run(&impersonator, config, "www.example.com", origin).await;
        assert!(is_rsa(&run));
        assert!(run.between.is_ok() && run.server.is_ok());
    }
}

#[tokio::test]
async fn threat_39_without_a_server_name_the_server_sees_none_and_the_address_is_verified() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for versions in [ONLY12, ONLY13] {
        let origin = pki
            .issue(&leaf_params(&["192.0.2.10"]))
            .server(versions, &[]);
        let run = run(
            &impersonator,
            client(&impersonator, BOTH, &[]),
            "192.0.2.10",
            origin,
        )
        .await;
        assert_eq!(names(&run), ["192.0.2.10"]);
        assert_eq!(run.server.unwrap().get_ref().1.server_name(), None);
        assert_eq!(run.between.unwrap().info.server_name, None);
    }
}

#[tokio::test]
async fn threat_39_without_a_server_name_the_clients_own_check_of_the_mirrored_names_decides() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    // A client that sends no name, and knows which one it wants.
    for (wanted, accepts) in [("www.example.com", true), ("bank.example", false)] {
        let origin = pki
            .issue(&leaf_params(&["www.example.com"]))
            .server(BOTH, &[]);
        let mut config = client(&impersonator, BOTH, &[]);
        config.enable_sni = false;
        let run = run(&impersonator, config, wanted, origin).await;
        assert_eq!(run.client.is_ok(), accepts, "{wanted}");
        match run.between {
            Ok(_) => assert!(accepts),
            Err(error) => assert_eq!(error.outcome().as_str(), "client_rejected_certificate"),
        }
    }
}

#[tokio::test]
async fn threat_42_without_a_scope_no_session_is_resumed_on_either_leg() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for versions in [ONLY12, ONLY13] {
        let client = client(&impersonator, versions, &[]);
        let identity = pki.issue(&leaf_params(&["www.example.com"]));
        let origin = identity.server(versions, &[]);
        for _ in 0..3 {
            // Cloned configurations share their session stores.
            let run = run(
                &impersonator,
                client.clone(),
                "www.example.com",
                origin.clone(),
            )
            .await;
            let kinds = (
                run.client.unwrap().get_ref().1.handshake_kind().unwrap(),
                run.server.unwrap().get_ref().1.handshake_kind().unwrap(),
            );
            assert_ne!(kinds.0, rustls::HandshakeKind::Resumed);
            assert_ne!(kinds.1, rustls::HandshakeKind::Resumed);
        }
    }
}

#[tokio::test]
async fn many_connections_to_one_server_mint_one_leaf() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let origin = pki
        .issue(&leaf_params(&["www.example.com"]))
        .server(BOTH, &[]);
    let runs = (0..20).map(|_| {
        run(
            &impersonator,
            client(&impersonator, BOTH, &[]),
            "www.example.com",
            origin.clone(),
        )
    });
    for run in futures_util::future::join_all(runs).await {
        run.client.unwrap();
    }
    assert_eq!(impersonator.mint().minted(), 1);
}

#[tokio::test]
async fn an_rsa_authority_signs_leaves_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("ca.pem"),
        directory.path().join("key.pem"),
    );
    let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    std::fs::write(
        &certificate,
        ca_params("RSA Root").self_signed(&pair).unwrap().pem(),
    )
    .unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let pki = Pki::new();
    let impersonator =
        pki.impersonator_with(Authority::from_files(&certificate, &key).unwrap(), quick());
    let origin = pki
        .issue(&leaf_params(&["www.example.com"]))
        .server(BOTH, &[]);
    let run = run(
        &impersonator,
        client(&impersonator, BOTH, &[]),
        "www.example.com",
        origin,
    )
    .await;
    assert!(run.client.is_ok());
}

#[tokio::test]
async fn threat_43_early_data_for_the_real_server_is_declined_and_never_passed_on() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let mut origin = pki
        .issue(&leaf_params(&["www.example.com"]))
        .server(ONLY13, &[]);
    origin.max_early_data_size = 1024;
    let mut roots = pki.roots();
    roots
        .add(
            impersonator
                .mint()
                .authority()
                .certificate()
                .unwrap()
                .clone(),
        )
        .unwrap();
    let mut config = client_of(roots, ONLY13, &[]);
    config.enable_early_data = true;
    let name = || ServerName::try_from("www.example.com").unwrap();

    // Around the impersonator, the server hands out a ticket that allows early data.
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connector = TlsConnector::from(Arc::new(config));
    let acceptor = TlsAcceptor::from(Arc::new(origin));
    let (near, far) = tokio::join!(connector.connect(name(), near), acceptor.accept(far));
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    far.write_all(b"x").await.unwrap();
    near.read_exact(&mut [0]).await.unwrap();

    // Through the impersonator, the client tries to use it.
    let (near, client_leg) = tokio::io::duplex(16 * 1024);
    let (server_leg, far) = tokio::io::duplex(16 * 1024);
    let client = async {
        let mut wrote_early = false;
        let connect = connector.connect_with(name(), near, |session| {
            if let Some(mut early) = session.early_data() {
                wrote_early = early.write(b"sent early").is_ok();
            }
        });
        let mut near = connect.await.unwrap();
        assert!(wrote_early, "the client had no ticket for early data");
        near.write_all(b"sent after the handshake").await.unwrap();
        near.flush().await.unwrap();
        near.shutdown().await.unwrap();
        near
    };
    let between = async {
        let mut flow = impersonator
            .intercept(client_leg, server_leg, ADDRESS)
            .await
            .unwrap();
        let mut got = Vec::new();
        flow.client.read_to_end(&mut got).await.unwrap();
        got
    };
    let (near, got, far) = tokio::join!(client, between, acceptor.accept(far));
    assert_eq!(got, b"sent after the handshake");
    assert!(!near.get_ref().1.is_early_data_accepted());
    assert_ne!(
        near.get_ref().1.handshake_kind(),
        Some(rustls::HandshakeKind::Resumed)
    );
    assert_ne!(
        far.unwrap().get_ref().1.handshake_kind(),
        Some(rustls::HandshakeKind::Resumed)
    );
}

#[tokio::test]
async fn threat_45_grease_ech_does_not_stand_in_the_way() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let suite = aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (placeholder, _private) = suite.generate_key_pair().unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_ech(EchMode::Grease(EchGreaseConfig::new(suite, placeholder)))
        .unwrap()
        .with_root_certificates(impersonator_roots(&impersonator))
        .with_no_client_auth();
    let origin = pki
        .issue(&leaf_params(&["www.example.com"]))
        .server(BOTH, &[]);
    let run = run(&impersonator, config, "www.example.com", origin).await;
    assert_eq!(
        run.client.unwrap().get_ref().1.ech_status(),
        EchStatus::Grease
    );
    assert_eq!(
        run.server.unwrap().get_ref().1.server_name(),
        Some("www.example.com")
    );
}

#[tokio::test]
async fn key_updates_and_large_transfers_pass_in_both_directions() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let origin = pki
        .issue(&leaf_params(&["www.example.com"]))
        .server(ONLY13, &[]);
    let run = run(
        &impersonator,
        client(&impersonator, BOTH, &[]),
        "www.example.com",
        origin,
    )
    .await;
    let (mut near, mut between, mut far) = (
        run.client.unwrap(),
        run.between.unwrap(),
        run.server.unwrap(),
    );
    // RFC 8446 §4.6.3: both ends change their keys and ask the other side to do so too.
    near.get_mut().1.refresh_traffic_keys().unwrap();
    far.get_mut().1.refresh_traffic_keys().unwrap();
    let data: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = tokio::io::split(far);
    let upload = async {
        near_write.write_all(&data).await.unwrap();
        near_write.shutdown().await.unwrap();
    };
    let download = async {
        far_write.write_all(&data).await.unwrap();
        far_write.shutdown().await.unwrap();
    };
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (pumped, (), (), up_read, down_read) = tokio::join!(
        tokio::io::copy_bidirectional(&mut between.client, &mut between.server),
        upload,
        download,
        far_read.read_to_end(&mut up),
        near_read.read_to_end(&mut down),
    );
    pumped.unwrap();
    up_read.unwrap();
    down_read.unwrap();
    assert!(up == data && down == data);
}

#[tokio::test]
async fn threat_38_handshakes_succeed_when_bytes_arrive_in_drips() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for versions in [ONLY12, ONLY13] {
        let origin = pki
            .issue(&leaf_params(&["www.example.com"]))
            .server(versions, &["h2"]);
        let connector = TlsConnector::from(Arc::new(client(&impersonator, BOTH, &["h2"])));
        // No pipe holds more than seven bytes, so every message comes in hundreds of pieces.
        let (near, client_leg) = tokio::io::duplex(7);
        let (server_leg, far) = tokio::io::duplex(7);
        let name = ServerName::try_from("www.example.com").unwrap();
        let between = async {
            let mut flow = impersonator
                .intercept(client_leg, server_leg, ADDRESS)
                .await
                .unwrap();
            // The server's session tickets are still in its pipe.
            let _ended = tokio::io::copy_bidirectional(&mut flow.client, &mut flow.server).await;
        };
        let hosts = async {
            let (near, far) = tokio::join!(
                connector.connect(name, near),
                TlsAcceptor::from(Arc::new(origin)).accept(far),
            );
            assert_eq!(near.unwrap().get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            assert!(far.is_ok());
        };
        let all = async { tokio::join!(between, hosts) };
        tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .unwrap();
    }
}

/// A client's first flight with `more` bytes of padding (RFC 7685) in its hello, in records.
fn padded_hello(config: ClientConfig, more: u16) -> Vec<u8> {
    let name = ServerName::try_from("www.example.com").unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut flight = Vec::new();
    tls.write_tls(&mut flight).unwrap();
    // Record header, handshake header, version, random, session, suites, compression, extensions.
    let mut message = flight.split_off(5);
    let session = 4 + 2 + 32;
    let suites = session + 1 + usize::from(message[session]);
    let compression =
        suites + 2 + usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]));
    let extensions = compression + 1 + usize::from(message[compression]);
    let length = u16::from_be_bytes([message[extensions], message[extensions + 1]]) + 4 + more;
    message.splice(extensions..extensions + 2, length.to_be_bytes());
    message.extend([0, 21]);
    message.extend(more.to_be_bytes());
    message.extend(std::iter::repeat_n(0, usize::from(more)));
    let body = u32::try_from(message.len() - 4).unwrap();
    message.splice(1..4, body.to_be_bytes()[1..].iter().copied());
    let records = message.chunks(16 * 1024).flat_map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    });
    records.collect()
}

#[tokio::test]
async fn threat_38_a_hello_of_several_records_is_answered() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for padding in [1, 15_000, 16_384, 17_000, 20_000, 40_000, 60_000] {
        let origin = pki
            .issue(&leaf_params(&["www.example.com"]))
            .server(BOTH, &[]);
        let hello = padded_hello(client(&impersonator, ONLY12, &[]), padding);
        let (mut near, client_leg) = tokio::io::duplex(64 * 1024);
        let (server_leg, far) = tokio::io::duplex(16 * 1024);
        let answer = async {
            near.write_all(&hello).await.unwrap();
            let mut start = [0; 6];
            near.read_exact(&mut start).await.unwrap();
            drop(near);
            start
        };
        let (_between, start, _origin) = tokio::join!(
            impersonator.intercept(client_leg, server_leg, ADDRESS),
            answer,
            TlsAcceptor::from(Arc::new(origin)).accept(far),
        );
        assert_eq!((start[0], start[5]), (22, 2), "{padding}: a ServerHello");
    }
}

#[test]
fn an_impersonator_can_be_shared_by_all_shards() {
    fn shared<T: Send + Sync>() {}
    shared::<tls::Impersonator>();
}

/// A client or server that knows only these groups.
fn with_groups(
    groups: &[&'static dyn rustls::crypto::SupportedKxGroup],
) -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = groups.to_vec();
    Arc::new(provider)
}

#[tokio::test]
async fn a_server_that_wants_another_group_is_asked_again_and_the_client_does_not_notice() {
    use rustls::HandshakeKind;
    use rustls::crypto::aws_lc_rs::kx_group::{SECP384R1, X25519, X25519MLKEM768};
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for groups in [&[X25519, SECP384R1][..], &[X25519MLKEM768, SECP384R1]] {
        let identity = pki.issue(&leaf_params(&["www.example.com"]));
        let server = ServerConfig::builder_with_provider(with_groups(&[SECP384R1]))
            .with_protocol_versions(ONLY13)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .unwrap();
        let client = ClientConfig::builder_with_provider(with_groups(groups))
            .with_protocol_versions(ONLY13)
            .unwrap()
            .with_root_certificates(impersonator_roots(&impersonator))
            .with_no_client_auth();
        let run = run(&impersonator, client, "www.example.com", server).await;
        let kind = run.between.unwrap().server.session().handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::FullWithHelloRetryRequest));
        let kind = run.client.unwrap().get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn threat_37_what_both_ends_agree_on_is_what_the_client_offered_in_every_pairing() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let identity = pki.issue(&leaf_params(&["www.example.com"]));
    let suites = aws_lc_rs::default_provider().cipher_suites;
    for offered in &suites {
        for spoken in &suites {
            let only = |suite: &rustls::SupportedCipherSuite| {
                let mut provider = aws_lc_rs::default_provider();
                provider.cipher_suites = vec![*suite];
                Arc::new(provider)
            };
            let version = |suite: &rustls::SupportedCipherSuite| match suite.version().version {
                ProtocolVersion::TLSv1_3 => ONLY13,
                _ => ONLY12,
            };
            let server = ServerConfig::builder_with_provider(only(spoken))
                .with_protocol_versions(version(spoken))
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(identity.chain.clone(), identity.key.clone_key())
                .unwrap();
            let client = ClientConfig::builder_with_provider(only(offered))
                .with_protocol_versions(version(offered))
                .unwrap()
                .with_root_certificates(impersonator_roots(&impersonator))
                .with_no_client_auth();
            let run = run(&impersonator, client, "www.example.com", server).await;
            match run.between {
                Ok(between) => {
                    assert_eq!(offered.suite(), spoken.suite(), "something was added");
                    let number = u16::from(offered.suite());
                    assert_eq!(between.info.server_cipher_suite, number);
                    // The client's own offer binds the other leg as well.
                    assert_eq!(between.info.client_cipher_suite, number);
                    assert_eq!(between.info.client_version, between.info.server_version);
                }
                Err(_) => assert!(run.client.is_err()),
            }
        }
    }
}
