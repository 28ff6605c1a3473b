//! Tokens and scope maps as they travel to connected registries.

use serde::{Deserialize, Serialize};

use super::{Grant, RepositoryAction, RepositoryName, ScopeMapName, TokenName, UnixSeconds};

/// Which of a token's two passwords.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum PasswordSlot {
    /// `password1`
    One,
    /// `password2`
    Two,
}

impl PasswordSlot {
    /// Both, in order.
    pub const ALL: [PasswordSlot; 2] = [PasswordSlot::One, PasswordSlot::Two];

    /// As the management API names it.
    pub fn name(self) -> &'static str {
        match self {
            PasswordSlot::One => "password1",
            PasswordSlot::Two => "password2",
        }
    }

    /// Position in [`Token::passwords`].
    pub fn index(self) -> usize {
        match self {
            PasswordSlot::One => 0,
            PasswordSlot::Two => 1,
        }
    }
}

/// What is kept of a password: enough to check it, not to tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Random salt.
    pub salt: [u8; 16],
    /// SHA-256 of salt and password; the password has 256 random bits, so no stretching is needed.
    pub hash: [u8; 32],
    /// Grows with each password in this slot; an access token names the one it was issued under.
    pub generation: u32,
    /// When it was made.
    pub created: UnixSeconds,
    /// When it stops to work, if ever.
    pub expires: Option<UnixSeconds>,
}

/// A named credential with two passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Also the user name at login.
    pub name: TokenName,
    /// What it may do.
    pub scope_map: ScopeMapName,
    /// A disabled token is refused everywhere at once.
    pub enabled: bool,
    /// When it was made.
    pub created: UnixSeconds,
    /// `password1` and `password2`.
    pub passwords: [Option<Verifier>; 2],
    /// The last generation handed out per slot, so that a deleted password is never revived.
    pub generations: [u32; 2],
}

/// A named list of grants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScopeMap {
    /// Its name.
    pub name: ScopeMapName,
    /// At most 256 characters.
    pub description: String,
    /// Sorted, without duplicates.
    pub grants: Vec<Grant>,
    /// When it was made.
    pub created: UnixSeconds,
}

/// Whether one of these grants the action on a repository.
pub fn grants(grants: &[Grant], repository: &RepositoryName, action: RepositoryAction) -> bool {
    grants.iter().any(|grant| match grant {
        Grant::Repository(pattern, have) => *have == action && pattern.covers(repository),
        Grant::Gateway(..) => false,
    })
}
