//! The rows of the changes that a node has yet to pass to its parent.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Kind, Row, is_default, key, stored_as};
use crate::store::{StoreError, rows};
use crate::types::delivery::INSTEAD_OF_MAX;
use crate::types::{ConnectedRegistryName, Digest, Offered, OutboxId, RepositoryName, Tag};

/// States of a tag that are remembered because they may be the parent's: one for each attempt,
/// heard of or not, of a change that was left out since or made one with a later one. Over it: the
/// later ones are forgotten, and a tag that names one of them is taken for moved by somebody else:
/// both contents are kept.
const UNHEARD_MAX: usize = 16;

/// A change on its way up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxEntry {
    /// Its name.
    pub id: OutboxId,
    /// Where.
    pub repository: RepositoryName,
    /// What.
    pub change: OutboxChange,
    /// What the tag may name at the parent, beside what the change begins with: attempts of which
    /// this node did not hear, of changes that were left out since. The first [`UNHEARD_MAX`].
    pub unheard: Vec<Option<Digest>>,
    /// Whether it is an offer: nobody makes this change, but the parent, or one further up, lacks
    /// what it had before. What it has by now counts.
    pub offered: Offered,
    /// See [`Delivery::instead_of`].
    ///
    /// [`Delivery::instead_of`]: crate::types::Delivery::instead_of
    pub instead_of: Vec<OutboxId>,
    /// See [`Delivery::anew`].
    ///
    /// [`Delivery::anew`]: crate::types::Delivery::anew
    pub anew: bool,
}

/// What is to be repeated at the parent.
#[allow(clippy::large_enum_variant, reason = "names are inline; entries live one at a time")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutboxChange {
    /// A tag was set, or (`None`) removed.
    Tag {
        /// Which.
        tag: Tag,
        /// What it named before, here: the parent must still agree. `None`: it did not exist.
        base: Option<Digest>,
        /// What it names now.
        digest: Option<Digest>,
    },
    /// A manifest was pushed by digest.
    ManifestAdded {
        /// Which.
        digest: Digest,
    },
    /// A manifest was deleted.
    ManifestDeleted {
        /// Which.
        digest: Digest,
    },
}

impl fmt::Display for OutboxEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repository = &self.repository;
        match &self.change {
            OutboxChange::Tag { tag, digest: Some(digest), .. } => {
                write!(f, "{repository}:{tag} ({digest})")
            }
            OutboxChange::Tag { tag, .. } => write!(f, "the removal of {repository}:{tag}"),
            OutboxChange::ManifestAdded { digest } => write!(f, "{repository}@{digest}"),
            OutboxChange::ManifestDeleted { digest } => {
                write!(f, "the removal of {repository}@{digest}")
            }
        }
    }
}

/// An entry as the first rows had it.
#[derive(Serialize, Deserialize)]
pub(in crate::store) struct BareEntry {
    origin: ConnectedRegistryName,
    sequence: u64,
    repository: RepositoryName,
    change: ChangeRow,
}

/// An [`OutboxChange`]. Never renumber.
#[allow(clippy::large_enum_variant, reason = "names are inline; rows live one at a time")]
#[derive(Serialize, Deserialize)]
enum ChangeRow {
    Tag { tag: Tag, base: Option<Digest>, digest: Option<Digest> },
    ManifestAdded { digest: Digest },
    ManifestDeleted { digest: Digest },
}

/// An [`OutboxEntry`].
#[derive(Serialize, Deserialize)]
struct EntryRow {
    entry: BareEntry,
    #[serde(skip_serializing_if = "is_default")]
    more: EntryEnd,
}

/// What the first rows did not have.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct EntryEnd {
    incarnation: u64,
    #[serde(skip_serializing_if = "is_default")]
    more: EntryMore,
}

/// What the rows after those did not have.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct EntryMore {
    unheard: Vec<Option<Digest>>,
    #[serde(skip_serializing_if = "is_default")]
    more: EntryLast,
}

