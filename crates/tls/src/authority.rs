//! The certificate authority that clients are told to trust.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use crate::fault::is_self_issued;
use crate::signer::{LocalSigner, RemoteKey, SignError, Signer, SignerKey};

/// A generated root lives ten years: long enough never to surprise, and whoever generated it can
/// do so again.
const ROOT_LIFETIME: Duration = Duration::days(3650);

/// Clients whose clock is behind must be able to believe a root made a moment ago.
const ROOT_BACKDATE: Duration = Duration::days(1);

/// The same for an intermediate, in seconds.
const INTERMEDIATE_BACKDATE: i64 = 3600;

/// A root or intermediate CA that signs leaf certificates.
///
/// Holds the certificate chain and a way to sign, never a private key that could be asked for.
#[derive(Debug)]
pub struct Authority {
    /// The issuing certificate first, then the ones above it.
    chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, SignerKey>,
    signer: Arc<dyn Signer>,
    not_before: i64,
    not_after: i64,
    /// Whether its basicConstraints leave room for another CA below (RFC 5280 §4.2.1.9).
    may_have_intermediates: bool,
}

/// What is wrong with a certificate authority's files, or with making one.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A file is not PEM, or has a damaged section.
    #[error("{}: {reason}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the PEM reader stumbled on.
        reason: String,
    },
    /// The certificate file has no certificate.
    #[error("{what}: no certificate in it; expected a section -----BEGIN CERTIFICATE-----")]
    NoCertificate {
        /// The file, or where the certificate came from.
        what: String,
    },
    /// The key file has no private key.
    #[error("{}: no private key in it; expected PKCS#8, SEC1 or PKCS#1 in PEM, not encrypted", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The private key is of a kind that is not supported.
    #[error("{}: not a usable private key; ECDSA P-256 or P-384, RSA from 2048 bits and Ed25519 are supported", path.display())]
    UnsupportedKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot be read as X.509.
    #[error("{what}: not a valid X.509 certificate: {reason}")]
    BadCertificate {
        /// The file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate is not one of a CA.
    #[error("{what}: not a CA certificate (basicConstraints lacks CA:TRUE)")]
    NotCa {
        /// The file.
        what: String,
    },
    /// The key usage of the certificate forbids signing certificates.
    #[error("{what}: the certificate may not sign certificates (keyUsage lacks keyCertSign)")]
    MayNotSign {
        /// The file.
        what: String,
    },
    /// The certificate has expired.
    #[error("{what}: the CA certificate expired at {at}; renew it")]
    Expired {
        /// The file.
        what: String,
        /// `notAfter`.
        at: String,
    },
    /// The certificate is not valid yet.
    #[error("{what}: the CA certificate is not valid before {at}; check this machine's clock")]
    NotYetValid {
        /// The file.
        what: String,
        /// `notBefore`.
        at: String,
    },
    /// The private key belongs to another certificate.
    #[error("{what}: the private key does not belong to the first certificate")]
    KeyMismatch {
        /// The files.
        what: String,
    },
    /// The certificate's subject has a form that cannot be repeated exactly as an issuer.
    #[error(
        "{what}: the subject name uses a form that is not supported; use plain text attributes"
    )]
    UnsupportedSubject {
        /// The file.
        what: String,
    },
    /// The authority could not be made.
    #[error("cannot make a certificate authority: {0}")]
    Generate(rcgen::Error),
    /// The signer gave no signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The signer's signature is not one of the certificate's key.
    #[error(
        "{what}: the signer's signature does not fit the certificate: it signs with another key"
    )]
    WrongSignature {
        /// The authority.
        what: String,
    },
    /// A key in a remote signer has to sign intermediates, and the certificate forbids them.
    #[error(
        "{what}: the certificate forbids intermediates (pathlen:0); make a root with `flowdog ca create`"
    )]
    NoIntermediates {
        /// The authority.
        what: String,
    },
    /// The certificate's key is of a kind that a remote signer cannot hold.
    #[error("{what}: the certificate's key is neither ECDSA P-256, P-384 nor RSA")]
    UnsupportedRemoteKey {
        /// The file.
        what: String,
    },
}

impl Authority {
    /// Reads an authority from PEM files: certificates from the issuing one upwards, and the
    /// first one's private key.
    ///
    /// # Errors
    ///
    /// With the file and what is wrong with it: unreadable, no CA, expired, or not matching.
    pub fn from_files(certificates: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let chain = read_chain(certificates)?;
        let signer = Self::signer_from_file(key)?;
        Self::from_parts(
            &format!("{} with key {}", certificates.display(), key.display()),
            chain,
            signer,
            UnixTime::now(),
        )
    }

