//! Passwords: generated, shown once, kept as salted verifiers.

use ring::digest::{Context, SHA256};

use crate::sys::Rng;
use crate::types::token::{PasswordSlot, Verifier};
use crate::types::{Secret, UnixSeconds};

/// Characters of a password: the first is one of 52 letters, the others of 62 letters and digits,
/// which makes 261 bits.
pub const PASSWORD_CHARACTERS: usize = 44;

/// The letters come first, so that a prefix of the table is letters only.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LETTERS: u8 = 52;

/// A password that was just made; the only time that its text is known.
pub struct NewPassword {
    /// Where it belongs.
    pub slot: PasswordSlot,
    /// The text.
    pub value: Secret,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it stops to work, if ever.
    pub expires: Option<UnixSeconds>,
}

/// Makes a password of letters and digits only, so that it needs quoting nowhere.
pub fn generate(rng: &dyn Rng) -> Secret {
    let mut text = String::with_capacity(PASSWORD_CHARACTERS);
    while text.len() < PASSWORD_CHARACTERS {
        let mut bytes = [0; 64];
        rng.fill(&mut bytes);
        for byte in bytes {
            let choices = if text.is_empty() { LETTERS } else { 62 };
            // Bytes above the largest multiple are thrown away: all characters are as likely.
            if text.len() < PASSWORD_CHARACTERS && byte < 255 / choices * choices {
                text.push(char::from(ALPHABET[usize::from(byte % choices)]));
            }
        }
    }
    Secret::new(text)
}

/// What is kept of a password. The generation is random: a store that was restored does not give
/// one again that sessions of a password which it does not know have.
pub fn verifier(
    rng: &dyn Rng,
    password: &Secret,
    created: UnixSeconds,
    expires: Option<UnixSeconds>,
) -> Verifier {
    let mut salt = [0; 16];
    rng.fill(&mut salt);
    let hash = hash(&salt, password.expose());
    let mut generation = [0; 4];
    rng.fill(&mut generation);
    let generation = u32::from_le_bytes(generation);
    Verifier { salt, hash, generation, created, expires }
}

/// Whether `password` is the one behind `verifier`; the time does not depend on how much of it is
/// right. Expiry is the caller's to judge.
pub fn matches(verifier: &Verifier, password: &str) -> bool {
    let hash = hash(&verifier.salt, password);
    let pairs = hash.iter().zip(&verifier.hash);
    std::hint::black_box(pairs.fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

fn hash(salt: &[u8; 16], password: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(salt);
    context.update(password.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SystemRng;

    #[test]
    fn passwords_are_letters_and_digits_and_verify() {
        let rng = SystemRng::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let password = generate(&rng);
            let text = password.expose();
            assert_eq!(text.len(), PASSWORD_CHARACTERS);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric()));
            assert!(text.starts_with(|c: char| c.is_ascii_alphabetic()));
            assert!(seen.insert(text.to_owned()));
        }
        let password = generate(&rng);
        let kept = verifier(&rng, &password, UnixSeconds(1), None);
        assert!(matches(&kept, password.expose()));
        assert!(!matches(&kept, &password.expose()[1..]));
        assert!(!matches(&kept, ""));
        let other = verifier(&rng, &password, UnixSeconds(1), None);
        assert!(kept.hash != other.hash, "the salt differs");
    }
}
