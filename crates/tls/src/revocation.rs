//! Whether a server's certificate has been revoked: lists that the operator has, and the answer that the
//! server brings along.

use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// PEM or DER files with lists of revoked certificates (RFC 5280 §5).
    pub lists: Vec<PathBuf>,
    /// Refuse certificates that no list speaks about, and lists that are out of date.
    pub require_lists: bool,
    /// Look at stapled OCSP answers (RFC 6066 §8, RFC 6960), and demand one where the certificate says
    /// that there is one (RFC 7633).
    pub stapled: bool,
}

impl Default for Revocation {
    fn default() -> Self {
        Self {
            lists: Vec::new(),
            require_lists: false,
            stapled: true,
        }
    }
}

impl Revocation {
    /// The lists of all files.
    pub(crate) fn read(
        &self,
    ) -> Result<Vec<CertificateRevocationListDer<'static>>, (PathBuf, String)> {
        let mut lists = Vec::new();
        for path in &self.lists {
            lists.extend(read(path).map_err(|reason| (path.clone(), reason))?);
        }
        Ok(lists)
    }
}

fn read(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    // DER begins with a SEQUENCE.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![bytes.into()]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    if lists.is_empty() {
        return Err("no list in it; expected a section -----BEGIN X509 CRL-----".to_owned());
    }
    Ok(lists)
}