    /// Reads a certificate file whose key lives elsewhere. `signer` is told the kind of key and
    /// the public key that the certificate has; nothing is signed and nobody is asked here.
    ///
    /// # Errors
    ///
    /// With the file and what is wrong with it.
    pub fn from_certificate(
        certificates: &Path,
        signer: impl FnOnce(RemoteKey, Vec<u8>) -> Arc<dyn Signer>,
    ) -> Result<Self, AuthorityError> {
        let what = certificates.display().to_string();
        let chain = read_chain(certificates)?;
        let Some(first) = chain.first() else {
            return Err(AuthorityError::NoCertificate { what });
        };
        let now = UnixTime::now();
        let certificate = check_certificate(first, now, &|| what.clone())?;
        let Some((kind, public)) = RemoteKey::of_parsed(certificate.public_key()) else {
            return Err(AuthorityError::UnsupportedRemoteKey { what });
        };
        Self::from_parts(&what, chain, signer(kind, public), now)
    }

    /// Makes a self-signed root certificate for the key of any signer, with room for one
    /// intermediate, valid for ten years.
    ///
    /// # Errors
    ///
    /// When the signer gives no signature, or one that is not of its key.
    pub fn self_signed(common_name: &str, signer: Arc<dyn Signer>) -> Result<Self, AuthorityError> {
        let now = UnixTime::now();
        let what = format!("the new root {common_name:?}");
        let certificate = root_params(common_name, now)
            .self_signed(&SignerKey(Arc::clone(&signer)))
            .map_err(AuthorityError::Generate)?;
        let authority = Self::from_parts(&what, vec![certificate.into()], signer, now)?;
        let own = authority
            .chain
            .first()
            .ok_or_else(|| AuthorityError::NoCertificate { what: what.clone() })?;
        authority.check_signature_on(own, &what)?;
        Ok(authority)
    }

    /// Makes a key pair in memory and a CA certificate for it, signed by this authority: path
    /// length 0, for TLS servers only, valid for `lifetime` and not beyond this authority.
    ///
    /// # Errors
    ///
    /// When this authority may not have intermediates, or its signer gives no right signature.
    pub fn intermediate(
        &self,
        lifetime: std::time::Duration,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let what = "the intermediate".to_owned();
        if !self.may_have_intermediates {
            return Err(AuthorityError::NoIntermediates { what });
        }
        let clock = seconds(now);
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let not_before = (clock - INTERMEDIATE_BACKDATE).max(self.not_before);
        let not_after = clock.saturating_add(lifetime).min(self.not_after);
        let date = |seconds| {
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        let pair = KeyPair::generate().map_err(AuthorityError::Generate)?;
        let mut serial = [0u8; 16];
        aws_lc_rs::rand::fill(&mut serial)
            .map_err(|_unspecified| AuthorityError::Generate(rcgen::Error::RemoteKeyError))?;
        if let Some(first) = serial.first_mut() {
            *first = *first & 0x7f | 0x40;
        }
        let mut params = CertificateParams::default();
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        params.distinguished_name = rcgen::DistinguishedName::new();
        // A name of its own: clients that keep intermediates must not take one for another.
        let number: String = serial
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("flowdog intermediate {number}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(not_before);
        params.not_after = date(not_after);
        let certificate: CertificateDer<'static> = params
            .signed_by(&pair, &self.issuer)
            .map_err(|_remote| {
                AuthorityError::Sign(SignError(
                    "the authority's key did not sign the intermediate".to_owned(),
                ))
            })?
            .into();
        self.check_signature_on(&certificate, &what)?;
        let mut chain = vec![certificate];
        chain.extend(self.chain.iter().cloned());
        Self::from_parts(&what, chain, Arc::new(LocalSigner::new(pair)), now)
    }

    /// Whether its certificate leaves room for an intermediate.
    #[must_use]
    pub fn may_have_intermediates(&self) -> bool {
        self.may_have_intermediates
    }

    /// Whether its key lives outside this process; see [`Signer::is_remote`].
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.signer.is_remote()
    }

    /// A remote signer may use another key than the certificate says; then nobody would believe
    /// what it signed.
    fn check_signature_on(
        &self,
        signed: &CertificateDer<'_>,
        what: &str,
    ) -> Result<(), AuthorityError> {
        let wrong = || AuthorityError::WrongSignature {
            what: what.to_owned(),
        };
        let (_, signed) = X509Certificate::from_der(signed).map_err(|_opaque| wrong())?;
        let tbs = signed.tbs_certificate.as_ref();
        let signature = signed.signature_value.as_ref();
        let algorithm: &'static dyn aws_lc_rs::signature::VerificationAlgorithm = match self
            .signer
            .algorithm()
        {
            a if *a == rcgen::PKCS_ECDSA_P256_SHA256 => {
                &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1
            }
            a if *a == rcgen::PKCS_ECDSA_P384_SHA384 => {
                &aws_lc_rs::signature::ECDSA_P384_SHA384_ASN1
            }
            a if *a == rcgen::PKCS_RSA_SHA256 => &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256,
            // Other kinds are local, and a local key is what it is.
            _ => return Ok(()),
        };
        aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, self.signer.public_key())
            .verify(tbs, signature)
            .map_err(|_unspecified| wrong())
    }

