//! Media types that a registry knows (OCI image-spec, "Media Types"; Docker image manifest v2).

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The artifact manifest of the release candidates of OCI image-spec 1.1.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// A Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker image manifest, schema 1.
pub const DOCKER_V1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// A signed Docker image manifest, schema 1.
pub const DOCKER_V1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// What a client accepts that can handle every manifest we can: for `Accept`.
pub const MANIFESTS: [&str; 5] =
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, OCI_ARTIFACT];

/// Longest media type, characters: two names of RFC 6838 and a slash.
pub const MEDIA_TYPE_MAX: usize = 255;

/// The media type without parameters, or `None` when it is none (RFC 6838, section 4.2).
pub fn essence(text: &str) -> Option<String> {
    let text = text.split(';').next().unwrap_or("").trim();
    let (kind, name) = text.split_once('/')?;
    let part = |part: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
        !part.is_empty() && part.bytes().all(good)
    };
    (text.len() <= MEDIA_TYPE_MAX && part(kind) && part(name)).then(|| text.to_owned())
}

/// Whether content of this media type is a manifest.
pub fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type) || [DOCKER_V1, DOCKER_V1_SIGNED].contains(&media_type)
}

/// Whether a layer of this media type may lie outside every registry.
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types() {
        assert_eq!(essence("a/b; q=1").as_deref(), Some("a/b"));
        for bad in ["", "a", "/", "a/", "a b/c", "a/b\r\nx: y", "a/b/c", "\u{e4}/b"] {
            assert_eq!(essence(bad), None, "{bad}");
        }
        assert_eq!(essence(&format!("a/{}", "b".repeat(254))), None);
        assert!(is_manifest(OCI_INDEX) && !is_manifest("application/json"));
    }
}
