//! TLS as a client: whom it believes.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures_rustls::TlsConnector;
use futures_rustls::rustls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::http::wire::certificates::{TlsTime, is_of_authority, provider, roots, sha256};
use crate::sys::Clock;

/// Sessions kept for resumption: few peers, so few.
const SESSIONS_MAX: usize = 16;
/// A chain holds few certificates, each of which may begin later than the one before.
const NOT_BEFORE_STEPS_MAX: usize = 4;

/// How a client reaches its peers.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// PEM certificates that are trusted beside the public roots, or beside the fingerprint.
    pub ca_pem: Option<Vec<u8>>,
    /// SHA-256 of a CA certificate that is trusted when the peer presents it in its chain: hex,
    /// optionally after `sha256:`. With it the public roots are not trusted.
    pub ca_fingerprint: Option<String>,
}

/// Makes the connector of a client. With a fingerprint, the public roots are not trusted: a
/// device that knows its parent's authority believes nobody else.
pub(super) fn connector(
    clock: Arc<dyn Clock>,
    options: ClientOptions,
) -> Result<TlsConnector, String> {
    let ClientOptions { ca_pem, ca_fingerprint } = options;
    let provider = provider();
    let mut store = RootCertStore::empty();
    if let Some(pem) = ca_pem {
        store = roots(&pem).map_err(|error| format!("CA certificates: {error}"))?;
    }
    let pin = ca_fingerprint.as_deref().map(parse_fingerprint).transpose()?;
    if pin.is_none() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let known = if store.is_empty() { None } else { Some(verifier(store, &provider)?) };
    let trust = Trust { known, pin, provider: provider.clone(), clock: clock.clone() };
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(TlsTime(clock)))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(TlsConnector::from(Arc::new(config)))
}

/// 64 hex digits of either case, optionally after `sha256:`, optionally with colons between.
fn parse_fingerprint(text: &str) -> Result<[u8; 32], String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text).replace(':', "");
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(digits.as_bytes())
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "a CA fingerprint is the SHA-256 of a certificate: 64 hex digits".into())
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| error.to_string())
}

