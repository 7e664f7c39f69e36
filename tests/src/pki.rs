//! Certificates of origins that a test runs itself.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs one of the tests' own Python programs outside the lab, before it starts.
///
/// # Errors
/// If it fails.
pub fn python_now(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(crate::python())
        .arg(program)
        .args(arguments)
        .output()
        .context("start Python")?;
    ensure!(
        output.status.success(),
        "{}: {}",
        program.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes `root.pem` in a folder, and for each name `NAME.pem` with certificate and key.
///
/// # Errors
/// If Python or its packages fail.
pub fn certificates(folder: &Path, names: &[&str]) -> Result<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/pki.py");
    let folder = folder.to_str().context("folder name")?;
    python_now(&program, &[&[folder], names].concat()).map(drop)
}

/// Makes `cert.pem` and `key.pem` in a folder: a certificate for `name` that has signed itself.
///
/// # Errors
/// If openssl fails.
pub fn server_certificate(folder: &Path, name: &str) -> Result<()> {
    let output = Command::new("openssl")
        .current_dir(folder)
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args(["-subj", &format!("/CN={name}")])
        .args(["-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .output()
        .context("start openssl")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
