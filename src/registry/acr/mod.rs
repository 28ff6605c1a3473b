//! What is in the repositories, as tools of the reference product ask: `/acr/v1/` (ACR, "Data
//! plane REST API"). The attributes that could lock content cannot be changed yet: all are true.

mod listing;
mod manifest;
mod repository;
mod route;
mod tag;

pub use route::ROOT;

use route::Route;
use smol::lock::{Mutex, MutexGuard};

use super::error::{store_refusal, unavailable};
use super::route::NoRoute;
use super::{Registry, presented};
use crate::auth::{Authorized, ReadMetadata};
use crate::http::{Reply, Request};
use crate::store::StoreError;
use crate::sys::clock;
use crate::types::limits::BODY_WAIT_DEADLINE;
use crate::types::{Reference, Refusal, RepositoryName};

impl Registry {
    /// Answers a request for any path under [`ROOT`].
    pub async fn handle_acr(&self, request: &mut Request) -> Reply {
        self.answer_acr(request).await.unwrap_or_else(Reply::from)
    }

    async fn answer_acr(&self, request: &mut Request) -> Result<Reply, NoRoute> {
        let route = Route::of(request.method, &request.path)?;
        Ok(self.dispatch_acr(request, route).await?)
    }

    async fn dispatch_acr(&self, request: &Request, route: Route) -> Result<Reply, Refusal> {
        match route {
            Route::Catalog => {
                let who = self.auth.catalog(&presented(request))?;
                self.catalog(&who, request, &format!("{ROOT}_catalog")).await
            }
            Route::Repository(name) => {
                let who = self.reader(request, &name)?;
                self.repository_show(&who, request, &name).await
            }
            Route::RepositoryDelete(name) => {
                self.gate(request, true)?;
                let who = self.auth.repository(&presented(request), &name)?;
                self.repository_delete(&who, request, &name).await
            }
            Route::Tags(name) => {
                let who = self.reader(request, &name)?;
                self.tags_list(&who, request, &name).await
            }
            Route::Tag(name, tag) => {
                let who = self.reader(request, &name)?;
                self.tag_show(&who, request, &name, &tag)
            }
            Route::TagDelete(name, tag) => {
                self.gate(request, true)?;
                let who = self.auth.repository(&presented(request), &name)?;
                self.manifest_delete(&who, request, &name, &Reference::Tag(tag)).await
            }
            Route::Manifests(name) => {
                let who = self.reader(request, &name)?;
                self.manifests_list(&who, request, &name).await
            }
            Route::Manifest(name, digest) => {
                let who = self.reader(request, &name)?;
                self.manifest_show(&who, request, &name, &digest).await
            }
        }
    }

    /// Proof that the sender may see what is in a repository.
    fn reader(
        &self,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Authorized<ReadMetadata>, Refusal> {
        self.auth.repository(&presented(request), name)
    }

    /// The turn of a request that may read a whole repository: one does so at a time.
    async fn turn_to_scan(&self) -> Result<MutexGuard<'_, ()>, Refusal> {
        turn_of(&self.scan, "others are having repositories listed: try again later").await
    }

    /// The turn of a request that deletes a whole repository.
    async fn turn_to_delete(&self) -> Result<MutexGuard<'_, ()>, Refusal> {
        turn_of(&self.deletion, "another repository is being deleted: try again later").await
    }

    /// The refusal of a fault while a repository is read.
    fn not_read(&self, name: &RepositoryName, error: StoreError) -> Refusal {
        match error {
            StoreError::NotFound => {
                self.miss("NAME_UNKNOWN", name, format_args!("repository {name}"))
            }
            error => store_refusal(error),
        }
    }
}

async fn turn_of<'a>(
    turns: &'a Mutex<()>,
    busy: &'static str,
) -> Result<MutexGuard<'a, ()>, Refusal> {
    let turn = clock::within(BODY_WAIT_DEADLINE, turns.lock()).await;
    turn.map_err(|_| unavailable(busy))
}

/// What may be done with a repository, a tag or a manifest.
fn attributes() -> serde_json::Value {
    serde_json::json!({
        "deleteEnabled": true, "writeEnabled": true, "listEnabled": true, "readEnabled": true,
    })
}

/// The registry as a client named it.
fn registry_of(request: &Request) -> &str {
    request.host.as_deref().unwrap_or_default()
}
