//! TLS as a server: certificates that can change while we run, and an identity of our own.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use futures_rustls::rustls;
use futures_rustls::server::TlsStream;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::prepared::{PLAIN_ON_TLS, write_once};
use crate::http::wire::certificates::{TlsTime, certificates, provider, roots, sha256};
use crate::sys::net::Stream;
use crate::sys::{Clock, Sys};

/// First byte of a TLS connection: a record of type handshake (RFC 8446 section 5.1).
pub(super) const HANDSHAKE_RECORD: u8 = 22;
/// Longest common name of a certificate, characters (RFC 5280, ub-common-name).
const COMMON_NAME_MAX: usize = 64;
/// What a server shows its clients, and whom it lets in. Never printed.
pub struct ServerTls {
    /// The certificate and its chain, PEM, the server's own first.
    pub certificate_pem: Vec<u8>,
    /// Its private key, PEM (PKCS#8, PKCS#1 or SEC1).
    pub key_pem: Vec<u8>,
    /// With this, only clients with a certificate from one of these authorities get in, PEM.
    pub client_ca_pem: Option<Vec<u8>>,
}

/// Accepts TLS connections; a clone shares the certificate and its replacement.
#[derive(Clone)]
pub struct TlsAcceptor {
    config: Arc<RwLock<Arc<ServerConfig>>>,
    clock: Arc<dyn Clock>,
}

impl TlsAcceptor {
    /// Checks certificate and key. The error says in words what is wrong with them.
    pub fn new(sys: &Sys, tls: &ServerTls) -> Result<TlsAcceptor, String> {
        let config = server_config(sys.clock.clone(), tls)?;
        Ok(TlsAcceptor { config: Arc::new(RwLock::new(config)), clock: sys.clock.clone() })
    }

    /// Takes another certificate for the connections from now on; after an error the old one
    /// stays.
    pub fn reload(&self, tls: &ServerTls) -> Result<(), String> {
        let config = server_config(self.clock.clone(), tls)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Shakes hands. A client that speaks plain HTTP is told so.
    pub(super) async fn accept(&self, mut stream: Stream) -> io::Result<TlsStream<Stream>> {
        let mut first = [0];
        let peeked = stream.peek(&mut first).await?;
        if peeked > 0 && first[0].is_ascii_uppercase() && first[0] != HANDSHAKE_RECORD {
            write_once(&mut stream, PLAIN_ON_TLS).await;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP on a TLS port"));
        }
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        futures_rustls::TlsAcceptor::from(config).accept(stream).await
    }
}

fn server_config(clock: Arc<dyn Clock>, tls: &ServerTls) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates(&tls.certificate_pem).map_err(|e| format!("certificate: {e}"))?;
    let key = private_key(&tls.key_pem)?;
    let provider = provider();
    let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(TlsTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &tls.client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let roots = Arc::new(roots(pem).map_err(|error| format!("client CA: {error}"))?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| format!("client CA: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            "the private key does not belong to the certificate, which must come first in its \
             file: give the key that it was made with (`openssl x509 -in CERTIFICATE -noout \
             -pubkey` and `openssl pkey -in KEY -pubout` print the same then)"
                .to_owned()
        }
        error => format!("certificate and private key: {error}"),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The private key in a PEM text; the error says what helps.
fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let text = String::from_utf8_lossy(pem);
    if ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"].iter().any(|m| text.contains(m)) {
        return Err("the private key is encrypted, and nobody is there to type its passphrase: \
                    decrypt it (`openssl pkey -in KEY -out PLAIN_KEY`), and let nobody but the \
                    user that runs skerry read that file"
            .to_owned());
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => {
            "the file has no private key in PEM: it needs a block BEGIN PRIVATE KEY, BEGIN RSA \
             PRIVATE KEY or BEGIN EC PRIVATE KEY"
                .to_owned()
        }
        error => format!("the private key is not valid PEM: {error}"),
    })
}

/// SHA-256 of each certificate in a PEM text, lower-case hex, in order: what a client pins.
pub fn fingerprints(pem: &[u8]) -> Result<Vec<String>, String> {
    Ok(certificates(pem)?.iter().map(|der| hex(&sha256(der))).collect())
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// A certificate that signs itself, and its key. Never printed.
pub struct Identity {
    /// PEM.
    pub certificate_pem: String,
    /// PEM (PKCS#8).
    pub key_pem: String,
}

/// Makes an identity for these DNS names and IP addresses. It is valid from 1970 to 9999,
/// because the clock of a device is often wrong when it first starts.
pub fn self_signed(names: &[String]) -> Result<Identity, String> {
    let fail = |error: rcgen::Error| format!("cannot make a certificate: {error}");
    let mut params = CertificateParams::new(names).map_err(fail)?;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let name = format!("skerry {}", names.first().map_or("", String::as_str));
    let name: String = name.chars().take(COMMON_NAME_MAX).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.trim_end());
    let key = KeyPair::generate().map_err(fail)?;
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Spawner;

    fn tls(certificate: &Identity, key: &Identity) -> ServerTls {
        ServerTls {
            certificate_pem: certificate.certificate_pem.clone().into_bytes(),
            key_pem: key.key_pem.clone().into_bytes(),
            client_ca_pem: None,
        }
    }

    #[test]
    fn a_wrong_key_is_refused_and_the_old_certificate_stays() {
        let sys = Sys::real(Spawner::new());
        let one = self_signed(&["localhost".into(), "127.0.0.1".into()]).unwrap();
        let two = self_signed(&["localhost".into()]).unwrap();
        let acceptor = TlsAcceptor::new(&sys, &tls(&one, &one)).unwrap();
        let text = acceptor.reload(&tls(&one, &two)).unwrap_err();
        assert!(text.contains("does not belong"), "{text}");
        let mut empty = tls(&one, &one);
        empty.certificate_pem = b"nothing".to_vec();
        let text = acceptor.reload(&empty).unwrap_err();
        assert!(text.contains("no certificate"), "{text}");
        acceptor.reload(&tls(&two, &two)).unwrap();
        assert_eq!(fingerprints(one.certificate_pem.as_bytes()).unwrap()[0].len(), 64);
    }
}
