//! What TLS takes on both sides: certificates, time and cryptography.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::rustls;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::sys::Clock;
use crate::sys::clock::EARLIEST_TIME;

/// The cryptography of every TLS connection, chosen here and nowhere by default.
pub(in crate::http) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates in a PEM text, in order; at least one.
pub(in crate::http) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not valid PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("the file has no certificate in PEM: it needs a block BEGIN CERTIFICATE".into());
    }
    Ok(certificates)
}

/// A store with the certificates in a PEM text.
pub(in crate::http) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("not a usable authority: {error}"))?;
    }
    Ok(roots)
}

/// Whether a certificate is refused as a server's because it is that of an authority.
pub(in crate::http) fn is_of_authority(error: &rustls::Error) -> bool {
    use rustls::{CertificateError, Error};
    match error {
        // rustls has no word of its own for this one.
        Error::InvalidCertificate(CertificateError::Other(cause)) => {
            format!("{cause:?}").contains("CaUsedAsEndEntity")
        }
        _ => false,
    }
}

/// SHA-256 of a certificate, DER.
pub(in crate::http) fn sha256(der: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, der).as_ref());
    hash
}

/// The wall clock as TLS sees it: of this machine, or else the earliest possible time. What a
/// parent has said must not keep a device from hearing of a better time.
pub(in crate::http) struct TlsTime(pub(in crate::http) Arc<dyn Clock>);

impl fmt::Debug for TlsTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTime")
    }
}

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        let now = if self.0.is_set() { self.0.wall_or_floor() } else { EARLIEST_TIME };
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now.0)))
    }
}
