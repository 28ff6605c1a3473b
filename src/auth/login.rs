//! Logging in, and the tokens that are issued for it.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;

use super::jwt::{Claims, Session};
use super::live::{Ended, Live, Unknown};
use super::seal::Refresh;
use super::{Auth, ISSUER, Presented, names_repository};
use crate::store::StoreError;
use crate::store::tree::passwords;
use crate::types::limits::SCOPES_MAX;
use crate::types::scope::Access;
use crate::types::token::PasswordSlot;
use crate::types::{
    ConnectedRegistryName, GatewayAction, Reason, Refusal, RepositoryAction, RepositoryPattern,
    Role, TokenName, UnixSeconds,
};

/// The user name under which the password is itself a token.
pub const NULL_USER: &str = "00000000-0000-0000-0000-000000000000";

/// Entries of an access token that was issued without a login.
const ANONYMOUS_SCOPES_MAX: usize = 4;

/// Credentials that were found good, or none where everybody may pull.
pub struct Login {
    /// `None`: nobody has logged in.
    session: Option<Session>,
    pub(super) live: Arc<Live>,
    /// What everybody may do, who logs in too; `None`: nothing.
    everybody: Option<Arc<Live>>,
    /// The access token that was used as the password: no more than it allows is issued.
    pub(super) limit: Option<Arc<Claims>>,
    /// Whether a refresh token was shown, and another may follow it.
    renewable: bool,
}

/// An access token.
pub struct Issued {
    /// The token.
    pub token: String,
    /// How long it lives, seconds.
    pub expires_in_s: u64,
}

/// Why a session does not go on.
pub(super) enum Failed {
    Ended(Ended),
    Unavailable(Box<Refusal>),
}

impl Auth {
    /// Logs in with the value of a `Basic` authorization.
    pub fn login_basic(&self, presented: &Presented<'_>, value: &str) -> Result<Login, Refusal> {
        let decoded = BASE64.decode(value.trim().as_bytes()).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        match text.as_deref().and_then(|text| text.split_once(':')) {
            Some((username, password)) => self.login_password(presented, username, password),
            None => Err(self.incorrect(presented)),
        }
    }

    /// Logs in with the name of a token and one of its passwords, or with a token of ours as the
    /// password of [`NULL_USER`].
    pub fn login_password(
        &self,
        presented: &Presented<'_>,
        username: &str,
        password: &str,
    ) -> Result<Login, Refusal> {
        if username == NULL_USER {
            return match password.contains('.') {
                true => self.login_access(presented, password),
                false => self.login_refresh(presented, password),
            };
        }
        let Ok(name) = username.parse::<TokenName>() else {
            return Err(self.incorrect(presented));
        };
        let live = match self.live(&name) {
            Ok(live) => live,
            Err(Unknown::Token) => return Err(self.incorrect(presented)),
            Err(unknown) => return Err(unavailable(unknown)),
        };
        let matching = |slot: &PasswordSlot| {
            let verifier = live.verifier(*slot)?;
            passwords::matches(verifier, password).then_some((*slot, verifier.generation))
        };
        let Some((slot, generation)) = PasswordSlot::ALL.iter().find_map(matching) else {
            return Err(self.incorrect(presented));
        };
        live.check()
            .and_then(|()| live.check_expiry(slot, self.now()))
            .map_err(|ended| self.unauthorized(presented, ended))?;
        let session = Some(Session { token: name, slot, generation });
        let everybody = self.inner.everybody.clone();
        Ok(Login { session, live, everybody, limit: None, renewable: false })
    }

    /// Nobody logs in: refused unless everybody may do something of what is asked. Who wants more
    /// has to log in, and is told so by the refusal of the rest.
    pub fn login_anonymous(
        &self,
        presented: &Presented<'_>,
        asked: &[Access],
    ) -> Result<Login, Refusal> {
        let of_everybody = |live: &Arc<Live>| Login {
            session: None,
            live: live.clone(),
            everybody: None,
            limit: None,
            renewable: false,
        };
        let login = self.inner.everybody.as_ref().map(of_everybody);
        login
            .filter(|login| asked.iter().any(|access| login.grant(access).is_some()))
            .ok_or_else(|| self.login_required(presented))
    }

    /// Logs in with a refresh token that this node issued.
    pub fn login_refresh(&self, presented: &Presented<'_>, text: &str) -> Result<Login, Refusal> {
        let refresh =
            self.inner.sealer.open(text).filter(|refresh| {
                refresh.aud == self.service(presented) && self.now() < refresh.exp
            });
        let Some(refresh) = refresh else {
            return Err(self.token_invalid(presented));
        };
        self.resume(presented, Some(refresh.session), None)
    }

