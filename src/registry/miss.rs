//! Why something is not here: on a connected registry a miss explains itself.

use super::Registry;
use super::error::store_refusal;
use crate::store::replica::node::SyncView;
use crate::types::connected_registry::ParentContact;
use crate::types::message::NodeConfig;
use crate::types::schedule::Window;
use crate::types::{
    ConnectedRegistry, Grant, Reason, Refusal, RepositoryAction, RepositoryName, Role, UnixSeconds,
};

impl Registry {
    /// A 404 for `what` in a repository, with the reason why it is not here. A child tells by its
    /// header that it may not be deleted: the answer to a HEAD has no body.
    pub(super) fn miss(
        &self,
        code: &'static str,
        repository: &RepositoryName,
        what: impl std::fmt::Display,
    ) -> Refusal {
        let (Role::Connected, Ok(Some(config))) = (self.options.role, self.node_config()) else {
            let message = format!("{what} is not here: {NO_SUCH_CONTENT}");
            return Refusal::new(404, code, Reason::NotFound, message);
        };
        let known = self.store.is_partial(repository);
        let known = known.and_then(|partial| Ok((partial, self.store.is_synced(repository)?)));
        let (partial, is_synced) = match known {
            Ok(known) => known,
            Err(error) => return store_refusal(error),
        };
        let view = self.store.sync_view();
        let reason = explain(&config, &view, repository, is_synced);
        let words = match reason {
            Reason::WaitingForWindow => {
                let next = next_window(&config.node, self.store.sys().clock.wall());
                let known = match is_synced {
                    true => as_of(view.last_sync),
                    false => "the repository has not been synced".to_owned(),
                };
                format!("{known}, and no sync window is open; {next}")
            }
            other => {
                let refused = self.store.refused_state().map(|state| state.name());
                let hindrance = match view.without_space.contains(repository) {
                    true => Some(NO_SPACE.to_owned()),
                    false => hindrance(&view, refused),
                };
                words(other, hindrance, view.last_sync)
            }
        };
        let refusal = Refusal::new(404, code, reason, format!("{what} is not here: {words}"));
        Refusal { partial, ..refusal }
    }
}

const NO_SUCH_CONTENT: &str = "there is no such content";
const NOT_FINISHED: &str = "the sync of this repository has not finished";

const NO_SPACE: &str = "the disk of this node has no space for what its parent has: 'skerry \
                        status' at this node says how much it needs";

/// Whether the parent lets a node mirror a repository.
pub(super) fn in_sync_scope(config: &NodeConfig, repository: &RepositoryName) -> bool {
    let own = &config.sync_token.scope_map;
    let map = config.scope_maps.iter().find(|map| map.name == *own);
    map.is_some_and(|map| {
        map.grants.iter().any(|grant| match grant {
            Grant::Repository(pattern, RepositoryAction::ContentRead) => pattern.covers(repository),
            Grant::Repository(..) | Grant::Gateway(..) => false,
        })
    })
}

fn explain(
    config: &NodeConfig,
    view: &SyncView,
    repository: &RepositoryName,
    is_synced: bool,
) -> Reason {
    if !in_sync_scope(config, repository) {
        return Reason::NotInSyncScope;
    }
    let is_incomplete = view.incomplete.contains(repository) || (view.any_incomplete && is_synced);
    if view.waiting_for_window {
        // Also of what is synced: the parent may have more by now.
        Reason::WaitingForWindow
    } else if !is_incomplete && (is_synced || view.compared) {
        // What is compared and not synced is under a wildcard, and the parent does not have it.
        Reason::NotFound
    } else {
        Reason::NotSyncedYet
    }
}

fn words(reason: Reason, hindrance: Option<String>, last_sync: Option<UnixSeconds>) -> String {
    match (reason, hindrance) {
        (Reason::NotInSyncScope, _) => {
            "the repository is not among those that this connected registry syncs; add it with \
             'connected-registry permissions update' at the root"
                .to_owned()
        }
        (Reason::NotSyncedYet, None) => NOT_FINISHED.to_owned(),
        (Reason::NotSyncedYet, Some(hindrance)) => format!("{NOT_FINISHED}, and {hindrance}"),
        (_, None) => NO_SUCH_CONTENT.to_owned(),
        (_, Some(hindrance)) => format!("{}, and {hindrance}", as_of(last_sync)),
    }
}

/// Why a node that is not waiting for a window learns nothing newer from its parent just now.
/// `refused`: the name of the state in which the parent refuses it, if it does.
fn hindrance(view: &SyncView, refused: Option<&str>) -> Option<String> {
    if let Some(state) = refused {
        return Some(format!("the parent refuses this node ({state})"));
    }
    Some(match (view.contact, view.lost_since) {
        (ParentContact::InContact | ParentContact::WaitingForWindow, _) => return None,
        (ParentContact::OutOfContact, Some(since)) => {
            format!("the parent cannot be reached since {}", since.rfc3339())
        }
        (ParentContact::OutOfContact, None) => "the parent cannot be reached".to_owned(),
        (ParentContact::Connecting, _) => {
            "the parent has not been reached since this node started".to_owned()
        }
        (ParentContact::NoConnectionString, _) => {
            "this node does not sync: it has no connection string that can be used".to_owned()
        }
    })
}

fn as_of(last_sync: Option<UnixSeconds>) -> String {
    match last_sync {
        Some(at) => format!("there was no such content at the last sync ({})", at.rfc3339()),
        None => "there was no such content at the last sync".to_owned(),
    }
}

