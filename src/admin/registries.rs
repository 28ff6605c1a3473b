//! `connected-registry ...`

use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::also::{tell_others, warn};
use super::fault::Fault;
use super::late::warn_of_late_end;
use super::print::print_credentials;
use super::tokens::Named;
use crate::store::StoreError;
use crate::store::tree::connected_registries::{ConnectedRegistryUpdate, Settings, descendants_of};
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::tree::{AlsoChanged, Others};
use crate::types::limits::{CLIENT_TOKENS_MAX, TREE_DEPTH_MAX};
use crate::types::schedule::Schedule;
use crate::types::time::{format_duration, parse_duration_s};
use crate::types::{
    ConnectedRegistry, ConnectedRegistryName, Grant, Mode, RepositoryAction, RepositoryPattern,
    TokenName,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CreateRegistry {
    name: ConnectedRegistryName,
    parent: Option<ConnectedRegistryName>,
    #[serde(default)]
    repository: Vec<RepositoryPattern>,
    sync_token: Option<TokenName>,
    mode: Option<String>,
    #[serde(default)]
    client_tokens: Vec<TokenName>,
    sync_schedule: Option<String>,
    sync_window: Option<String>,
    sync_message_ttl: Option<String>,
    log_level: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UpdateRegistry {
    name: ConnectedRegistryName,
    #[serde(default)]
    add_client_tokens: Vec<TokenName>,
    #[serde(default)]
    remove_client_tokens: Vec<TokenName>,
    sync_schedule: Option<String>,
    sync_window: Option<String>,
    sync_message_ttl: Option<String>,
    log_level: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteRegistry {
    name: ConnectedRegistryName,
    #[serde(default)]
    cleanup: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ListRegistries {
    parent: Option<ConnectedRegistryName>,
    #[serde(default)]
    no_children: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdatePermissions {
    name: ConnectedRegistryName,
    #[serde(default)]
    add: Vec<RepositoryPattern>,
    #[serde(default)]
    remove: Vec<RepositoryPattern>,
}

/// How messages about a missing one name it.
const KIND: &str = "connected registry";

impl Admin {
    pub(super) async fn registry_create(&self, new: CreateRegistry) -> Result<Value, Fault> {
        let settings = self.settings(
            new.sync_schedule.as_deref(),
            new.sync_window.as_deref(),
            new.sync_message_ttl.as_deref(),
            new.log_level,
        )?;
        if let Some(parent) = &new.parent
            && self.store.connected_registry(parent)?.is_none()
        {
            return Err(Fault::of(StoreError::NotFound, "parent connected registry", parent));
        }
        self.require_tokens("sync token", new.sync_token.as_slice())?;
        self.require_tokens("client token", &new.client_tokens)?;
        let mode = new.mode.as_deref().map(str::parse::<Mode>).transpose();
        let mode_given = new.mode.is_some();
        let (node, passwords, others) = self
            .store
            .connected_registry_create(NewConnectedRegistry {
                name: new.name,
                mode: mode.map_err(|error| Fault::invalid(format!("{error}.")))?,
                parent: new.parent,
                repositories: new.repository,
                sync_token: new.sync_token,
                client_tokens: new.client_tokens,
                settings,
            })
            .await?;
        log::info!("created connected registry name={} mode={}", node.name, node.mode);
        let mut value = self.print_registry(&node)?;
        if !passwords.is_empty() {
            let credentials = print_credentials(node.sync_token.as_str(), &passwords);
            value["syncToken"] = json!({ "name": node.sync_token, "credentials": credentials });
        }
        let mode = (!mode_given).then(|| {
            format!(
                "No mode was given: '{}' is {}. The mode cannot be changed later.",
                node.name, node.mode
            )
        });
        let warnings: Vec<String> = mode
            .into_iter()
            .chain(window_not_given(&node))
            // It was created, whatever can be told of it.
            .chain(self.mirrors_only(&others).unwrap_or_default())
            .collect();
        warn(&mut value, warnings);
        tell_others(&mut value, &others);
        Ok(value)
    }

    pub(super) async fn registry_update(&self, change: UpdateRegistry) -> Result<Value, Fault> {
        self.require_tokens("client token", &change.add_client_tokens)?;
        let update = ConnectedRegistryUpdate {
            add_client_tokens: change.add_client_tokens,
            remove_client_tokens: change.remove_client_tokens,
            settings: self.settings(
                change.sync_schedule.as_deref(),
                change.sync_window.as_deref(),
                change.sync_message_ttl.as_deref(),
                change.log_level,
            )?,
        };
        let scheduled = change.sync_schedule.is_some();
        let before = self.registry(&change.name)?;
        let updated = self.store.connected_registry_update(change.name.clone(), update).await;
        let node = updated.map_err(|error| Fault::of(error, KIND, &change.name))?;
        log::info!("updated connected registry name={}", node.name);
        let mut value = self.print_registry(&node)?;
        let window = window_not_given(&node).filter(|_| scheduled);
        let warnings: Vec<String> =
            window.into_iter().chain(self.schedule_late(&before, &node)?).collect();
        warn(&mut value, warnings);
        Ok(value)
    }

    pub(super) async fn registry_delete(&self, which: DeleteRegistry) -> Result<Value, Fault> {
        let above = match which.cleanup {
            true => String::new(),
            false => self.gateway_commands(&which.name)?,
        };
        let deleted = self.store.connected_registry_delete(which.name.clone(), which.cleanup).await;
        let left = deleted.map_err(|error| Fault::of(error, KIND, &which.name))?;
        log::info!("deleted connected registry name={} cleanup={}", which.name, which.cleanup);
        Ok(left.map_or(Value::Null, |(token, map)| {
            let text = format!(
                "The sync token '{token}' and the scope map '{map}' are kept, and the token can \
                 still log in; `--cleanup` deletes them with the connected registry. To delete \
                 them now: skerry token delete --name {token}; skerry scope-map delete --name \
                 {map}{above}"
            );
            json!({ "warnings": [text] })
        }))
    }

    /// The commands that take the gateway actions of a connected registry, which is to be deleted,
    /// from the scope maps of those above it, each after a semicolon.
    fn gateway_commands(&self, name: &ConnectedRegistryName) -> Result<String, Fault> {
        let mut commands = String::new();
        let mut above = self.store.connected_registry(name)?.and_then(|node| node.parent);
        for _ in 0..TREE_DEPTH_MAX {
            let Some(parent) = above.map(|name| self.registry(&name)).transpose()? else { break };
            let map = self.store.sync_scope_map(&parent)?;
            let actions = map.grants.iter().filter_map(|grant| match grant {
                Grant::Gateway(of, action) if of == name => Some(action.name()),
                _ => None,
            });
            let actions = actions.collect::<Vec<_>>().join(" ");
            if !actions.is_empty() {
                commands.push_str(&format!(
                    "; skerry scope-map update --name {} --remove-gateway {name} {actions}",
                    map.name
                ));
            }
            above = parent.parent;
        }
        Ok(commands)
    }

    pub(super) async fn registry_deactivate(
        &self,
        which: Named<ConnectedRegistryName>,
    ) -> Result<Value, Fault> {
        let late = self.late(&self.registry(&which.name)?)?;
        let deactivated = self.store.connected_registry_deactivate(which.name.clone()).await;
        let node = deactivated.map_err(|error| Fault::of(error, KIND, &which.name))?;
        log::info!("deactivated connected registry name={}", which.name);
        let mut value = self.print_registry(&node)?;
        warn_of_late_end(&mut value, late.as_ref());
        Ok(value)
    }

    pub(super) fn registry_show(
        &self,
        which: &Named<ConnectedRegistryName>,
    ) -> Result<Value, Fault> {
        self.print_registry(&self.registry(&which.name)?)
    }

    /// All, the descendants of one, those directly below the root, or the direct children of one.
    pub(super) async fn registry_list(&self, which: &ListRegistries) -> Result<Value, Fault> {
        let all = self.all_registries().await?;
        let chosen = match &which.parent {
            Some(parent) if !all.iter().any(|node| node.name == *parent) => {
                return Err(Fault::not_found(format!(
                    "Parent connected registry '{parent}' doesn't exist."
                )));
            }
            Some(parent) if !which.no_children => descendants_of(&all, parent),
            parent if which.no_children => {
                all.into_iter().filter(|node| node.parent == *parent).collect()
            }
            _ => all,
        };
        self.print_all(&chosen, |node| self.print_registry(node)).await
    }

    pub(super) fn client_tokens(
        &self,
        which: &Named<ConnectedRegistryName>,
    ) -> Result<Value, Fault> {
        let node = self.registry(&which.name)?;
        let print = |name| Ok(self.print_token(&self.token(name)?, &[]));
        node.client_tokens.iter().map(print).collect()
    }

    pub(super) fn permissions_show(
        &self,
        which: &Named<ConnectedRegistryName>,
    ) -> Result<Value, Fault> {
        let node = self.registry(&which.name)?;
        let token = self.token(&node.sync_token)?;
        Ok(self.print_scope_map(&self.scope_map(&token.scope_map)?))
    }

    pub(super) async fn permissions_update(
        &self,
        change: UpdatePermissions,
    ) -> Result<Value, Fault> {
        let name = change.name;
        let updated = self.store.permissions_update(name.clone(), change.add, change.remove).await;
        let (map, without_write, others) =
            updated.map_err(|error| Fault::of(error, KIND, &name))?;
        log::info!("updated permissions connected_registry={name}");
        let mut value = self.print_scope_map(&map);
        let text = |(ancestor, repositories): &(_, Vec<_>)| refuses_pushes(ancestor, repositories);
        warn(&mut value, without_write.iter().map(text).collect());
        tell_others(&mut value, &others);
        Ok(value)
    }

    /// Of the ReadWrite ancestors of a new connected registry, those that were given repositories
    /// to mirror for it and may not write there.
    fn mirrors_only(&self, others: &Others) -> Result<Vec<String>, Fault> {
        let mut warnings = Vec::new();
        for AlsoChanged { connected_registry, added, .. } in &others.changed {
            let ancestor = self.registry(connected_registry)?;
            if ancestor.mode != Mode::ReadWrite {
                continue;
            }
            let grants = self.store.sync_scope_map(&ancestor)?.grants;
            let may_write = |pattern: &RepositoryPattern| {
                grants.contains(&Grant::Repository(pattern.clone(), RepositoryAction::ContentWrite))
            };
            let mirrored = added.iter().filter_map(|grant| match grant {
                Grant::Repository(pattern, RepositoryAction::ContentRead) => Some(pattern.clone()),
                _ => None,
            });
            let mirrored: Vec<_> = mirrored.filter(|pattern| !may_write(pattern)).collect();
            if !mirrored.is_empty() {
                warnings.push(refuses_pushes(connected_registry, &mirrored));
            }
        }
        Ok(warnings)
    }

    /// A name that nobody has is not found. The command itself refuses too many of them, and what
    /// goes meanwhile.
    fn require_tokens(&self, kind: &str, names: &[TokenName]) -> Result<(), Fault> {
        let names = if names.len() > CLIENT_TOKENS_MAX { &[] } else { names };
        for name in names {
            if self.store.token(name)?.is_none() {
                return Err(Fault::of(StoreError::NotFound, kind, name));
            }
        }
        Ok(())
    }

    fn settings(
        &self,
        schedule: Option<&str>,
        window: Option<&str>,
        message_ttl: Option<&str>,
        log_level: Option<String>,
    ) -> Result<Settings, Fault> {
        Ok(Settings {
            schedule: schedule.map(|text| self.schedule(text)).transpose()?,
            sync_window_s: window.map(|text| duration("sync window", text)).transpose()?,
            message_ttl_s: message_ttl.map(|text| duration("message TTL", text)).transpose()?,
            log_level,
        })
    }

    /// A schedule that comes to pass.
    fn schedule(&self, text: &str) -> Result<Schedule, Fault> {
        let schedule: Schedule =
            text.parse().map_err(|error| Fault::invalid(format!("{error}.")))?;
        let (now, never) =
            (self.store.sys().clock.wall_or_floor(), "the connected registry would never sync");
        let checked = schedule.check_occurs(now, never);
        checked.map_err(|error| Fault::invalid(format!("{error}.").replacen("the", "The", 1)))?;
        Ok(schedule)
    }
}

/// What it means for a ReadWrite connected registry that it mirrors these repositories for another
/// one only.
fn refuses_pushes(ancestor: &ConnectedRegistryName, repositories: &[RepositoryPattern]) -> String {
    let list = repositories.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    format!(
        "'{ancestor}' is ReadWrite and mirrors {list} now, but may not write there: it refuses \
         pushes to it. To allow them: skerry connected-registry permissions update --name \
         {ancestor} --add {list}"
    )
}

/// What the window of a schedule is for which none was given.
fn window_not_given(node: &ConnectedRegistry) -> Option<String> {
    let window_s = node.schedule.window_s(node.sync_window_s)?;
    node.sync_window_s.is_none().then(|| {
        format!(
            "No sync window was given: each sync of '{}' may last {}. --sync-window sets another \
             one.",
            node.name,
            format_duration(window_s)
        )
    })
}

fn duration(what: &str, text: &str) -> Result<u64, Fault> {
    parse_duration_s(text).ok_or_else(|| {
        Fault::invalid(format!(
            "The {what} '{text}' is no ISO 8601 duration in days, hours, minutes and seconds, \
             such as P2D or PT3H."
        ))
    })
}
