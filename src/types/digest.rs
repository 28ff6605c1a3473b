//! Content digests (OCI image-spec, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::text;

/// The header with which a connected registry says that the bytes that it got of a blob have
/// another digest.
pub const DOUBT: &str = "skerry-doubt";

/// A registered digest algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// SHA-256, 32 bytes: what every client uses.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Length of the raw digest in bytes.
    pub fn len_bytes(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// The function that computes it.
    pub fn function(self) -> &'static ring::digest::Algorithm {
        match self {
            Algorithm::Sha256 => &ring::digest::SHA256,
            Algorithm::Sha512 => &ring::digest::SHA512,
        }
    }

    fn code(self) -> u8 {
        match self {
            Algorithm::Sha256 => 1,
            Algorithm::Sha512 => 2,
        }
    }
}

/// The name of immutable content: an algorithm and its raw digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: heapless::Vec<u8, 64>,
}

/// Why a text is no digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestError {
    /// Not of the form `algorithm:hex`, wrong length, or upper-case hex.
    Malformed,
    /// Well-formed, but of an algorithm that we do not compute.
    UnsupportedAlgorithm,
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DigestError::Malformed => {
                "a digest is sha256:<64 hex digits> or sha512:<128 hex digits>"
            }
            DigestError::UnsupportedAlgorithm => "only sha256 and sha512 digests are supported",
        })
    }
}

impl std::error::Error for DigestError {}

impl Digest {
    /// Wraps a raw digest; `None` when its length is not the algorithm's.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Option<Digest> {
        if raw.len() != algorithm.len_bytes() {
            return None;
        }
        let bytes = heapless::Vec::from_slice(raw).ok()?;
        Some(Digest { algorithm, bytes })
    }

    /// Whether these bytes are what it names.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        ring::digest::digest(self.algorithm.function(), bytes).as_ref() == self.raw()
    }

    /// Whether this is the digest of zero bytes.
    pub fn is_of_nothing(&self) -> bool {
        self.is_of(b"")
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw digest.
    pub fn raw(&self) -> &[u8] {
        &self.bytes
    }

    /// The digits after the colon, lower case.
    pub fn hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.bytes)
    }

    /// One byte of algorithm, then the raw digest: the form in keys and records.
    pub fn to_key(&self) -> heapless::Vec<u8, 65> {
        let mut key = heapless::Vec::new();
        // Capacity 65 holds one byte and the longest digest.
        let _ = key.push(self.algorithm.code());
        let _ = key.extend_from_slice(&self.bytes);
        key
    }

    /// Reads what [`Digest::to_key`] wrote.
    pub fn from_key(key: &[u8]) -> Option<Digest> {
        let (code, raw) = key.split_first()?;
        let algorithm = match code {
            1 => Algorithm::Sha256,
            2 => Algorithm::Sha512,
            _ => return None,
        };
        Digest::from_raw(algorithm, raw)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let (name, hex) = text.split_once(':').ok_or(DigestError::Malformed)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ if is_algorithm_name(name) && !hex.is_empty() => {
                return Err(DigestError::UnsupportedAlgorithm);
            }
            _ => return Err(DigestError::Malformed),
        };
        let mut bytes = heapless::Vec::new();
        if hex.len() != 2 * algorithm.len_bytes()
            || bytes.resize(algorithm.len_bytes(), 0).is_err()
            || data_encoding::HEXLOWER.decode_mut(hex.as_bytes(), &mut bytes).is_err()
        {
            return Err(DigestError::Malformed);
        }
        Ok(Digest { algorithm, bytes })
    }
}

fn is_algorithm_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+._-".contains(&b))
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.to_key())
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        if deserializer.is_human_readable() {
            text::parse(deserializer)
        } else {
            let key = <&[u8]>::deserialize(deserializer)?;
            Digest::from_key(key).ok_or_else(|| de::Error::custom("malformed digest"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        let text = format!("sha256:{}", "ab".repeat(32));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::from_key(&digest.to_key()), Some(digest.clone()));
        let bytes = postcard::to_allocvec(&digest).unwrap();
        assert_eq!(postcard::from_bytes::<Digest>(&bytes).unwrap(), digest);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let upper = format!("sha256:{}", "AB".repeat(32));
        for (text, error) in [
            ("", DigestError::Malformed),
            ("sha256", DigestError::Malformed),
            ("sha256:", DigestError::Malformed),
            ("sha256:abcd", DigestError::Malformed),
            (upper.as_str(), DigestError::Malformed),
            ("md5:d41d8cd98f00b204e9800998ecf8427e", DigestError::UnsupportedAlgorithm),
            ("SHA256:00", DigestError::Malformed),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }
}
