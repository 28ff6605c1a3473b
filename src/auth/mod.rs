//! Who may do what. A handler that reads or changes content takes an [`Authorized`] value, and
//! only this module makes one.
//!
//! A bearer token is believed for its signature, times and audience; what it grants counts only as
//! far as the store still agrees: the token is enabled, the password it stems from still stands,
//! the scope map still grants the action, and the token has its place at this node. So disabling,
//! rotating or rescoping takes effect at the next request.

mod challenge;
mod jwt;
pub mod keys;
mod live;
mod login;
mod login_server;
mod seal;
mod throttle;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

pub use login::{Issued, Login, NULL_USER};
pub use login_server::{LoginListener, LoginServer};

use challenge::Challenge;
use jwt::{Claims, Signer};
use keys::Identity;
use live::{ClaimsCache, Link, Live, LiveCache};
use seal::Sealer;
use throttle::Throttle;

use crate::store::Store;
use crate::types::scope::Access;
use crate::types::{
    ConnectedRegistryName, GatewayAction, Reason, Refusal, RepositoryAction, RepositoryName,
    RepositoryPattern, Role, TokenName, UnixSeconds,
};

/// The issuer of our tokens.
pub const ISSUER: &str = "skerry";

/// A token may be this much younger than our clock says, seconds: the clock may have been set back
/// a little since it was issued.
const NOT_BEFORE_LEEWAY_S: u64 = 60;

/// What a request says about its sender.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The `Host` header, checked.
    pub host: Option<&'a str>,
    /// Whether the connection has TLS.
    pub secure: bool,
    /// Whether it came through the admin socket: that is a login too.
    pub is_operator: bool,
    /// The peer's address, for slowing down failed logins.
    pub peer: Option<std::net::IpAddr>,
}

/// Proof that a sender may do `A`.
pub struct Authorized<A> {
    /// Who.
    pub principal: Principal,
    live: Arc<Live>,
    /// What the bearer token was issued for, if one was sent.
    limit: Option<Arc<Claims>>,
    proof: PhantomData<A>,
}

/// Who is asking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// A client token.
    Client(TokenName),
    /// The sync token of a child.
    Child(ConnectedRegistryName),
    /// Nobody who has logged in: pulls what is open to everybody.
    Anonymous,
    /// Whoever can open the admin socket.
    Operator,
}

/// An action on one repository, as a type.
pub trait RepositoryPermission {
    /// The action.
    const ACTION: RepositoryAction;
}

/// Reads content.
pub struct Pull;
/// Writes content.
pub struct Push;
/// Deletes content.
pub struct Delete;
/// Reads metadata: lists tags.
pub struct ReadMetadata;
/// Any valid credentials: the version check at `/v2/`.
pub struct Ping;
/// Lists repositories.
pub struct Catalog;
/// Uses the gateway of one connected registry.
pub struct Gateway;

impl RepositoryPermission for Pull {
    const ACTION: RepositoryAction = RepositoryAction::ContentRead;
}
impl RepositoryPermission for Push {
    const ACTION: RepositoryAction = RepositoryAction::ContentWrite;
}
impl RepositoryPermission for Delete {
    const ACTION: RepositoryAction = RepositoryAction::ContentDelete;
}
impl RepositoryPermission for ReadMetadata {
    const ACTION: RepositoryAction = RepositoryAction::MetadataRead;
}

/// How a node authenticates.
pub struct AuthOptions {
    /// What the node is.
    pub role: Role,
    /// The service in challenges and tokens when a request has no `Host` either.
    pub registry_name: String,
    /// The login server.
    pub login_server: LoginServer,
    /// How long an access token lives at most; usually 75 minutes (as ACR's does).
    pub access_lifetime: Duration,
    /// How long a refresh token lives at most; usually 3 hours.
    pub refresh_lifetime: Duration,
    /// From which repositories everybody may pull.
    pub anonymous_pull: Vec<RepositoryPattern>,
    /// Signs access tokens.
    pub identity: Identity,
}

/// Decides on every request; cheap to clone.
#[derive(Clone)]
pub struct Auth {
    store: Store,
    inner: Arc<Inner>,
}

