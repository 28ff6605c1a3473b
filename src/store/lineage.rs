//! Which store a state directory or a backup is of, so that a backup takes the place only of an
//! older one of the same store.

use std::path::Path;
use std::{fmt, io};

use ring::digest::{SHA256, digest};

use super::journal::layout::{Layout, STORE_ID};
use super::recovery::recover::last_sequence;
use super::role::noted_role;
use crate::sys::Disk;
use crate::types::{Role, StoreRole};

/// No file that is compared is longer, bytes; one that is counts as not there.
const COMPARED_BYTES_MAX: u64 = 64 * 1024;
/// The instance of a connected registry, as its parent knows it.
const INSTANCE_ID: &str = "instance-id";
/// Tells stores apart that have no mark yet.
const SIGNING_KEY: &str = "token-signing";

/// Which store it is, as far as the files tell.
#[derive(PartialEq, Eq)]
pub struct Lineage {
    /// Its mark; `None` in backups of earlier versions.
    store: Option<String>,
    /// The backups that it knows of, oldest first; in a backup it is the last one itself.
    backups: Vec<String>,
    instance: Option<String>,
    /// SHA-256 of the key.
    key: Option<Vec<u8>>,
    role: Option<StoreRole>,
    /// The last record.
    sequence: Option<u64>,
}

impl Lineage {
    /// Looks at a state directory or a backup that nothing is written to meanwhile; `None` where
    /// there is neither. An error where something is there, and cannot be read.
    pub fn of(disk: &dyn Disk, directory: &Path) -> io::Result<Option<Lineage>> {
        let layout = Layout::new(directory);
        if !disk.exists(&layout.identity())? || disk.list(&layout.identity())?.is_empty() {
            return Ok(None);
        }
        let path = |name: &str| layout.identity().join(name);
        let read = |name: &str| disk.read(&path(name), COMPARED_BYTES_MAX).ok();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        let mark = match disk.exists(&path(STORE_ID))? {
            true => text(disk.read(&path(STORE_ID), COMPARED_BYTES_MAX)?),
            false => String::new(),
        };
        let mut lines = mark.lines().map(str::to_owned);
        Ok(Some(Lineage {
            store: lines.next(),
            backups: lines.collect(),
            instance: read(INSTANCE_ID).map(text),
            key: read(SIGNING_KEY).map(|key| digest(&SHA256, &key).as_ref().to_vec()),
            role: noted_role(disk, directory),
            sequence: last_sequence(disk, &layout).ok(),
        }))
    }

    /// Whether a backup of `newer` may take the place of this one; the error is for people.
    pub fn check_replaced_by(&self, newer: &Lineage) -> Result<(), String> {
        let kind = |lineage: &Lineage| match lineage.role {
            Some(StoreRole::Root) => Some(Role::Root),
            Some(StoreRole::Unprovisioned | StoreRole::Adopted | StoreRole::Connected(_)) => {
                Some(Role::Connected)
            }
            Some(StoreRole::New) | None => None,
        };
        let same = match (&self.store, &newer.store) {
            (Some(old), Some(new)) => old == new,
            _ => !differ(self.key.as_ref(), newer.key.as_ref()),
        };
        let is_other = !same
            || differ(self.instance.as_ref(), newer.instance.as_ref())
            || differ(kind(self), kind(newer));
        if is_other {
            return Err(format!("it holds the backup of another store: {self}; this is {newer}"));
        }
        let is_known = self.backups.last().is_none_or(|mark| newer.backups.contains(mark));
        match (self.sequence, newer.sequence) {
            _ if !is_known => Err(format!(
                "it holds a backup of another state of this store, which has lost records since, \
                 was set back, restored from another backup, or backed up very often to other \
                 directories: {self}; this is {newer}"
            )),
            (Some(old), Some(new)) if new < old => Err(format!(
                "it holds a backup of a later state of this store: {self}; this is {newer}"
            )),
            _ => Ok(()),
        }
    }
}

/// Whether both are known and not the same.
fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            Some(role) => write!(f, "{role}")?,
            None => f.write_str("no role noted")?,
        }
        match &self.store {
            Some(store) => write!(f, ", store {store}")?,
            None => f.write_str(", store without a mark")?,
        }
        if let Some(instance) = &self.instance {
            write!(f, ", instance {instance}")?;
        }
        match self.sequence {
            Some(sequence) => write!(f, ", sequence {sequence}"),
            None => f.write_str(", sequence unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(store: Option<&str>, key: u8, role: &str, sequence: u64) -> Lineage {
        Lineage {
            store: store.map(str::to_owned),
            backups: Vec::new(),
            instance: None,
            key: Some(vec![key]),
            role: StoreRole::parse(role),
            sequence: Some(sequence),
        }
    }

    #[test]
    fn f201_only_an_older_backup_of_the_same_store_is_replaced() {
        let old = lineage(Some("a"), 1, "root", 10);
        // The key may have been replaced since, and a new root has no note.
        for new in [lineage(Some("a"), 2, "root", 10), lineage(Some("a"), 1, "", 11)] {
            assert_eq!(old.check_replaced_by(&new), Ok(()));
        }
        for (new, word) in [
            (lineage(Some("b"), 1, "root", 11), "another store"),
            (lineage(Some("a"), 1, "connected dock01", 11), "another store"),
            (lineage(Some("a"), 1, "root", 9), "later state"),
        ] {
            let why = old.check_replaced_by(&new).unwrap_err();
            assert!(why.contains(word) && why.contains(&new.to_string()), "{why}");
        }
        // One after another, and one of a state that does not know of the other.
        let backups = |marks: &[&str], sequence| Lineage {
            backups: marks.iter().map(|mark| (*mark).to_owned()).collect(),
            ..lineage(Some("a"), 1, "root", sequence)
        };
        let old = backups(&["1", "2"], 10);
        assert_eq!(old.check_replaced_by(&backups(&["1", "2", "3"], 11)), Ok(()));
        let why = old.check_replaced_by(&backups(&["1", "4"], 99)).unwrap_err();
        assert!(why.contains("has lost records") && why.contains("set back"), "{why}");
        // Of an earlier version, without a mark.
        let old = lineage(None, 1, "connected", 10);
        let named = lineage(Some("a"), 1, "connected dock01", 11);
        assert_eq!(old.check_replaced_by(&named), Ok(()));
        assert!(old.check_replaced_by(&lineage(Some("a"), 2, "connected", 11)).is_err());
        let other = Lineage { instance: Some("x".to_owned()), ..lineage(Some("a"), 1, "root", 1) };
        let same = Lineage { instance: Some("y".to_owned()), ..lineage(Some("a"), 1, "root", 1) };
        assert!(other.check_replaced_by(&same).is_err());
    }
}
