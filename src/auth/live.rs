//! What the store says of a token right now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::jwt::{Claims, Session};
use crate::store::{Store, StoreError};
use crate::types::message::NodeConfig;
use crate::types::token::{PasswordSlot, Token, Verifier, grants};
use crate::types::{
    ConnectedRegistryName, GatewayAction, Grant, Mode, Reason, RepositoryAction, RepositoryName,
    RepositoryPattern, Role, TokenName, UnixSeconds,
};

/// Tokens remembered between two changes of who may do what.
const LIVE_MAX: usize = 256;
/// Verified access tokens remembered, in each of two halves.
const CLAIMS_MAX: usize = 512;

/// What a token is at this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// Its clients log in with it.
    Client,
    /// The sync token of this direct child.
    Child(ConnectedRegistryName),
    /// The sync token of a connected registry further down: valid only at its own parent.
    Elsewhere,
    /// No token: the operator of this node.
    Operator,
}

/// A token, its grants and its place, as the store has them; or what everybody may do, or the
/// operator.
pub(super) struct Live {
    /// `None`: of everybody, or of the operator.
    token: Option<Token>,
    pub(super) link: Link,
    grants: Vec<Grant>,
    /// Whether this node takes no writes from clients.
    read_only: bool,
    /// The desired states of a ReadWrite connected registry that a client writes to: what is
    /// written here has to go up, and each of them has to allow it.
    goes_up: Vec<Arc<NodeConfig>>,
}

/// Why a session is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ended(pub(super) Reason, pub(super) &'static str);

impl Live {
    /// Without a login: pulling, and listing tags, in these repositories. `None` when there are
    /// none.
    pub(super) fn of_everybody(repositories: &[RepositoryPattern]) -> Option<Live> {
        let reads = [RepositoryAction::ContentRead, RepositoryAction::MetadataRead];
        let grants = repositories
            .iter()
            .flat_map(|pattern| reads.map(|action| Grant::Repository(pattern.clone(), action)));
        let live = Live {
            token: None,
            link: Link::Client,
            grants: grants.collect(),
            read_only: false,
            goes_up: Vec::new(),
        };
        (!repositories.is_empty()).then_some(live)
    }

    /// What the operator of this node may do: all that a client may whose token grants everything.
    pub(super) fn of_operator(store: &Store, role: Role) -> Result<Live, Unknown> {
        let all = RepositoryAction::ALL;
        let grants = all.map(|action| Grant::Repository(RepositoryPattern::All, action)).into();
        let mut live = Live {
            token: None,
            link: Link::Operator,
            grants,
            read_only: false,
            goes_up: Vec::new(),
        };
        if role == Role::Connected {
            // What is written meanwhile is read twice, not missed.
            live.goes_up.extend(store.unwritten_config());
            live.goes_up.push(Arc::new(store.self_config()?.ok_or(Unknown::NotActivated)?));
            live.read_only = live.goes_up.iter().any(|one| one.node.mode == Mode::ReadOnly);
        }
        Ok(live)
    }

    /// Whose token it is; `None`: there is none.
    pub(super) fn name(&self) -> Option<&TokenName> {
        self.token.as_ref().map(|token| &token.name)
    }

    /// What is kept of the password in this slot.
    pub(super) fn verifier(&self, slot: PasswordSlot) -> Option<&Verifier> {
        self.token.as_ref()?.passwords[slot.index()].as_ref()
    }

    /// Whether the token may act here at all.
    pub(super) fn check(&self) -> Result<(), Ended> {
        if self.link == Link::Elsewhere {
            let text = "a sync token is valid only at the parent of its connected registry";
            return Err(Ended(Reason::TokenDisabled, text));
        }
        if self.token.as_ref().is_some_and(|token| !token.enabled) {
            return Err(Ended(Reason::TokenDisabled, "the token is disabled"));
        }
        Ok(())
    }

    /// Whether the password that a session began with still stands at `now`.
    pub(super) fn check_password(&self, session: &Session, now: UnixSeconds) -> Result<(), Ended> {
        let replaced = Ended(Reason::PasswordRevoked, "the password was replaced or deleted");
        match self.verifier(session.slot) {
            Some(verifier) if verifier.generation == session.generation => {
                self.check_expiry(session.slot, now)
            }
            _ => Err(replaced),
        }
    }

    /// Whether the password in this slot has not expired.
    pub(super) fn check_expiry(&self, slot: PasswordSlot, now: UnixSeconds) -> Result<(), Ended> {
        match self.expires(slot) {
            Some(expires) if expires <= now => {
                Err(Ended(Reason::PasswordRevoked, "the password has expired"))
            }
            _ => Ok(()),
        }
    }

