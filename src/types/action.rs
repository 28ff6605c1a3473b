//! Actions of scope maps: `repositories/<repository>/content/read`, `gateway/<cr>/config/read`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::REPOSITORY_NAME_MAX;
use super::name::{ConnectedRegistryName, NameError, RepositoryName, is_repository_part};
use super::text;

/// What may be done with a repository.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RepositoryAction {
    /// Pull manifests and blobs.
    ContentRead,
    /// Push manifests and blobs.
    ContentWrite,
    /// Delete manifests, tags and blobs.
    ContentDelete,
    /// List tags and manifests.
    MetadataRead,
    /// Change attributes, untag.
    MetadataWrite,
}

impl RepositoryAction {
    /// Every action, in the order in which they are listed.
    pub const ALL: [RepositoryAction; 5] = [
        RepositoryAction::ContentRead,
        RepositoryAction::ContentWrite,
        RepositoryAction::ContentDelete,
        RepositoryAction::MetadataRead,
        RepositoryAction::MetadataWrite,
    ];

    /// As in a scope map.
    pub fn name(self) -> &'static str {
        match self {
            RepositoryAction::ContentRead => "content/read",
            RepositoryAction::ContentWrite => "content/write",
            RepositoryAction::ContentDelete => "content/delete",
            RepositoryAction::MetadataRead => "metadata/read",
            RepositoryAction::MetadataWrite => "metadata/write",
        }
    }

    /// As in a Docker scope and in an access token (ACR.md section 3.3).
    pub fn scope_name(self) -> &'static str {
        match self {
            RepositoryAction::ContentRead => "pull",
            RepositoryAction::ContentWrite => "push",
            RepositoryAction::ContentDelete => "delete",
            RepositoryAction::MetadataRead => "metadata_read",
            RepositoryAction::MetadataWrite => "metadata_write",
        }
    }
}

/// What may be done at the gateway of a connected registry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GatewayAction {
    /// Read its desired state.
    ConfigRead,
    /// Activate it, report its status.
    ConfigWrite,
    /// Read its messages and listings.
    MessageRead,
    /// Send messages upward.
    MessageWrite,
}

impl GatewayAction {
    /// Every action, in the order in which they are listed.
    pub const ALL: [GatewayAction; 4] = [
        GatewayAction::ConfigRead,
        GatewayAction::ConfigWrite,
        GatewayAction::MessageRead,
        GatewayAction::MessageWrite,
    ];

    /// As in a scope map.
    pub fn name(self) -> &'static str {
        match self {
            GatewayAction::ConfigRead => "config/read",
            GatewayAction::ConfigWrite => "config/write",
            GatewayAction::MessageRead => "message/read",
            GatewayAction::MessageWrite => "message/write",
        }
    }

    /// As in a Docker scope and in an access token.
    pub fn scope_name(self) -> &'static str {
        match self {
            GatewayAction::ConfigRead => "config_read",
            GatewayAction::ConfigWrite => "config_write",
            GatewayAction::MessageRead => "message_read",
            GatewayAction::MessageWrite => "message_write",
        }
    }
}

/// Which repositories a grant covers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RepositoryPattern {
    /// `*`: every repository.
    All,
    /// `prefix/*`: everything below the prefix.
    Under(RepositoryName),
    /// One repository; it need not exist yet.
    One(RepositoryName),
}

impl RepositoryPattern {
    /// Whether the pattern covers `repository`.
    pub fn covers(&self, repository: &RepositoryName) -> bool {
        match self {
            RepositoryPattern::All => true,
            RepositoryPattern::Under(prefix) => repository
                .as_str()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')),
            RepositoryPattern::One(name) => name == repository,
        }
    }

    /// Whether the pattern covers every repository that `other` covers. Two patterns are nested
    /// or have nothing in common.
    pub fn includes(&self, other: &RepositoryPattern) -> bool {
        match (self, other) {
            (RepositoryPattern::All, _) => true,
            (_, RepositoryPattern::All) => false,
            (_, RepositoryPattern::One(name)) => self.covers(name),
            (RepositoryPattern::Under(_), RepositoryPattern::Under(prefix)) => {
                self == other || self.covers(prefix)
            }
            (RepositoryPattern::One(_), RepositoryPattern::Under(_)) => false,
        }
    }
}

impl Serialize for RepositoryPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RepositoryPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RepositoryPattern, D::Error> {
        text::parse(deserializer)
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepositoryPattern::All => f.write_str("*"),
            RepositoryPattern::Under(prefix) => write!(f, "{prefix}/*"),
            RepositoryPattern::One(name) => name.fmt(f),
        }
    }
}

