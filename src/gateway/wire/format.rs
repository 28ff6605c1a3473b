//! In which form a message travels.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::{Kind, WireError, first, single};

/// The content type of envelopes.
const V1: &str = "application/vnd.skerry.gateway.v1+postcard";

const JSON: &str = "application/json";

/// A form of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Each message in one envelope, with all its lists.
    V1,
    /// For people.
    Json,
}

impl Format {
    /// What the answer to a request is to be, by its `accept`.
    pub fn asked(accept: Option<&str>) -> Format {
        Format::of(accept)
    }

    /// What a body is, by its `content-type`.
    pub fn of(content_type: Option<&str>) -> Format {
        match content_type {
            Some(text) if text.contains(JSON) => Format::Json,
            _ => Format::V1,
        }
    }

    /// As a header names it.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::V1 => V1,
            Format::Json => JSON,
        }
    }

    /// A message that is not divided.
    pub(super) fn write<T: Serialize>(self, kind: Kind, message: &T) -> Result<Vec<u8>, WireError> {
        match self {
            Format::V1 => single(kind, message),
            Format::Json => serde_json::to_vec(message).map_err(|e| WireError(e.to_string())),
        }
    }

    /// Reads what [`Format::write`] wrote.
    pub(super) fn read<T: DeserializeOwned>(
        self,
        kind: Kind,
        bytes: &[u8],
    ) -> Result<T, WireError> {
        match self {
            Format::V1 => first(kind, bytes),
            Format::Json => serde_json::from_slice(bytes).map_err(|e| WireError(e.to_string())),
        }
    }
}