struct Inner {
    role: Role,
    registry_name: String,
    login_server: LoginServer,
    access_lifetime: Duration,
    refresh_lifetime: Duration,
    signer: Signer,
    sealer: Sealer,
    live: LiveCache,
    /// What everybody may do; `None`: nothing.
    everybody: Option<Arc<Live>>,
    claims: ClaimsCache,
    throttle: Throttle,
}

/// A sender whose credentials are good; what they are good for is yet to be seen.
struct Sender {
    live: Arc<Live>,
    /// What the bearer token was issued for; a password is as good as its scope map.
    limit: Option<Arc<Claims>>,
}

impl Auth {
    /// Fails when the identity cannot be used; the text says why.
    pub fn new(store: Store, options: AuthOptions) -> Result<Auth, String> {
        let mut login_server = options.login_server;
        if let Some(name) = &mut login_server.name {
            name.make_ascii_lowercase();
        }
        let inner = Inner {
            role: options.role,
            registry_name: options.registry_name,
            login_server,
            access_lifetime: options.access_lifetime,
            refresh_lifetime: options.refresh_lifetime,
            signer: Signer::new(&options.identity)?,
            sealer: Sealer::new(&options.identity)?,
            live: LiveCache::default(),
            everybody: Live::of_everybody(&options.anonymous_pull).map(Arc::new),
            claims: ClaimsCache::default(),
            throttle: Throttle::default(),
        };
        Ok(Auth { store, inner: Arc::new(inner) })
    }

    /// Checks the bearer token of a request on one repository: signature, lifetime, audience, its
    /// access entry, and the live state of the token, its scope map and its password.
    pub fn repository<A: RepositoryPermission>(
        &self,
        presented: &Presented<'_>,
        repository: &RepositoryName,
    ) -> Result<Authorized<A>, Refusal> {
        let challenge = self.challenge(presented).scope(&wanted::<A>(repository));
        self.permit(presented, repository, &challenge)
    }

    /// Checks a push into one repository that would rather link a blob of another one: whether the
    /// sender may pull that, too. A bearer token that was not issued for both, of an account that
    /// may do both, is refused with a challenge for both, so that the client gets a better one
    /// instead of sending what is here already.
    pub fn mount(
        &self,
        presented: &Presented<'_>,
        into: &RepositoryName,
        from: &RepositoryName,
    ) -> Result<(Authorized<Push>, Option<Authorized<Pull>>), Refusal> {
        let challenge = self.challenge(presented).scope(&wanted::<Push>(into));
        let challenge = challenge.scope(&wanted::<Pull>(from));
        let push: Authorized<Push> = self.permit(presented, into, &challenge)?;
        match self.permit(presented, from, &challenge) {
            Ok(pull) => Ok((push, Some(pull))),
            Err(refusal) if push.live.grants(from, Pull::ACTION) => Err(refusal),
            Err(_) => Ok((push, None)),
        }
    }

    /// Whether a sender that may pull from a repository may also push to it, whatever its bearer
    /// token was issued for: clients that push look first with one that is for pulling.
    pub fn may_push(&self, who: &Authorized<Pull>, repository: &RepositoryName) -> bool {
        let (live, push) = (&who.live, Push::ACTION);
        !live.forbids(push) && live.grants(repository, push) && live.may_go_up(repository, push)
    }

    /// Whether the bearer token of such a sender was issued for pushing too: who only pulls asks
    /// for none.
    pub fn is_for_push(&self, who: &Authorized<Pull>, repository: &RepositoryName) -> bool {
        let names = accepted_scopes(Push::ACTION);
        who.limit.iter().any(|claims| is_issued(claims, repository, names))
    }

