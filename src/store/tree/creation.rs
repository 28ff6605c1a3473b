//! Creating a connected registry: the rules, and what comes with it.

use super::cascade::AlsoChanged;
use super::connected_registries::{
    LOG_LEVELS, Settings, apply, check_client_tokens, gateway_grants, repository_grants,
};
use super::passwords::NewPassword;
use super::withdrawal::Others;
use super::{cascade, command, tokens};
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::token::{SyncTokenOf, sync_token_key};
use crate::store::{Store, StoreError, Txn};
use crate::types::connected_registry::{ConnectedRegistry, Mode};
use crate::types::limits::TREE_DEPTH_MAX;
use crate::types::name::NameError;
use crate::types::schedule::{MESSAGE_TTL_S_DEFAULT, Schedule};
use crate::types::token::{PasswordSlot, ScopeMap, Token};
use crate::types::{
    ConnectedRegistryName, Grant, RepositoryAction, RepositoryPattern, ScopeMapName, TokenName,
    UnixSeconds,
};

/// A connected registry to make.
pub struct NewConnectedRegistry {
    /// Unique in the tree.
    pub name: ConnectedRegistryName,
    /// `None`: ReadWrite, or ReadOnly under a ReadOnly parent.
    pub mode: Option<Mode>,
    /// `None`: a child of the root.
    pub parent: Option<ConnectedRegistryName>,
    /// What it mirrors, unless a sync token is given.
    pub repositories: Vec<RepositoryPattern>,
    /// An existing token, unless repositories are given.
    pub sync_token: Option<TokenName>,
    /// Tokens that its clients may log in with.
    pub client_tokens: Vec<TokenName>,
    /// The rest.
    pub settings: Settings,
}

/// A connected registry that was created.
pub struct Created {
    /// It.
    pub node: ConnectedRegistry,
    /// The passwords of its sync token, if that was made with it.
    pub passwords: Vec<NewPassword>,
    /// The ReadWrite ancestors that mirror what it mirrors without writing to it.
    pub without_write: cascade::WithoutWrite,
}

/// What is made before the command runs, because the writer must not wait for it.
struct Made {
    fresh: Vec<tokens::Fresh>,
    created: UnixSeconds,
}

impl Store {
    /// Creates a connected registry. With repositories, its scope map and its sync token are made
    /// under its own name and both passwords are returned, this once. Returns the scope maps above
    /// that are granted more now, too.
    pub async fn connected_registry_create(
        &self,
        new: NewConnectedRegistry,
    ) -> Result<(Created, Others), StoreError> {
        let created = self.sys().clock.wall_or_floor();
        let slots: &[PasswordSlot] =
            if new.sync_token.is_none() { &PasswordSlot::ALL } else { &[] };
        let fresh = self.fresh_passwords(slots, created, None)?;
        let turn = self.tree_turn().await?;
        let made = Made { fresh, created };
        let sizes = self.sizes_of_path(&new.name, new.parent.as_ref()).await?;
        turn.change(sizes, move |txn| create(txn, new, made)).await
    }
}

/// Checks every rule of a new connected registry, and writes it, its sync token, its scope map and
/// what its ancestors must be granted.
fn create(
    txn: &mut Txn<'_>,
    new: NewConnectedRegistry,
    made: Made,
) -> Result<(Created, Vec<AlsoChanged>), StoreError> {
    if new.sync_token.is_some() != new.repositories.is_empty() {
        return Err(StoreError::Invalid(
            "argument error: either --sync-token or --repository must be provided, but not both."
                .to_owned(),
        ));
    }
    if command::connected_registry(txn, &new.name)?.is_some() {
        return Err(StoreError::Conflict(format!(
            "The connected registry '{}' exists already.",
            new.name
        )));
    }
    let mode = mode_under_parent(txn, &new)?;
    let created = made.created;
    let (sync_token, passwords) = match new.sync_token {
        Some(token) => (adopt_sync_token(txn, &new.name, token)?, Vec::new()),
        None => make_sync_token(txn, &new.name, mode, &new.repositories, made)?,
    };
    txn.put(sync_token_key(&sync_token), &SyncTokenOf(new.name.clone()))?;
    let mut registry = ConnectedRegistry {
        name: new.name,
        mode,
        parent: new.parent,
        sync_token,
        client_tokens: check_client_tokens(txn, new.client_tokens)?,
        schedule: Schedule::continuous(),
        sync_window_s: None,
        message_ttl_s: MESSAGE_TTL_S_DEFAULT,
        log_level: LOG_LEVELS[0].to_owned(),
        activation_epoch: 1,
        created,
    };
    apply(&mut registry, new.settings)?;
    txn.put(connected_registry_key(&registry.name), &registry)?;
    let above = cascade::settle_above(txn, &registry)?;
    let mirrored = cascade::sync_map(txn, &registry)?.grants.into_iter();
    let mirrored: Vec<_> = mirrored
        .filter_map(|grant| match grant {
            Grant::Repository(pattern, RepositoryAction::ContentRead) => Some(pattern),
            _ => None,
        })
        .collect();
    let without_write = cascade::without_write(txn, &registry, &mirrored)?;
    Ok((Created { node: registry, passwords, without_write }, above))
}

