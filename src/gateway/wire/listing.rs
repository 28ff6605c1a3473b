//! A page of what a repository holds.

use serde::{Deserialize, Serialize};

use super::envelope::{Kind, WireError};
use super::{Format, Wire, all};
use crate::types::message::{Listing, TagEntry};
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
        format.write(Kind::Listing, &ListingV1::from(self))
    }

    fn read(format: Format, bytes: &[u8]) -> Result<Listing, WireError> {
        format.read::<ListingV1>(Kind::Listing, bytes).map(Listing::from)
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
