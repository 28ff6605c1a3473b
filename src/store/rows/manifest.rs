//! The row of a manifest.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Kind, Row, is_default, key};
use crate::store::rows;
use crate::types::manifest::Descriptor;
use crate::types::{Digest, Manifest, RepositoryName, UnixSeconds, media};

/// What is known of a manifest without reading it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManifestRow {
    /// Served as Content-Type.
    pub media_type: String,
    /// Its length, bytes.
    pub size: u64,
    /// Media type of its configuration.
    pub config_media_type: Option<String>,
    /// As a listing of referrers shows it; `None` also where it is longer than any media type.
    pub artifact_type: Option<String>,
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
    /// For the listing of referrers, so only kept when there is a subject; bounded.
    pub annotations: BTreeMap<String, String>,
    /// Configuration and layers, without what lies elsewhere by design; the entries of an index
    /// whose type nobody knows.
    pub blobs: Vec<Digest>,
    /// Manifests of an index.
    pub children: Vec<Digest>,
    /// Length of what it refers to directly, bytes.
    pub content_size: u64,
    /// When it was first pushed or synced.
    pub pushed: UnixSeconds,
    /// Configuration and layers that lie elsewhere by design, and may be here all the same. `None`
    /// in a row of an earlier version, which left them out: the manifest itself says.
    pub elsewhere: Option<Vec<Digest>>,
    /// On a connected registry: a client of it, or of one below it, has pushed it.
    #[serde(skip_serializing_if = "is_default")]
    pub from_below: bool,
}

impl Row for ManifestRow {
    const VERSION: u8 = 1;

    fn read(bytes: &[u8]) -> Result<ManifestRow, postcard::Error> {
        let (first, left) = postcard::take_from_bytes(bytes)?;
        let (media_type, size, config_media_type, artifact_type, subject, annotations) = first;
        // Earlier versions kept it whatever its length.
        let artifact_type = Option::filter(artifact_type, |text: &String| is_media_type(text));
        let (rest, left) = postcard::take_from_bytes(left)?;
        let (blobs, children, content_size, pushed) = rest;
        let (elsewhere, left) =
            if left.is_empty() { (None, left) } else { postcard::take_from_bytes(left)? };
        Ok(ManifestRow {
            media_type,
            size,
            config_media_type,
            artifact_type,
            subject,
            annotations,
            blobs,
            children,
            content_size,
            pushed,
            elsewhere,
            from_below: rows::last(left)?,
        })
    }
}

/// Whether a text can be a media type, by its length: others are not kept, as rows are read whole.
pub(in crate::store) fn is_media_type(text: &str) -> bool {
    text.len() <= media::MEDIA_TYPE_MAX
}

impl ManifestRow {
    /// Everything that it names as a blob, or may name as one.
    pub fn named_blobs(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.iter().chain(self.elsewhere.iter().flatten())
    }

    /// Whether everything that it names is a blob.
    pub fn is_image(&self) -> bool {
        [media::OCI_MANIFEST, media::DOCKER_MANIFEST, media::OCI_ARTIFACT]
            .contains(&self.media_type.as_str())
    }

    /// Everything that it names as a manifest, or may name as one: an entry of an index whose type
    /// nobody knows may be either.
    pub fn named_manifests(&self) -> impl Iterator<Item = &Digest> {
        let blobs = (!self.is_image()).then(|| self.named_blobs());
        self.children.iter().chain(blobs.into_iter().flatten())
    }
}

/// What of a manifest's configuration and layers lies elsewhere by design.
pub(in crate::store) fn elsewhere(parsed: &Manifest) -> Vec<Digest> {
    let blobs = parsed.config.iter().chain(&parsed.layers);
    let external = blobs.filter(|descriptor| descriptor.is_external());
    once_each(external)
}

/// What descriptors name, each digest once, in their order: a manifest may name the same content
/// any number of times.
pub(in crate::store) fn once_each<'a>(named: impl Iterator<Item = &'a Descriptor>) -> Vec<Digest> {
    let mut seen = BTreeSet::new();
    let first = named.map(|named| &named.digest).filter(|digest| seen.insert(*digest));
    first.cloned().collect()
}

/// The key of a manifest.
pub fn manifest_key(repository: &RepositoryName, digest: &Digest) -> Vec<u8> {
    key(Kind::Manifest, &[repository.as_str().as_bytes(), &digest.to_key()])
}
