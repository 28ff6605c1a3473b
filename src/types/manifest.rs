//! Manifests and indexes, parsed for what a registry needs to know of them: what they refer to.
//!
//! The bytes themselves are stored and served as they came; nothing here writes a manifest.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Digest;
use super::limits::{ANNOTATIONS_BYTES_MAX, MANIFEST_DESCRIPTORS_MAX};
use super::media;

/// A parsed manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// What it is.
    pub kind: ManifestKind,
    /// Its media type, without parameters.
    pub media_type: String,
    /// What kind of artifact it says it is.
    pub artifact_type: Option<String>,
    /// The configuration of an image.
    pub config: Option<Descriptor>,
    /// Layers; also the entries of an index that are no manifests (build caches have such).
    pub layers: Vec<Descriptor>,
    /// The manifests of an index.
    pub children: Vec<Descriptor>,
    /// The manifest that this one refers to; it need not exist.
    pub subject: Option<Descriptor>,
    /// Annotations, at most [`ANNOTATIONS_BYTES_MAX`] of them; what is over is left out here, not
    /// in the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Whether some were left out.
    pub has_more_annotations: bool,
}

/// What a manifest is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManifestKind {
    /// A configuration and layers.
    Image,
    /// A list of manifests.
    Index,
    /// JSON of a media type that we do not know: kept and served, its references not enforced.
    Opaque,
}

/// A reference to content (OCI image-spec, "Descriptor").
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// Of the content.
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
    /// For which platform, in an index.
    pub platform: Option<Platform>,
    /// Whether other places to fetch it from are named.
    pub has_urls: bool,
}

/// For what an image is built (OCI image-spec, "Image Index").
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Platform {
    /// For example `linux`.
    #[serde(default)]
    pub os: String,
    /// For example `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// For example `v8`.
    #[serde(default)]
    pub variant: Option<String>,
}

/// Why bytes are no manifest: a sentence for the one who pushed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestError(pub String);

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ManifestError {}

fn error(text: impl Into<String>) -> ManifestError {
    ManifestError(text.into())
}

impl Descriptor {
    /// Whether the content may be absent from the registry: it lies elsewhere by design (OCI
    /// image-spec, "Non-Distributable Layers").
    pub fn is_external(&self) -> bool {
        self.has_urls || media::is_nondistributable(&self.media_type)
    }
}

impl Manifest {
    /// Parses `bytes` that were sent or served with this Content-Type, if any.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let sent = match content_type {
            Some(text) => Some(media::essence(text).ok_or_else(|| {
                error("the Content-Type is no media type of the form type/subtype")
            })?),
            None => None,
        };
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        if first.is_some_and(|byte| *byte != b'{') {
            return Err(error("invalid manifest: it is no JSON object"));
        }
        let header: Header = from_json(bytes)?;
        let media_type = match (sent, header.media_type.as_deref()) {
            (Some(sent), Some(inside)) if sent != inside => {
                return Err(error(format!(
                    "the Content-Type is '{sent}' but the field mediaType says '{}'",
                    printable(inside)
                )));
            }
            (Some(known), _) => known,
            (None, Some(inside)) if media::essence(inside).as_deref() == Some(inside) => {
                inside.to_owned()
            }
            (None, Some(_)) => return Err(error("the field mediaType is no media type")),
            (None, None) => {
                return Err(error("neither a Content-Type nor the field mediaType is given"));
            }
        };
        match media_type.as_str() {
            media::OCI_MANIFEST | media::DOCKER_MANIFEST => image(media_type, bytes),
            media::OCI_INDEX | media::DOCKER_LIST => index(media_type, bytes),
            media::OCI_ARTIFACT => artifact(media_type, bytes),
            media::DOCKER_V1 | media::DOCKER_V1_SIGNED => Err(error(
                "Docker image manifests of schema 1 are not supported: push schema 2 or OCI",
            )),
            _ => opaque(media_type, bytes),
        }
    }

    /// What must be linked as blobs in the repository before the manifest is accepted. The entries
    /// of an index whose type nobody knows may be blobs, manifests, or absent: the image-spec has
    /// readers pass over them.
    pub fn required_blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let enforced = self.kind == ManifestKind::Image;
        let blobs = self.config.iter().chain(&self.layers);
        blobs.filter(move |descriptor| enforced && !descriptor.is_external())
    }

    /// What must exist as manifests in the repository before the manifest is accepted.
    pub fn required_manifests(&self) -> impl Iterator<Item = &Descriptor> {
        let enforced = self.kind == ManifestKind::Index;
        self.children.iter().filter(move |descriptor| enforced && !descriptor.is_external())
    }

    /// What it names without needing it: kept and synced where it is here, and no fault where it
    /// is absent.
    pub fn optional(&self) -> impl Iterator<Item = &Descriptor> {
        let (blobs, manifests) = match self.kind {
            ManifestKind::Image => (true, false),
            ManifestKind::Index => (false, true),
            ManifestKind::Opaque => (false, false),
        };
        let blobs = self.config.iter().chain(&self.layers).map(move |named| (blobs, named));
        let manifests = self.children.iter().map(move |named| (manifests, named));
        let all = blobs.chain(manifests);
        all.filter(|(enforced, named)| !enforced || named.is_external()).map(|(_, named)| named)
    }

    /// The artifact type that a listing of referrers shows (OCI distribution-spec, "Listing
    /// Referrers"): an image without one counts by the media type of its configuration.
    pub fn referrer_type(&self) -> Option<&str> {
        let own = self.artifact_type.as_deref().filter(|text| !text.is_empty());
        own.or(match self.kind {
            ManifestKind::Image => self.config.as_ref().map(|config| config.media_type.as_str()),
            ManifestKind::Index | ManifestKind::Opaque => None,
        })
    }
}