    /// When the password in this slot stops to work.
    pub(super) fn expires(&self, slot: PasswordSlot) -> Option<UnixSeconds> {
        self.verifier(slot)?.expires
    }

    /// Whether policy forbids the action whatever the scope map says: clients of a ReadOnly
    /// connected registry only read.
    pub(super) fn forbids(&self, action: RepositoryAction) -> bool {
        let reads =
            matches!(action, RepositoryAction::ContentRead | RepositoryAction::MetadataRead);
        self.read_only && matches!(self.link, Link::Client | Link::Operator) && !reads
    }

    /// Whether what a client writes here may go up: the sync token of this node must be allowed the
    /// same at the parent.
    pub(super) fn may_go_up(&self, repository: &RepositoryName, action: RepositoryAction) -> bool {
        let writes =
            matches!(action, RepositoryAction::ContentWrite | RepositoryAction::ContentDelete);
        let allows = |config: &Arc<NodeConfig>| {
            config.own_map().is_some_and(|map| grants(&map.grants, repository, action))
        };
        !writes || self.goes_up.iter().all(allows)
    }

    /// Whether the scope map grants the action on everything that `wanted` covers.
    pub(super) fn grants_pattern(
        &self,
        wanted: &RepositoryPattern,
        action: RepositoryAction,
    ) -> bool {
        self.grants.iter().any(|grant| match grant {
            Grant::Repository(pattern, have) => *have == action && pattern.includes(wanted),
            Grant::Gateway(..) => false,
        })
    }

    /// Whether the scope map grants the action on one repository.
    pub(super) fn grants(&self, repository: &RepositoryName, action: RepositoryAction) -> bool {
        grants(&self.grants, repository, action)
    }

    /// Whether the scope map grants anything on the repository.
    pub(super) fn sees(&self, repository: &RepositoryName) -> bool {
        self.grants.iter().any(|grant| match grant {
            Grant::Repository(pattern, _) => pattern.covers(repository),
            Grant::Gateway(..) => false,
        })
    }

    /// What a desired state leaves of it that is newer and not on disk: what that takes away
    /// counts, what it grants does not.
    fn within(self, newer: &Arc<NodeConfig>) -> Result<Live, Unknown> {
        let Live { token, link, grants, read_only, mut goes_up } = self;
        let mut token = token.ok_or(Unknown::Token)?;
        let mut tokens = newer.client_tokens.iter().chain(&newer.child_tokens);
        let left = tokens.find(|other| other.name == token.name);
        let left = left.filter(|_| link_in(newer, &token.name).as_ref() == Some(&link));
        let left = left.ok_or(Unknown::Token)?;
        token.enabled &= left.enabled;
        for (own, left) in token.passwords.iter_mut().zip(&left.passwords) {
            if own != left {
                *own = None;
            }
        }
        let map = newer.scope_maps.iter().find(|map| map.name == left.scope_map);
        let left = map.map_or(&[][..], |map| &map.grants);
        // Of two patterns one includes the other, or they have nothing in common.
        let of_own = grants.iter().filter(|own| left.iter().any(|left| includes(left, own)));
        let of_left = left.iter().filter(|left| grants.iter().any(|own| includes(own, left)));
        let both = of_own.chain(of_left).cloned().collect();
        if !goes_up.is_empty() {
            goes_up.push(newer.clone());
        }
        let read_only = read_only || newer.node.mode == Mode::ReadOnly;
        Ok(Live { token: Some(token), link, grants: both, read_only, goes_up })
    }

    /// Whether this is the sync token of a child whose scope map grants the gateway action: for
    /// its own gateway, or for that of a descendant whose messages it carries.
    pub(super) fn grants_gateway(
        &self,
        name: &ConnectedRegistryName,
        action: GatewayAction,
    ) -> bool {
        let granted = self.grants.iter().any(|grant| match grant {
            Grant::Gateway(gateway, have) => *have == action && gateway == name,
            Grant::Repository(..) => false,
        });
        granted && matches!(self.link, Link::Child(_))
    }
}

/// Whether one grant allows all that another does.
fn includes(grant: &Grant, other: &Grant) -> bool {
    match (grant, other) {
        (Grant::Repository(pattern, action), Grant::Repository(other, asked)) => {
            action == asked && pattern.includes(other)
        }
        (grant, other) => grant == other,
    }
}

/// Tokens as read at one [`Store::access_sequence`], which every change of what a [`Live`] is made
/// of raises, and with one [`Store::unwritten_config`], so an entry is right as long as they are
/// the same. They are read before the rows: an entry may be newer than they are, never older.
#[derive(Default)]
pub(super) struct LiveCache(Mutex<AtSequence>);

#[derive(Default)]
struct AtSequence {
    sequence: u64,
    unwritten: Option<Arc<NodeConfig>>,
    config: Option<Arc<NodeConfig>>,
    tokens: BTreeMap<TokenName, Arc<Live>>,
}

