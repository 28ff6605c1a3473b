//! Connected registries: the tree below the root.

use super::permission::refuse_pushes;
use super::{Changed, Changes, Error, Manage, Noun, Warning};
use crate::store::tree::connected_registries::{ConnectedRegistryUpdate, descendants_of};
use crate::store::tree::creation::Created;
use crate::store::tree::passwords::NewPassword;
use crate::types::limits::{CLIENT_TOKENS_MAX, TREE_DEPTH_MAX};
use crate::types::token::Token;
use crate::types::{
    Change, ConnectedRegistry, ConnectedRegistryName, GatewayAction, Grant, ScopeMapName, Secret,
    TokenName,
};

pub use crate::store::tree::connected_registries::Settings;
pub use crate::store::tree::creation::NewConnectedRegistry;

/// A change of a connected registry; its mode, parent and sync token never change.
pub struct ConnectedRegistryChange {
    /// Which.
    pub name: ConnectedRegistryName,
    /// The tokens that its clients may log in with.
    pub client_tokens: Change<TokenName>,
    /// What is given replaces what is there.
    pub settings: Settings,
}

/// A connected registry that was made, and the passwords of a sync token that was made with it: the
/// only time that they are shown.
pub struct MadeConnectedRegistry {
    /// The connected registry.
    pub node: ConnectedRegistry,
    /// The passwords of its sync token.
    pub passwords: Vec<NewPassword>,
    /// All that its device needs in one line, with the first of them.
    pub connection_string: Option<Secret>,
}

impl Manage {
    /// All, the descendants of one, those directly below the root, or the direct children of one.
    pub async fn connected_registries(
        &self,
        parent: Option<&ConnectedRegistryName>,
        no_children: bool,
    ) -> Result<Vec<ConnectedRegistry>, Error> {
        let all = self.all_connected_registries().await?;
        Ok(match parent {
            Some(parent) if !all.iter().any(|node| node.name == *parent) => {
                return Err(Error {
                    cause: format!("Parent connected registry '{parent}' doesn't exist."),
                    ..Error::missing_as(Noun::ConnectedRegistry, "parent", parent)
                });
            }
            Some(parent) if !no_children => descendants_of(&all, parent),
            parent if no_children => {
                all.into_iter().filter(|node| node.parent.as_ref() == parent).collect()
            }
            _ => all,
        })
    }

    /// The tokens that clients of a connected registry may log in with.
    pub fn client_tokens(&self, name: &ConnectedRegistryName) -> Result<Vec<Token>, Error> {
        let node = self.connected_registry(name)?;
        node.client_tokens.iter().map(|name| self.token(name)).collect()
    }

    /// Whether others are below the device of one, and speak TLS with it, as far as that is known.
    async fn is_trusted_below(&self, name: &ConnectedRegistryName) -> Result<bool, Error> {
        let status = self.store.status(name)?;
        if status.is_some_and(|status| status.report.is_told() && !status.report.tls) {
            return Ok(false);
        }
        let all = self.all_connected_registries().await?;
        Ok(all.iter().any(|node| node.parent.as_ref() == Some(name)))
    }

    /// A name that nobody has is not found. The command itself refuses too many of them, and what
    /// goes meanwhile.
    fn require_tokens(&self, part: &'static str, names: &[TokenName]) -> Result<(), Error> {
        let names = if names.len() > CLIENT_TOKENS_MAX { &[] } else { names };
        for name in names {
            if self.store.token(name)?.is_none() {
                return Err(Error::missing_as(Noun::Token, part, name));
            }
        }
        Ok(())
    }

    /// A schedule comes to pass.
    fn require_occurrence(&self, settings: &Settings) -> Result<(), Error> {
        let Some(schedule) = &settings.schedule else { return Ok(()) };
        let (now, never) =
            (self.store.sys().clock.wall_or_floor(), "the connected registry would never sync");
        let checked = schedule.check_occurs(now, never);
        let text = |error| format!("{error}.").replacen("the", "The", 1);
        checked.map_err(|error| Error::invalid(text(error)).at("sync schedule"))
    }

    /// The gateway actions on a connected registry, which is to be deleted, in the scope maps of
    /// those above it.
    fn gateway_grants(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Vec<(ScopeMapName, Vec<GatewayAction>)>, Error> {
        let mut all = Vec::new();
        let mut above = self.store.connected_registry(name)?.and_then(|node| node.parent);
        for _ in 0..TREE_DEPTH_MAX {
            let Some(parent) = above.map(|name| self.connected_registry(&name)).transpose()? else {
                break;
            };
            let map = self.store.sync_scope_map(&parent)?;
            let actions = map.grants.iter().filter_map(|grant| match grant {
                Grant::Gateway(of, action) if of == name => Some(*action),
                _ => None,
            });
            let actions: Vec<_> = actions.collect();
            if !actions.is_empty() {
                all.push((map.name, actions));
            }
            above = parent.parent;
        }
        Ok(all)
    }
}

impl Changes {
    /// Creates a connected registry.
    ///
    /// `settings`: with the connection string, and what is to be known about it.
    pub async fn connected_registry_create(
        &self,
        new: NewConnectedRegistry,
        settings: bool,
    ) -> Result<Changed<MadeConnectedRegistry>, Error> {
        let manage = &self.manage;
        manage.require_occurrence(&new.settings)?;
        if let Some(parent) = &new.parent
            && manage.store.connected_registry(parent)?.is_none()
        {
            let part = "parent connected registry";
            return Err(Error::missing_as(Noun::ConnectedRegistry, part, parent));
        }
        manage.require_tokens("sync token", new.sync_token.as_slice())?;
        manage.require_tokens("client token", &new.client_tokens)?;
        let mode_given = new.mode.is_some();
        let (created, others) = manage.store.connected_registry_create(new).await?;
        let Created { node, passwords, without_write } = created;
        log::info!("created connected registry name={} mode={}", node.name, node.mode);
        let chosen =
            (!mode_given).then(|| Warning::ModeChosen { name: node.name.clone(), mode: node.mode });
        let warnings: Vec<Warning> = chosen
            .into_iter()
            .chain(window_chosen(&node))
            .chain(refuse_pushes(without_write))
            .collect();
        let password = passwords.first().filter(|_| settings).map(|made| made.value.clone());
        // What was made is told, whatever keeps the rest from being read.
        let settings = password.map(|password| manage.settings_with(&node, password, None));
        let (connection_string, of_settings) = match settings {
            Some(Ok(told)) => (Some(told.resource.connection_string), told.warnings),
            Some(Err(error)) => {
                log::warn!("the connection string of '{}' cannot be told: {error}", node.name);
                (None, Vec::new())
            }
            None => (None, Vec::new()),
        };
        let made = MadeConnectedRegistry { node, passwords, connection_string };
        Ok(Changed::of(made).warn(warnings).warn(of_settings).with_others(others))
    }