    fn permit<A: RepositoryPermission>(
        &self,
        presented: &Presented<'_>,
        repository: &RepositoryName,
        challenge: &Challenge<'_>,
    ) -> Result<Authorized<A>, Refusal> {
        let action = A::ACTION;
        let sender = self.sender(presented, challenge)?;
        if sender.live.forbids(action) {
            return Err(Refusal::new(
                403,
                "DENIED",
                Reason::ReadOnly,
                "This operation is not allowed on this registry.",
            ));
        }
        let any_of = accepted_scopes(action);
        let issued =
            sender.limit.as_ref().is_none_or(|claims| is_issued(claims, repository, any_of));
        let everybody = &self.inner.everybody;
        let grants = |live: &Arc<Live>| live.grants(repository, action);
        if !issued || !grants(&sender.live) && !everybody.as_ref().is_some_and(grants) {
            return Err(sender.lacks(challenge));
        }
        if !sender.live.may_go_up(repository, action) {
            let message = format!(
                "This connected registry may not do this in {repository} at its parent: the scope \
                 map of its sync token has to grant {} there.",
                action.name()
            );
            return Err(Refusal::new(403, "DENIED", Reason::NotInSyncWriteScope, message));
        }
        Ok(sender.authorized())
    }

    /// Checks that the sender has valid credentials of any kind.
    pub fn ping(&self, presented: &Presented<'_>) -> Result<Authorized<Ping>, Refusal> {
        let challenge = self.challenge(presented);
        Ok(self.sender(presented, &challenge)?.authorized())
    }

    /// Checks that the sender may list repositories; [`Auth::lists`] filters them.
    pub fn catalog(&self, presented: &Presented<'_>) -> Result<Authorized<Catalog>, Refusal> {
        let wanted = Access::new("registry", "catalog", &["*"]);
        let challenge = self.challenge(presented).scope(&wanted);
        let sender = self.sender(presented, &challenge)?;
        if !sender.issued_for(&wanted) {
            return Err(sender.lacks(&challenge));
        }
        Ok(sender.authorized())
    }

    /// Whether the catalog shows this repository to the sender.
    pub fn lists(&self, who: &Authorized<Catalog>, repository: &RepositoryName) -> bool {
        who.live.sees(repository)
    }

    /// Checks one action at the gateway of `name`. Only sync tokens pass: that of a direct child,
    /// for its own gateway and for those of the descendants that its scope map names.
    pub fn gateway(
        &self,
        presented: &Presented<'_>,
        name: &ConnectedRegistryName,
        action: GatewayAction,
    ) -> Result<Authorized<Gateway>, Refusal> {
        let wanted = Access::new("gateway", name.as_str(), &[action.scope_name()]);
        let challenge = self.gateway_challenge(presented).scope(&wanted);
        let sender = self.sender(presented, &challenge)?;
        if !sender.issued_for(&wanted) || !sender.live.grants_gateway(name, action) {
            return Err(sender.lacks(&challenge));
        }
        Ok(sender.authorized())
    }

    /// The public key that other verifiers need, as a JSON web key set.
    pub fn jwks(&self) -> &serde_json::Value {
        self.inner.signer.jwks()
    }

    fn sender(
        &self,
        presented: &Presented<'_>,
        challenge: &Challenge<'_>,
    ) -> Result<Sender, Refusal> {
        if presented.is_operator && presented.authorization.is_none() {
            let live = Live::of_operator(&self.store, self.inner.role);
            let live = Arc::new(live.map_err(login::unavailable)?);
            return Ok(Sender { live, limit: None });
        }
        let Some((scheme, value)) = presented.authorization.and_then(|text| text.split_once(' '))
        else {
            return Err(challenge.required());
        };
        if scheme.eq_ignore_ascii_case("Basic") {
            let login = self.login_basic(presented, value).map_err(|mut refusal| {
                // Content is offered for bearer tokens; a password is taken as a convenience.
                if refusal.challenge.is_some() {
                    refusal.challenge = challenge.required().challenge;
                }
                refusal
            })?;
            return Ok(Sender { live: login.live, limit: login.limit });
        }
        if !scheme.eq_ignore_ascii_case("Bearer") {
            return Err(challenge.required());
        }
        let claims = self.bearer(value.trim(), &challenge.service).ok_or_else(|| {
            challenge.invalid(
                Reason::TokenInvalid,
                "the access token is expired, damaged or was issued for another service",
            )
        })?;
        match self.session(claims.skerry.as_ref()) {
            Ok(live) => Ok(Sender { live, limit: Some(claims) }),
            Err(login::Failed::Ended(ended)) => Err(challenge.invalid(ended.0, ended.1)),
            Err(login::Failed::Unavailable(refusal)) => Err(*refusal),
        }
    }

