//! The rows of scope maps.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, key, stored_as};
use crate::types::token::ScopeMap;
use crate::types::{Grant, ScopeMapName, UnixSeconds};

/// A [`ScopeMap`]; also an element of a list in the row of a desired state, so that a field that
/// comes later goes into a struct around this one.
#[derive(Serialize, Deserialize)]
pub(super) struct ScopeMapRow {
    name: ScopeMapName,
    description: String,
    grants: Vec<Grant>,
    created: UnixSeconds,
}

impl Row for ScopeMapRow {
    const VERSION: u8 = 1;
}

impl From<&ScopeMap> for ScopeMapRow {
    fn from(map: &ScopeMap) -> ScopeMapRow {
        ScopeMapRow {
            name: map.name.clone(),
            description: map.description.clone(),
            grants: map.grants.clone(),
            created: map.created,
        }
    }
}

impl From<ScopeMapRow> for ScopeMap {
    fn from(row: ScopeMapRow) -> ScopeMap {
        let ScopeMapRow { name, description, grants, created } = row;
        ScopeMap { name, description, grants, created }
    }
}

stored_as!(ScopeMap, ScopeMapRow);

/// The key of a scope map.
pub fn scope_map_key(name: &ScopeMapName) -> Vec<u8> {
    key(Kind::ScopeMap, &[name.as_str().as_bytes()])
}
