//! TLS between a king and its peers: version 1.3 alone, HTTP/2 alone, and a king that is known by its key.
//!
//! There are no certificate authorities and no names: a king's certificate says nothing but its key, and a peer has the
//! key's fingerprint from its token.

use std::sync::{Arc, OnceLock};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    server::ParsedCertificate,
    version::TLS13,
};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::fingerprint::Fingerprint;

/// The only protocol within TLS.
pub const HTTP_2: &[u8] = b"h2";

static VERSIONS: [&SupportedProtocolVersion; 1] = [&TLS13];

/// The fingerprint of the key in a certificate.
///
/// # Errors
///
/// When it is not a certificate.
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Fingerprint(Sha256::digest(&key).into()))
}

/// The settings of a king with this certificate and its key.
///
/// # Errors
///
/// When the key is not that of the certificate, or cannot be used.
pub fn server_config(
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS)?;
    let mut config = builder.with_no_client_auth().with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    // A peer that resumed a session would not look at the key.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The settings of a peer that connects to the king with this fingerprint, and what it then finds.
///
/// # Errors
///
/// None in practice: the versions and ciphers are those that this program was built with.
pub(crate) fn client_config(wanted: Fingerprint) -> Result<(ClientConfig, Arc<Pin>), Error> {
    let pin = Arc::new(Pin { wanted, found: OnceLock::new(), provider: provider() });
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS)?;
    let verifier = Arc::<Pin>::clone(&pin);
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok((config, pin))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Accepts the one key that it wants, and remembers another one that it found.
#[derive(Debug)]
pub(crate) struct Pin {
    wanted: Fingerprint,
    found: OnceLock<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

/// The king has another key.
#[derive(Clone, Copy, Debug, Error)]
#[error("its key is {found}, and the token wants {wanted}")]
pub struct OtherKey {
    /// The fingerprint of the king that answered.
    pub found: Fingerprint,
    /// The fingerprint in the token.
    pub wanted: Fingerprint,
}

impl Pin {
    /// The other key that was found.
    pub(crate) fn other_key(&self) -> Option<OtherKey> {
        self.found.get().map(|found| OtherKey { found: *found, wanted: self.wanted })
    }
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = fingerprint_of(end_entity)?;
        if found == self.wanted {
            return Ok(ServerCertVerified::assertion());
        }
        let error = OtherKey { found, wanted: self.wanted };
        // A handshake has one certificate.
        let _first = self.found.set(found);
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
