//! The rows of scope maps.

use super::{Kind, Row, key};
use crate::types::ScopeMapName;
use crate::types::token::ScopeMap;

impl Row for ScopeMap {
    const VERSION: u8 = 1;
}

/// The key of a scope map.
pub fn scope_map_key(name: &ScopeMapName) -> Vec<u8> {
    key(Kind::ScopeMap, &[name.as_str().as_bytes()])
}