/// Believes chains under known roots and, if there is a pin, chains under the certificate with
/// that SHA-256 that the peer itself presents. Signatures, names, purposes and dates are always
/// checked by webpki; only the choice of the root is ours.
struct Trust {
    known: Option<Arc<WebPkiServerVerifier>>,
    pin: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

impl Trust {
    fn check(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut result = Err(Error::InvalidCertificate(CertificateError::UnknownIssuer));
        if let Some(known) = &self.known {
            result = known.verify_server_cert(own, chain, name, &[], now);
        }
        let (Err(_), Some(pin)) = (&result, self.pin) else { return result };
        let pinned = std::iter::once(own).chain(chain).find(|der| sha256(der) == pin);
        let Some(pinned) = pinned else { return result };
        let mut store = RootCertStore::empty();
        store.add(pinned.clone().into_owned())?;
        verifier(store, &self.provider).map_err(Error::General)?.verify_server_cert(
            own,
            chain,
            name,
            &[],
            now,
        )
    }
}

impl ServerCertVerifier for Trust {
    /// While the clock is unknown, a certificate that is "not valid yet" is judged as of its own
    /// first day: a device that starts in 1970 could otherwise never reach its parent.
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut now = now;
        for _ in 0..NOT_BEFORE_STEPS_MAX {
            let result = self.check(own, chain, name, now);
            match result {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                    not_before,
                    ..
                })) if !self.clock.is_set() && not_before > now => now = not_before,
                result => return result,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What is wrong with a handshake, and what helps; `is_pinned`: the client knows a fingerprint.
pub(super) fn explain(host: &str, error: &io::Error, is_pinned: bool) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    let Some(cause) = cause else { return format!("no TLS connection to {host}: {error}") };
    let text = match cause {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if is_pinned => {
            "its certificate is not the one that ParentCaFingerprint in the connection string \
             names: if the parent has another one now, write the caFingerprint that `skerry \
             status` shows there into the connection string (of a root, `skerry \
             connected-registry get-settings` prints it), or set `[parent] ca_file` to the \
             certificate of its authority; otherwise somebody else answers there"
                .to_owned()
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate comes from an authority that is not trusted here; set `[parent] \
             ca_file` to the certificate of that authority, or, if the parent made it itself, \
             append ;ParentCaFingerprint= and the caFingerprint that `skerry status` shows there \
             to the connection string"
                .to_owned()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("its certificate is for another name ({cause})"),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => format!("its certificate has expired, or our clock is ahead ({cause})"),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => format!("its certificate is not valid yet, or our clock is behind ({cause})"),
        cause if is_of_authority(cause) => {
            "its certificate is that of an authority (CA:TRUE), which cannot be a server's: make \
             one there with basicConstraints = CA:FALSE, or let that authority sign it"
                .to_owned()
        }
        Error::InvalidMessage(_) => "it does not speak TLS on this port; try http://".to_owned(),
        cause => cause.to_string(),
    };
    format!("no TLS connection to {host}: {text}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;
    use crate::http::wire::certificates::certificates;
    use crate::sys::clock::EARLIEST_TIME;
    use crate::types::UnixSeconds;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    struct FixedClock(Option<u64>);

    impl Clock for FixedClock {
        fn wall(&self) -> Option<UnixSeconds> {
            self.0.map(UnixSeconds)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// A CA, and a certificate that it signed for `localhost`, valid between these years.
    fn chain(from: i32, to: i32) -> (CertificateDer<'static>, CertificateDer<'static>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_params(&params, &key);
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let own = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        (ca.der().clone(), own.der().clone())
    }

    fn trust(pin: [u8; 32], wall: Option<u64>) -> Trust {
        let clock = Arc::new(FixedClock(wall));
        Trust { known: None, pin: Some(pin), provider: provider(), clock }
    }

    const NOW: u64 = EARLIEST_TIME.0 + 1000;

    #[test]
    fn a_pin_is_a_root_and_not_a_bypass() {
        let (ca, own) = chain(2000, 2080);
        let (other_ca, other_own) = chain(2000, 2080);
        let name = ServerName::try_from("localhost").unwrap();
        let pinned = trust(sha256(&ca), Some(NOW));
        let check = |own, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now| {
            pinned.verify_server_cert(own, chain, name, &[], at(now)).is_ok()
        };
        let both = [ca.clone()];
        assert!(check(&own, &both, &name, NOW));
        assert!(!check(&own, &[], &name, NOW), "the pinned certificate is not presented");
        // A stranger presents the pinned certificate, which is public, with his own.
        assert!(!check(&other_own, &both, &name, NOW));
        assert!(!check(&other_own, &[other_ca.clone(), ca.clone()], &name, NOW));
        assert!(!check(&other_own, &[other_ca], &name, NOW));
        assert!(!check(&own, &both, &ServerName::try_from("elsewhere").unwrap(), NOW));
        assert!(!check(&own, &both, &name, 4_000_000_000), "expired");
    }

    #[test]
    fn a_self_signed_certificate_can_be_pinned() {
        let identity = crate::http::server::tls::self_signed(&["localhost".to_owned()]).unwrap();
        let own = certificates(identity.certificate_pem.as_bytes()).unwrap().remove(0);
        let name = ServerName::try_from("localhost").unwrap();
        let pinned = trust(sha256(&own), Some(NOW));
        pinned.verify_server_cert(&own, &[], &name, &[], at(NOW)).unwrap();
    }

    #[test]
    fn an_unknown_clock_accepts_a_later_beginning_and_no_earlier_end() {
        let (ca, own) = chain(2080, 2090);
        let name = ServerName::try_from("localhost").unwrap();
        let floor = EARLIEST_TIME.0;
        let check = |trust: &Trust, own, ca| {
            trust.verify_server_cert(own, &[ca], &name, &[], at(floor)).is_ok()
        };
        assert!(check(&trust(sha256(&ca), None), &own, ca.clone()));
        assert!(!check(&trust(sha256(&ca), Some(floor)), &own, ca));
        let (ca, own) = chain(2000, 2020);
        assert!(!check(&trust(sha256(&ca), None), &own, ca), "ended before the floor");
    }

    #[test]
    fn fingerprints_in_their_spellings() {
        let hex = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        for text in [hex.clone(), format!("sha256:{hex}"), hex.to_uppercase(), colons] {
            assert_eq!(parse_fingerprint(&text), Ok([0xab; 32]), "{text}");
        }
        for text in ["", "ab", "sha256:", "zz", &hex[1..]] {
            assert!(parse_fingerprint(text).is_err(), "{text}");
        }
    }
}
