//! In which form a message travels.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::{Kind, WireError, first, single};

const V1: &str = "application/vnd.skerry.gateway.v1+postcard";

const V2: &str = "application/vnd.skerry.gateway.v2+postcard";

const JSON: &str = "application/json";

/// A form of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Each message in one envelope, with all its lists.
    V1,
    /// Each element of a list in an envelope of its own.
    V2,
    /// For people.
    Json,
}

impl Format {
    /// What a child accepts, as a header names it. A parent that does not know the second version
    /// answers in the first, whatever is asked.
    pub fn accepted() -> String {
        format!("{V2}, {V1}")
    }

    /// In what form a request is to be answered, by its `accept`.
    pub fn asked(accept: Option<&str>) -> Format {
        let accept = accept.unwrap_or_default();
        if accept.contains(JSON) {
            return Format::Json;
        }
        let is_read = accept.split(',').any(|accepted| is(accepted, V2));
        if is_read { Format::V2 } else { Format::V1 }
    }

    /// In what form a body is, by its `content-type`. Whatever is not known is taken for the first
    /// version, as earlier versions do.
    pub fn of(content_type: Option<&str>) -> Format {
        match content_type {
            Some(text) if text.contains(JSON) => Format::Json,
            Some(text) if is(text, V2) => Format::V2,
            _ => Format::V1,
        }
    }

    /// As a header names it.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::V1 => V1,
            Format::V2 => V2,
            Format::Json => JSON,
        }
    }

    /// A message that is not divided.
    pub(super) fn write<T: Serialize>(self, kind: Kind, message: &T) -> Result<Vec<u8>, WireError> {
        match self {
            Format::V1 | Format::V2 => single(kind, message),
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
            Format::V1 | Format::V2 => first(kind, bytes),
            Format::Json => serde_json::from_slice(bytes).map_err(|e| WireError(e.to_string())),
        }
    }
}

/// Whether a media type is this one, its parameters aside.
fn is(text: &str, media_type: &str) -> bool {
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(media_type)
}
