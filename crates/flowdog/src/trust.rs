//! Loads what TLS interception needs: our authority, and whom we believe about servers.

use std::sync::Arc;

use tls::{Authority, AuthorityError, Impersonator, ImpersonatorConfig, Roots, Upstream};

use crate::config::{Ca, Root};

/// What is wrong with the files, and under which key they are named.
#[derive(Debug)]
pub(crate) struct TrustFault {
    pub(crate) key: &'static str,
    pub(crate) what: String,
    pub(crate) allowed: &'static str,
}

/// The impersonator, or none where no authority is configured. Roots are tried in either case.
pub(crate) fn load(
    ca: Option<&Ca>,
    roots: &[Root],
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
    let upstream = if ca.is_some() || !roots.files.is_empty() {
        Some(Upstream::new(&roots).map_err(|error| TrustFault {
            key: "roots",
            what: error.to_string(),
            allowed: "\"system\" and PEM files with CA certificates",
        })?)
    } else {
        None
    };
    let (Some(ca), Some(upstream)) = (ca, upstream) else {
        return Ok(None);
    };
    let authority = Authority::from_files(&ca.certificate, &ca.key).map_err(|error| {
        let about_key = match &error {
            AuthorityError::NoKey { .. } | AuthorityError::UnsupportedKey { .. } => true,
            AuthorityError::KeyMismatch { .. } | AuthorityError::Sign(_) => true,
            AuthorityError::Read { path, .. } | AuthorityError::Pem { path, .. } => {
                *path == ca.key && ca.key != ca.certificate
            }
            _ => false,
        };
        if about_key {
            TrustFault {
                key: "key",
                what: error.to_string(),
                allowed: "a PEM file with the unencrypted private key of the certificate",
            }
        } else {
            TrustFault {
                key: "certificate",
                what: error.to_string(),
                allowed: "a PEM file with a valid CA certificate, the issuing one first",
            }
        }
    })?;
    let impersonator =
        Impersonator::new(Arc::new(authority), upstream, ImpersonatorConfig::default());
    impersonator
        .map(|made| Some(Arc::new(made)))
        .map_err(|error| TrustFault {
            key: "certificate",
            what: error.to_string(),
            allowed: "a CA certificate that the TLS library can use",
        })
}
