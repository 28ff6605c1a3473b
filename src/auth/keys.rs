//! The identity that signs access tokens.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};

/// The first byte of a stored identity; another form gets another number.
const VERSION: u8 = 1;

/// A signing key and the certificate that other verifiers know it by. It holds a private key and
/// therefore has no `Debug`.
#[derive(Clone)]
pub struct Identity {
    /// ECDSA P-256 private key, PKCS #8, DER.
    pub key_pkcs8: Vec<u8>,
    /// Self-signed certificate of that key, X.509, DER.
    pub certificate_der: Vec<u8>,
}

/// An identity as stored. Apart from [`Identity`], so that the key is never serialized elsewhere
/// by accident.
#[derive(Serialize, Deserialize)]
struct Stored {
    key_pkcs8: Vec<u8>,
    certificate_der: Vec<u8>,
}

impl Identity {
    /// The form in which an identity is kept in a file that only its owner may read.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let stored = Stored {
            key_pkcs8: self.key_pkcs8.clone(),
            certificate_der: self.certificate_der.clone(),
        };
        postcard::to_extend(&stored, vec![VERSION]).map_err(|error| error.to_string())
    }

    /// Reads what [`Identity::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Identity, String> {
        let (version, body) = bytes.split_first().ok_or("the file is empty")?;
        if *version != VERSION {
            return Err(format!("the file is of unknown version {version}"));
        }
        let stored: Stored = postcard::from_bytes(body).map_err(|error| error.to_string())?;
        let Stored { key_pkcs8, certificate_der } = stored;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key_pkcs8, &random)
            .map_err(|error| error.to_string())?;
        let point = key.public_key().as_ref();
        if !certificate_der.windows(point.len()).any(|part| part == point) {
            return Err("the certificate is that of another key".to_owned());
        }
        Ok(Identity { key_pkcs8, certificate_der })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_a_restart() {
        let identity = make().unwrap();
        let bytes = identity.to_bytes().unwrap();
        let again = Identity::from_bytes(&bytes).unwrap();
        assert!(again.key_pkcs8 == identity.key_pkcs8);
        assert!(again.certificate_der == identity.certificate_der);
        assert!(Identity::from_bytes(&[]).is_err());
        assert!(Identity::from_bytes(&[9, 0]).is_err());
        assert!(Identity::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    }
}
