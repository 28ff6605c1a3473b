//! A text that must not be seen.

/// A password or another secret. It has no `Debug`, `Display` or `Serialize`, so that it reaches a
/// log or an answer only where [`Secret::expose`] is written.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Every call is a place to look at twice.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
