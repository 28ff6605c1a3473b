//! What nothing refers to, as a look at rows and files finds it: a page or a directory at a time,
//! on the blocking pool, so that others go on in between. What comes or goes meanwhile may be among
//! it or not; whoever removes something looks again.

use std::path::Path;
use std::sync::Arc;

use super::candidates::CANDIDATES_MAX;
use super::content::blobs;
use super::content::leases::short;
use super::index::KeyValue;
use super::marks::{Marks, in_part};
use super::rows::link::{repository_of, split_key};
use super::rows::manifest::ManifestRow;
use super::rows::tag::TagRow;
use super::rows::untagged::{Untagged, untagged_key};
use super::rows::{self, Kind, prefix};
use super::{Shared, Store, StoreError};
use crate::sys::spawn;
use crate::types::digest::Algorithm;
use crate::types::{Digest, Manifest, RepositoryName};

async fn blocking<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    spawn::blocking(move || work(&store)).await
}

/// The blobs that the manifests of a repository name, of one part of all digests.
pub(super) async fn used(
    store: &Store,
    name: &RepositoryName,
    part: u64,
    parts: u64,
) -> Result<Used, StoreError> {
    let mut used = Marks::new(part, parts);
    let start = prefix(Kind::Manifest, &[name.as_str().as_bytes()]);
    let mut manifests = store.pages::<ManifestRow>(start);
    while let page = manifests.next().await?
        && !page.is_empty()
    {
        let mut learned = Vec::new();
        for (key, mut row) in page {
            if row.elsewhere.is_none()
                && let Some((_, digest)) = split_key(&key)
            {
                let (manifest, media_type) = (digest.clone(), row.media_type.clone());
                let read = move |store: &Store| read_elsewhere(store, &manifest, &media_type);
                row.elsewhere = blocking(store, read).await?;
                match &row.elsewhere {
                    Some(found) => learned.push((key, found.clone())),
                    None => return Ok(Used::Unknown(digest)),
                }
            }
            row.named_blobs().for_each(|blob| used.add(blob));
        }
        note_elsewhere(store, learned).await?;
    }
    Ok(used.all().map_or(Used::TooMany, Used::Digests))
}

/// Lets the rows of these manifests say what lies elsewhere.
async fn note_elsewhere(
    store: &Store,
    learned: Vec<(Vec<u8>, Vec<Digest>)>,
) -> Result<(), StoreError> {
    if learned.is_empty() {
        return Ok(());
    }
    store
        .commit(move |txn| {
            for (key, elsewhere) in learned {
                if let Some(row) = txn.get::<ManifestRow>(&key)? {
                    txn.put(key, &ManifestRow { elsewhere: Some(elsewhere), ..row })?;
                }
            }
            Ok(())
        })
        .await
}

/// The files of one part of all digests, a directory at a time.
pub(super) async fn files(
    store: &Store,
    marked: Vec<u64>,
    part: u64,
    parts: u64,
) -> Result<Files, StoreError> {
    let (marked, mut files) = (Arc::new(marked), Files::default());
    for algorithm in Algorithm::ALL {
        let shared = store.shared().clone();
        let top = shared.layout.blobs(algorithm);
        let from = top.clone();
        let list = move |_: &Store| match shared.disk.exists(&from)? {
            true => Ok(shared.disk.list(&from)?),
            false => Ok(Vec::new()),
        };
        for fan_out in blocking(store, list).await?.into_iter().filter(|entry| entry.is_dir) {
            let (shared, marked) = (store.shared().clone(), marked.clone());
            let directory = top.join(&fan_out.name);
            files = blocking(store, move |_| {
                let is_marked = |digest| {
                    in_part(digest, part, parts).then(|| marked.binary_search(&digest).is_ok())
                };
                look_at_files(&shared, algorithm, &directory, is_marked, &mut files);
                Ok(files)
            })
            .await?;
        }
    }
    Ok(files)
}

/// The digests that tags and indexes of a repository name, of one part of all; `None` when they
/// are too many.
pub(super) async fn kept(
    store: &Store,
    name: &RepositoryName,
    part: u64,
    parts: u64,
) -> Result<Option<Vec<u64>>, StoreError> {
    let mut kept = Marks::new(part, parts);
    let mut tags = store.pages::<TagRow>(prefix(Kind::Tag, &[name.as_str().as_bytes()]));
    while let page = tags.next().await?
        && !page.is_empty()
    {
        page.iter().for_each(|(_, tag)| kept.add(&tag.digest));
    }
    let start = prefix(Kind::Manifest, &[name.as_str().as_bytes()]);
    let mut manifests = store.pages::<ManifestRow>(start);
    while let page = manifests.next().await?
        && !page.is_empty()
    {
        page.iter().flat_map(|(_, row)| row.named_manifests()).for_each(|one| kept.add(one));
    }
    Ok(kept.all())
}