/// What the rows after those did not have.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct EntryLast {
    /// In rows of earlier versions a boolean, which is written alike.
    offered: OfferedRow,
    #[serde(skip_serializing_if = "is_default")]
    more: EntryPlaces,
}

/// What the rows after those did not have.
#[derive(Default, PartialEq, Serialize, Deserialize)]
struct EntryPlaces {
    instead_of: Vec<IdRow>,
    #[serde(skip_serializing_if = "is_default")]
    anew: bool,
}

/// An [`Offered`]. Never renumber.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum OfferedRow {
    #[default]
    No,
    Mirrored,
    Pushed,
}

/// An [`OutboxId`], an element of a list.
#[derive(PartialEq, Serialize, Deserialize)]
struct IdRow {
    origin: ConnectedRegistryName,
    incarnation: u64,
    sequence: u64,
}

impl Row for EntryRow {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<EntryRow, postcard::Error> {
        let (entry, left) = postcard::take_from_bytes(bytes)?;
        Ok(EntryRow { entry, more: EntryEnd::read(left)? })
    }
}

impl EntryEnd {
    fn read(left: &[u8]) -> Result<EntryEnd, postcard::Error> {
        if left.is_empty() {
            return Ok(EntryEnd::default());
        }
        let (incarnation, left) = postcard::take_from_bytes(left)?;
        if left.is_empty() {
            return Ok(EntryEnd { incarnation, more: EntryMore::default() });
        }
        let (unheard, left) = postcard::take_from_bytes(left)?;
        if left.is_empty() {
            let more = EntryMore { unheard, more: EntryLast::default() };
            return Ok(EntryEnd { incarnation, more });
        }
        let (offered, left) = postcard::take_from_bytes(left)?;
        let more = EntryLast { offered, more: EntryPlaces::read(left)? };
        Ok(EntryEnd { incarnation, more: EntryMore { unheard, more } })
    }
}

impl EntryPlaces {
    fn read(left: &[u8]) -> Result<EntryPlaces, postcard::Error> {
        if left.is_empty() {
            return Ok(EntryPlaces::default());
        }
        let (instead_of, left) = postcard::take_from_bytes(left)?;
        Ok(EntryPlaces { instead_of, anew: rows::last(left)? })
    }
}

impl BareEntry {
    /// The entry without what later rows have; the incarnation stands behind it.
    pub(in crate::store) fn of(entry: &OutboxEntry) -> BareEntry {
        let OutboxId { origin, sequence, .. } = entry.id.clone();
        let (repository, change) = (entry.repository.clone(), (&entry.change).into());
        BareEntry { origin, sequence, repository, change }
    }

    pub(in crate::store) fn with(self, incarnation: u64) -> OutboxEntry {
        let BareEntry { origin, sequence, repository, change } = self;
        let (id, change) = (OutboxId { origin, incarnation, sequence }, change.into());
        let offered = Offered::No;
        let (unheard, instead_of, anew) = (vec![], vec![], false);
        OutboxEntry { id, repository, change, unheard, offered, instead_of, anew }
    }
}

impl From<&OutboxEntry> for EntryRow {
    fn from(entry: &OutboxEntry) -> EntryRow {
        let offered = match entry.offered {
            Offered::No => OfferedRow::No,
            Offered::Mirrored => OfferedRow::Mirrored,
            Offered::Pushed => OfferedRow::Pushed,
        };
        let instead_of = entry.instead_of.iter().map(IdRow::from).collect();
        let more = EntryPlaces { instead_of, anew: entry.anew };
        let more = EntryLast { offered, more };
        let more = EntryMore { unheard: entry.unheard.clone(), more };
        let more = EntryEnd { incarnation: entry.id.incarnation, more };
        EntryRow { entry: BareEntry::of(entry), more }
    }
}