fn image(media_type: String, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let raw: Raw = from_json(bytes)?;
    check_version(&raw)?;
    // A document that is an image to one reader and an index to another hides content from one
    // of them (CVE-2021-41190).
    if raw.manifests.is_some() {
        return Err(error("an image manifest has no field 'manifests'"));
    }
    let config = raw.config.ok_or_else(|| error("the field 'config' is missing"))?;
    let config = config.checked("config")?;
    let annotations = raw.annotations.unwrap_or_default();
    Ok(Manifest {
        kind: ManifestKind::Image,
        media_type,
        artifact_type: raw.artifact_type,
        config: Some(config),
        layers: checked_list(raw.layers, "layers")?,
        children: Vec::new(),
        subject: checked_subject(raw.subject)?,
        annotations: annotations.kept,
        has_more_annotations: annotations.has_more,
    })
}

fn index(media_type: String, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let raw: Raw = from_json(bytes)?;
    check_version(&raw)?;
    if raw.config.is_some() || raw.layers.is_some() {
        return Err(error("an index has no field 'config' or 'layers'"));
    }
    let entries = checked_list(raw.manifests, "manifests")?;
    let (children, layers) =
        entries.into_iter().partition(|entry| media::is_manifest(&entry.media_type));
    let annotations = raw.annotations.unwrap_or_default();
    Ok(Manifest {
        kind: ManifestKind::Index,
        media_type,
        artifact_type: raw.artifact_type,
        config: None,
        layers,
        children,
        subject: checked_subject(raw.subject)?,
        annotations: annotations.kept,
        has_more_annotations: annotations.has_more,
    })
}

/// The artifact manifest of the release candidates of OCI image-spec 1.1; some tools wrote it.
fn artifact(media_type: String, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let raw: Raw = from_json(bytes)?;
    let annotations = raw.annotations.unwrap_or_default();
    Ok(Manifest {
        kind: ManifestKind::Image,
        media_type,
        artifact_type: raw.artifact_type,
        config: None,
        layers: checked_list(raw.blobs, "blobs")?,
        children: Vec::new(),
        subject: checked_subject(raw.subject)?,
        annotations: annotations.kept,
        has_more_annotations: annotations.has_more,
    })
}

/// References are taken where they have the usual names and forms, so that the collection of
/// garbage spares what they name, but nothing is demanded.
fn opaque(media_type: String, bytes: &[u8]) -> Result<Manifest, ManifestError> {
    let raw = serde_json::from_slice::<Raw>(bytes).unwrap_or_default();
    let lenient = |list: Option<Vec<RawDescriptor>>| {
        let list = list.unwrap_or_default().into_iter().take(MANIFEST_DESCRIPTORS_MAX);
        list.filter_map(|entry| entry.checked("").ok()).collect::<Vec<Descriptor>>()
    };
    let mut layers = lenient(raw.layers);
    layers.extend(lenient(raw.blobs));
    let annotations = raw.annotations.unwrap_or_default();
    Ok(Manifest {
        kind: ManifestKind::Opaque,
        media_type,
        artifact_type: raw.artifact_type,
        config: raw.config.and_then(|config| config.checked("").ok()),
        layers,
        children: lenient(raw.manifests),
        subject: raw.subject.and_then(|subject| subject.checked("").ok()),
        annotations: annotations.kept,
        has_more_annotations: annotations.has_more,
    })
}

