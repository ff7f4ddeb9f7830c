//! TLS 1.3 by keys alone: each side presents a certificate, and is known by the key in it. No CA, no names, no expiry,
//! no clock, and no resumption: a ticket would let a revoked key in without asking.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
};

use super::key::{KeyPair, fingerprint_of};
use super::keyring::Keyring;
use crate::core::id::Fingerprint;

/// Protocol of a connection of somebody who is known.
pub const ALPN_WORK: &[u8] = b"clusterctl/1";
/// Protocol of a key that wants to become known.
pub const ALPN_ENROL: &[u8] = b"clusterctl-enroll/1";

/// As much of a fingerprint as a token has.
const NAMED_BYTES: usize = 16;
/// Behind that in a server's name: a domain that nobody has.
const NAME_SUFFIX: &str = ".clusterctl.invalid";

/// Tells whether a key is let in. Asked at each handshake.
pub type Admits = Arc<dyn Fn(&Fingerprint) -> bool + Send + Sync>;

/// The key that a server must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This very key.
    Key(Fingerprint),
    /// A key whose fingerprint begins so: what a token knows.
    Prefix([u8; 16]),
    /// Any key that it proves to hold: to look at, never to speak to.
    Anyone,
}

impl Expected {
    fn fits(&self, presented: &Fingerprint) -> bool {
        match self {
            Expected::Key(key) => key == presented,
            Expected::Prefix(prefix) => presented.0.starts_with(prefix),
            Expected::Anyone => true,
        }
    }
}

/// A server's key was another than the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherKey {
    /// What it presented.
    pub presented: Fingerprint,
}

impl fmt::Display for OtherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server presented the key {}", self.presented)
    }
}

impl std::error::Error for OtherKey {}

/// For connections of keys that are known.
///
/// # Errors
/// When no TLS can be spoken.
pub fn work_config(keys: Arc<Keyring>, admits: Admits) -> Result<ServerConfig, Error> {
    server_config(keys, admits, ALPN_WORK)
}

/// For keys that want to become known: any is heard.
///
/// # Errors
/// When no TLS can be spoken.
pub fn enrol_config(keys: Arc<Keyring>) -> Result<ServerConfig, Error> {
    server_config(keys, Arc::new(|_| true), ALPN_ENROL)
}

fn server_config(keys: Arc<Keyring>, admits: Admits, alpn: &[u8]) -> Result<ServerConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(ClientKeys { provider: Arc::clone(&provider), admits });
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(NoTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(keys);
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// For dialling a pool.
///
/// # Errors
/// When the key cannot be used.
pub fn client_config(key: &KeyPair, expected: Expected, alpn: &[u8]) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(ServerKey { provider: Arc::clone(&provider), expected });
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(NoTime))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(key.chain(), key.private())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = expected != Expected::Anyone;
    Ok(config)
}

/// What a server is called by whoever expects a key of it: by that a pool that had another key before knows by which one
/// it is meant. No name of a host, and looked up nowhere.
pub fn server_name(expected: Expected) -> ServerName<'static> {
    let start = match expected {
        Expected::Key(key) => key.0[..NAMED_BYTES].to_vec(),
        Expected::Prefix(prefix) => prefix.to_vec(),
        Expected::Anyone => Vec::new(),
    };
    let name = format!("{}{NAME_SUFFIX}", data_encoding::HEXLOWER.encode(&start));
    ServerName::try_from(name.trim_start_matches('.').to_owned()).expect("hexadecimal digits are a name")
}

/// How the fingerprint of the key begins that a server's name means.
pub(super) fn meant_by(name: &str) -> Option<[u8; NAMED_BYTES]> {
    let start = data_encoding::HEXLOWER.decode(name.strip_suffix(NAME_SUFFIX)?.as_bytes()).ok()?;
    start.try_into().ok()
}

/// The key that a certificate is over.
pub(super) fn key_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    Ok(fingerprint_of(&ParsedCertificate::try_from(certificate)?.subject_public_key_info()))
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// rustls asks for the time, and nothing here depends on it: a machine whose clock stands before 1970 works as well.
#[derive(Debug)]
struct NoTime;

impl rustls::time_provider::TimeProvider for NoTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1)))
    }
}

/// What a handshake with a key fails by that is not let in. The peer reads it as the alert `access_denied`.
pub(super) const UNKNOWN_KEY: Error =
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);

struct ClientKeys {
    provider: Arc<CryptoProvider>,
    admits: Admits,
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKeys")
    }
}

impl ClientCertVerifier for ClientKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if (self.admits)(&key_of(end_entity)?) {
            return Ok(ClientCertVerified::assertion());
        }
        Err(UNKNOWN_KEY)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct ServerKey {
    provider: Arc<CryptoProvider>,
    expected: Expected,
}

impl ServerCertVerifier for ServerKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = key_of(end_entity)?;
        if self.expected.fits(&presented) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(OtherKey { presented })))))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
