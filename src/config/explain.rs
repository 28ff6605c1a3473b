//! Every value with its origin, for `config explain`.

use super::keys::KEYS;
use super::{Loaded, Origin};

/// One key as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explained {
    /// `section.key`.
    pub key: &'static str,
    /// As TOML, secrets redacted; `None` when it has no value.
    pub value: Option<String>,
    /// Who set it.
    pub origin: Origin,
    /// What the value does not tell by itself.
    pub note: Option<&'static str>,
}

fn note(key: &str) -> Option<&'static str> {
    (key == "storage.reserve").then_some("at least 256 KiB, and at most 5 % of the file system")
}

/// All keys, in a fixed order.
pub fn explain(loaded: &Loaded) -> Vec<Explained> {
    KEYS.iter()
        .map(|key| Explained {
            key: key.path,
            value: (key.show)(&loaded.config),
            origin: loaded.origin(key.path).clone(),
            note: note(key.path),
        })
        .collect()
}
