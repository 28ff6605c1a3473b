//! The registry API under `/v2/` (OCI distribution-spec 1.1), one file per noun of the spec.
//!
//! A request goes in a straight line: [`route()`] says what is asked for, the gate says whether
//! this node takes such requests at all, `auth` makes a proof that the sender may, and a handler
//! that takes the proof does it. Each answer that is no success is a [`Refusal`] with a reason.

pub mod acr;
pub mod conditional;
pub mod error;
pub mod range;
pub mod route;

mod blob;
mod cache;
mod catalog;
mod manifest;
mod miss;
mod page;
mod referrer;
mod tag;
mod upload;

pub use route::{NoRoute, Route, route};

use std::sync::{Arc, Mutex};

use cache::Cache;

use crate::auth::{Auth, Presented, Principal};
use crate::http::{Account, Reply, Request, Sender};
use crate::store::Store;
use crate::types::cursor::SEQUENCE;
use crate::types::limits::{MANIFEST_CACHE_BYTES_MAX, NAMESPACE_MAX};
use crate::types::message::NodeConfig;
use crate::types::namespace::same_registry;
use crate::types::{Mode, Namespace, Reason, Refusal, RepositoryName, Role};

/// What anyone is told who pushes to a ReadOnly connected registry (ACR, connected registry
/// troubleshooting): existing tools look for these words.
pub const READ_ONLY_MESSAGE: &str = "This operation is not allowed on this registry.";

/// What the registry API needs to know of its node.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// The root takes every push that a token allows; a connected registry does as configured.
    pub role: Role,
    /// Where content of other registries is kept; empty: under the names that it has there.
    pub namespaces: Vec<Namespace>,
    /// The name of the login server, where it has one whatever the `Host` of a request.
    pub login_server: Option<String>,
}

/// The registry API of one node.
pub struct Registry {
    store: Store,
    auth: Auth,
    options: RegistryOptions,
    cache: Cache,
    config: Mutex<Option<(u64, Option<Arc<NodeConfig>>)>>,
    /// Whose large manifest is parsed, or stored, now.
    large: smol::lock::Mutex<()>,
    /// For whom a whole repository is read now.
    scan: smol::lock::Mutex<()>,
    /// Held by the one that deletes a whole repository.
    deletion: smol::lock::Mutex<()>,
}

impl Registry {
    /// The registry API over a store.
    pub fn new(store: Store, auth: Auth, options: RegistryOptions) -> Registry {
        Registry {
            store,
            auth,
            options,
            cache: Cache::new(MANIFEST_CACHE_BYTES_MAX),
            config: Mutex::new(None),
            large: smol::lock::Mutex::default(),
            scan: smol::lock::Mutex::default(),
            deletion: smol::lock::Mutex::default(),
        }
    }

    /// Answers a request for any path under `/v2/`.
    pub async fn handle(&self, request: &mut Request) -> Reply {
        let namespace = request.query("ns");
        let namespace = namespace.filter(|ns| (1..=NAMESPACE_MAX).contains(&ns.len()));
        let namespace = namespace.map(str::to_owned);
        let mut reply = self.answer(request).await.unwrap_or_else(Reply::from);
        reply.headers.push(("docker-distribution-api-version", "registry/2.0".to_owned()));
        // A mirror that is asked on behalf of another registry says for which it answered
        // (OCI distribution-spec, "Registry Proxying").
        reply.headers.extend(namespace.map(|ns| ("oci-namespace", ns)));
        reply
    }

    async fn answer(&self, request: &mut Request) -> Result<Reply, NoRoute> {
        let mut route = route(request.method, &request.path)?;
        if let (Some(host), Some(name)) = (request.query("ns"), route.repository()) {
            let local = self.local(host, request.host.as_deref(), name)?;
            *name = local;
        }
        self.gate(request, route.changes())?;
        Ok(self.dispatch(request, route).await?)
    }

    /// The repository that holds what the registry `host` calls `name`; the registry may be this
    /// one, which the client reached as `own`. A registry that is not mirrored here is told at
    /// once, so that the client goes on to the next mirror.
    fn local(
        &self,
        host: &str,
        own: Option<&str>,
        name: &RepositoryName,
    ) -> Result<RepositoryName, Refusal> {
        let namespaces = &self.options.namespaces;
        if namespaces.is_empty() || host.is_empty() {
            return Ok(name.clone());
        }
        let known = namespaces.iter().find(|known| known.is_of(host));
        let mut names = own.into_iter().chain(self.options.login_server.as_deref());
        if known.is_none() && names.any(|own| same_registry(own, host)) {
            return Ok(name.clone());
        }
        known.and_then(|known| known.local(name)).ok_or_else(|| {
            let message = "this registry does not mirror the registry that 'ns' names";
            Refusal::new(404, "NAME_UNKNOWN", Reason::NotFound, message)
        })
    }

