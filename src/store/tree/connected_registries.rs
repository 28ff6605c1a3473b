//! Connected registries: the tree, managed at the root, and what is known of the instances.

use std::collections::BTreeSet;

use super::granted::{Granted, lacking};
use super::sizes::Sizes;
use super::withdrawal::Others;
use super::{cascade, command, told, withdrawal};
use crate::store::rows::connected_registry::{
    StatusRecord, activation_key, connected_registry_key, status_key,
};
use crate::store::rows::scope_map::scope_map_key;
use crate::store::rows::token::{SyncTokenOf, sync_token_key, token_key};
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::connected_registry::{Activation, ConnectedRegistry};
use crate::types::limits::{CLIENT_TOKENS_MAX, TREE_DEPTH_MAX};
use crate::types::schedule::{
    MESSAGE_TTL_S_MAX, MESSAGE_TTL_S_MIN, SYNC_WINDOW_S_MAX, SYNC_WINDOW_S_MIN, Schedule,
};
use crate::types::time::format_duration;
use crate::types::token::ScopeMap;
use crate::types::{
    Change, ConnectedRegistryName, GatewayAction, Grant, RepositoryAction, RepositoryPattern,
    ScopeMapName, TokenName,
};

/// What `logLevel` may be (as in the management API), the default first.
pub(in crate::store) const LOG_LEVELS: [&str; 5] =
    ["Information", "Debug", "Warning", "Error", "None"];

/// The latest epoch that a report from below may make this store count from. Over it: the next one
/// follows what this store has given itself, and there are enough for ever.
const REPORTED_EPOCH_MAX: u64 = 1 << 53;

/// Settings of a connected registry that can change.
#[derive(Default)]
pub struct Settings {
    /// When it syncs; continuous unless given.
    pub schedule: Option<Schedule>,
    /// How long each occurrence lasts, seconds; only without a continuous schedule.
    pub sync_window_s: Option<u64>,
    /// How long its parent keeps messages for it, seconds.
    pub message_ttl_s: Option<u64>,
    /// `Information` unless given.
    pub log_level: Option<String>,
}

/// A change of a connected registry; its mode, parent and sync token never change.
#[derive(Default)]
pub struct ConnectedRegistryUpdate {
    /// The tokens that its clients may log in with.
    pub client_tokens: Change<TokenName>,
    /// What is given replaces what is there.
    pub settings: Settings,
}

