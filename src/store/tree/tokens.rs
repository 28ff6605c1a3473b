//! Tokens: named credentials with two passwords, managed at the root.

use std::collections::BTreeSet;

use super::connected_registries::gateway_grants;
use super::passwords::{self, NewPassword};
use super::withdrawal::Others;
use super::{cascade, command, withdrawal};
use crate::store::rows::connected_registry::connected_registry_key;
use crate::store::rows::token::token_key;
use crate::store::rows::{Kind, prefix};
use crate::store::{Store, StoreError, Txn};
use crate::types::limits::NAME_MAX;
use crate::types::token::{PasswordSlot, ScopeMap, Token, Verifier};
use crate::types::{Change, ConnectedRegistryName, Grant, ScopeMapName, TokenName, UnixSeconds};

/// What a scope map made for one token is called: the token's name and this.
const OWN_MAP_SUFFIX: &str = "-scope-map";

/// Lists of client tokens that one record takes a token off.
const LISTS_AT_ONCE: usize = 256;

/// What a new token may do.
pub enum TokenGrants {
    /// What an existing scope map says.
    Map(ScopeMapName),
    /// These grants, in a scope map of its own named `<token>-scope-map`.
    Own(Vec<Grant>),
}

/// A token to make.
pub struct NewToken {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub grants: TokenGrants,
    /// Whether it can be used at once.
    pub enabled: bool,
    /// Whether both passwords are generated.
    pub passwords: bool,
    /// When they expire, if ever.
    pub expires: Option<UnixSeconds>,
}

/// A change of a token.
#[derive(Default)]
pub struct TokenUpdate {
    /// Enable or disable it.
    pub enabled: Option<bool>,
    /// Another scope map.
    pub scope_map: Option<ScopeMapName>,
}

impl Store {
    /// One token.
    pub fn token(&self, name: &TokenName) -> Result<Option<Token>, StoreError> {
        self.get(&token_key(name))
    }

    /// A token and its scope map as they were at one time.
    pub fn token_with_map(
        &self,
        name: &TokenName,
    ) -> Result<Option<(Token, Option<ScopeMap>)>, StoreError> {
        let mut found = self.token(name)?;
        while let Some(token) = found.take() {
            let map = self.scope_map(&token.scope_map)?;
            let now = self.token(name)?;
            // A map that the token has left may have been granted more since.
            if now.as_ref() == Some(&token) {
                return Ok(Some((token, map)));
            }
            found = now;
        }
        Ok(None)
    }