impl From<EntryRow> for OutboxEntry {
    fn from(row: EntryRow) -> OutboxEntry {
        let EntryEnd { incarnation, more: EntryMore { unheard, more } } = row.more;
        let offered = match more.offered {
            OfferedRow::No => Offered::No,
            OfferedRow::Mirrored => Offered::Mirrored,
            OfferedRow::Pushed => Offered::Pushed,
        };
        let EntryPlaces { instead_of, anew } = more.more;
        let instead_of = instead_of.into_iter().map(OutboxId::from).collect();
        OutboxEntry { unheard, offered, instead_of, anew, ..row.entry.with(incarnation) }
    }
}

stored_as!(OutboxEntry, EntryRow);

impl From<&OutboxChange> for ChangeRow {
    fn from(change: &OutboxChange) -> ChangeRow {
        match change.clone() {
            OutboxChange::Tag { tag, base, digest } => ChangeRow::Tag { tag, base, digest },
            OutboxChange::ManifestAdded { digest } => ChangeRow::ManifestAdded { digest },
            OutboxChange::ManifestDeleted { digest } => ChangeRow::ManifestDeleted { digest },
        }
    }
}

impl From<ChangeRow> for OutboxChange {
    fn from(row: ChangeRow) -> OutboxChange {
        match row {
            ChangeRow::Tag { tag, base, digest } => OutboxChange::Tag { tag, base, digest },
            ChangeRow::ManifestAdded { digest } => OutboxChange::ManifestAdded { digest },
            ChangeRow::ManifestDeleted { digest } => OutboxChange::ManifestDeleted { digest },
        }
    }
}

impl From<&OutboxId> for IdRow {
    fn from(id: &OutboxId) -> IdRow {
        let OutboxId { origin, incarnation, sequence } = id.clone();
        IdRow { origin, incarnation, sequence }
    }
}

impl From<IdRow> for OutboxId {
    fn from(row: IdRow) -> OutboxId {
        let IdRow { origin, incarnation, sequence } = row;
        OutboxId { origin, incarnation, sequence }
    }
}

/// The number of the last change that this node put into its outbox.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(in crate::store) struct LastOutbox(pub(in crate::store) u64);

impl Row for LastOutbox {
    const VERSION: u8 = 1;
}

pub(in crate::store) fn counter_key() -> Vec<u8> {
    key(Kind::Node, &[b"outbox"])
}

pub(in crate::store) fn entry_key(number: u64) -> Vec<u8> {
    key(Kind::Outbox, &[&number.to_be_bytes()])
}

pub(in crate::store) fn number_of(key: &[u8]) -> Result<u64, StoreError> {
    number_at(key, 1)
}

