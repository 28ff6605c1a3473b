//! The demo's image, made on the spot.

use serde_json::json;

use crate::sys::Rng;
use crate::types::Digest;
use crate::types::digest::Algorithm;

/// Size of the layer with random content, bytes.
const FILLER_BYTES: usize = 4 * 1024 * 1024;

/// An image ready to be pushed.
pub(super) struct Image {
    pub(super) blobs: Vec<(Digest, Vec<u8>)>,
    pub(super) manifest: Vec<u8>,
    pub(super) digest: Digest,
}

impl Image {
    /// Bytes of all content.
    pub(super) fn len(&self) -> usize {
        self.manifest.len() + self.blobs.iter().map(|(_, blob)| blob.len()).sum::<usize>()
    }
}

pub(super) fn digest(bytes: &[u8]) -> Digest {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    Digest::from_raw(Algorithm::Sha256, hash.as_ref())
        .unwrap_or_else(|| unreachable!("SHA-256 has 32 bytes"))
}

/// An image of two layers: a greeting, and bytes that no earlier demo had.
pub(super) fn image(rng: &dyn Rng) -> Image {
    let mut filler = vec![0; FILLER_BYTES];
    rng.fill(&mut filler);
    let layers = [tar("hello.txt", b"Hello from skerry.\n"), tar("usr/share/skerry-demo", &filler)];
    let mut blobs: Vec<_> = layers.into_iter().map(|layer| (digest(&layer), layer)).collect();
    let diff_ids: Vec<&Digest> = blobs.iter().map(|(digest, _)| digest).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Cmd": ["/hello.txt"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let descriptor = |media_type: &str, (digest, blob): &(Digest, Vec<u8>)| {
        let size = blob.len();
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    };
    let layer = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = blobs.iter().map(|blob| descriptor(layer, blob)).collect();
    blobs.push((digest(&config), config));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": crate::types::media::OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &blobs[2]),
        "layers": layers,
    });
    let manifest = manifest.to_string().into_bytes();
    Image { digest: digest(&manifest), manifest, blobs }
}

/// A tar archive of one file (POSIX ustar).
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    // Content is padded to whole blocks; two empty blocks end the archive.
    archive.resize(archive.len().div_ceil(512) * 512 + 1024, 0);
    archive
}