    /// A signer with the private key of a PEM file.
    ///
    /// # Errors
    ///
    /// With the file and what is wrong with it.
    pub fn signer_from_file(key: &Path) -> Result<Arc<dyn Signer>, AuthorityError> {
        let key_pem = Zeroizing::new(read(key)?);
        warn_if_open(key, "the CA key");
        let mut key_der = match PrivateKeyDer::from_pem_slice(&key_pem) {
            Ok(der) => der,
            Err(rustls_pki_types::pem::Error::NoItemsFound) => {
                return Err(AuthorityError::NoKey {
                    path: key.to_owned(),
                });
            }
            Err(error) => {
                return Err(AuthorityError::Pem {
                    path: key.to_owned(),
                    reason: error.to_string(),
                });
            }
        };
        let pair = KeyPair::try_from(&key_der);
        key_der.zeroize();
        let pair = pair.map_err(|_opaque| AuthorityError::UnsupportedKey {
            path: key.to_owned(),
        })?;
        Ok(Arc::new(LocalSigner::new(pair)))
    }

    /// Makes a root authority (ECDSA P-256) that exists in memory only.
    ///
    /// # Errors
    ///
    /// When the system gives no randomness, or the name cannot stand in a certificate.
    pub fn generate(common_name: &str) -> Result<Self, AuthorityError> {
        Self::make(common_name).map(|(authority, _key)| authority)
    }

    /// Makes a root authority and keeps it in two new files, the key readable by its owner only.
    ///
    /// # Errors
    ///
    /// When a file exists already or cannot be written.
    pub fn create_files(
        common_name: &str,
        certificate: &Path,
        key: &Path,
    ) -> Result<Self, AuthorityError> {
        let (authority, key_pem) = Self::make(common_name)?;
        // The key first: a certificate without its key is of no use to anyone.
        write_new(key, key_pem.as_bytes(), 0o600)?;
        write_new(certificate, authority.root_pem().as_bytes(), 0o644)?;
        Ok(authority)
    }

    /// Puts together an authority from a chain and any signer.
    ///
    /// `what` names the source in errors.
    ///
    /// # Errors
    ///
    /// When the first certificate is no CA that is valid at `now` and whose key is the signer's.
    pub fn from_parts(
        what: &str,
        chain: Vec<CertificateDer<'static>>,
        signer: Arc<dyn Signer>,
        now: UnixTime,
    ) -> Result<Self, AuthorityError> {
        let what = || what.to_owned();
        let Some(first) = chain.first() else {
            return Err(AuthorityError::NoCertificate { what: what() });
        };
        let certificate = check_certificate(first, now, &what)?;
        if certificate.public_key().subject_public_key.data != signer.public_key() {
            return Err(AuthorityError::KeyMismatch { what: what() });
        }
        let not_before = certificate.validity().not_before.timestamp();
        let not_after = certificate.validity().not_after.timestamp();
        let subject = certificate.subject().as_raw().to_vec();

        let may_have_intermediates = certificate
            .basic_constraints()
            .ok()
            .flatten()
            .is_some_and(|found| found.value.path_len_constraint.is_none_or(|most| most > 0));

        let issuer = Issuer::from_ca_cert_der(first, SignerKey(Arc::clone(&signer)))
            .map_err(|_opaque| AuthorityError::UnsupportedSubject { what: what() })?;
        // The writer encodes the issuer's name anew. Clients compare the encodings, so a trial
        // leaf shows at the start, and not at the first connection, whether they are equal. The
        // trial is signed with a key of its own: the signer may be far away.
        let probe = KeyPair::generate().map_err(AuthorityError::Generate)?;
        let trial = Issuer::from_ca_cert_der(first, &probe)
            .map_err(|_opaque| AuthorityError::UnsupportedSubject { what: what() })?;
        let leaf = CertificateParams::default()
            .signed_by(&probe, &trial)
            .map_err(AuthorityError::Generate)?;
        let same_name = X509Certificate::from_der(leaf.der())
            .is_ok_and(|(_, leaf)| leaf.issuer().as_raw() == subject.as_slice());
        if !same_name {
            return Err(AuthorityError::UnsupportedSubject { what: what() });
        }
        Ok(Self {
            chain,
            issuer,
            signer,
            not_before,
            not_after,
            may_have_intermediates,
        })
    }