/// The number that a key holds from `start` on.
pub(in crate::store) fn number_at(key: &[u8], start: usize) -> Result<u64, StoreError> {
    let number = key.get(start..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    number.ok_or_else(|| StoreError::Corrupt("a key of the outbox holds no number".to_owned()))
}

impl OutboxEntry {
    /// What the tag may name at the parent if this change, which may have been attempted, is left
    /// out.
    pub(in crate::store) fn attempted(&self) -> Vec<Option<Digest>> {
        let mut attempted = self.unheard.clone();
        if let OutboxChange::Tag { digest, .. } = &self.change {
            remember(&mut attempted, digest.clone());
        }
        attempted
    }

    /// Names the changes that one takes the place of, and that one itself, as ones that this takes
    /// the place of. What makes others once more is known by those: its own name stands for nothing
    /// that was ever new.
    pub(in crate::store) fn stands_in(&mut self, left_out: OutboxEntry) {
        let before = std::mem::take(&mut self.instead_of);
        let own = (!left_out.anew).then_some(left_out.id);
        let more = left_out.instead_of.into_iter().chain(own);
        self.instead_of = before.into_iter().chain(more).collect();
        let over = self.instead_of.len().saturating_sub(INSTEAD_OF_MAX);
        self.instead_of.drain(..over);
        // One of those that are not named any more may be new.
        self.anew &= over == 0;
    }

    /// The manifest that the change brings up, if any.
    pub fn brings(&self) -> Option<&Digest> {
        match &self.change {
            OutboxChange::Tag { digest, .. } => digest.as_ref(),
            OutboxChange::ManifestAdded { digest } => Some(digest),
            OutboxChange::ManifestDeleted { .. } => None,
        }
    }
}

/// Adds a state that a tag may have at the parent.
pub(in crate::store) fn remember(unheard: &mut Vec<Option<Digest>>, state: Option<Digest>) {
    if unheard.len() < UNHEARD_MAX && !unheard.contains(&state) {
        unheard.push(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    #[test]
    fn f130_f201_one_that_names_too_many_is_not_known_by_them() {
        let id = |sequence| {
            let origin = "dock01".parse().unwrap();
            OutboxId { origin, incarnation: 1, sequence }
        };
        let entry = |sequence, anew| OutboxEntry {
            id: id(sequence),
            repository: "app".parse().unwrap(),
            change: OutboxChange::Tag { tag: "v1".parse().unwrap(), base: None, digest: None },
            unheard: vec![],
            offered: Offered::No,
            instead_of: vec![],
            anew,
        };
        let mut all = entry(1000, true);
        for number in 1..=INSTEAD_OF_MAX as u64 {
            // Those that make others once more are known by these.
            let instead_of = vec![id(number)];
            all.stands_in(OutboxEntry { instead_of, ..entry(900 + number, true) });
        }
        assert!(all.anew && all.instead_of.len() == INSTEAD_OF_MAX);
        assert_eq!(all.instead_of[0], id(1));
        all.stands_in(entry(500, false));
        assert!(!all.anew, "the first is not named any more");
        assert_eq!((&all.instead_of[0], all.instead_of.last()), (&id(2), Some(&id(500))));
    }

    #[test]
    fn what_a_row_does_not_say_is_as_before() {
        let digest = Digest::from_raw(Algorithm::Sha256, &[1; 32]);
        let change = OutboxChange::Tag { tag: "v1".parse().unwrap(), base: None, digest };
        let id = OutboxId { origin: "dock01".parse().unwrap(), incarnation: 300, sequence: 7 };
        let repository = "app".parse().unwrap();
        let plain = OutboxEntry {
            id: id.clone(),
            repository,
            change,
            unheard: vec![],
            offered: Offered::No,
            instead_of: vec![],
            anew: false,
        };
        let mut longest = 0;
        let all = [Offered::No, Offered::Mirrored, Offered::Pushed];
        for (unheard, offered) in
            all.into_iter().flat_map(|offered| [(vec![], offered), (vec![None], offered)])
        {
            let entry = OutboxEntry { unheard, offered, ..plain.clone() };
            let bytes = rows::encode(&entry).unwrap();
            assert_eq!(rows::decode::<OutboxEntry>(&bytes).unwrap(), entry);
            assert!(bytes.starts_with(&rows::encode(&plain).unwrap()));
            longest = longest.max(bytes.len());
            if offered.is_offer() {
                assert_eq!(bytes.last(), Some(&(offered as u8)));
                // As the version before wrote it.
                let bare = rows::decode::<OutboxEntry>(&bytes[..bytes.len() - 1]).unwrap();
                assert_eq!(bare, OutboxEntry { offered: Offered::No, ..entry.clone() });
            }
            let more = OutboxEntry { instead_of: vec![id.clone()], ..entry };
            let bytes = rows::encode(&more).unwrap();
            assert_eq!(rows::decode::<OutboxEntry>(&bytes).unwrap(), more);
            let anew = OutboxEntry { anew: true, ..more };
            let bytes = rows::encode(&anew).unwrap();
            assert_eq!(bytes.last(), Some(&1));
            assert_eq!(rows::decode::<OutboxEntry>(&bytes).unwrap(), anew);
        }
        assert_eq!(longest, rows::encode(&plain).unwrap().len() + 3);
    }
}