fn next_window(node: &ConnectedRegistry, now: Option<UnixSeconds>) -> String {
    match now.map(|now| node.schedule.window(node.sync_window_s, now)) {
        Some(Window::Closed { next: Some(next) }) => {
            format!("the next one opens at {}", next.rfc3339())
        }
        Some(Window::Closed { next: None }) => "the sync schedule has no other one".to_owned(),
        // The engine sees it in a moment.
        Some(Window::Open { .. } | Window::Always) => "the next one opens now".to_owned(),
        None => "when the next one opens is unknown: this node does not know the time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::types::Mode;
    use crate::types::schedule::Schedule;
    use crate::types::token::{ScopeMap, Token};

    fn config(grants: &[&str]) -> NodeConfig {
        let node = ConnectedRegistry {
            name: "dock01".parse().unwrap(),
            mode: Mode::ReadOnly,
            parent: None,
            sync_token: "sync-token".parse().unwrap(),
            client_tokens: Vec::new(),
            schedule: "* * * * *".parse::<Schedule>().unwrap(),
            sync_window_s: None,
            message_ttl_s: 172_800,
            log_level: "Information".to_owned(),
            activation_epoch: 0,
            created: UnixSeconds(0),
        };
        let sync_token = Token {
            name: node.sync_token.clone(),
            scope_map: "sync-map".parse().unwrap(),
            enabled: true,
            created: UnixSeconds(0),
            passwords: [None, None],
            generations: [0, 0],
        };
        let map = |name: &str, grants: &[&str]| ScopeMap {
            name: name.parse().unwrap(),
            description: String::new(),
            grants: grants.iter().map(|grant| grant.parse().unwrap()).collect(),
            created: UnixSeconds(0),
        };
        NodeConfig {
            registry: "root1".to_owned(),
            node,
            sync_token,
            client_tokens: Vec::new(),
            children: Vec::new(),
            child_tokens: Vec::new(),
            scope_maps: vec![
                map("client-map", &["repositories/other/content/read"]),
                map("sync-map", grants),
            ],
            descendants: Vec::new(),
        }
    }

    #[test]
    fn a_miss_explains_itself() {
        let config = config(&[
            "repositories/app/*/content/read",
            "repositories/meta/metadata/read",
            "gateway/dock01/config/read",
        ]);
        let mut view = SyncView::default();
        let synced = Cell::new("");
        let why = |view: &SyncView, name: &str| {
            explain(&config, view, &name.parse().unwrap(), synced.get() == name)
        };
        assert_eq!(why(&view, "other"), Reason::NotInSyncScope);
        assert_eq!(why(&view, "meta"), Reason::NotInSyncScope);
        assert_eq!(why(&view, "app/web"), Reason::NotSyncedYet);
        view.waiting_for_window = true;
        assert_eq!(why(&view, "app/web"), Reason::WaitingForWindow);
        synced.set("app/web");
        assert_eq!(why(&view, "app/web"), Reason::WaitingForWindow);
        assert_eq!(why(&view, "app/db"), Reason::WaitingForWindow);
        view.waiting_for_window = false;
        assert_eq!(why(&view, "app/web"), Reason::NotFound);
        assert_eq!(why(&view, "app/db"), Reason::NotSyncedYet);
        view.compared = true;
        assert_eq!(why(&view, "app/db"), Reason::NotFound);
        view.any_incomplete = true;
        assert_eq!(why(&view, "app/web"), Reason::NotSyncedYet);
        assert_eq!(why(&view, "app/db"), Reason::NotFound);
        view.any_incomplete = false;
        view.incomplete.insert("app/web".parse().unwrap());
        assert_eq!(why(&view, "app/web"), Reason::NotSyncedYet);
    }

    #[test]
    fn f212_a_miss_says_as_of_when_it_is_one() {
        let mut view = SyncView { last_sync: Some(UnixSeconds(60)), ..SyncView::default() };
        let told = |reason, view: &SyncView, refused| {
            words(reason, hindrance(view, refused), view.last_sync)
        };
        for (contact, hindrance) in [
            (ParentContact::Connecting, "the parent has not been reached since this node started"),
            (
                ParentContact::OutOfContact,
                "the parent cannot be reached since 1970-01-01T00:02:00Z",
            ),
            (
                ParentContact::NoConnectionString,
                "this node does not sync: it has no connection string that can be used",
            ),
        ] {
            view.contact = contact;
            view.lost_since = Some(UnixSeconds(120));
            let known = "there was no such content at the last sync (1970-01-01T00:01:00Z)";
            assert_eq!(told(Reason::NotFound, &view, None), format!("{known}, and {hindrance}"));
            let refuses = format!("{known}, and the parent refuses this node (Deactivated)");
            assert_eq!(told(Reason::NotFound, &view, Some("Deactivated")), refuses);
            let known = "the sync of this repository has not finished";
            let expected = format!("{known}, and {hindrance}");
            assert_eq!(told(Reason::NotSyncedYet, &view, None), expected);
        }
        view.contact = ParentContact::InContact;
        assert_eq!(told(Reason::NotFound, &view, None), NO_SUCH_CONTENT);
        assert_eq!(told(Reason::NotSyncedYet, &view, None), NOT_FINISHED);
        let mut node = config(&[]).node;
        node.schedule = "0 12 * * *".parse().unwrap();
        for (now, wanted) in [
            (Some(UnixSeconds(0)), "the next one opens at 1970-01-01T12:00:00Z"),
            (Some(UnixSeconds(12 * 3600)), "the next one opens now"),
            (None, "when the next one opens is unknown: this node does not know the time"),
        ] {
            assert_eq!(next_window(&node, now), wanted);
        }
    }
}
