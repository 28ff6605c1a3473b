//! The identity that signs access tokens.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};

/// A signing key and the certificate that other verifiers know it by. It holds a private key and
/// therefore has no `Debug`.
#[derive(Clone)]
pub struct Identity {
    /// ECDSA P-256 private key, PKCS #8, DER.
    pub key_pkcs8: Vec<u8>,
    /// Self-signed certificate of that key, X.509, DER.
    pub certificate_der: Vec<u8>,
}

/// Makes an identity for a first start. The certificate never expires, because a device may not
/// know the time; whoever trusts it trusts the key.
pub fn make() -> Result<Identity, String> {
    let failed = |error: rcgen::Error| format!("cannot make a token-signing key: {error}");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "skerry token signing");
    params.distinguished_name = name;
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Identity { key_pkcs8: key.serialize_der(), certificate_der: certificate.der().to_vec() })
}
