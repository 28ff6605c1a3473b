//! Journal records, projected onto what one child may see. Raw records never leave the node.

use crate::store::index::Change;
use crate::store::rows::node::purged_in;
use crate::store::rows::{self, CONTENT, Kind, MANAGEMENT, is_of};
use crate::store::{StoreError, TagRow};
use crate::types::message::{Message, NodeConfig};
use crate::types::token::ScopeMap;
use crate::types::{Digest, Grant, RepositoryAction, RepositoryName, RepositoryPattern, Tag};

/// Bytes of a hash that tell two scopes apart: nobody gains from two that look the same.
const FINGERPRINT_BYTES: usize = 8;

/// What a connected registry mirrors.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    patterns: Vec<RepositoryPattern>,
}

impl Scope {
    /// The repositories that a sync scope map lets its node pull.
    pub fn of_map(map: &ScopeMap) -> Scope {
        let pattern = |grant: &Grant| match grant {
            Grant::Repository(pattern, RepositoryAction::ContentRead) => Some(pattern.clone()),
            _ => None,
        };
        Scope { patterns: map.grants.iter().filter_map(pattern).collect() }
    }

    /// The repositories that this desired state lets its node mirror.
    pub fn of_config(config: &NodeConfig) -> Scope {
        config.own_map().map(Scope::of_map).unwrap_or_default()
    }

    /// The repositories that this desired state lets its node push to.
    pub fn of_writes(config: &NodeConfig) -> Scope {
        let pattern = |grant: &Grant| match grant {
            Grant::Repository(pattern, RepositoryAction::ContentWrite) => Some(pattern.clone()),
            _ => None,
        };
        let grants = config.own_map().map(|map| map.grants.as_slice()).unwrap_or_default();
        Scope { patterns: grants.iter().filter_map(pattern).collect() }
    }

    /// Whether the node mirrors this repository.
    pub fn covers(&self, repository: &RepositoryName) -> bool {
        self.patterns.iter().any(|pattern| pattern.covers(repository))
    }

    /// Tells these repositories from others, in few characters.
    pub fn fingerprint(&self) -> String {
        let mut names: Vec<String> = self.patterns.iter().map(ToString::to_string).collect();
        names.sort_unstable();
        let hash = ring::digest::digest(&ring::digest::SHA256, names.join(" ").as_bytes());
        data_encoding::HEXLOWER.encode(hash.as_ref().get(..FINGERPRINT_BYTES).unwrap_or_default())
    }

    /// The patterns, in the order of the scope map.
    pub fn patterns(&self) -> &[RepositoryPattern] {
        &self.patterns
    }
}

/// What one record means to a child.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Projection {
    /// Changes of content that it mirrors.
    pub messages: Vec<Message>,
    /// Whether a desired state may have changed.
    pub management: bool,
    /// Whether a repository that it mirrors was removed here, because it is not granted here any
    /// more: this node's parent may have it, and this node again.
    pub purged: bool,
}

/// Projects the changes of one record.
pub fn project(changes: &[Change], scope: &Scope) -> Result<Projection, StoreError> {
    let mut projection = Projection::default();
    let purged = |(key, row): &Change| Some((purged_in(key)?, row.is_none()));
    let purged: Vec<_> = changes.iter().filter_map(purged).collect();
    projection.purged = purged.iter().any(|(name, is_over)| *is_over && scope.covers(name));
    for (key, row) in changes {
        if is_of(&MANAGEMENT, key) {
            projection.management = true;
        } else if is_of(&CONTENT, key)
            && let Some(message) = content_message(key, row.as_deref())?
            && message
                .repository()
                .is_some_and(|of| scope.covers(of) && purged.iter().all(|(name, _)| name != of))
        {
            projection.messages.push(message);
        }
    }
    Ok(projection)
}

fn content_message(key: &[u8], row: Option<&[u8]>) -> Result<Option<Message>, StoreError> {
    const TAG: u8 = Kind::Tag as u8;
    const MANIFEST: u8 = Kind::Manifest as u8;
    const REFERRER: u8 = Kind::Referrer as u8;
    let Some((&kind, key)) = key.split_first() else { return Ok(None) };
    let damaged = || StoreError::Corrupt("a key of content is malformed".to_owned());
    let zero = key.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
    let repository: RepositoryName = text(&key[..zero]).ok_or_else(damaged)?;
    let name = &key[zero + 1..];
    Ok(match (kind, row) {
        (TAG, row) => {
            let tag: Tag = text(name).ok_or_else(damaged)?;
            let digest = row.map(|row| rows::decode::<TagRow>(row).map(|row| row.digest));
            Some(Message::Tag { repository, tag, digest: digest.transpose()? })
        }
        (MANIFEST, None) => {
            let digest = Digest::from_key(name).ok_or_else(damaged)?;
            Some(Message::ManifestDeleted { repository, digest })
        }
        // A manifest that refers to another one may have no tag: it is announced by its link.
        (REFERRER, Some(_)) => {
            let digest = referrer(name).ok_or_else(damaged)?;
            Some(Message::ManifestAdded { repository, digest })
        }
        _ => None,
    })
}

/// Reads `subject, zero, digest`; the length of the subject follows from its algorithm.
fn referrer(key: &[u8]) -> Option<Digest> {
    (0..key.len()).find_map(|split| {
        let (subject, rest) = key.split_at(split);
        Digest::from_key(subject)?;
        Digest::from_key(rest.strip_prefix(&[0])?)
    })
}

