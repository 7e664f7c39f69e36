//! Nothing secret is ever printed.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use rustls::KeyLog;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tls::{Authority, Handling, ImpersonatorConfig, KeyLogs};

use crate::rig::*;

/// Keeps what is logged, and every secret it is told.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Secrets(Mutex<Vec<Vec<u8>>>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl KeyLog for Secrets {
    fn log(&self, _label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0.lock().unwrap().push(secret.to_vec());
    }
}

/// The ways in which bytes end up in text: hex, base64, and a list of decimals.
fn spellings(secret: &[u8]) -> Vec<String> {
    let window = &secret[..secret.len().min(12)];
    let mut hex = String::new();
    for byte in window {
        write!(hex, "{byte:02x}").unwrap();
    }
    let decimal = format!("{window:?}").trim_matches(['[', ']']).to_owned();
    let base64 = base64::engine::general_purpose::STANDARD.encode(window);
    vec![hex.to_uppercase(), hex, decimal, base64]
}

#[tokio::test]
async fn the_listener_of_a_flow_hears_what_decrypts_each_leg_and_the_appliances_log_hears_it_too() {
    let pki = Pki::new();
    let logs = || {
        let (client_leg, server_leg) = (Arc::new(Secrets::default()), Arc::new(Secrets::default()));
        let legs = KeyLogs {
            client_leg: client_leg.clone(),
            server_leg: server_leg.clone(),
        };
        (legs, client_leg, server_leg)
    };
    let (appliance, all_client, all_server) = logs();
    let config = ImpersonatorConfig {
        key_logs: appliance,
        ..quick()
    };
    let impersonator = pki.impersonator_with(Authority::generate("Root").unwrap(), config);
    for versions in [ONLY12, ONLY13] {
        let (of_flow, flow_client, flow_server) = logs();
        let (hosts, of_client, of_origin) = logs();
        let mut client = client(&impersonator, versions, &[]);
        client.key_log = hosts.client_leg;
        let mut origin = pki
            .issue(&leaf_params(&["www.example.com"]))
            .server(versions, &[]);
        origin.key_log = hosts.server_leg;
        let handling = Handling {
            key_logs: Some(of_flow),
            ..Handling::default()
        };
        let run = run_as(&impersonator, client, "www.example.com", origin, handling).await;
        assert!(run.between.is_ok() && run.client.is_ok());
        let told = |secrets: &Secrets| {
            let mut told = secrets.0.lock().unwrap().clone();
            told.sort();
            told
        };
        // What the hosts know of their connections is what the legs' listeners were told.
        assert!(!told(&flow_client).is_empty());
        assert_eq!(told(&flow_client), told(&of_client));
        assert_eq!(told(&flow_server), told(&of_origin));
        assert_ne!(told(&flow_client), told(&flow_server));
        for (all, one) in [(&all_client, &flow_client), (&all_server, &flow_server)] {
            let all = told(all);
            assert!(told(one).iter().all(|secret| all.contains(secret)));
        }
    }
}

#[tokio::test]
async fn threat_48_no_key_or_session_secret_shows_in_logs_or_debug_output() {
    let log = Kept::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("ca.pem"),
        directory.path().join("key.pem"),
    );
    Authority::create_files("Planted Root", &certificate, &key).unwrap();
    let pem = std::fs::read(&key).unwrap();
    let der = PrivateKeyDer::from_pem_slice(&pem).unwrap();
    // RFC 5958 and RFC 5915: the scalar follows the octet string header 04 20.
    let start = der
        .secret_der()
        .windows(2)
        .position(|pair| pair == [4, 0x20])
        .unwrap()
        + 2;
    let scalar = der.secret_der()[start..start + 32].to_vec();

    let (client_leg, server_leg) = (Arc::new(Secrets::default()), Arc::new(Secrets::default()));
    let config = ImpersonatorConfig {
        key_logs: KeyLogs {
            client_leg: client_leg.clone(),
            server_leg: server_leg.clone(),
        },
        ..quick()
    };
    let pki = Pki::new();
    let impersonator =
        pki.impersonator_with(Authority::from_files(&certificate, &key).unwrap(), config);
    let mut printed = format!("{impersonator:?} {impersonator:#?}");
    for versions in [ONLY12, ONLY13] {
        let origin = pki
            .issue(&leaf_params(&["www.example.com"]))
            .server(versions, &[]);
        let run = run(
            &impersonator,
            client(&impersonator, BOTH, &[]),
            "www.example.com",
            origin,
        )
        .await;
        write!(printed, "{:?}", run.between.unwrap()).unwrap();
        // And a failing one, for its error.
        let origin = pki
            .issue(&leaf_params(&["other.example"]))
            .server(versions, &[]);
        let run = crate::rig::run(
            &impersonator,
            client(&impersonator, BOTH, &[]),
            "www.example.com",
            origin,
        )
        .await;
        let error = run.between.unwrap_err();
        write!(printed, "{error:?} {error}").unwrap();
    }
    printed.push_str(&String::from_utf8_lossy(&log.0.lock().unwrap()));
    assert!(
        printed.contains("TLS intercepted") && printed.contains("wrong_name"),
        "the log was not captured"
    );

    let mut secrets = vec![scalar];
    for leg in [client_leg, server_leg] {
        let told = leg.0.lock().unwrap();
        // One master secret of TLS 1.2 and at least four secrets of TLS 1.3.
        assert!(told.len() >= 5, "{}", told.len());
        secrets.extend(told.iter().cloned());
    }
    let pem = String::from_utf8(pem).unwrap();
    let second_line = pem.lines().nth(1).unwrap();
    assert!(!printed.contains(second_line) && !printed.contains("PRIVATE KEY"));
    for secret in secrets {
        for spelling in spellings(&secret) {
            assert!(
                !printed.contains(&spelling),
                "a secret was printed as {spelling}"
            );
        }
    }
}