    /// Every token, by name.
    pub async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        let rows = self.pages(prefix(Kind::Token, &[])).all().await?;
        Ok(rows.into_iter().map(|(_, token)| token).collect())
    }

    /// Creates a token, its scope map where it brings grants of its own, and its passwords.
    pub async fn token_create(
        &self,
        new: NewToken,
    ) -> Result<(Token, Vec<NewPassword>), StoreError> {
        let created = self.sys().clock.wall_or_floor();
        let slots: &[PasswordSlot] = if new.passwords { &PasswordSlot::ALL } else { &[] };
        let fresh = self.fresh_passwords(slots, created, new.expires)?;
        let (token, passwords) = self
            .act(move |txn| {
                let scope_map = match new.grants {
                    TokenGrants::Map(map) => existing_map(txn, map)?,
                    TokenGrants::Own(grants) => own_map(txn, &new.name, grants, created)?,
                };
                cascade::refuse_sync_map(txn, &scope_map)?;
                let mut token = Token {
                    name: new.name,
                    scope_map,
                    enabled: new.enabled,
                    created,
                    passwords: [None, None],
                    generations: [0, 0],
                };
                let passwords = install(&mut token, fresh);
                command::add_token(txn, &token)?;
                Ok((token, passwords))
            })
            .await?;
        Ok((token, passwords))
    }

    /// Enables or disables a token or gives it another scope map, which it shares with no sync
    /// token; returns the scope maps that changed with it too.
    pub async fn token_update(
        &self,
        name: TokenName,
        update: TokenUpdate,
    ) -> Result<(Token, Others), StoreError> {
        if update.enabled.is_none() && update.scope_map.is_none() {
            return Err(StoreError::Invalid("No token properties to update.".to_owned()));
        }
        let Some(map) = update.scope_map else {
            // A token is disabled at once, whatever else is changed.
            let set = self.act(move |txn| {
                let mut token = command::token(txn, &name)?.ok_or(StoreError::NotFound)?;
                token.enabled = update.enabled.unwrap_or(token.enabled);
                txn.put_changed(token_key(&name), &token)?;
                Ok(token)
            });
            return Ok((set.await?, Others::default()));
        };
        let turn = self.tree_turn().await?;
        let sizes = self.sizes_of_token(&name, &map).await?;
        turn.change(sizes, move |txn| {
            let mut token = command::token(txn, &name)?.ok_or(StoreError::NotFound)?;
            token.enabled = update.enabled.unwrap_or(token.enabled);
            let is_another = token.scope_map != map;
            token.scope_map = existing_map(txn, map)?;
            let owner = command::sync_token_of(txn, &name)?;
            let owner = owner.map(|owner| command::connected_registry(txn, &owner)).transpose()?;
            let Some(owner) = owner.flatten() else {
                if is_another {
                    cascade::refuse_sync_map(txn, &token.scope_map)?;
                }
                txn.put(token_key(&name), &token)?;
                return Ok((token, Vec::new()));
            };
            let before = cascade::sync_map(txn, &owner)?;
            if is_another {
                cascade::refuse_shared_map(txn, &token.scope_map, &name)?;
                give_gateway_actions(txn, &token.scope_map, &owner.name, &before)?;
            }
            txn.put(token_key(&name), &token)?;
            let above = cascade::settle_above(txn, &owner)?;
            withdrawal::begin(txn, &owner, &before, BTreeSet::new())?;
            Ok((token, above))
        })
        .await
    }

    /// Deletes a token and takes it off the lists of client tokens: off some of very many lists in
    /// each record, off the last ones in that which removes the token. What a stop leaves is
    /// removed by the next call. `Conflict` while it is the sync token of a connected registry.
    pub async fn token_delete(&self, name: TokenName) -> Result<(), StoreError> {
        let mut begun = false;
        loop {
            let token = name.clone();
            let some = move |txn: &mut Txn<'_>| delete_some(txn, &token);
            let deleted = match begun {
                true => self.commit(some).await,
                false => self.act(some).await,
            };
            match deleted {
                Ok(true) => return Ok(()),
                Ok(false) => begun = true,
                // Somebody else deleted it since the first record.
                Err(StoreError::NotFound) if begun => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces the passwords in these slots; the others keep working.
    pub async fn credential_generate(
        &self,
        name: TokenName,
        slots: &[PasswordSlot],
        expires: Option<UnixSeconds>,
    ) -> Result<Vec<NewPassword>, StoreError> {
        let created = self.sys().clock.wall_or_floor();
        let fresh = self.fresh_passwords(slots, created, expires)?;
        self.act(move |txn| {
            let mut token = command::token(txn, &name)?.ok_or(StoreError::NotFound)?;
            let passwords = install(&mut token, fresh);
            txn.put(token_key(&name), &token)?;
            Ok(passwords)
        })
        .await
    }

    /// Removes passwords. `Invalid` when one that is named, to go or to stay, is not there: none is
    /// made by this.
    pub async fn credential_delete(
        &self,
        name: TokenName,
        slots: Change<PasswordSlot>,
    ) -> Result<Token, StoreError> {
        if slots.is_empty() {
            return Err(StoreError::Invalid("No credentials to delete.".to_owned()));
        }
        self.act(move |txn| {
            let mut token = command::token(txn, &name)?.ok_or(StoreError::NotFound)?;
            let is_there = |slot: &PasswordSlot| token.passwords[slot.index()].is_some();
            if let Some(slot) = slots.named().find(|slot| !is_there(slot)) {
                return Err(StoreError::Invalid(format!(
                    "The token '{name}' has no {}.",
                    slot.name()
                )));
            }
            let there = PasswordSlot::ALL.into_iter().filter(is_there).collect();
            let kept = slots.apply(there);
            for slot in PasswordSlot::ALL.into_iter().filter(|slot| !kept.contains(slot)) {
                token.passwords[slot.index()] = None;
            }
            txn.put_changed(token_key(&name), &token)?;
            Ok(token)
        })
        .await
    }

    /// New passwords with their verifiers, made before the command runs because the writer must
    /// not wait for randomness; [`install`] gives them their generation.
    pub(in crate::store) fn fresh_passwords(
        &self,
        slots: &[PasswordSlot],
        created: UnixSeconds,
        expires: Option<UnixSeconds>,
    ) -> Result<Vec<Fresh>, StoreError> {
        if expires.is_some_and(|expires| expires <= created) {
            return Err(StoreError::Invalid("The expiration lies in the past.".to_owned()));
        }
        let rng = &*self.sys().rng;
        let make = |slot: &PasswordSlot| {
            let value = passwords::generate(rng);
            let verifier = passwords::verifier(rng, &value, created, expires);
            (NewPassword { slot: *slot, value, created, expires }, verifier)
        };
        Ok(slots.iter().map(make).collect())
    }
}

/// A password and what is to be kept of it.
pub(in crate::store) type Fresh = (NewPassword, Verifier);

/// Puts new passwords into their slots, each under another generation than the one before.
pub(in crate::store) fn install(token: &mut Token, fresh: Vec<Fresh>) -> Vec<NewPassword> {
    let place = |(password, mut verifier): Fresh| {
        let index = password.slot.index();
        if verifier.generation == token.generations[index] {
            verifier.generation = verifier.generation.wrapping_add(1);
        }
        token.generations[index] = verifier.generation;
        token.passwords[index] = Some(verifier);
        password
    };
    fresh.into_iter().map(place).collect()
}

fn existing_map(txn: &Txn<'_>, map: ScopeMapName) -> Result<ScopeMapName, StoreError> {
    match command::scope_map(txn, &map)? {
        Some(_) => Ok(map),
        None => Err(StoreError::Invalid(format!("The scope map '{map}' could not be found."))),
    }
}

/// Gives another sync scope map the gateway actions by which the connected registry and those
/// below it sync.
fn give_gateway_actions(
    txn: &mut Txn<'_>,
    map: &ScopeMapName,
    owner: &ConnectedRegistryName,
    before: &ScopeMap,
) -> Result<(), StoreError> {
    let mut map = command::scope_map(txn, map)?.ok_or(StoreError::NotFound)?;
    let kept = before.grants.iter().filter(|grant| matches!(grant, Grant::Gateway(..)));
    map.grants.extend(kept.cloned().chain(gateway_grants(owner)));
    command::put_scope_map(txn, map)?;
    Ok(())
}

/// Makes the scope map `<token>-scope-map`. One that is there already with the same grants, left
/// by an earlier token of this name, is taken.
fn own_map(
    txn: &mut Txn<'_>,
    token: &TokenName,
    mut grants: Vec<Grant>,
    created: UnixSeconds,
) -> Result<ScopeMapName, StoreError> {
    let name: ScopeMapName = format!("{token}{OWN_MAP_SUFFIX}").parse().map_err(|_| {
        StoreError::Invalid(format!(
            "The token name '{token}' is too long for a scope map of its own, which is called \
             '<token>{OWN_MAP_SUFFIX}': at most {} characters are possible. Create a scope map \
             and name it instead.",
            NAME_MAX - OWN_MAP_SUFFIX.len()
        ))
    })?;
    grants.sort_unstable();
    grants.dedup();
    match command::scope_map(txn, &name)? {
        Some(map) if map.grants == grants => {}
        Some(ScopeMap { .. }) => {
            return Err(StoreError::Conflict(format!(
                "The scope map '{name}' exists already with other actions. Name it as the scope \
                 map of the token, or delete it first."
            )));
        }
        None => {
            let description = format!("Created by token: {token}");
            let map = ScopeMap { name: name.clone(), description, grants, created };
            command::add_scope_map(txn, map)?;
        }
    }
    Ok(name)
}

/// Takes a token off some lists of client tokens, and removes it with the last of them; `false`:
/// there are more.
fn delete_some(txn: &mut Txn<'_>, name: &TokenName) -> Result<bool, StoreError> {
    command::token(txn, name)?.ok_or(StoreError::NotFound)?;
    if let Some(owner) = command::sync_token_of(txn, name)? {
        return Err(StoreError::Conflict(format!(
            "The token '{name}' is the sync token of the connected registry '{owner}' and cannot \
             be deleted while that exists."
        )));
    }
    let lists = command::with_client(txn, name, LISTS_AT_ONCE + 1)?;
    for list in lists.iter().take(LISTS_AT_ONCE) {
        if let Some(mut registry) = command::connected_registry(txn, list)? {
            registry.client_tokens.retain(|client| client != name);
            txn.put(connected_registry_key(list), &registry)?;
        }
    }
    let is_last = lists.len() <= LISTS_AT_ONCE;
    if is_last {
        txn.delete(token_key(name))?;
    }
    Ok(is_last)
}
