//! Access tokens: JSON web tokens signed with ES256 (RFC 7515, RFC 7519; claims as in the
//! distribution token specification).

use data_encoding::{BASE32, BASE64, BASE64URL_NOPAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};

use super::keys::Identity;
use crate::types::scope::Access;
use crate::types::token::PasswordSlot;
use crate::types::{TokenName, UnixSeconds};

/// Longest access token that is looked at, bytes; a request head has no room for more.
const TOKEN_BYTES_MAX: usize = crate::types::limits::HEAD_BYTES_MAX;

/// What stands before the point of a P-256 public key in a SubjectPublicKeyInfo (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Which login a token stems from: it dies with that password.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    /// The token that logged in.
    pub(super) token: TokenName,
    /// With which of its passwords.
    pub(super) slot: PasswordSlot,
    /// The generation of that password.
    pub(super) generation: u32,
}

/// The claims of an access token.
#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: String,
    pub(super) exp: UnixSeconds,
    pub(super) nbf: UnixSeconds,
    pub(super) iat: UnixSeconds,
    pub(super) jti: String,
    pub(super) access: Vec<Access>,
    pub(super) roles: Vec<String>,
    pub(super) grant_type: String,
    pub(super) version: String,
    /// Our own claim; other verifiers ignore it. `None`: nobody has logged in.
    pub(super) skerry: Option<Session>,
}

/// Signs and verifies.
pub(super) struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    public: UnparsedPublicKey<Vec<u8>>,
    /// The same for every token: whatever has another header is not ours, so that a forger has no
    /// say in the algorithm or the key.
    header: String,
    jwks: serde_json::Value,
}

impl Signer {
    pub(super) fn new(identity: &Identity) -> Result<Signer, String> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &identity.key_pkcs8,
            &random,
        )
        .map_err(|error| format!("the token-signing key cannot be used: {error}"))?;
        let point = key.public_key().as_ref().to_vec();
        let kid = key_id(&point);
        let x5c = BASE64.encode(&identity.certificate_der);
        let header = serde_json::json!({
            "typ": "JWT", "alg": "ES256", "kid": kid, "x5c": [x5c],
        });
        // An uncompressed point: 4, then 32 bytes each of x and y.
        let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
        let jwks = serde_json::json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid,
            "x": BASE64URL_NOPAD.encode(x), "y": BASE64URL_NOPAD.encode(y), "x5c": [x5c],
        }]});
        let header = BASE64URL_NOPAD.encode(header.to_string().as_bytes());
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        Ok(Signer { key, random, public, header, jwks })
    }

    /// The public key as a JSON web key set (RFC 7517).
    pub(super) fn jwks(&self) -> &serde_json::Value {
        &self.jwks
    }

    pub(super) fn sign(&self, claims: &Claims) -> Result<String, String> {
        let claims = serde_json::to_vec(claims).map_err(|error| error.to_string())?;
        let signed = format!("{}.{}", self.header, BASE64URL_NOPAD.encode(&claims));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| "an access token cannot be signed".to_owned())?;
        Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref())))
    }

    /// The claims of a token that this key signed; `None` for anything else. Says nothing about
    /// time, audience or access.
    pub(super) fn verify(&self, token: &str) -> Option<Claims> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if header != self.header {
            return None;
        }
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
        self.public.verify(signed.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()
    }
}

/// The key id as libtrust writes it: 240 bits of the hash of the public key in base32, in groups
/// of four.
fn key_id(point: &[u8]) -> String {
    let spki = [&P256_SPKI_PREFIX[..], point].concat();
    let hash = digest(&SHA256, &spki);
    let text = BASE32.encode(&hash.as_ref()[..30]);
    let groups: Vec<&str> =
        (0..text.len()).step_by(4).filter_map(|start| text.get(start..start + 4)).collect();
    groups.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys;

    fn claims() -> Claims {
        let session =
            Session { token: "my-token".parse().unwrap(), slot: PasswordSlot::Two, generation: 7 };
        Claims {
            iss: "i".into(),
            sub: "my-token".into(),
            aud: "reg.example".into(),
            exp: UnixSeconds(20),
            nbf: UnixSeconds(10),
            iat: UnixSeconds(10),
            jti: "j".into(),
            access: vec![Access::new("repository", "a", &["pull"])],
            roles: Vec::new(),
            grant_type: "access_token".into(),
            version: "1.0".into(),
            skerry: Some(session),
        }
    }

    #[test]
    fn tokens_verify_and_every_change_is_noticed() {
        let identity = keys::make().unwrap();
        let signer = Signer::new(&identity).unwrap();
        let token = signer.sign(&claims()).unwrap();
        assert_eq!(signer.verify(&token).unwrap().skerry, claims().skerry);
        for position in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(signer.verify(&changed).is_none(), "byte {position}");
        }
        let other = Signer::new(&keys::make().unwrap()).unwrap();
        assert!(other.verify(&token).is_none());
        for junk in ["", ".", "..", "a.b.c", "\u{fc}.\u{fc}.\u{fc}"] {
            assert!(signer.verify(junk).is_none());
        }
    }

    #[test]
    fn a_token_without_a_signature_algorithm_is_refused() {
        let signer = Signer::new(&keys::make().unwrap()).unwrap();
        let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"none"}"#);
        let body = BASE64URL_NOPAD.encode(&serde_json::to_vec(&claims()).unwrap());
        assert!(signer.verify(&format!("{header}.{body}.")).is_none());
    }

    #[test]
    fn f183_header_and_key_set_are_what_other_verifiers_read() {
        let identity = keys::make().unwrap();
        let signer = Signer::new(&identity).unwrap();
        let token = signer.sign(&claims()).unwrap();
        let header = token.split('.').next().unwrap();
        let header: serde_json::Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).unwrap()).unwrap();
        assert_eq!((&header["alg"], &header["typ"]), (&"ES256".into(), &"JWT".into()));
        let kid = header["kid"].as_str().unwrap();
        assert_eq!(kid.split(':').count(), 12);
        assert!(kid.split(':').all(|group| group.len() == 4));
        let certificate = BASE64.decode(header["x5c"][0].as_str().unwrap().as_bytes()).unwrap();
        assert!(certificate == identity.certificate_der);
        let key = &signer.jwks()["keys"][0];
        assert_eq!(key["kid"], kid);
        // The point of the key set is the one in the certificate, under the same prefix.
        let decode = |name: &str| {
            let text = key[name].as_str().unwrap();
            BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()
        };
        let spki = [&P256_SPKI_PREFIX[..], &[4], &decode("x"), &decode("y")].concat();
        assert!(certificate.windows(spki.len()).any(|window| window == spki));
    }
}
