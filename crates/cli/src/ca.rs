//! `flowdog ca`: the root certificate that clients install.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tls::{Authority, Signer};

/// Make and look at the certificate authority's root certificate.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    Show(Show),
}

/// Make a root certificate, with a key that is in KMS, in a token, in a file, or new.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --kms-key nothing secret is ever on this machine. Credentials come from the environment, the
files in ~/.aws, the container or the instance; kms:GetPublicKey and kms:Sign must be allowed.

With --pkcs11 the key stays in a hardware security module or a smart card. `pin-source` in the URI
names the file with its PIN; otherwise FLOWDOG_PKCS11_PIN holds it.

The certificate is valid for ten years. Files that exist are never overwritten.")]
struct Create {
    /// An asymmetric KMS key: id, ARN, or alias/NAME
    #[cfg(feature = "aws")]
    #[arg(long, value_name = "KEY", conflicts_with_all = ["key", "new_key"])]
    kms_key: Option<String>,
    /// The region of the KMS key
    #[cfg(feature = "aws")]
    #[arg(long, value_name = "REGION", requires = "kms_key")]
    region: Option<String>,
    /// A key in a PKCS#11 token, as in pkcs11:token=NAME;object=KEY?module-path=/LIBRARY.so
    #[cfg(feature = "pkcs11")]
    #[arg(long, value_name = "URI", conflicts_with_all = ["key", "new_key"])]
    #[cfg_attr(feature = "aws", arg(conflicts_with = "kms_key"))]
    pkcs11: Option<String>,
    /// A file with a private key in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "new_key")]
    key: Option<PathBuf>,
    /// Make a key (ECDSA P-256) and write it to this file
    #[arg(long, value_name = "FILE")]
    new_key: Option<PathBuf>,
    /// The name that people see in lists of certificate authorities
    #[arg(long, value_name = "NAME")]
    common_name: String,
    /// Where the certificate goes
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

/// Say what is in a root certificate.
#[derive(Debug, clap::Args)]
struct Show {
    /// The certificate
    #[arg(value_name = "FILE")]
    certificate: PathBuf,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let done = match &args.command {
        Command::Create(args) => create(args),
        Command::Show(args) => show(&args.certificate),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowdog: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn create(args: &Create) -> anyhow::Result<()> {
    // Before a signature is paid for.
    if args.out.exists() {
        anyhow::bail!("{} exists already", args.out.display());
    }
    if let Some(key) = &args.new_key {
        Authority::create_files(&args.common_name, &args.out, key)?;
        return show(&args.out);
    }
    let signer = signer(args)?;
    let authority = Authority::self_signed(&args.common_name, signer)?;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&args.out)
        .and_then(|mut file| {
            file.write_all(authority.root_pem().as_bytes())?;
            file.sync_all()
        })
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    show(&args.out)
}

fn signer(args: &Create) -> anyhow::Result<Arc<dyn Signer>> {
    #[cfg(feature = "aws")]
    if let Some(key) = &args.kms_key {
        let region = match &args.region {
            Some(name) => Some(
                aws::Region::new(name).with_context(|| format!("\"{name}\" is not a region"))?,
            ),
            None => None,
        };
        let settings = aws::KmsSettings {
            region,
            ..aws::KmsSettings::new(key)
        };
        let key = aws::KmsKey::new(settings)?;
        let (kind, public) = key.public_key()?;
        return Ok(key.signer(kind, public));
    }
    #[cfg(feature = "pkcs11")]
    if let Some(uri) = &args.pkcs11 {
        let uri = pkcs11::Pkcs11Uri::parse(uri).context("--pkcs11")?;
        let key = pkcs11::Pkcs11Key::new(uri);
        let (kind, public) = key.public_key()?;
        return Ok(key.signer(kind, public));
    }
    let Some(key) = &args.key else {
        anyhow::bail!(
            "which key? --new-key FILE makes one, --key FILE reads one, --kms-key uses KMS, --pkcs11 a token"
        );
    };
    Ok(Authority::signer_from_file(key)?)
}

fn show(file: &Path) -> anyhow::Result<()> {
    let description = tls::describe_certificate(file)?;
    println!("{description}");
    Ok(())
}