/// Of some notes those about manifests that are gone; `None` when there are no notes.
pub(super) fn notes_of_nothing(
    store: &Store,
    notes: Vec<KeyValue>,
) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
    if notes.is_empty() {
        return Ok(None);
    }
    let mut gone = Vec::new();
    for (key, _) in notes {
        if let (Some(name), Some((_, digest))) = (repository_of(&key), split_key(&key))
            && store.manifest(&name, &digest)?.is_none()
        {
            gone.push(key);
        }
    }
    Ok(Some(gone))
}

/// What a manifest names that lies elsewhere, for a row of an earlier version that does not say;
/// `None` when the manifest cannot be read.
fn read_elsewhere(
    store: &Store,
    digest: &Digest,
    media_type: &str,
) -> Result<Option<Vec<Digest>>, StoreError> {
    match blobs::read(store.shared(), digest) {
        Ok(Some(bytes)) => {
            let parsed = Manifest::parse(Some(media_type), &bytes).ok();
            Ok(parsed.map(|parsed| rows::manifest::elsewhere(&parsed)))
        }
        Ok(None)
        | Err(StoreError::Corrupt(_) | StoreError::Invalid(_) | StoreError::Unreadable(_)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What the manifests of a repository use.
pub(super) enum Used {
    Digests(Vec<u64>),
    TooMany,
    /// It cannot be known what this manifest names.
    Unknown(Digest),
}

/// What a look at some manifests of a repository found.
#[derive(Default)]
pub(super) struct Looked {
    /// Those that no tag, index or subject keeps, with since when, if a run has seen it before.
    pub(super) untagged: Vec<(Digest, Option<u64>)>,
    /// Keys of the notes about those that something keeps again.
    pub(super) kept_again: Vec<Vec<u8>>,
}

/// Looks at some manifests; `None` when there are none. What `is_kept` does not know is another
/// part's.
pub(super) fn look_for_tags(
    store: &Store,
    repository: &RepositoryName,
    manifests: Vec<KeyValue>,
    is_kept: impl Fn(u64) -> Option<bool>,
) -> Result<Option<Looked>, StoreError> {
    if manifests.is_empty() {
        return Ok(None);
    }
    let mut looked = Looked::default();
    for (key, row) in manifests {
        let Some((_, digest)) = split_key(&key) else { continue };
        let Some(is_kept) = is_kept(short(&digest)) else { continue };
        let subject = rows::decode::<ManifestRow>(&row)?.subject;
        let refers = match subject {
            Some(subject) => store.manifest(repository, &subject)?.is_some(),
            None => false,
        };
        let key = untagged_key(repository, &digest);
        let noted = store.get::<Untagged>(&key)?.map(|row| row.on);
        if !refers && !is_kept {
            looked.untagged.push((digest, noted));
        } else if noted.is_some() {
            looked.kept_again.push(key);
        }
    }
    Ok(Some(looked))
}

/// The files of one part of all digests.
#[derive(Default)]
pub(super) struct Files {
    pub(super) kept: u64,
    pub(super) bytes_kept: u64,
    pub(super) unreferenced: Vec<(Digest, u64)>,
    pub(super) stuck: Stuck,
}

/// Files that the disk neither shows nor lets go: they stay.
#[derive(Default)]
pub(super) struct Stuck {
    count: u64,
    first: Option<String>,
}

impl Stuck {
    pub(super) fn add(&mut self, error: String) {
        self.count += 1;
        self.first.get_or_insert(error);
    }

    pub(super) fn add_all(&mut self, more: Stuck) {
        self.count += more.count;
        self.first = self.first.take().or(more.first);
    }

    pub(super) fn log(&self) {
        if let Some(first) = &self.first {
            log::error!(
                "the disk fails at files of content, which stay files={}: {first}",
                self.count
            );
        }
    }
}

/// Adds the files of one directory. What the disk does not show is not removed, and keeps no other
/// one.
fn look_at_files(
    shared: &Shared,
    algorithm: Algorithm,
    directory: &Path,
    marked: impl Fn(u64) -> Option<bool>,
    files: &mut Files,
) {
    let entries = shared.disk.list(directory).unwrap_or_else(|error| {
        files.stuck.add(format!("{}: {error}", directory.display()));
        Vec::new()
    });
    for entry in entries {
        let name = format!("{}:{}", algorithm.name(), entry.name);
        let Ok(digest) = name.parse::<Digest>() else { continue };
        let Some(is_marked) = marked(short(&digest)) else { continue };
        let bytes = match shared.disk.file_len(&directory.join(&entry.name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                files.stuck.add(format!("{}: {error}", directory.join(&entry.name).display()));
                continue;
            }
        };
        if is_marked {
            files.kept += 1;
            files.bytes_kept += bytes;
        } else if files.unreferenced.len() < CANDIDATES_MAX {
            files.unreferenced.push((digest, bytes));
        }
    }
}