    /// An access token for what is asked and allowed; possibly for nothing. It never has more
    /// than [`SCOPES_MAX`] entries, so that it fits into a request head, and fewer without a login.
    pub fn issue(
        &self,
        presented: &Presented<'_>,
        login: &Login,
        asked: &[Access],
    ) -> Result<Issued, Refusal> {
        let now = self.now();
        let exp = self.expiry(login, self.inner.access_lifetime);
        let granted = asked.iter().filter_map(|access| login.grant(access));
        // What is remembered of the tokens of everybody stays small.
        let scopes_max = if login.session.is_some() { SCOPES_MAX } else { ANONYMOUS_SCOPES_MAX };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            // Empty where nobody has logged in (distribution, "JWT").
            sub: login.token().map(TokenName::to_string).unwrap_or_default(),
            aud: self.service(presented),
            exp,
            nbf: now,
            iat: now,
            jti: self.store.sys().rng.uuid(),
            access: granted.take(scopes_max).collect(),
            roles: Vec::new(),
            grant_type: "access_token".to_owned(),
            version: "1.0".to_owned(),
            skerry: login.session.clone(),
        };
        let token = self.inner.signer.sign(&claims).map_err(|text| failure(&text))?;
        Ok(Issued { token, expires_in_s: exp.since(now) })
    }

    /// A refresh token for a login that showed one. `None` for any other: an access token must not
    /// prolong itself, and a client that logs in with a password would store the refresh token in
    /// its place, so that the login would end with it (docker, `~/.docker/config.json`).
    pub fn issue_refresh(
        &self,
        presented: &Presented<'_>,
        login: &Login,
    ) -> Result<Option<String>, Refusal> {
        match &login.session {
            Some(session) if login.renewable => {
                self.seal_refresh(presented, login, session).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What versions before this one answered to a login with a password.
    #[cfg(test)]
    pub(crate) fn issued_before(&self, presented: &Presented<'_>, login: &Login) -> String {
        self.seal_refresh(presented, login, login.session.as_ref().unwrap()).unwrap()
    }

    fn seal_refresh(
        &self,
        presented: &Presented<'_>,
        login: &Login,
        session: &Session,
    ) -> Result<String, Refusal> {
        let refresh = Refresh {
            session: session.clone(),
            aud: self.service(presented),
            exp: self.expiry(login, self.inner.refresh_lifetime),
        };
        let sealed = self.inner.sealer.seal(&*self.store.sys().rng, &refresh);
        sealed.map_err(|text| failure(&text))
    }

    /// What the store says of a session now; `None`: nobody has logged in.
    pub(super) fn session(&self, session: Option<&Session>) -> Result<Arc<Live>, Failed> {
        let Some(session) = session else {
            let text = "nothing may be pulled here without a login any more";
            let ended = Ended(Reason::AuthenticationRequired, text);
            return self.inner.everybody.clone().ok_or(Failed::Ended(ended));
        };
        let gone = Ended(Reason::TokenDisabled, "the token is not accepted here");
        let live = match self.live(&session.token) {
            Ok(live) => live,
            Err(Unknown::Token) => return Err(Failed::Ended(gone)),
            Err(unknown) => return Err(Failed::Unavailable(Box::new(unavailable(unknown)))),
        };
        live.check()
            .and_then(|()| live.check_password(session, self.now()))
            .map_err(Failed::Ended)?;
        Ok(live)
    }

    /// The refusal of a token request without credentials.
    pub fn login_required(&self, presented: &Presented<'_>) -> Refusal {
        let ended = Ended(Reason::AuthenticationRequired, "authentication required");
        self.unauthorized(presented, ended)
    }

    fn login_access(&self, presented: &Presented<'_>, token: &str) -> Result<Login, Refusal> {
        match self.bearer(token, &self.service(presented)) {
            Some(claims) => self.resume(presented, claims.skerry.clone(), Some(claims)),
            None => Err(self.token_invalid(presented)),
        }
    }

    fn resume(
        &self,
        presented: &Presented<'_>,
        session: Option<Session>,
        limit: Option<Arc<Claims>>,
    ) -> Result<Login, Refusal> {
        let everybody = self.inner.everybody.clone();
        match self.session(session.as_ref()) {
            Ok(live) => Ok(Login { session, live, everybody, renewable: limit.is_none(), limit }),
            Err(Failed::Ended(ended)) => Err(self.unauthorized(presented, ended)),
            Err(Failed::Unavailable(refusal)) => Err(*refusal),
        }
    }

    fn live(&self, name: &TokenName) -> Result<Arc<Live>, Unknown> {
        self.inner.live.live(&self.store, self.inner.role, name)
    }

    /// Never beyond the expiry of the password, or of the access token used as one.
    fn expiry(&self, login: &Login, lifetime: Duration) -> UnixSeconds {
        let slot = login.session.as_ref().map(|session| session.slot);
        let of_password = slot.and_then(|slot| login.live.expires(slot));
        let bounds = [of_password, login.limit.as_ref().map(|c| c.exp)];
        bounds.into_iter().flatten().fold(self.now().plus(lifetime.as_secs()), UnixSeconds::min)
    }

    /// A wrong password, a name that does not exist, or a token that this node does not accept:
    /// the answer does not tell which. A right password is never slowed down: it has more bits
    /// than can be guessed, and one broken client must not lock out those behind the same address.
    fn incorrect(&self, presented: &Presented<'_>) -> Refusal {
        let now = self.store.sys().clock.monotonic();
        if let Some(seconds) = self.inner.throttle.failed(presented.peer, now) {
            let text = "too many failed logins; wait before the next one";
            let mut refusal = Refusal::new(429, "TOOMANYREQUESTS", Reason::Throttled, text);
            refusal.retry_after_s = Some(seconds);
            return refusal;
        }
        let text = match self.inner.role {
            Role::Root => "Incorrect Password",
            Role::Connected => {
                "Incorrect Password, or the token is not linked to this connected registry \
                 (skerry connected-registry list-client-tokens at the root)"
            }
        };
        self.unauthorized(presented, Ended(Reason::AuthenticationRequired, text))
    }

    fn token_invalid(&self, presented: &Presented<'_>) -> Refusal {
        let text = "the token is expired, damaged or was issued for another service";
        self.unauthorized(presented, Ended(Reason::TokenInvalid, text))
    }

    fn unauthorized(&self, presented: &Presented<'_>, ended: Ended) -> Refusal {
        let mut refusal = Refusal::new(401, "UNAUTHORIZED", ended.0, ended.1);
        refusal.challenge = Some(format!(r#"Basic realm="{}""#, self.service(presented)));
        refusal
    }
}

impl Login {
    /// Who logged in; `None`: nobody has.
    pub fn token(&self) -> Option<&TokenName> {
        self.session.as_ref().map(|session| &session.token)
    }

    /// What is asked and allowed of one resource; `None` when that is nothing.
    fn grant(&self, asked: &Access) -> Option<Access> {
        let mut granted = Access::new(&asked.kind, &asked.name, &[]);
        match asked.kind.as_str() {
            "repository" => self.grant_repository(asked, &mut granted),
            // Only `*` exists, even for reading; the list is filtered when it is made.
            "registry" if self.lists(asked) => granted.add("*"),
            "gateway" => self.grant_gateway(asked, &mut granted),
            _ => {}
        }
        if let Some(claims) = &self.limit {
            granted.actions.retain(|action| within(claims, asked, action));
        }
        (!granted.actions.is_empty()).then_some(granted)
    }

    /// Whether the catalog is asked for, by somebody who has logged in.
    fn lists(&self, asked: &Access) -> bool {
        let is_catalog = asked.name == "catalog" && asked.actions.iter().any(|a| a == "*");
        is_catalog && self.session.is_some()
    }

    fn grant_repository(&self, asked: &Access, granted: &mut Access) {
        // A name that is only almost valid must not be granted under another spelling.
        let pattern = asked.name.parse::<RepositoryPattern>();
        let Some(pattern) = pattern.ok().filter(|pattern| pattern.to_string() == asked.name) else {
            return;
        };
        let grants = |live: &Arc<Live>, action: &RepositoryAction| {
            !live.forbids(*action) && live.grants_pattern(&pattern, *action)
        };
        let allowed = |action: &RepositoryAction| {
            grants(&self.live, action)
                || self.everybody.as_ref().is_some_and(|everybody| grants(everybody, action))
        };
        for name in &asked.actions {
            for action in RepositoryAction::ALL.iter().filter(|action| allowed(action)) {
                if name == "*" || name == action.scope_name() {
                    granted.add(action.scope_name());
                }
            }
        }
    }

    fn grant_gateway(&self, asked: &Access, granted: &mut Access) {
        let Ok(name) = asked.name.parse::<ConnectedRegistryName>() else {
            return;
        };
        // Compared without case, stored in lower case; the token names what is checked later.
        granted.name = name.to_string();
        for action in GatewayAction::ALL {
            let asked = asked.actions.iter().any(|a| a == action.scope_name() || a == "*");
            if asked && self.live.grants_gateway(&name, action) {
                granted.add(action.scope_name());
            }
        }
    }
}

/// Whether an access token used as a password allows this.
fn within(claims: &Claims, asked: &Access, action: &str) -> bool {
    claims.access.iter().any(|access| {
        let same = access.kind == asked.kind && access.name == asked.name;
        let covers = || {
            let repository = asked.name.parse();
            asked.kind == "repository" && repository.is_ok_and(|r| names_repository(access, &r))
        };
        access.actions.iter().any(|have| have == action) && (same || covers())
    })
}

pub(super) fn unavailable(unknown: Unknown) -> Refusal {
    let text = match unknown {
        Unknown::Store(error) => {
            log::warn!("a token cannot be looked up: {error}");
            match error {
                StoreError::Rebuilding(_) | StoreError::NewerFormat(_) => error.to_string(),
                _ => StoreError::Unavailable.to_string(),
            }
        }
        Unknown::NotActivated | Unknown::Token => {
            "this connected registry has not been activated by its parent yet".to_owned()
        }
    };
    let mut refusal = Refusal::new(503, "TOOMANYREQUESTS", Reason::StoreUnavailable, text);
    refusal.retry_after_s = Some(5);
    refusal
}

fn failure(text: &str) -> Refusal {
    log::error!("{text}");
    let text = "a token cannot be issued; the log says why";
    Refusal::new(500, "UNSUPPORTED", Reason::Internal, text)
}
