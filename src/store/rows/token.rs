//! The rows of tokens, and of which connected registries they are the sync tokens.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key};
use crate::types::token::Token;
use crate::types::{ConnectedRegistryName, TokenName};

impl Row for Token {
    const VERSION: u8 = 1;
}

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
