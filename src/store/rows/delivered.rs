//! The rows of what connected registries below have delivered.

use serde::{Deserialize, Serialize};

use super::{Kind, Row, is_default, key};
use crate::store::rows;
use crate::types::{Digest, OutboxId, RepositoryName, Tag};

/// What one incarnation of an origin has delivered to one repository. Every start there has an
/// incarnation of its own, so that no number ever stands for two changes: a store that was made
/// anew, restored or set back counts over again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) struct Delivered {
    /// The highest number of a change that took effect here.
    pub(in crate::store) last: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(in crate::store) more: DeliveredEnd,
}

/// What the first rows did not have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) struct DeliveredEnd {
    /// Earlier versions kept here what the last numbers stood for.
    pub(in crate::store) open: Vec<(u64, EffectRow)>,
    #[serde(skip_serializing_if = "is_default")]
    pub(in crate::store) more: DeliveredMore,
}

/// What the rows after those did not have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) struct DeliveredMore {
    /// Counts the incarnations of the origin, in the order in which this node heard of them.
    pub(in crate::store) place: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(in crate::store) numbers: Numbers,
}

/// What the rows after those did not have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) struct Numbers {
    /// Of changes that are to have no effect here any more. Empty in rows of earlier versions: all
    /// up to the last.
    pub(in crate::store) taken: Runs,
    /// Those among them that have had none: another change took their place.
    #[serde(skip_serializing_if = "is_default")]
    pub(in crate::store) replaced: Runs,
}

/// Numbers, as the first and last of each run, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(in crate::store) struct Runs(pub(in crate::store) Vec<(u64, u64)>);

impl Row for Delivered {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<Delivered, postcard::Error> {
        let (last, left) = postcard::take_from_bytes(bytes)?;
        if left.is_empty() {
            return Ok(Delivered { last, more: DeliveredEnd::default() });
        }
        let (open, left) = postcard::take_from_bytes(left)?;
        if left.is_empty() {
            return Ok(Delivered { last, more: DeliveredEnd { open, ..DeliveredEnd::default() } });
        }
        let (place, left) = postcard::take_from_bytes(left)?;
        if left.is_empty() {
            let more = DeliveredMore { place, numbers: Numbers::default() };
            return Ok(Delivered { last, more: DeliveredEnd { open, more } });
        }
        let (taken, left) = postcard::take_from_bytes(left)?;
        let numbers = Numbers { taken, replaced: rows::last(left)? };
        let more = DeliveredMore { place, numbers };
        Ok(Delivered { last, more: DeliveredEnd { open, more } })
    }
}

/// What a delivery wanted to be so. Never renumber.
#[allow(clippy::large_enum_variant, reason = "names are inline; rows live one at a time")]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) enum EffectRow {
    Tag(Tag, Option<Digest>),
    Manifest(Digest, bool),
}

/// The key of what an incarnation of an origin has delivered to a repository.
pub(in crate::store) fn delivered_key(id: &OutboxId, repository: &RepositoryName) -> Vec<u8> {
    let (origin, incarnation) = (id.origin.as_str().as_bytes(), id.incarnation.to_be_bytes());
    let parts = [origin, repository.as_str().as_bytes(), &incarnation];
    key(Kind::Delivered, if id.incarnation == 0 { &parts[..2] } else { &parts })
}