fn from_json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|fault| error(printable(&fault.to_string())))
}

fn check_version(raw: &Raw) -> Result<(), ManifestError> {
    match raw.schema_version {
        Some(2) => Ok(()),
        Some(other) => Err(error(format!("schemaVersion is {other}, must be 2"))),
        None => Err(error("the field 'schemaVersion' is missing")),
    }
}

fn checked_list(
    list: Option<Vec<RawDescriptor>>,
    field: &str,
) -> Result<Vec<Descriptor>, ManifestError> {
    let list = list.unwrap_or_default();
    if list.len() > MANIFEST_DESCRIPTORS_MAX {
        return Err(error(format!("{field} has more than {MANIFEST_DESCRIPTORS_MAX} entries")));
    }
    let numbered = list.into_iter().enumerate();
    numbered.map(|(number, raw)| raw.checked(&format!("{field}[{number}]"))).collect()
}

fn checked_subject(raw: Option<RawDescriptor>) -> Result<Option<Descriptor>, ManifestError> {
    raw.map(|raw| raw.checked("subject")).transpose()
}

/// What a peer wrote, cut and stripped for an error message.
fn printable(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 200;
    let shown = text.chars().take(SHOWN_CHARS_MAX);
    shown.map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
}

/// Fields that decide nothing are not read; a field given twice is an error.
#[derive(Deserialize, Default)]
struct Raw {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<i64>,
    #[serde(rename = "artifactType")]
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    blobs: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
    annotations: Option<BoundedMap>,
}

#[derive(Deserialize)]
struct RawDescriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    size: Option<u64>,
    urls: Option<Vec<IgnoredAny>>,
    platform: Option<Platform>,
}

impl RawDescriptor {
    fn checked(self, place: &str) -> Result<Descriptor, ManifestError> {
        let media_type = match self.media_type.as_deref().map(media::essence) {
            Some(Some(media_type)) => media_type,
            Some(None) => return Err(error(format!("{place}.mediaType is no media type"))),
            None => return Err(error(format!("{place}.mediaType is missing"))),
        };
        let digest: Digest = self.digest.parse().map_err(|fault| {
            error(format!("{place}.digest '{}': {fault}", printable(&self.digest)))
        })?;
        let size = match self.size {
            Some(size) => size,
            // Docker leaves a size of 0 out.
            None if digest.is_of_nothing() => 0,
            None => return Err(error(format!("{place}.size is missing"))),
        };
        Ok(Descriptor {
            media_type,
            digest,
            size,
            platform: self.platform,
            has_urls: self.urls.is_some_and(|urls| !urls.is_empty()),
        })
    }
}

/// A map of texts that stops to grow at its bound: a body of 4 MiB may hold a million entries.
#[derive(Default)]
struct BoundedMap {
    kept: BTreeMap<String, String>,
    has_more: bool,
}