impl FromStr for RepositoryPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<RepositoryPattern, NameError> {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Ok(RepositoryPattern::All);
        }
        let wildcard_error =
            NameError { kind: "repository", rule: "a wildcard is '*' or a trailing '/*', once" };
        if let Some(prefix) = text.strip_suffix("/*") {
            let good = prefix.len() + 2 <= REPOSITORY_NAME_MAX
                && prefix.split('/').all(is_repository_part);
            return match prefix.parse() {
                Ok(prefix) if good => Ok(RepositoryPattern::Under(prefix)),
                _ => Err(wildcard_error),
            };
        }
        if text.contains('*') {
            return Err(wildcard_error);
        }
        text.parse().map(RepositoryPattern::One)
    }
}

/// One line of a scope map.
#[allow(clippy::large_enum_variant, reason = "nearly all grants are of the larger kind")]
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Grant {
    /// An action on repositories.
    Repository(RepositoryPattern, RepositoryAction),
    /// An action at the gateway of one connected registry.
    Gateway(ConnectedRegistryName, GatewayAction),
}

/// Why a text is no grant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantError(pub String);

impl fmt::Display for GrantError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GrantError {}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grant::Repository(pattern, action) => {
                write!(f, "repositories/{pattern}/{}", action.name())
            }
            Grant::Gateway(name, action) => write!(f, "gateway/{name}/{}", action.name()),
        }
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Grant, GrantError> {
        if let Some(rest) = text.strip_prefix("repositories/") {
            let (pattern, action) = split_action(text, rest)?;
            let action = RepositoryAction::ALL
                .into_iter()
                .find(|a| a.name() == action)
                .ok_or_else(|| unknown(text, RepositoryAction::ALL.map(RepositoryAction::name)))?;
            let pattern = pattern.parse().map_err(|e: NameError| GrantError(e.to_string()))?;
            Ok(Grant::Repository(pattern, action))
        } else if let Some(rest) = text.strip_prefix("gateway/") {
            let (name, action) = split_action(text, rest)?;
            let action = GatewayAction::ALL
                .into_iter()
                .find(|a| a.name() == action)
                .ok_or_else(|| unknown(text, GatewayAction::ALL.map(GatewayAction::name)))?;
            let name = name.parse().map_err(|e: NameError| GrantError(e.to_string()))?;
            Ok(Grant::Gateway(name, action))
        } else {
            Err(GrantError(format!(
                "invalid action '{text}': it starts with 'repositories/' or 'gateway/'"
            )))
        }
    }
}

/// `resource/verb/what` into the resource and `verb/what`.
fn split_action<'a>(whole: &str, rest: &'a str) -> Result<(&'a str, String), GrantError> {
    let mut parts = rest.rsplitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(what), Some(verb), Some(resource)) => {
            Ok((resource, format!("{verb}/{what}").to_ascii_lowercase()))
        }
        _ => Err(GrantError(format!("invalid action '{whole}': it names no resource or no verb"))),
    }
}

fn unknown<const N: usize>(text: &str, valid: [&str; N]) -> GrantError {
    GrantError(format!("invalid action '{text}': valid are {}", valid.join(", ")))
}

impl Serialize for Grant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Grant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Grant, D::Error> {
        text::parse(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_round_trip() {
        for text in [
            "repositories/hello-world/content/read",
            "repositories/team/app/metadata/write",
            "repositories/*/content/delete",
            "repositories/team/*/content/read",
            "gateway/dock01/message/write",
        ] {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refusals_name_what_is_valid() {
        let error = "repositories/a/content/fly".parse::<Grant>().unwrap_err();
        assert!(error.0.contains("content/read"), "{error}");
        for bad in [
            "repositories/sample/*/teama/content/read",
            "repositories/sample/teama*/content/read",
            "repositories//content/read",
            "gateway/x/config/read",
            "gateway/dock01/config/delete",
            "other/a/content/read",
            "repositories/content",
        ] {
            assert!(bad.parse::<Grant>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wildcards_cover_what_is_below() {
        let under: RepositoryPattern = "team/*".parse().unwrap();
        for (name, covered) in
            [("team/x", true), ("team/y/z", true), ("team", false), ("teams/x", false)]
        {
            assert_eq!(under.covers(&name.parse().unwrap()), covered, "{name}");
        }
    }

    #[test]
    fn patterns_include_each_other() {
        for (outer, inner, included) in [
            ("*", "*", true),
            ("*", "team/*", true),
            ("team/*", "*", false),
            ("team/*", "team/*", true),
            ("team/*", "team/a/*", true),
            ("team/*", "team/a", true),
            ("team/*", "team", false),
            ("team/*", "teams/*", false),
            ("team/a/*", "team/*", false),
            ("team/a", "team/a", true),
            ("team/a", "team/a/*", false),
        ] {
            let [outer, inner]: [RepositoryPattern; 2] = [outer, inner].map(|p| p.parse().unwrap());
            assert_eq!(outer.includes(&inner), included, "{outer} {inner}");
        }
    }
}
