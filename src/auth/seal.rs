//! Refresh tokens: sealed, so that nothing of them need be kept and a restart changes nothing.

use data_encoding::BASE64URL_NOPAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use serde::{Deserialize, Serialize};

use super::jwt::Session;
use super::keys::Identity;
use crate::sys::Rng;
use crate::types::UnixSeconds;

/// Longest refresh token that is looked at, bytes.
const TOKEN_BYTES_MAX: usize = 2048;
/// The first byte; another form gets another number.
const VERSION: u8 = 1;
/// Binds a sealed text to its purpose.
const PURPOSE: &[u8] = b"skerry refresh token";

/// What a refresh token says.
#[derive(Serialize, Deserialize)]
pub(super) struct Refresh {
    pub(super) session: Session,
    /// The service that it was issued for.
    pub(super) aud: String,
    pub(super) exp: UnixSeconds,
}

/// Seals and opens.
pub(super) struct Sealer(LessSafeKey);

impl Sealer {
    /// The key is derived from the identity: whoever holds that could sign access tokens anyway.
    pub(super) fn new(identity: &Identity) -> Result<Sealer, String> {
        let secret = Salt::new(HKDF_SHA256, PURPOSE).extract(&identity.key_pkcs8);
        let key = secret
            .expand(&[b"aes-256-gcm"], &AES_256_GCM)
            .map_err(|_| "the refresh token key cannot be derived".to_owned())?;
        Ok(Sealer(LessSafeKey::new(UnboundKey::from(key))))
    }

    /// base64url without padding of version, nonce and sealed text; it has no dots and so is
    /// never mistaken for an access token.
    pub(super) fn seal(&self, rng: &dyn Rng, refresh: &Refresh) -> Result<String, String> {
        let mut sealed = postcard::to_allocvec(refresh).map_err(|error| error.to_string())?;
        let mut nonce = [0; NONCE_LEN];
        rng.fill(&mut nonce);
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(PURPOSE),
                &mut sealed,
            )
            .map_err(|_| "a refresh token cannot be sealed".to_owned())?;
        Ok(BASE64URL_NOPAD.encode(&[&[VERSION], &nonce[..], &sealed].concat()))
    }

    /// What [`Sealer::seal`] sealed under the same identity; `None` for anything else. Says
    /// nothing about time, audience or the state of the token.
    pub(super) fn open(&self, text: &str) -> Option<Refresh> {
        if text.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let (version, rest) = bytes.split_first()?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        if *version != VERSION {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.0.open_in_place(nonce, Aad::from(PURPOSE), &mut sealed).ok()?;
        postcard::from_bytes(opened).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::keys;
    use crate::sys::SystemRng;
    use crate::types::token::PasswordSlot;

    #[test]
    fn sealed_tokens_open_under_their_identity_only() {
        let identity = keys::make().unwrap();
        let sealer = Sealer::new(&identity).unwrap();
        let session =
            Session { token: "tok-1".parse().unwrap(), slot: PasswordSlot::One, generation: 3 };
        let refresh = Refresh { session, aud: "a:5000".into(), exp: UnixSeconds(9) };
        let text = sealer.seal(&SystemRng::new(), &refresh).unwrap();
        assert!(!text.contains('.'));
        let again = Sealer::new(&identity).unwrap();
        assert_eq!(again.open(&text).unwrap().aud, "a:5000");
        assert!(Sealer::new(&keys::make().unwrap()).unwrap().open(&text).is_none());
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
            assert!(sealer.open(&String::from_utf8(bytes).unwrap()).is_none());
        }
        for junk in ["", "AQ", "!!", "\u{fc}"] {
            assert!(sealer.open(junk).is_none());
        }
    }
}
