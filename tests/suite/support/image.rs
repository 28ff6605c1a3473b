//! Images made on the spot, pushed and pulled as a client would.

use std::path::Path;

use super::http::{Answer, bearer, token};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EXTERNAL_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";

#[derive(Clone)]
pub struct Image {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

pub fn digest(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    format!("sha256:{}", data_encoding::HEXLOWER.encode(hash.as_ref()))
}

pub fn sha512(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA512, bytes);
    format!("sha512:{}", data_encoding::HEXLOWER.encode(hash.as_ref()))
}

/// Bytes that no other seed gives and that do not compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A tar archive of one file.
pub fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend_from_slice(content);
    tar.resize(tar.len().div_ceil(512) * 512 + 1024, 0);
    tar
}

impl Image {
    /// An image of layers of these sizes; the seed makes it unlike any other.
    pub fn new(seed: u64, sizes: &[usize]) -> Image {
        let layers: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(n, size)| tar(&format!("file-{n}"), &noise(seed * 1000 + n as u64, *size)))
            .collect();
        Image::of("amd64", &format!("{seed}"), layers)
    }

    /// An image of these layers for a platform of linux.
    pub fn of(architecture: &str, label: &str, layers: Vec<Vec<u8>>) -> Image {
        let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": {"Labels": {"seed": label}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len()},
            "layers": layers.iter().map(|l| serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest(l), "size": l.len()})).collect::<Vec<_>>(),
        });
        Image { manifest: manifest.to_string().into_bytes(), config, layers }
    }

    /// A manifest without layers that refers to another one of so many bytes.
    pub fn referring(seed: u64, subject: &str, size: usize) -> Image {
        let mut image = Image::new(seed, &[]);
        let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        manifest["artifactType"] = "application/vnd.example.note".into();
        manifest["subject"] =
            serde_json::json!({ "mediaType": MANIFEST, "digest": subject, "size": size });
        image.manifest = manifest.to_string().into_bytes();
        image
    }

    /// The same image with a manifest that calls its first layer a foreign one.
    pub fn with_external_layer(mut self) -> Image {
        let mut manifest: serde_json::Value = serde_json::from_slice(&self.manifest).unwrap();
        let layer = &mut manifest["layers"][0];
        layer["mediaType"] = EXTERNAL_LAYER.into();
        layer["urls"] = serde_json::json!(["https://layers.example/first"]);
        self.manifest = manifest.to_string().into_bytes();
        self
    }

    pub fn has_external_layer(&self) -> bool {
        let manifest: serde_json::Value = serde_json::from_slice(&self.manifest).unwrap();
        manifest["layers"][0]["urls"].is_array()
    }

    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    pub fn blobs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.layers.iter().chain([&self.config])
    }

    /// Pushes with a bearer token; the answer is that of the manifest.
    pub fn push_with(&self, address: &str, token: &str, repository: &str, tag: &str) -> Answer {
        for blob in self.blobs() {
            let answer = push_blob(address, token, repository, blob);
            if answer.status != 201 {
                return answer;
            }
        }
        let target = format!("/v2/{repository}/manifests/{tag}");
        let content_type = [("content-type", MANIFEST)];
        bearer(address, token, "PUT", &target, &content_type, &self.manifest)
    }

    /// Logs in and pushes.
    pub fn push(&self, address: &str, user: (&str, &str), repository: &str, tag: &str) -> Answer {
        let scope = format!("repository:{repository}:pull,push");
        match token(address, user.0, user.1, &[&scope]) {
            Ok(token) => self.push_with(address, &token, repository, tag),
            Err(answer) => answer,
        }
    }

    /// Writes an OCI layout of one index, of an image for each architecture; the index.
    pub fn write_multi(images: &[(&str, &Image)], dir: &Path, tag: &str) -> Vec<u8> {
        let children: Vec<serde_json::Value> = images
            .iter()
            .map(|(architecture, image)| {
                image.write_layout(dir, tag);
                serde_json::json!({
                    "mediaType": MANIFEST, "digest": image.digest(),
                    "size": image.manifest.len(),
                    "platform": {"os": "linux", "architecture": architecture}})
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX,
            "manifests": children})
        .to_string()
        .into_bytes();
        std::fs::write(dir.join("blobs/sha256").join(&digest(&index)[7..]), &index).unwrap();
        let top = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": INDEX, "digest": digest(&index), "size": index.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag}}]});
        std::fs::write(dir.join("index.json"), top.to_string()).unwrap();
        index
    }

    /// Writes an OCI layout for skopeo.
    pub fn write_layout(&self, dir: &Path, tag: &str) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for blob in self.blobs().chain([&self.manifest]) {
            std::fs::write(blobs.join(&digest(blob)[7..]), blob).unwrap();
        }
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": MANIFEST, "digest": self.digest(), "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag}}]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }
}

/// POST, then PUT with the content.
pub fn push_blob(address: &str, token: &str, repository: &str, blob: &[u8]) -> Answer {
    let target = format!("/v2/{repository}/blobs/uploads/");
    let start = bearer(address, token, "POST", &target, &[], b"");
    if start.status != 202 {
        return start;
    }
    let location = start.header("location").expect("Location").to_owned();
    let separator = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{separator}digest={}", digest(blob));
    let content_type = [("content-type", "application/octet-stream")];
    bearer(address, token, "PUT", &target, &content_type, blob)
}

/// Pulls a tag with all its content and checks every digest; `Err` is the first refusal.
pub fn pull(
    address: &str,
    user: (&str, &str),
    repository: &str,
    reference: &str,
) -> Result<String, Answer> {
    let token = token(address, user.0, user.1, &[&format!("repository:{repository}:pull")])?;
    pull_with(address, &token, repository, reference)
}

pub fn pull_with(
    address: &str,
    token: &str,
    repository: &str,
    reference: &str,
) -> Result<String, Answer> {
    let target = format!("/v2/{repository}/manifests/{reference}");
    let accept = format!("{MANIFEST}, {INDEX}");
    let answer = bearer(address, token, "GET", &target, &[("accept", &accept)], b"");
    if answer.status != 200 {
        return Err(answer);
    }
    let name = digest(&answer.body);
    assert_eq!(answer.header("docker-content-digest"), Some(name.as_str()));
    let manifest = answer.json();
    for child in manifest["manifests"].as_array().into_iter().flatten() {
        pull_with(address, token, repository, child["digest"].as_str().unwrap())?;
    }
    let layers = manifest["layers"].as_array().into_iter().flatten();
    for blob in layers.chain(manifest.get("config")) {
        let wanted = blob["digest"].as_str().unwrap();
        let target = format!("/v2/{repository}/blobs/{wanted}");
        let answer = bearer(address, token, "GET", &target, &[], b"");
        if answer.status != 200 {
            return Err(answer);
        }
        assert_eq!(digest(&answer.body), wanted, "wrong bytes served");
    }
    Ok(name)
}
