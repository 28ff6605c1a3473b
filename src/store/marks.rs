//! What rows, and changes on their way up, refer to: a garbage collection spares it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::content::leases::short;
use super::replica::outbox::{OutboxChange, OutboxEntry};
use super::rows::link::split_key;
use super::rows::{Kind, prefix};
use super::{Store, StoreError};
use crate::types::manifest::ManifestKind;
use crate::types::{Digest, Manifest, media};

/// Digests, eight bytes each, that a look at the rows holds at once. Over it: the look is repeated
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
pub(super) fn marked(
    store: &Store,
    unused: &BTreeMap<Vec<u8>, Duration>,
    part: u64,
    parts: u64,
) -> Result<Option<Vec<u64>>, StoreError> {
    let mut marked = Marks { digests: Vec::new(), part, parts, full: false };
    for kind in [Kind::Blob, Kind::Manifest] {
        store.each_row(&prefix(kind, &[]), |key, _| {
            if !marked.full
                && !unused.contains_key(&key)
                && let Some((_, digest)) = split_key(&key)
            {
                marked.add(&digest);
            }
            Ok(())
        })?;
    }
    if marked.full {
        return Ok(None);
    }
    let mut seen = BTreeSet::new();
    // Early builds took what was refused out of the outbox; it comes back there behind the others.
    let mut after = 0;
    while let page = store.refused_changes_after(after, PAGE)?
        && let Some((last, _)) = page.last()
    {
        after = *last;
        for (_, refusal) in page {
            pin(store, &refusal.entry, &mut seen, &mut marked)?;
        }
    }
    let mut after = 0;
    while let page = store.outbox_after(after, PAGE)?
        && let Some((last, _)) = page.last()
    {
        after = *last;
        for (_, entry) in page {
            pin(store, &entry, &mut seen, &mut marked)?;
        }
    }
    Ok((!marked.full).then(|| sorted(marked.digests)))
}

/// The digests that a look at one part of them has marked.
struct Marks {
    digests: Vec<u64>,
    part: u64,
    parts: u64,
    /// There are too many: the rest is not marked.
    full: bool,
}

impl Marks {
    fn add(&mut self, digest: &Digest) {
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
            // What is not here, or is damaged, brings nothing along.
            Ok(None) | Err(StoreError::Corrupt(_) | StoreError::Invalid(_)) => continue,
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
