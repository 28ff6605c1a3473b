//! TLS on both sides: a certificate that can be exchanged while serving, a self-signed identity,
//! and trust in public roots, a private authority, or one pinned certificate.

use std::io;
use std::sync::{Arc, Mutex};

use futures_rustls::rustls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::client::ClientOptions;
use crate::sys::net::Stream;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A certificate chain and its key, PEM.
pub struct Identity {
    /// The chain, the node's own certificate first.
    pub certificate_pem: Vec<u8>,
    /// The private key. Never logged.
    pub private_key_pem: Vec<u8>,
}

/// Accepts TLS connections; a clone shares the certificate.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<Mutex<Arc<rustls::ServerConfig>>>,
}

impl TlsAcceptor {
    /// An acceptor with this identity. The error names what is wrong with it.
    pub fn new(identity: &Identity) -> Result<TlsAcceptor, String> {
        Ok(TlsAcceptor { config: Arc::new(Mutex::new(server_config(identity)?)) })
    }

    /// Serves new connections with another identity; on an error the old one stays.
    pub fn reload(&self, identity: &Identity) -> Result<(), String> {
        let config = server_config(identity)?;
        if let Ok(mut current) = self.config.lock() {
            *current = config;
        }
        Ok(())
    }

    pub(super) async fn accept(
        &self,
        stream: Stream,
    ) -> io::Result<futures_rustls::server::TlsStream<Stream>> {
        let config = self.config.lock().map_err(|_| io::Error::other("poisoned"))?.clone();
        futures_rustls::TlsAcceptor::from(config).accept(stream).await
    }
}

fn server_config(identity: &Identity) -> Result<Arc<rustls::ServerConfig>, String> {
    let chain = certificates(&identity.certificate_pem)?;
    let key = PrivateKeyDer::from_pem_slice(&identity.private_key_pem)
        .map_err(|error| format!("the private key cannot be read: {error}"))?;
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("the certificate and the key do not fit: {error}"))?;
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| format!("a certificate cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err("there is no certificate in the PEM file".to_owned());
    }
    Ok(chain)
}

/// Makes a self-signed identity for these host names and addresses. It is valid from 1970 to 9999,
/// because a device may start without a clock.
pub fn self_signed(names: &[String]) -> Result<Identity, String> {
    let explain = |error: rcgen::Error| format!("cannot make a certificate: {error}");
    let mut params = rcgen::CertificateParams::new(names.to_vec()).map_err(explain)?;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.distinguished_name = rcgen::DistinguishedName::new();
    let common_name = names.first().map_or("skerry", String::as_str);
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    let key = rcgen::KeyPair::generate().map_err(explain)?;
    let certificate = params.self_signed(&key).map_err(explain)?;
    Ok(Identity {
        certificate_pem: certificate.pem().into_bytes(),
        private_key_pem: key.serialize_pem().into_bytes(),
    })
}

/// `SHA-256` of the last certificate of a PEM chain: what a device pins, as hex.
pub fn fingerprint(certificate_pem: &[u8]) -> Result<String, String> {
    let chain = certificates(certificate_pem)?;
    let last = chain.last().ok_or("there is no certificate")?;
    Ok(hex_sha256(last))
}

fn hex_sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    data_encoding::HEXLOWER.encode(digest.as_ref())
}

/// How a client of ours trusts its peers.
pub(super) fn client_config(options: &ClientOptions) -> Result<Arc<rustls::ClientConfig>, String> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = if let Some(fingerprint) = &options.ca_fingerprint {
        let pinned = Pinned { fingerprint: fingerprint.to_ascii_lowercase() };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
    } else {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for certificate in options.ca_pem.iter().map(|pem| certificates(pem)) {
            for certificate in certificate? {
                let added = roots.add(certificate);
                added.map_err(|error| format!("a CA certificate cannot be used: {error}"))?;
            }
        }
        builder.with_root_certificates(roots)
    };
    Ok(Arc::new(config.with_no_client_auth()))
}

/// Trusts the chains that hold one certificate, known by its fingerprint, as if it were the only
/// root: signatures, times and the host name are still checked.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut presented = intermediates.iter().chain([end_entity]);
        let pinned = presented
            .find(|certificate| hex_sha256(certificate) == self.fingerprint)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