/// Reads the digests of manifests that refer to others from the keys of a repository's links.
pub(super) fn referrer_of_key(key: &[u8], repository: &RepositoryName) -> Option<Digest> {
    let rest = key.strip_prefix(&[Kind::Referrer as u8])?;
    referrer(rest.strip_prefix(repository.as_str().as_bytes())?.strip_prefix(&[0])?)
}

fn text<N: std::str::FromStr>(bytes: &[u8]) -> Option<N> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::replica::node::testing::{config, map};
    use crate::store::rows::link::blob_key;
    use crate::store::rows::manifest::manifest_key;
    use crate::store::rows::node::removing_key;
    use crate::store::rows::referrer::referrer_key;
    use crate::store::rows::tag::tag_key;
    use crate::types::UnixSeconds;
    use crate::types::digest::Algorithm;

    fn digest(number: u8) -> Digest {
        Digest::from_raw(Algorithm::Sha256, &[number; 32]).unwrap()
    }

    fn scope(grants: &[&str]) -> Scope {
        Scope::of_map(&map("maps1", grants))
    }

    fn changes(repository: &RepositoryName) -> Vec<Change> {
        let (created, updated) = (UnixSeconds(1), UnixSeconds(2));
        let tag = TagRow { digest: digest(1), created, updated, from_below: false };
        let long = Digest::from_raw(Algorithm::Sha512, &[0; 64]).unwrap();
        vec![
            (blob_key(repository, &digest(0)), Some(vec![1])),
            (manifest_key(repository, &digest(1)), Some(vec![1])),
            (manifest_key(repository, &digest(0)), None),
            (tag_key(repository, &"v1".parse().unwrap()), Some(rows::encode(&tag).unwrap())),
            (tag_key(repository, &"v2".parse().unwrap()), None),
            (referrer_key(repository, &long, &digest(0)), Some(vec![1])),
            (referrer_key(repository, &digest(1), &long), None),
        ]
    }

    #[test]
    fn f117_a_node_mirrors_what_its_sync_map_grants_and_no_other() {
        let app = "repositories/team/app/content/read";
        let scope_of = |config: &NodeConfig| {
            let scope = Scope::of_config(config);
            scope.patterns().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut config = config(&[app]);
        let maps = config.scope_maps.len();
        assert!(maps > 1);
        for _ in 0..maps {
            assert_eq!(scope_of(&config), ["team/app"]);
            config.scope_maps.rotate_left(1);
        }
        config.scope_maps.retain(|map| map.name != config.sync_token.scope_map);
        assert_eq!(scope_of(&config), [""; 0]);
    }

    /// Symptom: a device lost all of a repository, which the root still had, while the node above
    /// could not get it again. Cause: that had removed it, not granted any more, and told so.
    #[test]
    fn f119_a_child_compares_what_is_removed_here_because_it_is_not_granted_any_more() {
        let app: RepositoryName = "team/app".parse().unwrap();
        let scope = scope(&["repositories/team/*/content/read"]);
        for (row, is_over) in [(Some(vec![1]), false), (None, true)] {
            let mut changes = changes(&app);
            changes.push((removing_key(&app), row));
            let expected = Projection { purged: is_over, ..Projection::default() };
            assert_eq!(project(&changes, &scope).unwrap(), expected);
            let others = project(&changes, &Scope::default()).unwrap();
            assert_eq!(others, Projection::default());
        }
    }

    #[test]
    fn f119_a_child_sees_tags_referrers_and_deletes() {
        let app: RepositoryName = "team/app".parse().unwrap();
        let seen = project(&changes(&app), &scope(&["repositories/team/*/content/read"])).unwrap();
        let repository = || app.clone();
        let expected = vec![
            Message::ManifestDeleted { repository: repository(), digest: digest(0) },
            Message::Tag {
                repository: repository(),
                tag: "v1".parse().unwrap(),
                digest: Some(digest(1)),
            },
            Message::Tag { repository: repository(), tag: "v2".parse().unwrap(), digest: None },
            Message::ManifestAdded { repository: repository(), digest: digest(0) },
        ];
        assert_eq!(seen, Projection { messages: expected, ..Projection::default() });
    }

    #[test]
    fn f117_what_is_not_granted_is_not_told() {
        let app: RepositoryName = "team/app".parse().unwrap();
        for grants in [
            &["repositories/team/content/read"][..],
            &["repositories/team/app/metadata/read"],
            &["gateway/dock01/message/read"],
            &[],
        ] {
            let seen = project(&changes(&app), &scope(grants)).unwrap();
            assert_eq!(seen, Projection::default(), "{grants:?}");
        }
    }

    #[test]
    fn management_rows_are_noticed_and_not_told() {
        for (kind, noticed) in [
            (Kind::Token, true),
            (Kind::ScopeMap, true),
            (Kind::ConnectedRegistry, true),
            (Kind::NodeConfig, true),
            (Kind::Status, false),
            (Kind::Inbox, false),
            (Kind::Outbox, false),
            (Kind::Node, false),
        ] {
            let changes = [(rows::key(kind, &[b"dock01"]), Some(vec![1, 2, 3]))];
            let seen = project(&changes, &scope(&["repositories/*/content/read"])).unwrap();
            assert_eq!(
                seen,
                Projection { management: noticed, ..Projection::default() },
                "{kind:?}"
            );
        }
    }

    #[test]
    fn damaged_keys_are_errors() {
        for key in [&b"\x04app"[..], b"\x04app\0-bad", b"\x03app\0short", b"\x05app\0short"] {
            let row = if key[0] == 3 { None } else { Some(vec![1]) };
            assert!(project(&[(key.to_vec(), row)], &Scope::default()).is_err(), "{key:?}");
        }
    }
}
