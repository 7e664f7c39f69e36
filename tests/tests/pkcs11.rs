//! The certificate authority with its key in a PKCS#11 token: SoftHSM stands in for the hardware.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use flowdog_tests::appliance::Appliance;
use flowdog_tests::flowdog;

const PIN: &str = "58313-s3cret";

/// A token of its own, in a folder.
struct Token {
    folder: tempfile::TempDir,
}

impl Token {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens)?;
        let token = Self { folder };
        let settings = format!(
            "directories.tokendir = {}\nlog.level = ERROR\n",
            tokens.display()
        );
        std::fs::write(token.path("softhsm2.conf"), settings)?;
        std::fs::write(token.path("pin"), format!("{PIN}\n"))?;
        let init = "--init-token --free --label test --so-pin 12345678 --pin";
        token.util(&[init, PIN].join(" "))?;
        Ok(token)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn environment(&self) -> (&'static str, String) {
        let file = self.path("softhsm2.conf");
        ("SOFTHSM2_CONF", file.to_string_lossy().into_owned())
    }

    fn util(&self, arguments: &str) -> Result<()> {
        let (name, value) = self.environment();
        run(Command::new("softhsm2-util")
            .args(arguments.split(' '))
            .env(name, value))
    }

    /// Puts a new key into the token.
    fn key(&self, label: &str, id: &str, kind: &[&str]) -> Result<()> {
        let file = self.path(label);
        run(Command::new("openssl")
            .arg("genpkey")
            .args(kind)
            .arg("-out")
            .arg(&file))?;
        let file = file.to_string_lossy();
        self.util(&format!(
            "--import {file} --token test --label {label} --id {id} --pin {PIN}"
        ))
    }

    fn uri(&self, key: &str, query: &str) -> Result<String> {
        let module = [
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib64/softhsm/libsofthsm2.so",
        ];
        let module = module.iter().find(|path| Path::new(path).exists());
        let module = module.context("libsofthsm2.so is not where Debian and Fedora put it")?;
        Ok(format!(
            "pkcs11:token=test;{key}?module-path={module}{query}"
        ))
    }

    fn with_pin(&self) -> String {
        format!("&pin-source=file:{}", self.path("pin").display())
    }

    fn create(&self, uri: &str, out: &str) -> Result<Output> {
        let (name, value) = self.environment();
        let mut command = flowdog();
        command
            .args(["ca", "create", "--common-name", "Test Root"])
            .args(["--pkcs11", uri, "--out"]);
        Ok(command.arg(self.path(out)).env(name, value).output()?)
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}

#[test]
fn a_root_is_made_with_each_kind_of_key_in_a_token_and_openssl_believes_it() -> Result<()> {
    let token = Token::new()?;
    let curve = |name| format!("ec_paramgen_curve:{name}");
    for (label, id, kind, algorithm) in [
        (
            "p256",
            "01",
            vec!["-algorithm", "EC", "-pkeyopt", &curve("P-256")],
            "ecdsa-with-SHA256",
        ),
        (
            "p384",
            "02",
            vec!["-algorithm", "EC", "-pkeyopt", &curve("P-384")],
            "ecdsa-with-SHA384",
        ),
        (
            "rsa",
            "0f",
            vec!["-algorithm", "RSA"],
            "sha256WithRSAEncryption",
        ),
    ] {
        token.key(label, id, &kind)?;
        // By label and by identifier.
        for (key, out) in [
            (format!("object={label}"), format!("{label}.pem")),
            (format!("id=%{id}"), format!("{label}-id.pem")),
        ] {
            let made = token.create(&token.uri(&key, &token.with_pin())?, &out)?;
            ensure!(made.status.success(), "{key}: {made:?}");
            let path = token.path(&out);
            run(Command::new("openssl")
                .args(["verify", "-check_ss_sig", "-CAfile"])
                .args([&path, &path]))?;
            let text = Command::new("openssl")
                .args(["x509", "-noout", "-text", "-in"])
                .arg(&path)
                .output()?;
            let text = String::from_utf8_lossy(&text.stdout).into_owned();
            ensure!(text.contains(algorithm), "{label}: {text}");
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_with_a_token_is_told_without_its_pin() -> Result<()> {
    let token = Token::new()?;
    token.key(
        "ca",
        "01",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    )?;
    std::fs::write(token.path("wrong"), format!("{PIN}-not"))?;
    let wrong = format!("&pin-source={}", token.path("wrong").display());
    let absent = format!("&pin-source={}", token.path("absent").display());
    let good = token.with_pin();
    let other = token.uri("object=ca", &good)?.replace("test", "other");
    for (uri, said) in [
        (token.uri("object=ca", "")?, "wants a PIN"),
        (token.uri("object=ca", &wrong)?, "refused the PIN"),
        (token.uri("object=ca", &absent)?, "cannot read the PIN"),
        (token.uri("object=none", &good)?, "0 public keys"),
        (other, "no token fits token=other; there are: \"test\""),
        (
            format!("pkcs11:object=ca?module-path=/none.so{good}"),
            "/none.so: cannot use",
        ),
        (
            token.uri("object=ca", &format!("&pin-value={PIN}"))?,
            "pin-source",
        ),
    ] {
        let made = token.create(&uri, "none.pem")?;
        let text = String::from_utf8_lossy(&made.stderr).into_owned();
        ensure!(
            !made.status.success() && text.contains(said),
            "{said}: {text}"
        );
        ensure!(!text.contains(PIN), "{text}");
        ensure!(!token.path("none.pem").exists());
    }
    Ok(())
}

#[test]
fn the_appliance_has_its_intermediate_signed_by_the_token_once() -> Result<()> {
    let token = Token::new()?;
    token.key(
        "ca",
        "01",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    )?;
    let uri = token.uri("object=ca", "")?;
    let mut made = flowdog();
    let (name, value) = token.environment();
    let made = made
        .args(["ca", "create", "--common-name", "Test Root", "--out"])
        .arg(token.path("root.pem"))
        .args(["--pkcs11", &uri])
        .env(name, &value)
        .env("FLOWDOG_PKCS11_PIN", PIN)
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let config = format!(
        "[tls.ca]\ncertificate = '{}'\npkcs11 = '{uri}'\n",
        token.path("root.pem").display()
    );
    let address = Ipv4Addr::new(127, 33, 0, 2);
    let environment = [(name, value.as_str()), ("FLOWDOG_PKCS11_PIN", PIN)];
    let appliance = Appliance::start_with(address, &config, &environment)?;
    ensure!(appliance.metric("flowdog_tls_intermediate_renewals_total", "")? == 1.0);
    ensure!(appliance.metric("flowdog_tls_intermediate_failures_total", "")? == 0.0);
    ensure!(!appliance.log().contains(PIN), "{}", appliance.log());
    drop(appliance);

    // A root of another key: what the token signs fits it not, and nobody is served with it.
    token.key(
        "other",
        "02",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    )?;
    let config = config.replace("object=ca", "object=other");
    let refused = Appliance::start_with(address, &config, &environment);
    let said = refused.err().map(|error| error.to_string());
    let said = said.unwrap_or_default();
    ensure!(said.contains("signs with another key"), "{said}");
    Ok(())
}
