//! What rows, and changes on their way up, refer to: a garbage collection spares it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::content::leases::short;
use super::replica::outbox::{OutboxChange, OutboxEntry};
use super::rows::link::split_key;
use super::rows::upkeep::LinkId;
use super::rows::{Kind, prefix};
use super::{Store, StoreError};
use crate::sys::spawn;
use crate::types::manifest::ManifestKind;
use crate::types::{Digest, Manifest, media};

/// Digests, eight bytes each, that a look at rows holds at once. Over it: the look is repeated
/// for each part of the digests.
pub(super) const MARKED_MAX: usize = 262_144;

/// Changes on their way up that are in memory at once: very many may wait.
const PAGE: usize = 256;

pub(super) fn sorted(mut digests: Vec<u64>) -> Vec<u64> {
    digests.sort_unstable();
    digests.dedup();
    digests
}

/// Whether a digest belongs to this part of all digests.
pub(super) fn in_part(digest: u64, part: u64, parts: u64) -> bool {
    digest % parts == part
}

/// The digests that rows refer to, of one part; `None` when they are too many.
pub(super) async fn marked(
    store: &Store,
    unused: &BTreeMap<LinkId, Duration>,
    part: u64,
    parts: u64,
) -> Result<Option<Vec<u64>>, StoreError> {
    let mut marks = Marks::new(part, parts);
    for kind in [Kind::Blob, Kind::Manifest] {
        let mut keys = store.keys(prefix(kind, &[]));
        while let page = keys.next_keys().await?
            && !page.is_empty()
        {
            for key in page {
                let Some((_, digest)) = split_key(&key) else { continue };
                if unused.is_empty() || !unused.contains_key(&LinkId::of(&key, &digest)) {
                    marks.add(&digest);
                }
            }
            if marks.full {
                return Ok(None);
            }
        }
    }
    let mut pins = Pins { marks, seen: BTreeSet::new() };
    // Early builds took what was refused out of the outbox; it comes back there behind the others.
    let mut after = Some(0);
    while let Some(from) = after {
        (pins, after) = pins
            .some(store, move |store| {
                let page = store.refused_changes_after(from, PAGE)?.into_iter();
                Ok(page.map(|(number, refusal)| (number, refusal.entry)).collect())
            })
            .await?;
    }
    let mut after = Some(0);
    while let Some(from) = after {
        (pins, after) = pins.some(store, move |store| store.outbox_after(from, PAGE)).await?;
    }
    Ok(pins.marks.all())
}

/// What changes on their way up bring along.
struct Pins {
    marks: Marks,
    /// Manifests that were read for it.
    seen: BTreeSet<Digest>,
}

impl Pins {
    /// Adds what some changes bring along; with the number of the last, if there was one.
    async fn some(
        mut self,
        store: &Store,
        read: impl FnOnce(&Store) -> Result<Vec<(u64, OutboxEntry)>, StoreError> + Send + 'static,
    ) -> Result<(Pins, Option<u64>), StoreError> {
        let store = store.clone();
        spawn::blocking(move || {
            let page = read(&store)?;
            for (_, entry) in &page {
                pin(&store, entry, &mut self.seen, &mut self.marks)?;
            }
            let last = page.last().map(|(number, _)| *number);
            Ok((self, last))
        })
        .await
    }
}

/// The digests that a look at one part of them has marked.
pub(super) struct Marks {
    digests: Vec<u64>,
    part: u64,
    parts: u64,
    /// There are too many: the rest is not marked.
    full: bool,
}

impl Marks {
    /// Of this part of all digests; none yet.
    pub(super) fn new(part: u64, parts: u64) -> Marks {
        Marks { digests: Vec::new(), part, parts, full: false }
    }

    /// Those that were added, in order; `None` when they were too many.
    pub(super) fn all(self) -> Option<Vec<u64>> {
        (!self.full).then(|| sorted(self.digests))
    }

    pub(super) fn add(&mut self, digest: &Digest) {
        let digest = short(digest);
        if self.full || !in_part(digest, self.part, self.parts) {
            return;
        }
        self.digests.push(digest);
        if self.digests.len() > MARKED_MAX {
            self.digests = sorted(std::mem::take(&mut self.digests));
            self.full = self.digests.len() > MARKED_MAX / 2;
        }
    }
}

/// Marks what a change on its way up brings along, also when the manifest is gone here. Each
/// manifest is read once, however often indexes name it.
fn pin(
    store: &Store,
    entry: &OutboxEntry,
    seen: &mut BTreeSet<Digest>,
    marked: &mut Marks,
) -> Result<(), StoreError> {
    let digest = match &entry.change {
        OutboxChange::Tag { digest, .. } => digest.clone(),
        OutboxChange::ManifestAdded { digest } => Some(digest.clone()),
        OutboxChange::ManifestDeleted { .. } => None,
    };
    let mut open: Vec<Digest> = digest.into_iter().collect();
    while let Some(digest) = open.pop() {
        // What has a row is marked by it, and keeps its content itself.
        if store.manifest(&entry.repository, &digest)?.is_some() || !seen.insert(digest.clone()) {
            continue;
        }
        marked.add(&digest);
        let bytes = match super::content::blobs::read(store.shared(), &digest) {
            Ok(Some(bytes)) => bytes,
            // What is not here, is damaged or cannot be read brings nothing along.
            Ok(None)
            | Err(StoreError::Corrupt(_) | StoreError::Invalid(_) | StoreError::Unreadable(_)) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        // Its row, which knew the type, is gone: whatever it may be.
        for media_type in [None, Some(media::OCI_MANIFEST), Some(media::OCI_INDEX)] {
            let Ok(manifest) = Manifest::parse(media_type, &bytes) else { continue };
            let blobs = manifest.config.iter().chain(&manifest.layers);
            blobs.clone().for_each(|descriptor| marked.add(&descriptor.digest));
            // Of an unknown type: what it names may have content of its own.
            let blobs = blobs.filter(|_| manifest.kind != ManifestKind::Image);
            let below = manifest.children.iter().chain(blobs);
            open.extend(below.map(|descriptor| descriptor.digest.clone()));
        }
    }
    Ok(())
}
