//! What an operator wants to know about a root certificate.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::AuthorityError;
use crate::signer::RemoteKey;

/// Reads the first certificate of a PEM file and says, in lines, what it is: subject, validity,
/// key, room for intermediates, and the SHA-256 fingerprint that other tools show.
///
/// # Errors
///
/// When the file cannot be read or holds no certificate.
pub fn describe_certificate(file: &Path) -> Result<String, AuthorityError> {
    let what = || file.display().to_string();
    let pem = std::fs::read(file).map_err(|source| AuthorityError::Read {
        path: file.to_owned(),
        source,
    })?;
    let Some(first) = CertificateDer::pem_slice_iter(&pem).next() else {
        return Err(AuthorityError::NoCertificate { what: what() });
    };
    let der = first.map_err(|error| AuthorityError::Pem {
        path: file.to_owned(),
        reason: error.to_string(),
    })?;
    let (_, certificate) =
        X509Certificate::from_der(&der).map_err(|error| AuthorityError::BadCertificate {
            what: what(),
            reason: error.to_string(),
        })?;
    let key = match RemoteKey::of_parsed(certificate.public_key()) {
        Some((RemoteKey::EcdsaP256, _)) => "ECDSA P-256",
        Some((RemoteKey::EcdsaP384, _)) => "ECDSA P-384",
        Some((RemoteKey::Rsa, _)) => "RSA",
        None => "other",
    };
    let constraints = certificate.basic_constraints().ok().flatten();
    let authority = match constraints.map(|found| found.value) {
        Some(found) if found.ca => match found.path_len_constraint {
            None => "yes, with any number of intermediates".to_owned(),
            Some(0) => "yes, without intermediates".to_owned(),
            Some(most) => format!("yes, with at most {most} intermediate(s) in a row"),
        },
        _ => "no".to_owned(),
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let fingerprint: Vec<String> = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    let lines = [
        format!("subject      {}", certificate.subject()),
        format!("issuer       {}", certificate.issuer()),
        format!("not before   {}", certificate.validity().not_before),
        format!("not after    {}", certificate.validity().not_after),
        format!("key          {key}"),
        format!("authority    {authority}"),
        format!("sha-256      {}", fingerprint.join(":")),
    ];
    // Names in a certificate are anyone's text; a terminal must not obey it.
    let plain = lines.map(|line| line.replace(char::is_control, "?"));
    Ok(plain.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_described_with_its_name_and_what_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        crate::Authority::create_files("A Root", &path("ca.pem"), &path("ca.key")).unwrap();
        let text = describe_certificate(&path("ca.pem")).unwrap();
        assert!(text.contains("subject      CN=A Root\n"), "{text}");
        assert!(text.contains("key          ECDSA P-256\n"), "{text}");
        assert!(text.contains("at most 1 intermediate"), "{text}");
        let error = describe_certificate(&path("ca.key")).unwrap_err();
        assert!(error.to_string().contains("no certificate"), "{error}");
    }
}