impl Store {
    /// One connected registry.
    pub fn connected_registry(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<ConnectedRegistry>, StoreError> {
        self.get(&connected_registry_key(name))
    }

    /// The resource of a node below this one. A deactivation that could not be written counts.
    pub fn node_below(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<ConnectedRegistry>, StoreError> {
        // Looked at first: it may be written meanwhile.
        let granted = self.unwritten_epoch(name).unwrap_or_default();
        let Some(node) = self.look_up(|index| told::node_below(&Txn::new(index), name))? else {
            return Ok(None);
        };
        let activation_epoch = node.activation_epoch.max(granted);
        Ok(Some(ConnectedRegistry { activation_epoch, ..node }))
    }

    /// Whether `upper` is on the way from `lower` to the root.
    pub fn is_ancestor(
        &self,
        upper: &ConnectedRegistryName,
        lower: &ConnectedRegistryName,
    ) -> Result<bool, StoreError> {
        let mut at = lower.clone();
        for _ in 0..TREE_DEPTH_MAX {
            let Some(parent) = self.node_below(&at)?.and_then(|node| node.parent) else {
                return Ok(false);
            };
            if parent == *upper {
                return Ok(true);
            }
            at = parent;
        }
        Ok(false)
    }

    /// Whether a change that `child` delivers may bear the name of `origin`: it or a node below it
    /// made the change. One that is gone cannot be told from one below; this node has numbers of
    /// its own.
    pub fn may_deliver(
        &self,
        child: &ConnectedRegistryName,
        origin: &ConnectedRegistryName,
    ) -> Result<bool, StoreError> {
        if self.self_name()?.as_ref() == Some(origin) {
            return Ok(false);
        }
        let known = self.node_below(origin)?.is_some();
        Ok(!known || child == origin || self.is_ancestor(child, origin)?)
    }

    /// Every connected registry of the tree, by name (at the root).
    pub async fn connected_registries(&self) -> Result<Vec<ConnectedRegistry>, StoreError> {
        let rows = self.pages(prefix(Kind::ConnectedRegistry, &[])).all().await?;
        Ok(rows.into_iter().map(|(_, registry)| registry).collect())
    }

    /// How many there are (at the root).
    pub async fn connected_registries_count(&self) -> Result<usize, StoreError> {
        let mut pages = self.pages::<ConnectedRegistry>(prefix(Kind::ConnectedRegistry, &[]));
        let mut count = 0;
        loop {
            match pages.next().await?.len() {
                0 => return Ok(count),
                more => count += more,
            }
        }
    }

    /// Whether the tree has any connected registry (at the root).
    pub fn has_connected_registries(&self) -> Result<bool, StoreError> {
        let start = prefix(Kind::ConnectedRegistry, &[]);
        Ok(!self.scan::<ConnectedRegistry>(&start, None, 1)?.is_empty())
    }

    /// The connected registry whose sync token this is (at the root).
    pub fn sync_token_owner(
        &self,
        token: &TokenName,
    ) -> Result<Option<ConnectedRegistry>, StoreError> {
        match self.get::<SyncTokenOf>(&sync_token_key(token))? {
            Some(owner) => self.connected_registry(&owner.0),
            None => Ok(None),
        }
    }

    /// The activation of a connected registry, as recorded here.
    pub fn activation(
        &self,
        name: &ConnectedRegistryName,
    ) -> Result<Option<Activation>, StoreError> {
        self.get(&activation_key(name))
    }

    /// Whether a connected registry may call its parent: its sync token is not disabled, as far as
    /// this node knows it.
    pub fn is_admitted(&self, registry: &ConnectedRegistry) -> Result<bool, StoreError> {
        Ok(self.token(&registry.sync_token)?.is_none_or(|token| token.enabled))
    }

    /// The last status report of a connected registry, as recorded here.
    pub fn status(&self, name: &ConnectedRegistryName) -> Result<Option<StatusRecord>, StoreError> {
        self.get(&status_key(name))
    }

    /// Changes client tokens and settings.
    pub async fn connected_registry_update(
        &self,
        name: ConnectedRegistryName,
        update: ConnectedRegistryUpdate,
    ) -> Result<ConnectedRegistry, StoreError> {
        let ConnectedRegistryUpdate { client_tokens, settings } = update;
        refuse_ambiguity("client token ids", client_tokens.ambiguous())?;
        let turn = self.tree_turn().await?;
        let sizes = match client_tokens.wanted().is_empty() {
            true => Sizes::default(),
            false => self.sizes_of_path(&name, None).await?,
        };
        let change = move |txn: &mut Txn<'_>| {
            let mut registry =
                command::connected_registry(txn, &name)?.ok_or(StoreError::NotFound)?;
            let tokens = client_tokens.apply(registry.client_tokens);
            registry.client_tokens = check_client_tokens(txn, tokens)?;
            apply(&mut registry, settings)?;
            txn.put(connected_registry_key(&name), &registry)?;
            Ok(registry)
        };
        turn.act(move |txn| sizes.bound(txn, change)).await
    }

    /// Deletes a connected registry without children. Its sync token and scope map stay and are
    /// returned, unless `cleanup`: then they go too, and its gateway actions in the ancestors'
    /// scope maps.
    pub async fn connected_registry_delete(
        &self,
        name: ConnectedRegistryName,
        cleanup: bool,
    ) -> Result<Option<(TokenName, ScopeMapName)>, StoreError> {
        let turn = self.tree_turn().await?;
        turn.act(move |txn| {
            let registry = command::connected_registry(txn, &name)?.ok_or(StoreError::NotFound)?;
            if let Some(child) = command::children(txn, &name, 1)?.first() {
                return Err(StoreError::Conflict(format!(
                    "The connected registry '{name}' is the parent of '{child}'; delete that first."
                )));
            }
            let left = match cleanup {
                true => {
                    clean_up(txn, &registry)?;
                    None
                }
                false => command::token(txn, &registry.sync_token)?,
            };
            txn.delete(sync_token_key(&registry.sync_token))?;
            txn.delete(activation_key(&name))?;
            txn.delete(status_key(&name))?;
            txn.delete(connected_registry_key(&name))?;
            Ok(left.map(|token| (token.name, token.scope_map)))
        })
        .await
    }

    /// Lets another instance activate: the present one is refused from now on, also when it was
    /// activated under an epoch that this store, restored from a backup since, has not given. The
    /// time is later than all of those, and what nodes below report tells of some.
    pub async fn connected_registry_deactivate(
        &self,
        name: ConnectedRegistryName,
    ) -> Result<ConnectedRegistry, StoreError> {
        let now = self.sys().clock.wall_or_floor().0;
        self.act(move |txn| {
            let mut registry =
                command::connected_registry(txn, &name)?.ok_or(StoreError::NotFound)?;
            let reported = txn.get::<Activation>(&activation_key(&name))?;
            let reported = reported.map_or(0, |active| active.epoch.min(REPORTED_EPOCH_MAX));
            registry.activation_epoch = (registry.activation_epoch.max(reported) + 1).max(now);
            txn.delete(activation_key(&name))?;
            txn.put(connected_registry_key(&name), &registry)?;
            Ok(registry)
        })
        .await
    }

    /// Adds repositories to a connected registry and all its ancestors, and takes others from it
    /// and then from all its descendants. Returns its sync scope map, and the ReadWrite ancestors
    /// that mirror what was added without writing to it, and the other scope maps that changed.
    pub async fn permissions_update(
        &self,
        name: ConnectedRegistryName,
        add: Vec<RepositoryPattern>,
        remove: Vec<RepositoryPattern>,
    ) -> Result<(ScopeMap, cascade::WithoutWrite, Others), StoreError> {
        if add.is_empty() && remove.is_empty() {
            return Err(StoreError::Invalid("No repository permissions to update.".to_owned()));
        }
        let remove: BTreeSet<RepositoryPattern> = remove.into_iter().collect();
        let both = add.iter().filter(|one| remove.contains(one));
        refuse_ambiguity("repository names", both)?;
        let turn = self.tree_turn().await?;
        let sizes = match add.is_empty() {
            true => Sizes::default(),
            false => self.sizes_of_path(&name, None).await?,
        };
        turn.change(sizes, move |txn| {
            let registry = command::connected_registry(txn, &name)?.ok_or(StoreError::NotFound)?;
            let before = cascade::sync_map(txn, &registry)?;
            let mut map = before.clone();
            cascade::strip(&mut map, &remove);
            refuse_still_granted(&map, &remove)?;
            map.grants.extend(repository_grants(&add, registry.mode.sync_actions()));
            if !lacking(&map.grants, &before.grants).is_empty() {
                cascade::refuse_shared_map(txn, &map.name, &registry.sync_token)?;
            }
            command::put_scope_map(txn, map)?;
            let above = cascade::settle_above(txn, &registry)?;
            withdrawal::begin(txn, &registry, &before, remove)?;
            let without = cascade::without_write(txn, &registry, &add)?;
            Ok(((cascade::sync_map(txn, &registry)?, without), above))
        })
        .await
        .map(|((map, without), others)| (map, without, others))
    }

    /// The scope map of a connected registry's sync token.
    pub fn sync_scope_map(&self, registry: &ConnectedRegistry) -> Result<ScopeMap, StoreError> {
        let token = self.token(&registry.sync_token)?.ok_or(StoreError::NotFound)?;
        self.scope_map(&token.scope_map)?.ok_or(StoreError::NotFound)
    }
}

/// The descendants of `name` among `all`, parents before their children.
pub fn descendants_of(
    all: &[ConnectedRegistry],
    name: &ConnectedRegistryName,
) -> Vec<ConnectedRegistry> {
    cascade::descendants_among(all, name)
}

pub(in crate::store) fn repository_grants(
    repositories: &[RepositoryPattern],
    actions: &'static [RepositoryAction],
) -> impl Iterator<Item = Grant> {
    repositories.iter().flat_map(move |repository| {
        actions.iter().map(move |action| Grant::Repository(repository.clone(), *action))
    })
}

pub(in crate::store) fn gateway_grants(
    name: &ConnectedRegistryName,
) -> impl Iterator<Item = Grant> {
    GatewayAction::ALL.into_iter().map(move |action| Grant::Gateway(name.clone(), action))
}

pub(in crate::store) fn check_client_tokens(
    txn: &Txn<'_>,
    mut list: Vec<TokenName>,
) -> Result<Vec<TokenName>, StoreError> {
    list.sort_unstable();
    list.dedup();
    if list.len() > CLIENT_TOKENS_MAX {
        return Err(StoreError::Invalid(format!(
            "{} client tokens are too many; a connected registry accepts at most \
             {CLIENT_TOKENS_MAX}.",
            list.len()
        )));
    }
    for token in &list {
        if command::token(txn, token)?.is_none() {
            return Err(StoreError::Invalid(format!(
                "The client token '{token}' could not be found."
            )));
        }
        if let Some(owner) = command::sync_token_of(txn, token)? {
            return Err(StoreError::Invalid(format!(
                "The token '{token}' is the sync token of the connected registry '{owner}' and \
                 cannot be a client token."
            )));
        }
    }
    Ok(list)
}

pub(in crate::store) fn apply(
    registry: &mut ConnectedRegistry,
    settings: Settings,
) -> Result<(), StoreError> {
    if let Some(schedule) = settings.schedule {
        registry.schedule = schedule;
    }
    if let Some(window_s) = settings.sync_window_s {
        check_range("sync window", window_s, SYNC_WINDOW_S_MIN, SYNC_WINDOW_S_MAX)?;
        if registry.schedule.is_continuous() {
            return Err(StoreError::Invalid(
                "A sync window needs a sync schedule other than '* * * * *'.".to_owned(),
            ));
        }
        registry.sync_window_s = Some(window_s);
    }
    if registry.schedule.is_continuous() {
        registry.sync_window_s = None;
    }
    if let Some(ttl_s) = settings.message_ttl_s {
        check_range("sync message TTL", ttl_s, MESSAGE_TTL_S_MIN, MESSAGE_TTL_S_MAX)?;
        registry.message_ttl_s = ttl_s;
    }
    if let Some(level) = settings.log_level {
        let known = LOG_LEVELS.into_iter().find(|known| known.eq_ignore_ascii_case(&level));
        registry.log_level = known.map(str::to_owned).ok_or_else(|| {
            let valid = LOG_LEVELS.join(", ");
            StoreError::Invalid(format!("Invalid log level '{level}': valid are {valid}."))
        })?;
    }
    Ok(())
}

fn check_range(what: &str, seconds: u64, low: u64, high: u64) -> Result<(), StoreError> {
    if (low..=high).contains(&seconds) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "The {what} {} is out of range: {} to {} is allowed.",
        format_duration(seconds),
        format_duration(low),
        format_duration(high)
    )))
}

