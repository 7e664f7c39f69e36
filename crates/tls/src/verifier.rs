//! Judges the server's certificate, and remembers what was wrong with it.

mod staple;

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::fault::{CertificateFault, is_self_issued};

/// Whom to believe about servers, and what to look at beside their signatures.
#[derive(Debug)]
pub(crate) struct Trusted {
    pub(crate) chain: Arc<WebPkiServerVerifier>,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) stapled: bool,
}

/// The verifier of one session: of one flow, and of those that resume it.
#[derive(Debug)]
pub(crate) struct FlowVerifier {
    trusted: Arc<Trusted>,
    /// False when the client sent no server name; see [`verify_server_cert`](ServerCertVerifier).
    check_name: bool,
    /// What the client said it can verify.
    schemes: Vec<SignatureScheme>,
    fault: OnceLock<CertificateFault>,
    /// Go on with a certificate that is not believed; the fault is remembered all the same.
    lenient: bool,
}

impl FlowVerifier {
    pub(crate) fn new(
        trusted: Arc<Trusted>,
        check_name: bool,
        schemes: Vec<SignatureScheme>,
        lenient: bool,
    ) -> Self {
        Self {
            trusted,
            check_name,
            schemes,
            fault: OnceLock::new(),
            lenient,
        }
    }

    /// What was wrong with the certificate.
    pub(crate) fn fault(&self) -> Option<CertificateFault> {
        self.fault.get().copied()
    }

    /// Looks again at the chain of a session that was resumed, of which the handshake showed none: it may
    /// have expired meanwhile, or stand on a list.
    pub(crate) fn verify_again(
        &self,
        chain: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        self.judge(end_entity, intermediates, server_name, None, now)
            .map(drop)
    }

    /// `staple` is `None` where no answer can be expected.
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        staple: Option<&[u8]>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.trusted
                .chain
                .verify_server_cert(end_entity, intermediates, server_name, &[], now);
        let error = match verified {
            // A client that sends no name checks for one that we cannot know. The chain is good at
            // this point (the name is looked at last), and the client sees the same names as in this
            // certificate, so its own check decides exactly as it would without us.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => None,
            Ok(_) => None,
            Err(Error::InvalidCertificate(error)) => Some(error),
            Err(other) => return Err(other),
        };
        let error = error.or_else(|| {
            let staple = staple.filter(|_| self.trusted.stapled)?;
            staple::judge(end_entity, intermediates, staple, &self.trusted.roots, now)
        });
        let Some(error) = error else {
            return Ok(ServerCertVerified::assertion());
        };
        let mut fault = CertificateFault::from_verifier(&error);
        // To the chain builder a self-signed leaf is an issuer it does not know, or a CA
        // certificate where a server's is expected.
        if matches!(
            fault,
            CertificateFault::UnknownIssuer | CertificateFault::Other
        ) && is_self_issued(end_entity)
        {
            fault = CertificateFault::SelfSigned;
        }
        // The first verdict stands; there is one per handshake.
        let _first = self.fault.set(fault);
        // What cannot be read cannot be mirrored either.
        if self.lenient && fault != CertificateFault::BadEncoding {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(error))
    }

    /// The client would refuse a signature of a scheme that it did not offer, so we do as well.
    fn check_scheme(&self, signed: &DigitallySignedStruct) -> Result<(), Error> {
        if self.schemes.contains(&signed.scheme) {
            return Ok(());
        }
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }
}

impl ServerCertVerifier for FlowVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(
            end_entity,
            intermediates,
            server_name,
            Some(ocsp_response),
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(dss)?;
        self.trusted
            .chain
            .verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(dss)?;
        self.trusted
            .chain
            .verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