fn mode_under_parent(txn: &Txn<'_>, new: &NewConnectedRegistry) -> Result<Mode, StoreError> {
    let Some(parent_name) = &new.parent else {
        return Ok(new.mode.unwrap_or(Mode::ReadWrite));
    };
    let parent = command::connected_registry(txn, parent_name)?.ok_or_else(|| {
        StoreError::Invalid(format!(
            "The parent connected registry '{parent_name}' could not be found."
        ))
    })?;
    if cascade::ancestors(txn, &parent)?.len() + 1 >= TREE_DEPTH_MAX {
        return Err(StoreError::Invalid(format!(
            "A tree has at most {TREE_DEPTH_MAX} levels of connected registries, and \
             '{parent_name}' is on the last one; name one above it as the parent."
        )));
    }
    let mode = new.mode.unwrap_or(parent.mode);
    if parent.mode == Mode::ReadOnly && mode != Mode::ReadOnly {
        return Err(StoreError::Invalid(format!(
            "Can't create the registry '{}' with mode '{mode}' when the connected registry parent \
             '{parent_name}' mode is '{}'.",
            new.name, parent.mode
        )));
    }
    Ok(mode)
}

/// Takes an existing token as sync token; its scope map gets the gateway actions that it lacks.
fn adopt_sync_token(
    txn: &mut Txn<'_>,
    name: &ConnectedRegistryName,
    token: TokenName,
) -> Result<TokenName, StoreError> {
    let found = command::token(txn, &token)?.ok_or_else(|| {
        StoreError::Invalid(format!("The sync token '{token}' could not be found."))
    })?;
    if let Some(owner) = command::sync_token_of(txn, &token)? {
        return Err(StoreError::Conflict(format!(
            "The token '{token}' is already the sync token of the connected registry '{owner}'."
        )));
    }
    if let Some(user) = command::with_client(txn, &token, 1)?.first() {
        return Err(StoreError::Conflict(format!(
            "The token '{token}' is a client token of the connected registry '{user}' and cannot \
             be a sync token too."
        )));
    }
    cascade::refuse_shared_map(txn, &found.scope_map, &token)?;
    let mut map = command::scope_map(txn, &found.scope_map)?.ok_or(StoreError::NotFound)?;
    map.grants.extend(gateway_grants(name));
    command::put_scope_map(txn, map)?;
    Ok(token)
}

/// Makes a scope map and a sync token named like the connected registry.
fn make_sync_token(
    txn: &mut Txn<'_>,
    name: &ConnectedRegistryName,
    mode: Mode,
    repositories: &[RepositoryPattern],
    made: Made,
) -> Result<(TokenName, Vec<NewPassword>), StoreError> {
    let Made { fresh, created } = made;
    // A connected registry's name has a form that tokens and scope maps allow too.
    let bad_name = |error: NameError| StoreError::Invalid(error.to_string());
    let token_name: TokenName = name.as_str().parse().map_err(bad_name)?;
    let map_name: ScopeMapName = name.as_str().parse().map_err(bad_name)?;
    refuse_leftovers(txn, &token_name, &map_name)?;
    let grants = repository_grants(repositories, mode.sync_actions()).chain(gateway_grants(name));
    let description = format!("Created by connected registry sync token: {name}");
    let map = ScopeMap { name: map_name, description, grants: grants.collect(), created };
    let map = command::add_scope_map(txn, map)?;
    let mut token = Token {
        name: token_name.clone(),
        scope_map: map.name,
        enabled: true,
        created,
        passwords: [None, None],
        generations: [0, 0],
    };
    let passwords = tokens::install(&mut token, fresh);
    command::add_token(txn, &token)?;
    Ok((token_name, passwords))
}

/// A connected registry that was deleted without `--cleanup` may have left them: they may grant
/// anything, so nobody but an operator takes them over.
fn refuse_leftovers(
    txn: &Txn<'_>,
    token: &TokenName,
    map: &ScopeMapName,
) -> Result<(), StoreError> {
    let has_token = command::token(txn, token)?.is_some();
    let has_map = command::scope_map(txn, map)?.is_some();
    let delete_token = format!("skerry token delete --name {token}");
    let delete_map = format!("skerry scope-map delete --name {map}");
    let text = match (has_token, has_map) {
        (false, false) => return Ok(()),
        (true, false) => format!(
            "A token named '{token}' exists already. Give it as the sync token, or delete it \
             first: {delete_token}"
        ),
        (false, true) => format!(
            "A scope map named '{map}' exists already. Delete it first: {delete_map}; or give a \
             sync token."
        ),
        (true, true) => format!(
            "A token and a scope map named '{token}' exist already. Give the token as the sync \
             token, or delete both first: {delete_token}; {delete_map}"
        ),
    };
    Err(StoreError::Conflict(text))
}