/// Why nothing is known of a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unknown {
    /// It does not exist, or is not one that this node accepts.
    Token,
    /// This connected registry has not been activated and knows no tokens yet.
    NotActivated,
    /// The store cannot say.
    Store(StoreError),
}

impl From<StoreError> for Unknown {
    fn from(error: StoreError) -> Unknown {
        Unknown::Store(error)
    }
}

impl LiveCache {
    /// Looks a token up.
    pub(super) fn live(
        &self,
        store: &Store,
        role: Role,
        name: &TokenName,
    ) -> Result<Arc<Live>, Unknown> {
        let mut cache = self.0.lock().map_err(|_| StoreError::Unavailable)?;
        let sequence = store.access_sequence();
        let unwritten = store.unwritten_config();
        let is_same = match (&cache.unwritten, &unwritten) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if cache.sequence != sequence || !is_same {
            *cache = AtSequence { sequence, unwritten, ..AtSequence::default() };
        }
        if let Some(live) = cache.tokens.get(name) {
            return Ok(live.clone());
        }
        let live = Arc::new(match role {
            Role::Root => at_root(store, name)?,
            Role::Connected => {
                let config = match &cache.config {
                    Some(config) => config.clone(),
                    None => Arc::new(store.self_config()?.ok_or(Unknown::NotActivated)?),
                };
                cache.config = Some(config.clone());
                let live = below_root(store, &config, name)?;
                match &cache.unwritten {
                    Some(unwritten) => live.within(unwritten)?,
                    None => live,
                }
            }
        });
        if cache.tokens.len() >= LIVE_MAX {
            cache.tokens.clear();
        }
        cache.tokens.insert(name.clone(), live.clone());
        Ok(live)
    }
}

fn at_root(store: &Store, name: &TokenName) -> Result<Live, Unknown> {
    let (token, map) = store.token_with_map(name)?.ok_or(Unknown::Token)?;
    let link = match store.sync_token_owner(name)? {
        None => Link::Client,
        Some(registry) if registry.parent.is_none() => Link::Child(registry.name),
        Some(_) => Link::Elsewhere,
    };
    let grants = map.map(|map| map.grants).unwrap_or_default();
    Ok(Live { token: Some(token), link, grants, read_only: false, goes_up: Vec::new() })
}

/// What a desired state says that a token is at its node.
fn link_in(config: &NodeConfig, name: &TokenName) -> Option<Link> {
    match config.children.iter().find(|child| child.sync_token == *name) {
        Some(child) => Some(Link::Child(child.name.clone())),
        None => config.node.client_tokens.contains(name).then_some(Link::Client),
    }
}

/// A connected registry accepts the client tokens that it is given, and its children.
fn below_root(store: &Store, config: &Arc<NodeConfig>, name: &TokenName) -> Result<Live, Unknown> {
    let link = link_in(config, name).ok_or(Unknown::Token)?;
    let (token, map) = store.token_with_map(name)?.ok_or(Unknown::Token)?;
    let grants = map.map(|map| map.grants).unwrap_or_default();
    let read_only = config.node.mode == Mode::ReadOnly;
    let goes_up = (!read_only && link == Link::Client).then(|| config.clone());
    let goes_up = goes_up.into_iter().collect();
    Ok(Live { token: Some(token), link, grants, read_only, goes_up })
}

/// Access tokens whose signature was verified, by the hash of their text. A signature never turns
/// bad, so nothing here is ever invalidated; times and live state are judged at each request. Two
/// halves take turns: when the young one is full it becomes the old one.
#[derive(Default)]
pub(super) struct ClaimsCache(Mutex<Halves>);

#[derive(Default)]
struct Halves {
    young: BTreeMap<[u8; 32], Arc<Claims>>,
    old: BTreeMap<[u8; 32], Arc<Claims>>,
}

impl ClaimsCache {
    /// The claims of a token, verified now or before.
    pub(super) fn claims(
        &self,
        token: &str,
        verify: impl FnOnce() -> Option<Claims>,
    ) -> Option<Arc<Claims>> {
        let mut hash = [0; 32];
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        hash.copy_from_slice(digest.as_ref());
        if let Ok(halves) = self.0.lock()
            && let Some(claims) = halves.young.get(&hash)
        {
            return Some(claims.clone());
        }
        let old = self.0.lock().ok().and_then(|halves| halves.old.get(&hash).cloned());
        let claims = old.or_else(|| verify().map(Arc::new))?;
        if let Ok(mut halves) = self.0.lock() {
            if halves.young.len() >= CLAIMS_MAX {
                halves.old = std::mem::take(&mut halves.young);
            }
            halves.young.insert(hash, claims.clone());
        }
        Some(claims)
    }
}
