//! Judges the server's certificate, and remembers what was wrong with it.

use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::fault::{CertificateFault, is_self_issued};

/// The verifier of one flow.
#[derive(Debug)]
pub(crate) struct FlowVerifier {
    chain: Arc<WebPkiServerVerifier>,
    /// False when the client sent no server name; see [`verify_server_cert`](ServerCertVerifier).
    check_name: bool,
    /// What the client said it can verify.
    schemes: Vec<SignatureScheme>,
    fault: Arc<OnceLock<CertificateFault>>,
    /// Go on with a certificate that is not believed; the fault is remembered all the same.
    lenient: bool,
}

impl FlowVerifier {
    pub(crate) fn new(
        chain: Arc<WebPkiServerVerifier>,
        check_name: bool,
        schemes: Vec<SignatureScheme>,
        fault: Arc<OnceLock<CertificateFault>>,
        lenient: bool,
    ) -> Self {
        Self {
            chain,
            check_name,
            schemes,
            fault,
            lenient,
        }
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
        let error = match self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Ok(verified) => return Ok(verified),
            Err(Error::InvalidCertificate(error)) => error,
            Err(other) => return Err(other),
        };
        // A client that sends no name checks for one that we cannot know. The chain is good at
        // this point (the name is looked at last), and the client sees the same names as in this
        // certificate, so its own check decides exactly as it would without us.
        if !self.check_name
            && matches!(
                error,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
            )
        {
            return Ok(ServerCertVerified::assertion());
        }
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

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(dss)?;
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_scheme(dss)?;
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
