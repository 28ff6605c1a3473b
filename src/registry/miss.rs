//! Why something is not here: on a connected registry a miss explains itself.

use super::Registry;
use crate::store::node::SyncView;
use crate::types::message::NodeConfig;
use crate::types::{Grant, Reason, Refusal, RepositoryAction, RepositoryName, Role};

impl Registry {
    /// A 404 for `what` in a repository, with the reason why it is not here.
    pub(super) fn miss(
        &self,
        code: &'static str,
        repository: &RepositoryName,
        what: impl std::fmt::Display,
    ) -> Refusal {
        let reason = match (self.options.role, self.node_config()) {
            (Role::Connected, Ok(Some(config))) => {
                explain(&config, &self.store.sync_view(), repository)
            }
            _ => Reason::NotFound,
        };
        Refusal::new(404, code, reason, format!("{what} is not here: {}", words(reason)))
    }
}

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

fn explain(config: &NodeConfig, view: &SyncView, repository: &RepositoryName) -> Reason {
    if !in_sync_scope(config, repository) {
        Reason::NotInSyncScope
    } else if view.synced.contains(repository) && !view.incomplete.contains(repository) {
        Reason::NotFound
    } else if view.waiting_for_window {
        Reason::WaitingForWindow
    } else if view.compared && !view.incomplete.contains(repository) {
        // Under a wildcard, and the parent has no such repository.
        Reason::NotFound
    } else {
        Reason::NotSyncedYet
    }
}

fn words(reason: Reason) -> &'static str {
    match reason {
        Reason::NotInSyncScope => {
            "the repository is not among those that this connected registry syncs; add it with \
             'connected-registry permissions update'"
        }
        Reason::NotSyncedYet => "the sync of this repository has not finished",
        Reason::WaitingForWindow => "the repository has not been synced and no sync window is open",
        _ => "there is no such content",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::connected_registry::ConnectedRegistry;
    use crate::types::schedule::Schedule;
    use crate::types::token::{ScopeMap, Token};
    use crate::types::{Mode, UnixSeconds};

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
        let why = |view: &SyncView, name: &str| explain(&config, view, &name.parse().unwrap());
        assert_eq!(why(&view, "other"), Reason::NotInSyncScope);
        assert_eq!(why(&view, "meta"), Reason::NotInSyncScope);
        assert_eq!(why(&view, "app/web"), Reason::NotSyncedYet);
        view.waiting_for_window = true;
        assert_eq!(why(&view, "app/web"), Reason::WaitingForWindow);
        view.synced.insert("app/web".parse().unwrap());
        assert_eq!(why(&view, "app/web"), Reason::NotFound);
        assert_eq!(why(&view, "app/db"), Reason::WaitingForWindow);
        view.waiting_for_window = false;
        assert_eq!(why(&view, "app/db"), Reason::NotSyncedYet);
        view.compared = true;
        assert_eq!(why(&view, "app/db"), Reason::NotFound);
        view.incomplete.insert("app/web".parse().unwrap());
        assert_eq!(why(&view, "app/web"), Reason::NotSyncedYet);
    }
}
