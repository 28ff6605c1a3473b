//! Who may do what. A handler that reads or changes content takes an [`Authorized`] value, and
//! only this module makes one.

use std::marker::PhantomData;

use crate::store::Store;
use crate::types::{
    ConnectedRegistryName, GatewayAction, Refusal, RepositoryAction, RepositoryName, TokenName,
};

/// What a request says about its sender.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The `Host` header, checked.
    pub host: Option<&'a str>,
    /// Whether the connection has TLS.
    pub secure: bool,
    /// The peer's address, for slowing down failed logins.
    pub peer: Option<std::net::IpAddr>,
}

/// Proof that a sender may do `A`.
pub struct Authorized<A> {
    /// Who.
    pub principal: Principal,
    proof: PhantomData<A>,
}

/// Who is asking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// A client token.
    Client(TokenName),
    /// The sync token of a child.
    Child(ConnectedRegistryName),
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

/// Decides on every request; cheap to clone.
#[derive(Clone)]
pub struct Auth {
    store: Store,
}

impl Auth {
    /// Checks the bearer token of a request on one repository: signature, lifetime, audience, its
    /// access entry, and the live state of the token, its scope map and its password.
    pub fn repository<A: RepositoryPermission>(
        &self,
        _presented: &Presented<'_>,
        _repository: &RepositoryName,
    ) -> Result<Authorized<A>, Refusal> {
        let _ = &self.store;
        todo!()
    }

    /// Checks that the sender has valid credentials of any kind.
    pub fn ping(&self, _presented: &Presented<'_>) -> Result<Authorized<Ping>, Refusal> {
        todo!()
    }

    /// Checks that the sender may list repositories; [`Auth::lists`] filters them.
    pub fn catalog(&self, _presented: &Presented<'_>) -> Result<Authorized<Catalog>, Refusal> {
        todo!()
    }

    /// Whether the catalog shows this repository to the sender.
    pub fn lists(&self, _who: &Authorized<Catalog>, _repository: &RepositoryName) -> bool {
        todo!()
    }

    /// Checks one action at the gateway of `name`.
    pub fn gateway(
        &self,
        _presented: &Presented<'_>,
        _name: &ConnectedRegistryName,
        _action: GatewayAction,
    ) -> Result<Authorized<Gateway>, Refusal> {
        todo!()
    }
}