    /// Changes the client tokens and settings of a connected registry.
    pub async fn connected_registry_update(
        &self,
        change: ConnectedRegistryChange,
    ) -> Result<Changed<ConnectedRegistry>, Error> {
        let manage = &self.manage;
        let ConnectedRegistryChange { name, client_tokens, settings } = change;
        manage.require_tokens("client token", client_tokens.wanted())?;
        manage.require_occurrence(&settings)?;
        let scheduled = settings.schedule.is_some();
        let before = manage.connected_registry(&name)?;
        let update = ConnectedRegistryUpdate { client_tokens, settings };
        let updated = manage.store.connected_registry_update(name.clone(), update).await;
        let node = updated.map_err(Error::of(Noun::ConnectedRegistry, &name))?;
        log::info!("updated connected registry name={}", node.name);
        let window = window_chosen(&node).filter(|_| scheduled);
        let late = manage.schedule_late(&before, &node);
        let clients_late = match before.client_tokens == node.client_tokens {
            true => Ok(None),
            false => manage.late(&before),
        };
        let clients_late = clients_late.map(|late| late.into_iter().collect());
        Ok(Changed::of(node).warn(window).warn(if_known(late)).with_late(clients_late))
    }

    /// Deletes a connected registry without children; with `cleanup` also its sync token, the scope
    /// map of that, and its gateway actions above.
    pub async fn connected_registry_delete(
        &self,
        name: ConnectedRegistryName,
        cleanup: bool,
    ) -> Result<Changed<()>, Error> {
        let above = match cleanup {
            true => Vec::new(),
            // A damaged row of an ancestor keeps nobody from deleting.
            false => self.manage.gateway_grants(&name).unwrap_or_else(|error| {
                log::warn!("the gateway actions on '{name}' above it cannot be told: {error}");
                Vec::new()
            }),
        };
        let before = self.manage.connected_registry(&name);
        let late = before.and_then(|node| self.manage.late(&node));
        let deleted = self.manage.store.connected_registry_delete(name.clone(), cleanup).await;
        let left = deleted.map_err(Error::of(Noun::ConnectedRegistry, &name))?;
        log::info!("deleted connected registry name={name} cleanup={cleanup}");
        let kept = left.map(|(token, scope_map)| Warning::SyncTokenKept {
            connected_registry: name,
            token,
            scope_map,
            above,
        });
        let late = late.map(|late| late.map(Warning::EndHeardLate));
        Ok(Changed::of(()).warn(kept).warn(if_known(late)))
    }

    /// Lets another instance activate as this connected registry.
    pub async fn connected_registry_deactivate(
        &self,
        name: ConnectedRegistryName,
    ) -> Result<Changed<ConnectedRegistry>, Error> {
        let before = self.manage.connected_registry(&name);
        let late = before.and_then(|node| self.manage.late(&node));
        let deactivated = self.manage.store.connected_registry_deactivate(name.clone()).await;
        let node = deactivated.map_err(Error::of(Noun::ConnectedRegistry, &name))?;
        log::info!("deactivated connected registry name={name}");
        let late = late.map(|late| late.map(Warning::EndHeardLate));
        let pinned = match self.manage.is_trusted_below(&name).await {
            Ok(true) => Some(Warning::ChildrenTrustCertificate(name)),
            Ok(false) => None,
            Err(error) => {
                log::warn!("whether '{name}' has others below it cannot be told: {error}");
                None
            }
        };
        Ok(Changed::of(node).warn(if_known(late)).warn(pinned))
    }
}

/// The warning about who hears late of a change that was made; where that is not known, the
/// warning says so.
pub(super) fn if_known(late: Result<Option<Warning>, Error>) -> Option<Warning> {
    late.unwrap_or_else(|error| Some(Warning::HeardLateUnknown(error)))
}

/// What the window of a schedule is for which none was given.
fn window_chosen(node: &ConnectedRegistry) -> Option<Warning> {
    let window_s = node.schedule.window_s(node.sync_window_s)?;
    let name = node.name.clone();
    node.sync_window_s.is_none().then_some(Warning::WindowChosen { name, window_s })
}