fn refuse_ambiguity(
    what: &str,
    both: impl Iterator<Item = impl std::fmt::Display>,
) -> Result<(), StoreError> {
    let both: Vec<String> = both.map(|item| format!("'{item}'")).collect();
    if both.is_empty() {
        return Ok(());
    }
    Err(StoreError::Invalid(format!("Update ambiguity. Duplicate {what} {}.", both.join(", "))))
}

/// A removal must not be without effect because a wildcard covers the repository too.
fn refuse_still_granted(
    map: &ScopeMap,
    removed: &BTreeSet<RepositoryPattern>,
) -> Result<(), StoreError> {
    let granted = Granted::of(&map.grants);
    let is_granted = |repository: &&RepositoryPattern| {
        RepositoryAction::ALL.iter().any(|action| granted.cover_pattern(repository, *action))
    };
    let Some(still) = removed.iter().find(is_granted) else {
        return Ok(());
    };
    let by = map.grants.iter().find_map(|grant| match grant {
        Grant::Repository(pattern, _) if pattern.includes(still) => Some(pattern.to_string()),
        _ => None,
    });
    Err(StoreError::Invalid(format!(
        "'{still}' would still be granted by '{}'; remove that and add what is to stay.",
        by.unwrap_or_default()
    )))
}

/// Removes the sync token, its scope map and the gateway actions at all ancestors.
fn clean_up(txn: &mut Txn<'_>, registry: &ConnectedRegistry) -> Result<(), StoreError> {
    for ancestor in cascade::ancestors(txn, registry)? {
        let mut map = cascade::sync_map(txn, &ancestor)?;
        map.grants.retain(|grant| match grant {
            Grant::Gateway(name, _) => *name != registry.name,
            Grant::Repository(..) => true,
        });
        command::put_scope_map(txn, map)?;
    }
    let map = cascade::sync_map(txn, registry)?;
    txn.delete(token_key(&registry.sync_token))?;
    if command::users_of_map(txn, &map.name, 1)?.is_empty() {
        txn.delete(scope_map_key(&map.name))?;
    }
    Ok(())
}

/// For tests of what follows an activation or a report: the row as it is given.
#[cfg(test)]
impl Store {
    pub(crate) async fn record_activation(
        &self,
        name: ConnectedRegistryName,
        activation: Activation,
    ) -> Result<(), StoreError> {
        self.commit(move |txn| txn.put(activation_key(&name), &activation)).await
    }

    pub(crate) async fn record_status(
        &self,
        name: ConnectedRegistryName,
        status: StatusRecord,
    ) -> Result<(), StoreError> {
        self.commit(move |txn| txn.put(status_key(&name), &status)).await
    }
}