    /// The claims of an access token that is good for `service` now.
    fn bearer(&self, token: &str, service: &str) -> Option<Arc<Claims>> {
        let verify = || self.inner.signer.verify(token);
        let claims = self.inner.claims.claims(token, verify)?;
        let clock = &self.store.sys().clock;
        let begun = clock.wall().is_none_or(|now| claims.nbf <= now.plus(NOT_BEFORE_LEEWAY_S));
        let good = begun
            && clock.wall_or_floor() < claims.exp
            && claims.aud == service
            && claims.iss == ISSUER;
        good.then_some(claims)
    }

    fn now(&self) -> UnixSeconds {
        self.store.sys().clock.wall_or_floor()
    }
}

impl Sender {
    fn issued_for(&self, wanted: &Access) -> bool {
        self.limit.as_ref().is_none_or(|claims| {
            claims.access.iter().any(|access| {
                access.kind == wanted.kind
                    && access.name == wanted.name
                    && wanted.actions.iter().all(|action| access.actions.contains(action))
            })
        })
    }

    /// The refusal of what the credentials are not good for: who has not logged in may do so.
    fn lacks(&self, challenge: &Challenge<'_>) -> Refusal {
        match self.live.name() {
            Some(_) => challenge.insufficient(),
            None => challenge.required(),
        }
    }

    fn authorized<A>(self) -> Authorized<A> {
        let principal = match (&self.live.link, self.live.name()) {
            (Link::Child(name), _) => Principal::Child(name.clone()),
            (Link::Operator, _) => Principal::Operator,
            (Link::Client | Link::Elsewhere, Some(name)) => Principal::Client(name.clone()),
            (Link::Client | Link::Elsewhere, None) => Principal::Anonymous,
        };
        Authorized { principal, live: self.live, limit: self.limit, proof: PhantomData }
    }
}

/// The access that a challenge asks for.
fn wanted<A: RepositoryPermission>(repository: &RepositoryName) -> Access {
    Access::new("repository", repository.as_str(), wanted_scopes(A::ACTION))
}

/// What a challenge asks for: who pushes must be able to look first.
fn wanted_scopes(action: RepositoryAction) -> &'static [&'static str] {
    match action {
        RepositoryAction::ContentRead => &["pull"],
        RepositoryAction::ContentWrite => &["pull", "push"],
        RepositoryAction::ContentDelete => &["delete"],
        RepositoryAction::MetadataRead => &["metadata_read"],
        RepositoryAction::MetadataWrite => &["metadata_write"],
    }
}

/// Which issued scopes stand for an action. Clients that list tags ask for `pull`, as they do of
/// Azure's; the scope map decides in either case.
fn accepted_scopes(action: RepositoryAction) -> &'static [&'static str] {
    match action {
        RepositoryAction::ContentRead => &["pull"],
        RepositoryAction::ContentWrite => &["push"],
        RepositoryAction::ContentDelete => &["delete"],
        RepositoryAction::MetadataRead => &["metadata_read", "pull"],
        RepositoryAction::MetadataWrite => &["metadata_write"],
    }
}

/// Whether a bearer token was issued for one of these actions in a repository.
fn is_issued(claims: &Claims, repository: &RepositoryName, any_of: &[&str]) -> bool {
    claims.access.iter().any(|access| {
        names_repository(access, repository)
            && access.actions.iter().any(|name| any_of.contains(&name.as_str()))
    })
}

/// Whether an access entry is for this repository, by name or by a wildcard.
fn names_repository(access: &Access, repository: &RepositoryName) -> bool {
    access.kind == "repository"
        && (access.name == repository.as_str()
            || access.name.ends_with('*')
                && access.name.parse::<RepositoryPattern>().is_ok_and(|p| p.covers(repository)))
}
