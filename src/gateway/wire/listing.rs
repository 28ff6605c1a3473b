//! A page of what a repository holds: tags, or manifests.

use serde::{Deserialize, Serialize};

use super::envelope::{Element, Head, Kind, WireError, append, body_of, divided, number_of};
use super::{Format, Wire, all};
use crate::types::message::{Listing, Manifests, TagEntry};
use crate::types::{Cursor, Digest, Tag};

#[derive(Serialize, Deserialize)]
struct ListingV1 {
    at: Cursor,
    tags: Vec<TagEntryV1>,
    referrers: Vec<Digest>,
    next: Option<Tag>,
}

#[derive(Serialize, Deserialize)]
struct TagEntryV1 {
    tag: Tag,
    digest: Digest,
}

impl Wire for Listing {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        match format {
            Format::V2 => write_v2(self),
            Format::V1 | Format::Json => format.write(Kind::Listing, &ListingV1::from(self)),
        }
    }

    fn read(format: Format, bytes: &[u8]) -> Result<Listing, WireError> {
        if format == Format::V2 {
            let (head, elements) = divided::<HeadV2>(bytes)?;
            return read_v2(head, elements);
        }
        format.read::<ListingV1>(Kind::Listing, bytes).map(Listing::from)
    }
}

/// A digest is all that there is to say of each, in both versions.
#[derive(Serialize, Deserialize)]
struct ManifestsV1 {
    digests: Vec<Digest>,
}

impl Wire for Manifests {
    fn write(self, format: Format) -> Result<Vec<u8>, WireError> {
        format.write(Kind::Manifests, &ManifestsV1 { digests: self.digests })
    }

    fn read(format: Format, bytes: &[u8]) -> Result<Manifests, WireError> {
        let ManifestsV1 { digests } = format.read(Kind::Manifests, bytes)?;
        Ok(Manifests { digests })
    }
}

impl From<Listing> for ListingV1 {
    fn from(listing: Listing) -> ListingV1 {
        let Listing { at, tags, referrers, next } = listing;
        ListingV1 { at, tags: all(tags), referrers, next }
    }
}

impl From<ListingV1> for Listing {
    fn from(listing: ListingV1) -> Listing {
        let ListingV1 { at, tags, referrers, next } = listing;
        Listing { at, tags: all(tags), referrers, next }
    }
}

impl From<TagEntry> for TagEntryV1 {
    fn from(TagEntry { tag, digest }: TagEntry) -> TagEntryV1 {
        TagEntryV1 { tag, digest }
    }
}

impl From<TagEntryV1> for TagEntry {
    fn from(TagEntryV1 { tag, digest }: TagEntryV1) -> TagEntry {
        TagEntry { tag, digest }
    }
}

#[derive(Serialize, Deserialize)]
struct HeadV2 {
    elements: u32,
    at: Cursor,
    // Without it, what follows on other pages would count as deleted: it has no default.
    next: Option<Tag>,
}

#[derive(Serialize, Deserialize)]
struct TagEntryV2 {
    tag: Tag,
    digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct ReferrerEntryV2 {
    digest: Digest,
}

impl Head for HeadV2 {
    const KIND: Kind = Kind::ListingHead;

    fn elements(&self) -> u32 {
        self.elements
    }
}

fn write_v2(listing: Listing) -> Result<Vec<u8>, WireError> {
    let Listing { at, tags, referrers, next } = listing;
    let elements = number_of(&[tags.len(), referrers.len()])?;
    let mut bytes = Vec::new();
    append(&mut bytes, Kind::ListingHead, &HeadV2 { elements, at, next })?;
    for TagEntry { tag, digest } in tags {
        append(&mut bytes, Kind::TagEntry, &TagEntryV2 { tag, digest })?;
    }
    for digest in referrers {
        append(&mut bytes, Kind::ReferrerEntry, &ReferrerEntryV2 { digest })?;
    }
    Ok(bytes)
}

fn read_v2(head: HeadV2, elements: Vec<Element<'_>>) -> Result<Listing, WireError> {
    let (mut tags, mut referrers) = (Vec::new(), Vec::new());
    for (kind, body) in elements {
        match kind {
            Some(Kind::TagEntry) => {
                let TagEntryV2 { tag, digest } = body_of(body)?;
                tags.push(TagEntry { tag, digest });
            }
            Some(Kind::ReferrerEntry) => {
                referrers.push(body_of::<ReferrerEntryV2>(body)?.digest);
            }
            // This node has nothing of a kind that it does not know, so that there is nothing to
            // compare with it. A tag or a manifest that cannot be read is an error: it would count
            // as deleted.
            _ => {}
        }
    }
    Ok(Listing { at: head.at, tags, referrers, next: head.next })
}
