//! Loads what TLS interception needs: our authority, and whom we believe about servers.

use std::path::Path;
use std::sync::Arc;

use tls::{
    Authority, AuthorityError, Impersonator, ImpersonatorConfig, Issuing, IssuingConfig,
    Revocation, Roots, RootsError, UnixTime, Upstream,
};

use crate::config::{Ca, CaKey, Root};

/// What is wrong with the files, and under which key they are named.
#[derive(Debug)]
pub(crate) struct TrustFault {
    pub(crate) key: &'static str,
    pub(crate) what: String,
    pub(crate) allowed: &'static str,
}

/// The impersonator, or none where no authority is configured. Roots are tried in either case.
///
/// A key in a file signs its first intermediate here. One that lives elsewhere is not asked: a
/// configuration can be checked where the key cannot be reached.
pub(crate) fn load(
    ca: Option<&Ca>,
    roots: &[Root],
    revocation: &Revocation,
    key_log: Option<&Path>,
) -> Result<Option<Arc<Impersonator>>, TrustFault> {
    let roots = Roots {
        system: roots.contains(&Root::System),
        files: roots
            .iter()
            .filter_map(|root| match root {
                Root::File(path) => Some(path.clone()),
                Root::System => None,
            })
            .collect(),
    };
    // Reading the system's store takes milliseconds that nobody needs to spend without a CA.
    let upstream = if ca.is_some() || !roots.files.is_empty() || !revocation.lists.is_empty() {
        let upstream = Upstream::with_revocation(&roots, revocation);
        Some(upstream.map_err(|error| {
            let (key, allowed) = match error {
                RootsError::List { .. } | RootsError::UnusableList(_) => (
                    "lists",
                    "PEM or DER files with lists of revoked certificates",
                ),
                _ => ("roots", "\"system\" and PEM files with CA certificates"),
            };
            TrustFault {
                key,
                what: error.to_string(),
                allowed,
            }
        })?)
    } else {
        None
    };
    let (Some(ca), Some(upstream)) = (ca, upstream) else {
        return Ok(None);
    };
    let issuing = issuing(ca)?;
    let config = ImpersonatorConfig {
        key_logs: key_log
            .map(|path| tls::key_log_file(path.to_owned()))
            .unwrap_or_default(),
        ..ImpersonatorConfig::default()
    };
    let impersonator = Impersonator::with_issuing(issuing, upstream, config);
    impersonator
        .map(|made| Some(Arc::new(made)))
        .map_err(|error| TrustFault {
            key: "certificate",
            what: error.to_string(),
            allowed: "a CA certificate that the TLS library can use",
        })
}

fn issuing(ca: &Ca) -> Result<Arc<Issuing>, TrustFault> {
    let fault = |error: AuthorityError| fault(ca, &error);
    let root = match &ca.key {
        CaKey::File(key) => Authority::from_files(&ca.certificate, key).map_err(fault)?,
        CaKey::Kms {
            key,
            region,
            endpoint,
        } => kms(ca, key, region.as_deref(), endpoint.clone())?,
        CaKey::Pkcs11(uri) => token(ca, uri)?,
    };
    let root = Arc::new(root);
    if !root.may_have_intermediates() && !root.is_remote() {
        tracing::warn!(
            certificate = %ca.certificate.display(),
            "the CA certificate allows no intermediate (pathlen:0), so its own key signs every leaf; a root made with `flowdog ca create` does"
        );
        return Ok(Arc::new(Issuing::direct(root)));
    }
    let config = IssuingConfig {
        lifetime: ca.intermediate_life,
    };
    let issuing = Issuing::intermediate(root, config).map_err(fault)?;
    if !issuing.root().is_remote() {
        issuing.renew(UnixTime::now()).map_err(fault)?;
    }
    Ok(Arc::new(issuing))
}

#[cfg(feature = "aws")]
fn kms(
    ca: &Ca,
    key: &str,
    region: Option<&str>,
    endpoint: Option<String>,
) -> Result<Authority, TrustFault> {
    let settings = aws::KmsSettings {
        region: region.and_then(aws::Region::new),
        endpoint,
        ..aws::KmsSettings::new(key)
    };
    let key = aws::KmsKey::new(settings).map_err(|error| TrustFault {
        key: "kms-key",
        what: error.to_string(),
        allowed: "a key that can be reached",
    })?;
    Authority::from_certificate(&ca.certificate, |kind, public| key.signer(kind, public))
        .map_err(|error| fault(ca, &error))
}

#[cfg(not(feature = "aws"))]
fn kms(
    _ca: &Ca,
    _key: &str,
    _region: Option<&str>,
    _endpoint: Option<String>,
) -> Result<Authority, TrustFault> {
    Err(TrustFault {
        key: "kms-key",
        what: "this flowdog was built without AWS".to_owned(),
        allowed: "`key`, the file with the private key of `certificate`",
    })
}

#[cfg(feature = "pkcs11")]
fn token(ca: &Ca, uri: &str) -> Result<Authority, TrustFault> {
    let uri = pkcs11::Pkcs11Uri::parse(uri).map_err(|error| TrustFault {
        key: "pkcs11",
        what: error.to_string(),
        allowed: "a pkcs11: URI (RFC 7512) with `module-path` and `object` or `id`",
    })?;
    let key = pkcs11::Pkcs11Key::new(uri);
    Authority::from_certificate(&ca.certificate, |kind, public| key.signer(kind, public))
        .map_err(|error| fault(ca, &error))
}

#[cfg(not(feature = "pkcs11"))]
fn token(_ca: &Ca, _uri: &str) -> Result<Authority, TrustFault> {
    Err(TrustFault {
        key: "pkcs11",
        what: "this flowdog was built without PKCS#11".to_owned(),
        allowed: "`key`, the file with the private key of `certificate`",
    })
}

/// Which key of the configuration an error is about.
fn fault(ca: &Ca, error: &AuthorityError) -> TrustFault {
    let file = match &ca.key {
        CaKey::File(file) => Some(file),
        CaKey::Kms { .. } | CaKey::Pkcs11(_) => None,
    };
    let about_key = match error {
        AuthorityError::NoKey { .. }
        | AuthorityError::UnsupportedKey { .. }
        | AuthorityError::KeyMismatch { .. }
        | AuthorityError::WrongSignature { .. }
        | AuthorityError::Sign(_) => true,
        AuthorityError::Read { path, .. } | AuthorityError::Pem { path, .. } => {
            Some(path) == file && *path != ca.certificate
        }
        _ => false,
    };
    match (about_key, file) {
        (true, Some(_)) => TrustFault {
            key: "key",
            what: error.to_string(),
            allowed: "a PEM file with the unencrypted private key of the certificate",
        },
        (true, None) => TrustFault {
            key: match &ca.key {
                CaKey::Pkcs11(_) => "pkcs11",
                _ => "kms-key",
            },
            what: error.to_string(),
            allowed: "the key of the certificate",
        },
        (false, _) => TrustFault {
            key: "certificate",
            what: error.to_string(),
            allowed: "a PEM file with a valid CA certificate, the issuing one first",
        },
    }
}