    /// The topmost certificate that is known, in PEM: what clients install as their root.
    #[must_use]
    pub fn root_pem(&self) -> String {
        self.chain
            .last()
            .map_or_else(String::new, |root| pem("CERTIFICATE", root))
    }

    /// The issuing certificate.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// What is sent after a leaf: everything up to, and without, a self-signed root, which
    /// clients have already (RFC 8446 §4.4.2).
    pub fn chain_to_send(&self) -> impl Iterator<Item = CertificateDer<'static>> + '_ {
        self.chain
            .iter()
            .filter(|certificate| !is_self_issued(certificate))
            .cloned()
    }

    /// When the issuing certificate is valid: `notBefore` and `notAfter` in seconds since 1970.
    #[must_use]
    pub fn validity(&self) -> (i64, i64) {
        (self.not_before, self.not_after)
    }

    /// The public key of the issuing certificate, as in its SubjectPublicKeyInfo's BIT STRING.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.signer.public_key()
    }

    pub(crate) fn signs_slowly(&self) -> bool {
        self.signer.is_slow()
    }

    pub(crate) fn sign(
        &self,
        leaf: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        leaf.signed_by(key, &self.issuer).map(Into::into)
    }

    /// The authority and its private key in PEM.
    fn make(common_name: &str) -> Result<(Self, Zeroizing<String>), AuthorityError> {
        let now = UnixTime::now();
        let pair = KeyPair::generate().map_err(AuthorityError::Generate)?;
        let certificate = root_params(common_name, now)
            .self_signed(&pair)
            .map_err(AuthorityError::Generate)?;
        let key_pem = Zeroizing::new(pair.serialize_pem());
        let authority = Self::from_parts(
            &format!("the new root {common_name:?}"),
            vec![certificate.into()],
            Arc::new(LocalSigner::new(pair)),
            now,
        )?;
        Ok((authority, key_pem))
    }
}

/// A root leaves room for the intermediate that signs leaves.
fn root_params(common_name: &str, now: UnixTime) -> CertificateParams {
    let at =
        OffsetDateTime::from_unix_timestamp(seconds(now)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at.saturating_sub(ROOT_BACKDATE);
    params.not_after = at.saturating_add(ROOT_LIFETIME);
    params
}

fn read_chain(certificates: &Path) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
    let pem = read(certificates)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| AuthorityError::Pem {
            path: certificates.to_owned(),
            reason: error.to_string(),
        })?;
    Ok(chain)
}

/// Whole seconds since 1970, as X.509 counts.
pub(crate) fn seconds(at: UnixTime) -> i64 {
    i64::try_from(at.as_secs()).unwrap_or(i64::MAX)
}

fn check_certificate<'a>(
    der: &'a CertificateDer<'_>,
    now: UnixTime,
    what: &dyn Fn() -> String,
) -> Result<X509Certificate<'a>, AuthorityError> {
    let bad = |reason: String| AuthorityError::BadCertificate {
        what: what(),
        reason,
    };
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| bad(error.to_string()))?;
    if !rest.is_empty() {
        return Err(bad("bytes after the certificate".to_owned()));
    }
    let constraints = certificate
        .basic_constraints()
        .map_err(|error| bad(error.to_string()))?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(AuthorityError::NotCa { what: what() });
    }
    let usage = certificate
        .key_usage()
        .map_err(|error| bad(error.to_string()))?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(AuthorityError::MayNotSign { what: what() });
    }
    if certificate
        .subject()
        .iter()
        .any(|part| part.iter().count() != 1)
    {
        return Err(AuthorityError::UnsupportedSubject { what: what() });
    }
    let validity = certificate.validity();
    let now = seconds(now);
    if now > validity.not_after.timestamp() {
        return Err(AuthorityError::Expired {
            what: what(),
            at: validity.not_after.to_string(),
        });
    }
    if now < validity.not_before.timestamp() {
        return Err(AuthorityError::NotYetValid {
            what: what(),
            at: validity.not_before.to_string(),
        });
    }
    Ok(certificate)
}

fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    fs::read(path).map_err(|source| AuthorityError::Read {
        path: path.to_owned(),
        source,
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    // The mode is given at creation: there is no moment in which others can open the file.
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(|source| AuthorityError::Write {
            path: path.to_owned(),
            source,
        })
}

/// Warns of a file with a secret (`what`) that others can read.
pub fn warn_if_open(path: &Path, what: &str) {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(path = %path.display(), "{what} can be read by others: chmod 600 the file");
    }
}

/// RFC 7468 §5.1.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    // §2: lines of 64 characters.
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests;
