//! What changes of content are to a child.

use crate::store::StoreError;
use crate::store::rows::tag::TagRow;
use crate::store::rows::{self, Kind};
use crate::types::message::Message;
use crate::types::{Digest, RepositoryName, Tag};

/// What a change of content is to a child; `None`: nothing that is told.
pub fn content_message(key: &[u8], row: Option<&[u8]>) -> Result<Option<Message>, StoreError> {
    const TAG: u8 = Kind::Tag as u8;
    const MANIFEST: u8 = Kind::Manifest as u8;
    const REFERRER: u8 = Kind::Referrer as u8;
    let Some((&kind, key)) = key.split_first() else { return Ok(None) };
    let damaged = || StoreError::Corrupt("a key of content is malformed".to_owned());
    let zero = key.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
    let repository: RepositoryName = text(&key[..zero]).ok_or_else(damaged)?;
    let name = &key[zero + 1..];
    Ok(match (kind, row) {
        (TAG, row) => {
            let tag: Tag = text(name).ok_or_else(damaged)?;
            let digest = row.map(|row| rows::decode::<TagRow>(row).map(|row| row.digest));
            Some(Message::Tag { repository, tag, digest: digest.transpose()? })
        }
        (MANIFEST, None) => {
            let digest = Digest::from_key(name).ok_or_else(damaged)?;
            Some(Message::ManifestDeleted { repository, digest })
        }
        // A manifest that refers to another one may have no tag: it is announced by its link.
        (REFERRER, Some(_)) => {
            let digest = referrer(name).ok_or_else(damaged)?;
            Some(Message::ManifestAdded { repository, digest })
        }
        _ => None,
    })
}

/// Reads `subject, zero, digest`; the length of the subject follows from its algorithm.
fn referrer(key: &[u8]) -> Option<Digest> {
    (0..key.len()).find_map(|split| {
        let (subject, rest) = key.split_at(split);
        Digest::from_key(subject)?;
        Digest::from_key(rest.strip_prefix(&[0])?)
    })
}

/// Reads the digests of manifests that refer to others from the keys of a repository's links.
pub fn referrer_of_key(key: &[u8], repository: &RepositoryName) -> Option<Digest> {
    let rest = key.strip_prefix(&[Kind::Referrer as u8])?;
    referrer(rest.strip_prefix(repository.as_str().as_bytes())?.strip_prefix(&[0])?)
}

fn text<N: std::str::FromStr>(bytes: &[u8]) -> Option<N> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
