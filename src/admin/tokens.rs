//! `scope-map ...` and `token ...`.

use serde::Deserialize;
use serde_json::Value;

use super::Admin;
use super::also::tell;
use super::print::print_credentials;
use crate::manage::credential::{Expiry, NewCredentials};
use crate::manage::scope_map::{NewScopeMap, ScopeMapChange};
use crate::manage::token::{NewToken, TokenChange, TokenGrants};
use crate::manage::{Changes, Error};
use crate::types::token::PasswordSlot;
use crate::types::{
    Change, GatewayAction, Grant, RepositoryAction, ScopeMapName, TokenName, UnixSeconds,
};

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
    pub(super) async fn scope_map_create(
        &self,
        changes: &Changes,
        new: CreateScopeMap,
    ) -> Result<Value, Error> {
        let CreateScopeMap { name, description, repository, gateway } = new;
        let grants = grants(&repository, &gateway)?;
        let made = changes.scope_map_create(NewScopeMap { name, description, grants }).await?;
        Ok(tell(self.print_scope_map(&made.resource), &made))
    }

    pub(super) async fn scope_map_update(
        &self,
        changes: &Changes,
        change: UpdateScopeMap,
    ) -> Result<Value, Error> {
        let add = grants(&change.add_repository, &change.add_gateway)?;
        let remove = grants(&change.remove_repository, &change.remove_gateway)?;
        let UpdateScopeMap { name, description, .. } = change;
        let grants = Change::Delta { add, remove };
        let change = ScopeMapChange { name, description, grants };
        let changed = changes.scope_map_update(change).await?;
        Ok(tell(self.print_scope_map(&changed.resource), &changed))
    }

    pub(super) fn scope_map_show(&self, which: &Named<ScopeMapName>) -> Result<Value, Error> {
        Ok(self.print_scope_map(&self.manage.scope_map(&which.name)?))
    }

    pub(super) async fn scope_map_list(&self, _: Nothing) -> Result<Value, Error> {
        let all = self.manage.scope_maps().await?;
        self.print_all(&all, |map| Ok(self.print_scope_map(map))).await
    }

    pub(super) async fn token_create(
        &self,
        changes: &Changes,
        new: CreateToken,
    ) -> Result<Value, Error> {
        let own = grants(&new.repository, &new.gateway)?;
        let grants = match (new.scope_map, own.is_empty()) {
            (Some(map), true) => TokenGrants::Map(map),
            (None, false) => TokenGrants::Own(own),
            _ => {
                return Err(Error::invalid(
                    "Give either --scope-map, or actions with --repository and --gateway.",
                ));
            }
        };
        let expiry = expiry(new.expiration.as_deref(), new.expiration_in_days)?;
        let passwords = match (new.no_passwords, expiry) {
            (false, expiry) => Some(expiry),
            (true, Expiry::Never) => None,
            _ => return Err(Error::invalid("--no-passwords leaves nothing to expire.")),
        };
        let enabled = new.status != Some(Status::Disabled);
        let new = NewToken { name: new.name, grants, enabled, passwords };
        let made = changes.token_create(new).await?;
        let token = self.print_token(&made.resource.token, &made.resource.passwords);
        Ok(tell(token, &made))
    }

    pub(super) async fn token_update(
        &self,
        changes: &Changes,
        change: UpdateToken,
    ) -> Result<Value, Error> {
        let UpdateToken { name, status, scope_map } = change;
        let enabled = status.map(|status| status == Status::Enabled);
        let changed = changes.token_update(TokenChange { name, enabled, scope_map }).await?;
        Ok(tell(self.print_token(&changed.resource, &[]), &changed))
    }

    pub(super) fn token_show(&self, which: &Named<TokenName>) -> Result<Value, Error> {
        Ok(self.print_token(&self.manage.token(&which.name)?, &[]))
    }

    pub(super) async fn token_list(&self, _: Nothing) -> Result<Value, Error> {
        let all = self.manage.tokens().await?;
        self.print_all(&all, |token| Ok(self.print_token(token, &[]))).await
    }

    pub(super) async fn credential_delete(
        &self,
        changes: &Changes,
        which: DeleteCredential,
    ) -> Result<Value, Error> {
        let remove = slots(which.password1, which.password2);
        let gone = Change::Delta { add: Vec::new(), remove };
        let changed = changes.credential_delete(which.name, gone).await?;
        Ok(tell(self.print_token(&changed.resource, &[]), &changed))
    }
}

pub(super) async fn scope_map_delete(
    changes: &Changes,
    which: Named<ScopeMapName>,
) -> Result<Value, Error> {
    Ok(tell(Value::Null, &changes.scope_map_delete(which.name).await?))
}

pub(super) async fn token_delete(
    changes: &Changes,
    which: Named<TokenName>,
) -> Result<Value, Error> {
    Ok(tell(Value::Null, &changes.token_delete(which.name).await?))
}

pub(super) async fn credential_generate(
    changes: &Changes,
    which: GenerateCredential,
) -> Result<Value, Error> {
    let expiry = expiry(which.expiration.as_deref(), which.expiration_in_days)?;
    let slots = slots(which.password1, which.password2);
    let username = which.name.to_string();
    let made = changes.credential_generate(NewCredentials { token: which.name, slots, expiry });
    let made = made.await?;
    Ok(tell(print_credentials(&username, &made.resource), &made))
}

fn expiry(at: Option<&str>, in_days: Option<u64>) -> Result<Expiry, Error> {
    match (at, in_days) {
        (None, None) => Ok(Expiry::Never),
        (Some(_), Some(_)) => {
            Err(Error::invalid("Give either --expiration or --expiration-in-days."))
        }
        (Some(text), None) => match UnixSeconds::parse_rfc3339(text) {
            Some(time) => Ok(Expiry::At(time)),
            None => Err(Error::invalid(format!(
                "The expiration '{text}' is no UTC time such as 2030-12-31T23:59:59Z."
            ))),
        },
        (None, Some(days)) => Ok(Expiry::InDays(days)),
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

/// The rules of a command as grants.
fn grants(repository: &Rules, gateway: &Rules) -> Result<Vec<Grant>, Error> {
    let mut grants = rules(Kind::Repositories, repository)?;
    grants.extend(rules(Kind::Gateway, gateway)?);
    Ok(grants)
}

/// Rules of one kind as grants.
fn rules(kind: Kind, rules: &Rules) -> Result<Vec<Grant>, Error> {
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
            .ok_or_else(|| Error::invalid("A rule names a resource and at least one action."))?;
        if actions.is_empty() {
            return Err(Error::invalid(format!(
                "At least one action must be specified with \"{resource}\"."
            )));
        }
        for action in actions {
            if !valid.iter().any(|known| known.eq_ignore_ascii_case(action)) {
                return Err(Error::invalid(format!(
                    "Invalid action '{action}' for '{resource}': valid are {}.",
                    valid.join(", ")
                )));
            }
            let grant = format!("{start}/{resource}/{action}").parse::<Grant>();
            grants.push(grant.map_err(|error| Error::invalid(format!("{error}.")))?);
        }
    }
    Ok(grants)
}
