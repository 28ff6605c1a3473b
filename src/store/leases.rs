//! What somebody touched a moment ago: a push, a HEAD, a mount or a sync that saw content here may
//! go on to refer to it, so it is not collected for a while.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::index::Change;
use super::manifests::ManifestRow;
use super::row::{self, Kind};
use super::tags::TagRow;
use crate::types::Digest;

/// Digests that are remembered. Over it: all content counts as touched now.
const LEASES_MAX: usize = 65_536;

/// Digests by their first eight bytes, with the monotonic time when each was last touched. Two
/// digests that share those bytes share a lease, which keeps more, never less.
#[derive(Default)]
pub(super) struct Leases(Mutex<Table>);

#[derive(Default)]
struct Table {
    touched: BTreeMap<u64, Duration>,
    /// When everything was touched, because the table was full.
    all: Option<Duration>,
}

/// The first eight bytes of a digest.
pub(super) fn short(digest: &Digest) -> u64 {
    digest.raw().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The repository's name and the digest that a key of a blob's link or a manifest holds.
pub(super) fn split_key(key: &[u8]) -> Option<(&[u8], Digest)> {
    let end = key.iter().position(|byte| *byte == 0)?;
    Some((key.get(1..end)?, Digest::from_key(&key[end + 1..])?))
}

impl Leases {
    /// Remembers that this was touched. Call it before looking whether the content is there.
    pub(super) fn touch(&self, digest: &Digest, now: Duration) {
        self.table().touch(short(digest), now);
    }

    /// Remembers what a command that is about to be acknowledged refers to.
    pub(super) fn note(&self, changes: &[Change], now: Duration) {
        let mut table = self.table();
        for (key, row) in changes {
            let Some(row) = row else { continue };
            match key.first() {
                Some(kind) if *kind == Kind::Blob as u8 => {
                    if let Some((_, digest)) = split_key(key) {
                        table.touch(short(&digest), now);
                    }
                }
                Some(kind) if *kind == Kind::Manifest as u8 => {
                    let own = split_key(key).map(|(_, digest)| digest);
                    let row = row::decode::<ManifestRow>(row).ok();
                    let named = row.iter().flat_map(|row| row.named_blobs().chain(&row.children));
                    for digest in own.iter().chain(named) {
                        table.touch(short(digest), now);
                    }
                }
                Some(kind) if *kind == Kind::Tag as u8 => {
                    if let Ok(tag) = row::decode::<TagRow>(row) {
                        table.touch(short(&tag.digest), now);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether this was touched at `since` or later.
    pub(super) fn held(&self, digest: &Digest, since: Duration) -> bool {
        self.table().held(short(digest), since)
    }

    /// Runs `remove` unless this was touched at `since` or later. Whoever touches it meanwhile
    /// waits, and then finds it gone.
    pub(super) fn unless_held<T>(
        &self,
        digest: &Digest,
        since: Duration,
        remove: impl FnOnce() -> T,
    ) -> Option<T> {
        let table = self.table();
        (!table.held(short(digest), since)).then(remove)
    }

    /// Forgets what was last touched before `since`.
    pub(super) fn forget_before(&self, since: Duration) {
        let mut table = self.table();
        table.touched.retain(|_, at| *at >= since);
        table.all = table.all.filter(|at| *at >= since);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn touch(&mut self, digest: u64, now: Duration) {
        if self.touched.len() >= LEASES_MAX && !self.touched.contains_key(&digest) {
            self.touched.clear();
            self.all = Some(now);
        }
        self.touched.insert(digest, now);
    }

    fn held(&self, digest: u64, since: Duration) -> bool {
        let own = self.touched.get(&digest).copied();
        own.max(self.all).is_some_and(|at| at >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::digest::Algorithm;

    fn digest(number: u32) -> Digest {
        let mut raw = [0; 32];
        raw[..4].copy_from_slice(&number.to_be_bytes());
        Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
    }

    #[test]
    fn a_full_table_keeps_everything() {
        let (leases, second) = (Leases::default(), Duration::from_secs);
        for number in 0..u32::try_from(LEASES_MAX).unwrap() {
            leases.touch(&digest(number), second(1));
        }
        assert!(!leases.held(&digest(u32::MAX), second(1)));
        leases.touch(&digest(u32::MAX), second(2));
        assert!(leases.held(&digest(5), second(2)) && leases.held(&digest(6), second(2)));
        assert!(!leases.held(&digest(5), second(3)));
        leases.forget_before(second(3));
        assert!(!leases.held(&digest(u32::MAX), second(2)));
    }
}