    /// Refuses what this node takes from nobody. `changes`: the request changes something.
    fn gate(&self, request: &Request, changes: bool) -> Result<(), Refusal> {
        if self.options.role == Role::Root {
            return Ok(());
        }
        let Some(config) = self.node_config()? else {
            return Err(error::unavailable("this connected registry is not activated yet"));
        };
        if changes && config.node.mode == Mode::ReadOnly {
            self.auth.ping(&presented(request))?;
            return Err(Refusal::new(403, "DENIED", Reason::ReadOnly, READ_ONLY_MESSAGE));
        }
        Ok(())
    }

    async fn dispatch(&self, request: &mut Request, route: Route) -> Result<Reply, Refusal> {
        match route {
            Route::Ping => {
                self.auth.ping(&presented(request))?;
                Ok(Reply::bytes(200, "application/json", "{}"))
            }
            Route::Catalog => {
                let who = self.auth.catalog(&presented(request))?;
                self.catalog(&who, request, "/v2/_catalog").await
            }
            Route::BlobGet(name, digest) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.blob_get(&who, request, &name, &digest).await
            }
            Route::BlobDelete(name, digest) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.blob_delete(&who, &name, &digest).await
            }
            Route::UploadStart(name) => {
                let (who, from) = self.upload_sender(request, &name)?;
                self.upload_start(&who, request, &name, from.as_ref()).await
            }
            Route::UploadStatus(name, id) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.upload_status(&who, &name, &id).await
            }
            Route::UploadAppend(name, id) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.upload_append(&who, request, &name, &id).await
            }
            Route::UploadFinish(name, id) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.upload_finish(&who, request, &name, &id).await
            }
            Route::UploadCancel(name, id) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.upload_cancel(&who, &name, &id).await
            }
            Route::ManifestGet(name, reference) => {
                let who = self.auth.repository(&presented(request), &name)?;
                let answer = self.manifest_get(&who, request, &name, &reference).await;
                Ok(self.told(&who.principal, answer))
            }
            Route::ManifestPut(name, reference) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.manifest_put(&who, request, &name, reference).await
            }
            Route::ManifestDelete(name, reference) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.manifest_delete(&who, request, &name, &reference).await
            }
            Route::Tags(name) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.tags(&who, request, &name)
            }
            Route::Referrers(name, subject) => {
                let who = self.auth.repository(&presented(request), &name)?;
                self.referrers(&who, request, &name, &subject).await
            }
        }
    }

    /// Tells a child how new that is at most which it hears of a manifest or a tag, also that there
    /// is none: it may be newer than the child's position in the feed.
    fn told(&self, principal: &Principal, answer: Result<Reply, Refusal>) -> Reply {
        let reply = answer.unwrap_or_else(Reply::from);
        match principal {
            Principal::Child(_) => reply.with(SEQUENCE, self.store.reached().to_string()),
            Principal::Client(_) | Principal::Anonymous | Principal::Operator => reply,
        }
    }

    /// Who deletes something, for the log.
    fn name_of(&self, request: &Request, principal: &Principal) -> String {
        match principal {
            Principal::Operator => format!("operator {}", request.peer),
            other => account(other).to_owned(),
        }
    }

    /// The node's desired state, decoded again only when it may have changed.
    fn node_config(&self) -> Result<Option<Arc<NodeConfig>>, Refusal> {
        // Read before the row: a change in between makes the next request read again.
        let sequence = self.store.access_sequence();
        if let Ok(known) = self.config.lock()
            && let Some((at, config)) = &*known
            && *at == sequence
        {
            return Ok(config.clone());
        }
        let config = self.store.self_config().map_err(error::store_refusal)?.map(Arc::new);
        if let Ok(mut known) = self.config.lock() {
            *known = Some((sequence, config.clone()));
        }
        Ok(config)
    }
}

/// Who sends a body, as its bounds see it.
fn sender(principal: &Principal) -> Sender {
    Sender::LoggedIn(Account::of(account(principal)))
}

/// Whose share of what is scarce it takes: all who have not logged in share one.
fn account(principal: &Principal) -> &str {
    match principal {
        Principal::Anonymous => "",
        Principal::Operator => "admin",
        Principal::Client(token) => token.as_str(),
        Principal::Child(child) => child.as_str(),
    }
}

/// What a request says about its sender.
fn presented(request: &Request) -> Presented<'_> {
    Presented {
        authorization: request.header("authorization"),
        host: request.host.as_deref(),
        secure: request.secure,
        is_operator: request.is_operator,
        peer: request.peer.ip(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_can_be_made_on_any_thread() {
        fn is_send<T: Send>(_: T) {}
        fn holds(registry: &Registry, request: &mut Request) {
            is_send(registry.handle(request));
        }
        fn is_shared<T: Send + Sync + 'static>() {}
        is_shared::<Registry>();
        let _ = holds;
    }
}
