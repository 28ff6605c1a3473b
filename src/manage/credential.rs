//! Credentials: the two passwords of a token.

use super::{Changed, Changes, Error, Manage, Noun, Warning};
use crate::types::token::{PasswordSlot, Token};
use crate::types::{Change, TokenName, UnixSeconds};

pub use crate::store::tree::passwords::NewPassword;

/// When a password expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// It does not.
    Never,
    /// At this time.
    At(UnixSeconds),
    /// So many days from now.
    InDays(u64),
}

/// Passwords to make.
pub struct NewCredentials {
    /// Whose.
    pub token: TokenName,
    /// Which; none: both.
    pub slots: Vec<PasswordSlot>,
    /// When they expire.
    pub expiry: Expiry,
}

impl Changes {
    /// Replaces passwords; they are shown this once.
    pub async fn credential_generate(
        &self,
        new: NewCredentials,
    ) -> Result<Changed<Vec<NewPassword>>, Error> {
        let NewCredentials { token: name, mut slots, expiry } = new;
        let manage = &self.manage;
        if slots.is_empty() {
            slots = PasswordSlot::ALL.to_vec();
        }
        let expires = manage.expires(expiry)?;
        let before = manage.token(&name)?.passwords;
        let is_replaced = slots.iter().any(|slot| before[slot.index()].is_some());
        let cut_off = match is_replaced {
            // What cannot be read keeps nobody from replacing a password.
            true => manage.store.sync_token_owner(&name).unwrap_or_else(|error| {
                log::warn!("whether token {name} is that of a device: {error}");
                None
            }),
            false => None,
        };
        // Looked up before: the passwords are shown once.
        let late = manage.late_for_token(&name).await;
        let made = manage.store.credential_generate(name.clone(), &slots, expires).await;
        let passwords = made.map_err(Error::of(Noun::Token, &name))?;
        log::info!("generated passwords token={name} count={}", passwords.len());
        let cut_off = cut_off.map(|node| Warning::DeviceRefused(node.name));
        Ok(Changed::of(passwords).with_late(late).warn(cut_off))
    }

    /// Removes passwords; those that are named, to go or to stay, must be there.
    pub async fn credential_delete(
        &self,
        name: TokenName,
        slots: Change<PasswordSlot>,
    ) -> Result<Changed<Token>, Error> {
        let late = self.manage.late_for_token(&name).await;
        let deleted = self.manage.store.credential_delete(name.clone(), slots).await;
        let token = deleted.map_err(Error::of(Noun::Token, &name))?;
        log::info!("deleted passwords token={name}");
        Ok(Changed::of(token).with_late(late))
    }
}

impl Manage {
    /// When that is.
    pub(super) fn expires(&self, expiry: Expiry) -> Result<Option<UnixSeconds>, Error> {
        let days = match expiry {
            Expiry::Never => return Ok(None),
            Expiry::At(time) => return Ok(Some(time)),
            Expiry::InDays(0) => {
                let error = Error::invalid("The days to expiration are more than 0.");
                return Err(error.at("expiration"));
            }
            Expiry::InDays(days) => days,
        };
        match self.store.sys().clock.wall() {
            Some(now) => Ok(Some(now.plus(days.saturating_mul(86_400)))),
            None => {
                let cause =
                    "The clock of this node is not set, so days cannot be counted from now.";
                let cure = Some("Set the clock, or let it have no expiry.".to_owned());
                Err(Error { cure, ..Error::invalid(cause).at("expiration") })
            }
        }
    }
}
