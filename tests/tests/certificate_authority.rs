//! The certificate authority with its key in KMS, from the command line to the renewal.
//!
//! Two implementations of KMS answer, so that neither's habits are taken for the protocol, and
//! openssl judges what comes out.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowdog_tests::appliance::Appliance;
use flowdog_tests::flowdog;
use flowdog_tests::kms::{ENVIRONMENT, FaultProxy, Kind, Kms};

fn create(endpoint: &str, key: &str, out: &Path) -> Result<Output> {
    Ok(flowdog()
        .args([
            "ca",
            "create",
            "--common-name",
            "Test Root",
            "--kms-key",
            key,
            "--out",
        ])
        .arg(out)
        .envs(ENVIRONMENT)
        .env("AWS_ENDPOINT_URL_KMS", endpoint)
        .output()?)
}

fn openssl(arguments: &[&str]) -> Result<String> {
    let output = Command::new("openssl").args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "openssl {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn roots_are_made(kind: Kind) -> Result<()> {
    let kms = Kms::start(kind)?;
    let folder = tempfile::tempdir()?;
    let endpoint = format!("http://127.0.0.1:{}", kms.port());
    for (spec, algorithm) in [
        ("ECC_NIST_P256", "ecdsa-with-SHA256"),
        ("ECC_NIST_P384", "ecdsa-with-SHA384"),
        ("RSA_2048", "sha256WithRSAEncryption"),
    ] {
        let out = folder.path().join(format!("{spec}.pem"));
        let key = kms.create_key(spec)?;
        let created = create(&endpoint, &key, &out)?;
        ensure!(created.status.success(), "{spec}: {created:?}");
        let shown = String::from_utf8_lossy(&created.stdout).into_owned();
        ensure!(shown.contains("CN=Test Root"), "{shown}");
        let path = out.to_string_lossy().into_owned();
        openssl(&["verify", "-CAfile", &path, "-check_ss_sig", &path])?;
        let text = openssl(&["x509", "-in", &path, "-noout", "-text"])?;
        ensure!(text.contains(algorithm), "{spec}: {text}");
        ensure!(text.contains("CA:TRUE, pathlen:1"), "{spec}: {text}");
        let again = create(&endpoint, &key, &out)?;
        ensure!(!again.status.success(), "a root is never overwritten");
    }
    let wrong = create(&endpoint, "no-such-key", &folder.path().join("none.pem"))?;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(!wrong.status.success(), "{said}");
    ensure!(said.contains("kms:GetPublicKey: refused"), "{said}");
    ensure!(!folder.path().join("none.pem").exists());
    Ok(())
}

#[test]
fn a_root_is_made_with_each_kind_of_key_in_moto_and_openssl_believes_it() -> Result<()> {
    roots_are_made(Kind::Moto)
}

#[test]
fn a_root_is_made_with_each_kind_of_key_in_ministack_and_openssl_believes_it() -> Result<()> {
    roots_are_made(Kind::Ministack)
}

#[test]
fn threat_33_a_key_service_that_throttles_or_is_away_is_met_as_configured() -> Result<()> {
    let kms = Kms::start(Kind::Ministack)?;
    let proxy = FaultProxy::start(kms.port())?;
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("root.pem");
    let key = kms.create_key("ECC_NIST_P256")?;

    // Throttled twice, then served, within one command.
    proxy.throttle(2);
    let created = create(&proxy.endpoint(), &key, &root)?;
    ensure!(created.status.success(), "{created:?}");

    let config = |when_away: &str| {
        format!(
            "[tls.ca]\ncertificate = '{}'\nkms-key = '{key}'\nkms-endpoint = '{}'\nwhen-away = '{when_away}'\n",
            root.display(),
            proxy.endpoint()
        )
    };
    let address = Ipv4Addr::new(127, 33, 0, 1);

    // One signature at the start, and none for a reload.
    let before = proxy.requests();
    {
        let appliance = Appliance::start_with(address, &config("refuse"), &ENVIRONMENT)?;
        ensure!(appliance.metric("flowdog_tls_intermediate_renewals_total", "")? == 1.0);
        let expiry = appliance.metric("flowdog_tls_intermediate_expiry_seconds", "")?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs_f64();
        ensure!(
            (6.9..7.1).contains(&((expiry - now) / 86_400.0)),
            "{expiry}"
        );
        appliance.signal(nix::sys::signal::Signal::SIGHUP)?;
        let start = Instant::now();
        while appliance.metric("flowdog_config_reloads_total", "")? < 1.0 {
            ensure!(start.elapsed() < Duration::from_secs(10), "no reload");
            std::thread::sleep(Duration::from_millis(50));
        }
        ensure!(
            proxy.requests() == before + 1,
            "a reload asks KMS for nothing"
        );
    }

    // Away at the start: refused, with the reason and the way out.
    proxy.cut();
    let refused = Appliance::start_with(address, &config("refuse"), &ENVIRONMENT);
    let said = refused
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(
        said.contains("tls.ca:") && said.contains("when-away"),
        "{said}"
    );

    // Away at the start and told to go on: up without TLS, and with it once KMS is back.
    let appliance = Appliance::start_with(address, &config("bypass"), &ENVIRONMENT)?;
    ensure!(appliance.metric("flowdog_tls_intermediate_renewals_total", "")? == 0.0);
    proxy.heal();
    let start = Instant::now();
    while appliance.metric("flowdog_tls_intermediate_renewals_total", "")? < 1.0 {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "no intermediate although KMS is back:\n{}",
            appliance.log()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(
        !appliance.log().contains("testing"),
        "credentials are not logged"
    );
    Ok(())
}

#[test]
fn a_root_is_made_with_a_new_key_or_a_key_from_a_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let run = |arguments: &[&str]| -> Result<Output> {
        Ok(flowdog()
            .args(["ca", "create", "--common-name", "Test Root", "--out"])
            .args(arguments)
            .output()?)
    };
    let made = run(&[&path("new.pem"), "--new-key", &path("new.key")])?;
    ensure!(made.status.success(), "{made:?}");
    openssl(&[
        "verify",
        "-CAfile",
        &path("new.pem"),
        "-check_ss_sig",
        &path("new.pem"),
    ])?;
    openssl(&["genrsa", "-out", &path("rsa.key"), "2048"])?;
    let made = run(&[&path("rsa.pem"), "--key", &path("rsa.key")])?;
    ensure!(made.status.success(), "{made:?}");
    openssl(&[
        "verify",
        "-CAfile",
        &path("rsa.pem"),
        "-check_ss_sig",
        &path("rsa.pem"),
    ])?;
    let shown = flowdog().args(["ca", "show", &path("rsa.pem")]).output()?;
    ensure!(
        String::from_utf8_lossy(&shown.stdout).contains("key          RSA"),
        "{shown:?}"
    );
    let none = run(&[&path("none.pem")])?;
    ensure!(!none.status.success());
    Ok(())
}
