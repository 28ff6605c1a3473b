//! Tokens: named credentials.

use super::credential::Expiry;
use super::{Changed, Changes, Error, Noun};
use crate::store::tree::passwords::NewPassword;
use crate::store::tree::tokens;
use crate::types::token::Token;
use crate::types::{ScopeMapName, TokenName};

pub use crate::store::tree::tokens::TokenGrants;

/// A token to make.
pub struct NewToken {
    /// Its name.
    pub name: TokenName,
    /// What it may do.
    pub grants: TokenGrants,
    /// Whether it can be used at once.
    pub enabled: bool,
    /// When its two passwords expire; `None`: none are made.
    pub passwords: Option<Expiry>,
}

/// A change of a token.
pub struct TokenChange {
    /// Which.
    pub name: TokenName,
    /// Enable or disable it.
    pub enabled: Option<bool>,
    /// Another scope map.
    pub scope_map: Option<ScopeMapName>,
}

/// A token that was made, and the passwords that come with it: the only time that they are shown.
pub struct MadeToken {
    /// The token.
    pub token: Token,
    /// Its passwords.
    pub passwords: Vec<NewPassword>,
}

impl Changes {
    /// Creates a token.
    pub async fn token_create(&self, new: NewToken) -> Result<Changed<MadeToken>, Error> {
        if let TokenGrants::Map(map) = &new.grants {
            // Of one that is missing the answer is that of `scope-map show`.
            self.manage.scope_map(map)?;
        }
        let expires = new.passwords.map(|expiry| self.manage.expires(expiry)).transpose()?;
        let new = tokens::NewToken {
            name: new.name,
            grants: new.grants,
            enabled: new.enabled,
            passwords: expires.is_some(),
            expires: expires.flatten(),
        };
        let (token, passwords) = self.manage.store.token_create(new).await?;
        log::info!("created token name={}", token.name);
        Ok(Changed::of(MadeToken { token, passwords }))
    }

    /// Enables or disables a token, or gives it another scope map.
    pub async fn token_update(&self, change: TokenChange) -> Result<Changed<Token>, Error> {
        let TokenChange { name, enabled, scope_map } = change;
        self.manage.token(&name)?;
        let map = scope_map.map(|map| self.manage.scope_map(&map)).transpose()?;
        let update = tokens::TokenUpdate { enabled, scope_map: map.map(|map| map.name) };
        let late = self.manage.late_for_token(&name).await;
        let updated = self.manage.store.token_update(name.clone(), update).await;
        let (token, others) = updated.map_err(Error::of(Noun::Token, &name))?;
        log::info!("updated token name={} enabled={}", token.name, token.enabled);
        Ok(Changed::of(token).with_others(others).with_late(late))
    }

    /// Deletes a token.
    pub async fn token_delete(&self, name: TokenName) -> Result<Changed<()>, Error> {
        let late = self.manage.late_for_token(&name).await;
        let deleted = self.manage.store.token_delete(name.clone()).await;
        deleted.map_err(Error::of(Noun::Token, &name))?;
        log::info!("deleted token name={name}");
        Ok(Changed::of(()).with_late(late))
    }
}
