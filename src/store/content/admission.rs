//! What the quotas of repositories have room for while content comes.
//!
//! An upload keeps as much of the quota of its repository as it has bytes, or as it has announced,
//! until its content is linked or it ends. So content is charged before it is stored, and of two
//! uploads that do not fit together the bytes that come later are refused. An upload that was given
//! up makes room, as on a full disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::rows;
use crate::store::rows::repository::{RepositoryRow, repository_key};
use crate::store::{Shared, Store, StoreError};
use crate::sys::spawn;
use crate::types::{Digest, RepositoryName};

/// What is kept of the quota of each repository, bytes.
#[derive(Clone, Default)]
pub(in crate::store) struct Admission(Arc<Mutex<BTreeMap<RepositoryName, u64>>>);

/// A part of the quota of a repository that is kept for content which is not linked yet; given back
/// when dropped.
pub struct KeptRoom {
    admission: Admission,
    repository: RepositoryName,
    bytes: u64,
}

/// What uploads bring of content that their repositories have already: no quota counts it.
#[derive(Default)]
pub(super) struct SparedContent(Mutex<BTreeSet<(RepositoryName, Digest)>>);

/// One upload brings such content; at a time no other one of the same repository is spared for it.
pub(super) struct Spared {
    shared: Arc<Shared>,
    content: (RepositoryName, Digest),
    /// Its length, bytes.
    pub(super) len: u64,
}

impl Spared {
    /// `None` while another upload is spared for it.
    pub(super) fn of(
        shared: &Arc<Shared>,
        repository: RepositoryName,
        digest: &Digest,
        len: u64,
    ) -> Option<Spared> {
        let content = (repository, digest.clone());
        let is_first = shared.uploads.spared.lock().insert(content.clone());
        is_first.then(|| Spared { shared: shared.clone(), content, len })
    }
}

impl Drop for Spared {
    fn drop(&mut self) {
        self.shared.uploads.spared.lock().remove(&self.content);
    }
}

impl SparedContent {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<(RepositoryName, Digest)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// Nothing yet of the quota of this repository.
    pub(in crate::store) fn nothing_of(&self, repository: &RepositoryName) -> KeptRoom {
        KeptRoom { admission: self.clone(), repository: repository.clone(), bytes: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RepositoryName, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptRoom {
    /// How much is kept, bytes.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keeps so much and no more, whether or not there is room.
    pub(in crate::store) fn set(&mut self, bytes: u64) {
        let admission = self.admission.clone();
        self.change(&mut admission.lock(), bytes);
    }

    /// Hands it over; nothing is kept here any more.
    pub(in crate::store) fn take(&mut self) -> KeptRoom {
        let bytes = std::mem::take(&mut self.bytes);
        let (admission, repository) = (self.admission.clone(), self.repository.clone());
        KeptRoom { admission, repository, bytes }
    }

    fn change(&mut self, all: &mut BTreeMap<RepositoryName, u64>, bytes: u64) {
        let others = self.others(all);
        match others + bytes {
            0 => all.remove(&self.repository),
            kept => all.insert(self.repository.clone(), kept),
        };
        self.bytes = bytes;
    }

    /// What is kept of the same quota for others.
    fn others(&self, all: &BTreeMap<RepositoryName, u64>) -> u64 {
        all.get(&self.repository).map_or(0, |kept| kept.saturating_sub(self.bytes))
    }
}

impl Drop for KeptRoom {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Shared {
    /// What a repository may hold, bytes; `None`: any amount.
    pub(in crate::store) fn quota(&self, repository: &RepositoryName) -> Option<u64> {
        let quota = self.quotas.iter().find(|(pattern, _)| pattern.covers(repository));
        quota.map(|(_, bytes)| *bytes)
    }

    /// Keeps at least so many bytes of a quota, if there is room beside what the repository holds
    /// and what others keep: otherwise `Quota` or `QuotaKept`.
    pub(in crate::store) fn keep(&self, kept: &mut KeptRoom, bytes: u64) -> Result<(), StoreError> {
        let admission = kept.admission.clone();
        let mut all = admission.lock();
        let others = kept.others(&all);
        self.check_room(&kept.repository, others, bytes)?;
        if self.quota(&kept.repository).is_some() {
            let bytes = bytes.max(kept.bytes);
            kept.change(&mut all, bytes);
        }
        Ok(())
    }

    /// `Quota` when a repository, of whose quota others keep some, has no room for so many bytes.
    fn check_room(
        &self,
        repository: &RepositoryName,
        others: u64,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let Some(quota) = self.quota(repository) else { return Ok(()) };
        // Content that was just linked may count twice, and never not at all.
        let row = self.index().get(&repository_key(repository))?;
        let row = row.map(|row| rows::decode::<RepositoryRow>(&row)).transpose()?;
        check(repository, row.map_or(0, |row| row.bytes), others, bytes, quota)
    }

    /// Keeps room as [`Shared::keep`] does, after uploads to the repository that were given up have
    /// made some, if that helps. Blocks.
    pub(in crate::store) fn keep_in_turn(
        &self,
        kept: &mut KeptRoom,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let fits = self.keep(kept, bytes);
        if !matches!(fits, Err(StoreError::Quota(_) | StoreError::QuotaKept(_))) {
            return fits;
        }
        let given_up = self.uploads.given_up_in(self, &kept.repository);
        let idle = given_up.iter().fold(0, |sum: u64, upload| sum.saturating_add(upload.kept()));
        let others = kept.others(&kept.admission.lock());
        // What cannot fit in any case costs no other upload its bytes.
        if self.check_room(&kept.repository, others.saturating_sub(idle), bytes).is_err() {
            return fits;
        }
        for upload in given_up {
            upload.evict(self);
            if self.keep(kept, bytes).is_ok() {
                return Ok(());
            }
        }
        fits
    }
}

impl Store {
    /// Keeps room in the quota of a repository for content that is linked next. `Quota` when there
    /// is none. What takes nothing has room also where others keep more than there is.
    pub(in crate::store) async fn keep_room(
        &self,
        repository: &RepositoryName,
        bytes: u64,
    ) -> Result<KeptRoom, StoreError> {
        let shared = self.shared().clone();
        let mut kept = shared.admission.nothing_of(repository);
        if bytes == 0 {
            return Ok(kept);
        }
        match shared.keep(&mut kept, bytes) {
            Err(StoreError::Quota(_) | StoreError::QuotaKept(_)) => {
                let keep = move || shared.keep_in_turn(&mut kept, bytes).map(|()| kept);
                spawn::blocking(keep).await
            }
            fits => fits.map(|()| kept),
        }
    }
}

/// `Quota` when a repository that holds `used` bytes may not hold so many more, `QuotaKept` when it
/// may not because of what others keep.
pub(in crate::store) fn check(
    repository: &RepositoryName,
    used: u64,
    others: u64,
    more: u64,
    quota: u64,
) -> Result<(), StoreError> {
    if used.saturating_add(others).saturating_add(more) <= quota {
        return Ok(());
    }
    let holds = format!("the repository {repository} holds {used} bytes and may hold {quota}");
    Err(match used.saturating_add(more) <= quota {
        true => StoreError::QuotaKept(format!(
            "{holds}, and {others} are coming in other uploads: there is no room for {more} more \
             before these are over; try again then, or raise registry.quotas"
        )),
        false => StoreError::Quota(format!(
            "{holds}: there is no room for {more} more; delete manifests, whose layers go when \
             garbage is collected, or raise registry.quotas"
        )),
    })
}