impl<'de> Deserialize<'de> for BoundedMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BoundedMap, D::Error> {
        struct Bounded;
        impl<'de> Visitor<'de> for Bounded {
            type Value = BoundedMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BoundedMap, A::Error> {
                let (mut kept, mut bytes) = (BTreeMap::new(), 0);
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    // Each entry costs some memory beside its text.
                    bytes += name.len() + value.len() + 16;
                    if bytes <= ANNOTATIONS_BYTES_MAX {
                        kept.insert(name, value);
                    }
                }
                Ok(BoundedMap { kept, has_more: bytes > ANNOTATIONS_BYTES_MAX })
            }
        }
        deserializer.deserialize_map(Bounded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{A}","size":3}}"#)
    }

    fn oci_image(extra: &str) -> String {
        let config = descriptor("application/vnd.oci.image.config.v1+json");
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]{extra}}}"#)
    }

    #[test]
    fn images_name_their_blobs() {
        let text = oci_image(r#","annotations":{"k":"v"},"unknown":[1,2]"#);
        let manifest = Manifest::parse(Some(media::OCI_MANIFEST), text.as_bytes()).unwrap();
        assert_eq!(manifest.kind, ManifestKind::Image);
        assert_eq!(manifest.required_blobs().count(), 2);
        assert_eq!(manifest.annotations["k"], "v");
        assert_eq!(manifest.referrer_type(), Some("application/vnd.oci.image.config.v1+json"));
        let parameters = format!("{}; charset=utf-8", media::OCI_MANIFEST);
        let manifest = Manifest::parse(Some(&parameters), text.as_bytes()).unwrap();
        assert_eq!(manifest.media_type, media::OCI_MANIFEST);
    }

    #[test]
    fn external_layers_are_not_required() {
        let config = descriptor("application/vnd.docker.container.image.v1+json");
        let foreign = descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        let elsewhere = format!(
            r#"{{"mediaType":"application/x","digest":"{A}","size":3,"urls":["http://x"]}}"#
        );
        let text =
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{foreign},{elsewhere}]}}"#);
        let manifest = Manifest::parse(Some(media::DOCKER_MANIFEST), text.as_bytes()).unwrap();
        assert_eq!((manifest.layers.len(), manifest.required_blobs().count()), (2, 1));
        assert_eq!(manifest.optional().count(), 2);
    }

    #[test]
    fn an_index_may_hold_layers_of_a_build_cache() {
        let child = format!(
            r#"{{"mediaType":"{}","digest":"{A}","size":3,
                "platform":{{"os":"linux","architecture":"arm64","variant":"v8"}}}}"#,
            media::OCI_MANIFEST
        );
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{child},{layer}]}}"#);
        let index = Manifest::parse(Some(media::OCI_INDEX), text.as_bytes()).unwrap();
        assert_eq!((index.children.len(), index.layers.len()), (1, 1));
        let counts = (index.required_manifests().count(), index.required_blobs().count());
        assert_eq!((counts, index.optional().count()), ((1, 0), 1));
        let platform = index.children[0].platform.as_ref().unwrap();
        assert_eq!(platform.variant.as_deref(), Some("v8"));
        assert_eq!(index.referrer_type(), None);
    }

    #[test]
    fn unknown_types_are_kept_as_they_are() {
        let text = format!(r#"{{"blobs":[{}],"layers":"odd"}}"#, descriptor("a/b"));
        let manifest = Manifest::parse(Some("application/x.y+json"), text.as_bytes()).unwrap();
        assert_eq!(manifest.kind, ManifestKind::Opaque);
        let text = format!(r#"{{"blobs":[{}]}}"#, descriptor("a/b"));
        let manifest = Manifest::parse(Some("application/x.y+json"), text.as_bytes()).unwrap();
        assert_eq!((manifest.layers.len(), manifest.required_blobs().count()), (1, 0));
        assert_eq!(manifest.optional().count(), 1);
    }

    #[test]
    fn f123_a_layer_of_nothing_needs_no_size() {
        let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let text = oci_image("").replace(r#","size":3"#, "").replace(A, nothing);
        let manifest = Manifest::parse(Some(media::OCI_MANIFEST), text.as_bytes()).unwrap();
        assert_eq!(manifest.layers[0].size, 0);
    }

    #[test]
    fn malformed_manifests_are_refused_by_name() {
        let oci = Some(media::OCI_MANIFEST);
        let mismatch = oci_image(&format!(r#","mediaType":"{}""#, media::DOCKER_MANIFEST));
        let both = oci_image(r#","manifests":[]"#);
        let twice = oci_image(r#","config":null"#);
        let bad_digest = oci_image("").replace(A, "sha256:zz");
        let negative = oci_image("").replace(r#""size":3"#, r#""size":-3"#);
        let no_size = oci_image("").replace(r#","size":3"#, "");
        let good = oci_image("");
        let deep = "[".repeat(100_000);
        let cut = &good[..good.len() - 1];
        for (content_type, text, expected) in [
            (oci, "", "EOF"),
            (oci, "[]", "invalid"),
            (oci, "null", "invalid"),
            (oci, "\u{ff}", "no JSON object"),
            (oci, cut, "EOF"),
            (oci, deep.as_str(), "invalid"),
            (oci, r#"{"schemaVersion":1}"#, "schemaVersion is 1"),
            (oci, "{}", "'schemaVersion' is missing"),
            (oci, r#"{"schemaVersion":2}"#, "'config' is missing"),
            (oci, mismatch.as_str(), "but the field mediaType says"),
            (oci, both.as_str(), "no field 'manifests'"),
            (oci, twice.as_str(), "duplicate field"),
            (oci, bad_digest.as_str(), "config.digest 'sha256:zz'"),
            (oci, negative.as_str(), "invalid value"),
            (oci, no_size.as_str(), "config.size is missing"),
            (None, good.as_str(), "neither a Content-Type"),
            (Some("nonsense"), good.as_str(), "no media type"),
            (Some(media::OCI_INDEX), good.as_str(), "no field 'config'"),
            (Some(media::DOCKER_V1), "{}", "schema 1"),
            (Some("application/x"), "5", "no JSON object"),
        ] {
            let fault = Manifest::parse(content_type, text.as_bytes()).unwrap_err();
            assert!(fault.0.contains(expected), "{expected}: {fault}");
        }
    }

    /// Digest and size of what an image refers to, by a second reading: all JSON, all fields.
    /// `None` where the text is not a valid image.
    fn second_reading(bytes: &[u8]) -> Option<Vec<(String, u64)>> {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        if value.get("schemaVersion")?.as_i64() != Some(2) {
            return None;
        }
        let layers = value.get("layers").map_or(Some(&[][..]), |list| Some(list.as_array()?))?;
        let named = [value.get("config")?].into_iter().chain(layers).chain(value.get("subject"));
        let pair = |descriptor: &serde_json::Value| {
            media::essence(descriptor.get("mediaType")?.as_str()?)?;
            let digest = descriptor.get("digest")?.as_str()?;
            digest.parse::<Digest>().ok()?;
            Some((digest.to_owned(), descriptor.get("size")?.as_u64()?))
        };
        named.map(pair).collect()
    }

    fn references(manifest: &Manifest) -> Vec<(String, u64)> {
        let named = manifest.config.iter().chain(&manifest.layers).chain(&manifest.subject);
        named.map(|descriptor| (descriptor.digest.to_string(), descriptor.size)).collect()
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_an_answer() {
        let subject = descriptor(media::OCI_MANIFEST).replace("aa", "cc").replace(":3", ":12");
        let text = oci_image(&format!(r#","subject":{subject}"#));
        // What is named differs in digest and size: the configuration stands first.
        let text = text.replacen(A, &A.replace("aa", "bb"), 1).replacen(":3", ":70", 1);
        assert_eq!(second_reading(text.as_bytes()).map(|named| named.len()), Some(3));
        for end in 0..text.len() {
            assert!(Manifest::parse(Some(media::OCI_MANIFEST), &text.as_bytes()[..end]).is_err());
        }
        let (mut accepted, mut refused) = (0, 0);
        for position in 0..text.len() {
            for byte in [0, b'"', b'{', b']', b',', b'9', 0xff] {
                let mut bytes = text.clone().into_bytes();
                bytes[position] = byte;
                let shown = String::from_utf8_lossy(&bytes);
                // What is accepted means what it says, and what says nothing valid is refused.
                let parsed = Manifest::parse(Some(media::OCI_MANIFEST), &bytes);
                let read = parsed.as_ref().ok().map(references);
                assert_eq!(read, second_reading(&bytes), "{shown}: {parsed:?}");
                match parsed {
                    Ok(_) => accepted += 1,
                    Err(fault) => {
                        refused += 1;
                        let plain = fault.0.chars().all(|c| c.is_ascii_graphic() || c == ' ');
                        assert!(plain && !fault.0.is_empty(), "{shown}: {fault}");
                    }
                }
                // An image is never an index, also where one of its fields has another name.
                assert!(Manifest::parse(Some(media::OCI_INDEX), &bytes).is_err(), "{shown}");
                // Of an unknown type nothing is demanded but JSON, and nothing is made up.
                match Manifest::parse(Some("application/other"), &bytes) {
                    Ok(opaque) => {
                        assert_eq!(opaque.kind, ManifestKind::Opaque);
                        for (digest, _) in references(&opaque) {
                            assert!(shown.contains(&digest), "{shown}: {digest}");
                        }
                    }
                    Err(fault) => {
                        let json = serde_json::from_slice::<serde_json::Value>(&bytes);
                        assert!(json.is_err(), "{shown}: {fault}");
                    }
                }
            }
        }
        assert!(accepted > 100 && refused > 1000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn bounds_hold() {
        let entry = descriptor("application/vnd.oci.image.manifest.v1+json");
        let list = vec![entry.as_str(); MANIFEST_DESCRIPTORS_MAX + 1].join(",");
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{list}]}}"#);
        let fault = Manifest::parse(Some(media::OCI_INDEX), text.as_bytes()).unwrap_err();
        assert!(fault.0.contains("more than"), "{fault}");

        let long = "x".repeat(ANNOTATIONS_BYTES_MAX);
        let text = oci_image(&format!(r#","annotations":{{"a":"{long}"}}"#));
        let manifest = Manifest::parse(Some(media::OCI_MANIFEST), text.as_bytes()).unwrap();
        assert!(manifest.annotations.is_empty() && manifest.has_more_annotations);
        let text = oci_image(r#","annotations":{"a":"b"}"#);
        let manifest = Manifest::parse(Some(media::OCI_MANIFEST), text.as_bytes()).unwrap();
        assert!(!manifest.has_more_annotations);
    }
}
