//! The rows of tokens, and of which connected registries they are the sync tokens.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key, stored_as};
use crate::types::token::{Token, Verifier};
use crate::types::{ConnectedRegistryName, ScopeMapName, TokenName, UnixSeconds};

/// A [`Token`]; also an element of lists in the row of a desired state, so that a field that comes
/// later goes into a struct around this one.
#[derive(Serialize, Deserialize)]
pub(super) struct TokenRow {
    name: TokenName,
    scope_map: ScopeMapName,
    enabled: bool,
    created: UnixSeconds,
    passwords: [Option<VerifierRow>; 2],
    generations: [u32; 2],
}

/// A [`Verifier`], in a row of which more follows.
#[derive(Serialize, Deserialize)]
struct VerifierRow {
    salt: [u8; 16],
    hash: [u8; 32],
    generation: u32,
    created: UnixSeconds,
    expires: Option<UnixSeconds>,
}

impl Row for TokenRow {
    const VERSION: u8 = 1;
}

impl From<&Token> for TokenRow {
    fn from(token: &Token) -> TokenRow {
        TokenRow {
            name: token.name.clone(),
            scope_map: token.scope_map.clone(),
            enabled: token.enabled,
            created: token.created,
            passwords: token.passwords.each_ref().map(|slot| slot.as_ref().map(VerifierRow::from)),
            generations: token.generations,
        }
    }
}

impl From<TokenRow> for Token {
    fn from(row: TokenRow) -> Token {
        Token {
            name: row.name,
            scope_map: row.scope_map,
            enabled: row.enabled,
            created: row.created,
            passwords: row.passwords.map(|slot| slot.map(Verifier::from)),
            generations: row.generations,
        }
    }
}

impl From<&Verifier> for VerifierRow {
    fn from(verifier: &Verifier) -> VerifierRow {
        let Verifier { salt, hash, generation, created, expires } = *verifier;
        VerifierRow { salt, hash, generation, created, expires }
    }
}

impl From<VerifierRow> for Verifier {
    fn from(row: VerifierRow) -> Verifier {
        let VerifierRow { salt, hash, generation, created, expires } = row;
        Verifier { salt, hash, generation, created, expires }
    }
}

stored_as!(Token, TokenRow);

/// The key of a token.
pub fn token_key(name: &TokenName) -> Vec<u8> {
    key(Kind::Token, &[name.as_str().as_bytes()])
}

/// The connected registry that a sync token belongs to.
#[derive(Serialize, Deserialize)]
pub(in crate::store) struct SyncTokenOf(pub(in crate::store) ConnectedRegistryName);

impl Row for SyncTokenOf {
    const VERSION: u8 = 1;
}

pub(in crate::store) fn sync_token_key(token: &TokenName) -> Vec<u8> {
    key(Kind::SyncToken, &[token.as_str().as_bytes()])
}
