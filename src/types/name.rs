//! Names, each a bounded string that only its parser can make.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::limits::{NAME_MAX, NAME_MIN, REPOSITORY_NAME_MAX, TAG_MAX};
use super::{Digest, text};

/// Why a text is no valid name; prints the rule that it breaks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameError {
    /// What was being named, for the message.
    pub kind: &'static str,
    /// The rule, in words.
    pub rule: &'static str,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {} name: {}", self.kind, self.rule)
    }
}

impl std::error::Error for NameError {}

macro_rules! bounded_name {
    (
        $(#[$doc:meta])* $name:ident, $max:expr, $kind:literal, $rule:literal,
        $is_valid:expr, $fold:expr
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(heapless::String<{ $max }>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let is_valid: fn(&str) -> bool = $is_valid;
                let fold: fn(&mut str) = $fold;
                let name = heapless::String::try_from(text).ok().filter(|_| is_valid(text));
                let mut name = name.ok_or(NameError { kind: $kind, rule: $rule })?;
                fold(&mut name);
                Ok($name(name))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::parse(deserializer)
            }
        }
    };
}

bounded_name!(
    /// A repository name (OCI distribution-spec, "Pulling manifests").
    RepositoryName,
    REPOSITORY_NAME_MAX,
    "repository",
    "lower-case letters and digits, single separators . _ __ - between them, parts joined by /, \
     at most 255 characters",
    is_repository_name,
    |_| ()
);

bounded_name!(
    /// A tag (OCI distribution-spec, "Pulling manifests").
    Tag,
    TAG_MAX,
    "tag",
    "a letter, digit or underscore, then at most 127 letters, digits, '.', '_' or '-'",
    is_tag,
    |_| ()
);

bounded_name!(
    /// The name of a token, also its user name at login (ACR: 5 to 50 of letters, digits, '-').
    TokenName,
    NAME_MAX,
    "token",
    "5 to 50 letters, digits or '-'",
    |text| has_form(text, b"-"),
    str::make_ascii_lowercase
);

bounded_name!(
    /// The name of a scope map (ACR: 5 to 50 of letters, digits, '-', '_').
    ScopeMapName,
    NAME_MAX,
    "scope map",
    "5 to 50 letters, digits, '-' or '_'",
    |text| has_form(text, b"-_"),
    str::make_ascii_lowercase
);

bounded_name!(
    /// The name of a connected registry, unique in its tree, stored in lower case.
    ConnectedRegistryName,
    NAME_MAX,
    "connected registry",
    "5 to 50 letters or digits, the first a letter",
    |text| text.starts_with(|first: char| first.is_ascii_alphabetic()) && has_form(text, b""),
    str::make_ascii_lowercase
);

fn has_form(text: &str, extra: &[u8]) -> bool {
    (NAME_MIN..=NAME_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = text.bytes();
    text.len() <= TAG_MAX
        && bytes.next().is_some_and(word)
        && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_repository_name(text: &str) -> bool {
    text.len() <= REPOSITORY_NAME_MAX && text.split('/').all(is_repository_part)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
pub(crate) fn is_repository_part(part: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    part.split(|c: char| alnum(u8::try_from(c).unwrap_or(0)))
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

/// A manifest is asked for by tag or by digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reference {
    /// A movable name.
    Tag(Tag),
    /// Immutable content.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names() {
        for good in ["a", "library/hello-world", "a__b", "a--b", "a.b/c_d/e---f", "0/1"] {
            assert!(good.parse::<RepositoryName>().is_ok(), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a-", "a.-b", "a b", "\u{e4}",
            "a/../b", ".", "a%2fb",
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad}");
        }
        assert!("a".repeat(255).parse::<RepositoryName>().is_ok());
        assert!("a".repeat(256).parse::<RepositoryName>().is_err());
    }

    #[test]
    fn tags() {
        assert!("v1.0-rc_1".parse::<Tag>().is_ok());
        assert!("_x".parse::<Tag>().is_ok());
        for bad in ["", ".a", "-a", "a/b", "a:b"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert!("a".repeat(128).parse::<Tag>().is_ok());
        assert!("a".repeat(129).parse::<Tag>().is_err());
    }

    #[test]
    fn resource_names() {
        assert_eq!("Dock01".parse::<ConnectedRegistryName>().unwrap().as_str(), "dock01");
        for bad in ["abcd", "1dock", "dock-1", "dock_1"] {
            assert!(bad.parse::<ConnectedRegistryName>().is_err(), "{bad}");
        }
        assert!("my-token".parse::<TokenName>().is_ok());
        assert!("my_token".parse::<TokenName>().is_err());
        assert!("my_map".parse::<ScopeMapName>().is_ok());
        assert!("a".repeat(51).parse::<TokenName>().is_err());
    }
}
