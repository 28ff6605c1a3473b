//! `scope-map ...` and `token ...`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Admin;
use super::also::{tell_others, warn};
use super::fault::Fault;
use super::late::warn_of_late;
use super::print::print_credentials;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::store::tree::tokens::{NewToken, TokenGrants, TokenUpdate};
use crate::types::token::PasswordSlot;
use crate::types::{GatewayAction, Grant, RepositoryAction, ScopeMapName, TokenName, UnixSeconds};

/// `[resource, action, action...]` as after `--repository` and `--gateway`.
type Rules = Vec<Vec<String>>;

/// A command without fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// A command about one resource.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named<N> {
    pub(super) name: N,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CreateScopeMap {
    name: ScopeMapName,
    #[serde(default)]
    description: String,
    #[serde(default)]
    repository: Rules,
    #[serde(default)]
    gateway: Rules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UpdateScopeMap {
    name: ScopeMapName,
    description: Option<String>,
    #[serde(default)]
    add_repository: Rules,
    #[serde(default)]
    remove_repository: Rules,
    #[serde(default)]
    add_gateway: Rules,
    #[serde(default)]
    remove_gateway: Rules,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CreateToken {
    name: TokenName,
    scope_map: Option<ScopeMapName>,
    #[serde(default)]
    repository: Rules,
    #[serde(default)]
    gateway: Rules,
    status: Option<Status>,
    #[serde(default)]
    no_passwords: bool,
    expiration: Option<String>,
    expiration_in_days: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct UpdateToken {
    name: TokenName,
    status: Option<Status>,
    scope_map: Option<ScopeMapName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct GenerateCredential {
    name: TokenName,
    #[serde(default)]
    password1: bool,
    #[serde(default)]
    password2: bool,
    expiration: Option<String>,
    expiration_in_days: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct DeleteCredential {
    name: TokenName,
    #[serde(default)]
    password1: bool,
    #[serde(default)]
    password2: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Enabled,
    Disabled,
}

impl Admin {
    pub(super) async fn scope_map_create(&self, new: CreateScopeMap) -> Result<Value, Fault> {
        let mut grants = rules(Kind::Repositories, &new.repository)?;
        grants.extend(rules(Kind::Gateway, &new.gateway)?);
        let map = self.store.scope_map_create(new.name, new.description, grants).await?;
        log::info!("created scope map name={}", map.name);
        Ok(self.print_scope_map(&map))
    }

    pub(super) async fn scope_map_update(&self, change: UpdateScopeMap) -> Result<Value, Fault> {
        let mut add = rules(Kind::Repositories, &change.add_repository)?;
        add.extend(rules(Kind::Gateway, &change.add_gateway)?);
        let mut remove = rules(Kind::Repositories, &change.remove_repository)?;
        remove.extend(rules(Kind::Gateway, &change.remove_gateway)?);
        let name = change.name.clone();
        let update = ScopeMapUpdate { description: change.description, add, remove };
        let updated = self.store.scope_map_update(change.name, update).await;
        let (map, others) = updated.map_err(|error| Fault::of(error, "scope map", &name))?;
        log::info!("updated scope map name={name}");
        let mut value = self.print_scope_map(&map);
        tell_others(&mut value, &others);
        Ok(value)
    }

    pub(super) async fn scope_map_delete(
        &self,
        which: Named<ScopeMapName>,
    ) -> Result<Value, Fault> {
        let deleted = self.store.scope_map_delete(which.name.clone()).await;
        deleted.map_err(|error| Fault::of(error, "scope map", &which.name))?;
        log::info!("deleted scope map name={}", which.name);
        Ok(Value::Null)
    }

    pub(super) fn scope_map_show(&self, which: &Named<ScopeMapName>) -> Result<Value, Fault> {
        Ok(self.print_scope_map(&self.scope_map(&which.name)?))
    }

    pub(super) async fn scope_map_list(&self, _: Nothing) -> Result<Value, Fault> {
        self.print_all(&self.all_scope_maps().await?, |map| Ok(self.print_scope_map(map))).await
    }

    pub(super) async fn token_create(&self, new: CreateToken) -> Result<Value, Fault> {
        let mut own = rules(Kind::Repositories, &new.repository)?;
        own.extend(rules(Kind::Gateway, &new.gateway)?);
        let grants = match (new.scope_map, own.is_empty()) {
            // Of one that is missing the answer is that of `scope-map show`.
            (Some(map), true) => TokenGrants::Map(self.scope_map(&map)?.name),
            (None, false) => TokenGrants::Own(own),
            _ => {
                return Err(Fault::invalid(
                    "Give either --scope-map, or actions with --repository and --gateway.",
                ));
            }
        };
        let expires = self.expiration(new.expiration.as_deref(), new.expiration_in_days)?;
        if new.no_passwords && expires.is_some() {
            return Err(Fault::invalid("--no-passwords leaves nothing to expire."));
        }
        let (token, passwords) = self
            .store
            .token_create(NewToken {
                name: new.name,
                grants,
                enabled: new.status != Some(Status::Disabled),
                passwords: !new.no_passwords,
                expires,
            })
            .await?;
        log::info!("created token name={}", token.name);
        Ok(self.print_token(&token, &passwords))
    }

    pub(super) async fn token_update(&self, change: UpdateToken) -> Result<Value, Fault> {
        let enabled = change.status.map(|status| status == Status::Enabled);
        self.token(&change.name)?;
        let map = change.scope_map.map(|map| self.scope_map(&map)).transpose()?;
        let update = TokenUpdate { enabled, scope_map: map.map(|map| map.name) };
        let late = self.late_for_token(&change.name).await;
        let updated = self.store.token_update(change.name.clone(), update).await;
        let (token, others) = updated.map_err(|error| Fault::of(error, "token", &change.name))?;
        log::info!("updated token name={} enabled={}", token.name, token.enabled);
        let mut value = self.print_token(&token, &[]);
        tell_others(&mut value, &others);
        warn_of_late(&mut value, &late);
        Ok(value)
    }

    pub(super) async fn token_delete(&self, which: Named<TokenName>) -> Result<Value, Fault> {
        let late = self.late_for_token(&which.name).await;
        let deleted = self.store.token_delete(which.name.clone()).await;
        deleted.map_err(|error| Fault::of(error, "token", &which.name))?;
        log::info!("deleted token name={}", which.name);
        let mut value = json!({});
        warn_of_late(&mut value, &late);
        Ok(if late.is_ok_and(|late| late.is_empty()) { Value::Null } else { value })
    }

    pub(super) fn token_show(&self, which: &Named<TokenName>) -> Result<Value, Fault> {
        Ok(self.print_token(&self.token(&which.name)?, &[]))
    }

    pub(super) async fn token_list(&self, _: Nothing) -> Result<Value, Fault> {
        self.print_all(&self.all_tokens().await?, |token| Ok(self.print_token(token, &[]))).await
    }

    pub(super) async fn credential_generate(
        &self,
        which: GenerateCredential,
    ) -> Result<Value, Fault> {
        let mut slots = slots(which.password1, which.password2);
        if slots.is_empty() {
            slots = PasswordSlot::ALL.to_vec();
        }
        let expires = self.expiration(which.expiration.as_deref(), which.expiration_in_days)?;
        let before = self.token(&which.name)?.passwords;
        let is_replaced = slots.iter().any(|slot| before[slot.index()].is_some());
        let cut_off = match is_replaced {
            // What cannot be read keeps nobody from replacing a password.
            true => self.store.sync_token_owner(&which.name).unwrap_or_else(|error| {
                log::warn!("whether token {} is that of a device: {error}", which.name);
                None
            }),
            false => None,
        };
        // Looked up before: the passwords are shown once.
        let late = self.late_for_token(&which.name).await;
        let made = self.store.credential_generate(which.name.clone(), &slots, expires).await;
        let passwords = made.map_err(|error| Fault::of(error, "token", &which.name))?;
        log::info!("generated passwords token={} count={}", which.name, passwords.len());
        let mut value = print_credentials(which.name.as_str(), &passwords);
        warn_of_late(&mut value, &late);
        if let Some(node) = cut_off {
            let text = format!(
                "The device of '{0}' goes by this token: with the password that was replaced it is \
                 refused until it has another connection string (skerry connected-registry \
                 get-settings --name {0} --generate-password 1, or 2).",
                node.name
            );
            warn(&mut value, vec![text]);
        }
        Ok(value)
    }

    pub(super) async fn credential_delete(&self, which: DeleteCredential) -> Result<Value, Fault> {
        let slots = slots(which.password1, which.password2);
        let late = self.late_for_token(&which.name).await;
        let deleted = self.store.credential_delete(which.name.clone(), slots).await;
        let token = deleted.map_err(|error| Fault::of(error, "token", &which.name))?;
        log::info!("deleted passwords token={}", which.name);
        let mut value = self.print_token(&token, &[]);
        warn_of_late(&mut value, &late);
        Ok(value)
    }

    fn expiration(
        &self,
        at: Option<&str>,
        in_days: Option<u64>,
    ) -> Result<Option<UnixSeconds>, Fault> {
        match (at, in_days) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(Fault::invalid("Give either --expiration or --expiration-in-days."))
            }
            (Some(text), None) => match UnixSeconds::parse_rfc3339(text) {
                Some(time) => Ok(Some(time)),
                None => Err(Fault::invalid(format!(
                    "The expiration '{text}' is no UTC time such as 2030-12-31T23:59:59Z."
                ))),
            },
            (None, Some(0)) => Err(Fault::invalid("The days to expiration are more than 0.")),
            (None, Some(days)) => match self.store.sys().clock.wall() {
                Some(now) => Ok(Some(now.plus(days.saturating_mul(86_400)))),
                None => Err(Fault::invalid(
                    "The clock of this node is not set, so days cannot be counted from now. Set \
                     the clock, or give --expiration.",
                )),
            },
        }
    }
}

fn slots(one: bool, two: bool) -> Vec<PasswordSlot> {
    let chosen = [(one, PasswordSlot::One), (two, PasswordSlot::Two)];
    chosen.into_iter().filter_map(|(given, slot)| given.then_some(slot)).collect()
}

/// What a rule is about.
#[derive(Clone, Copy)]
enum Kind {
    Repositories,
    Gateway,
}

/// Rules as grants.
fn rules(kind: Kind, rules: &Rules) -> Result<Vec<Grant>, Fault> {
    let (start, valid) = match kind {
        Kind::Repositories => {
            ("repositories", RepositoryAction::ALL.map(RepositoryAction::name).to_vec())
        }
        Kind::Gateway => ("gateway", GatewayAction::ALL.map(GatewayAction::name).to_vec()),
    };
    let mut grants = Vec::new();
    for rule in rules {
        let (resource, actions) = rule
            .split_first()
            .ok_or_else(|| Fault::invalid("A rule names a resource and at least one action."))?;
        if actions.is_empty() {
            return Err(Fault::invalid(format!(
                "At least one action must be specified with \"{resource}\"."
            )));
        }
        for action in actions {
            if !valid.iter().any(|known| known.eq_ignore_ascii_case(action)) {
                return Err(Fault::invalid(format!(
                    "Invalid action '{action}' for '{resource}': valid are {}.",
                    valid.join(", ")
                )));
            }
            let grant = format!("{start}/{resource}/{action}").parse::<Grant>();
            grants.push(grant.map_err(|error| Fault::invalid(format!("{error}.")))?);
        }
    }
    Ok(grants)
}
