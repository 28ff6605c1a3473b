//! Repositories: how much is in one.

use super::{attributes, registry_of};
use crate::auth::{Authorized, Delete, ReadMetadata};
use crate::http::{Reply, Request};
use crate::registry::{Registry, sender};
use crate::store::StoreError;
use crate::store::replica::outbox::Origin;
use crate::types::{Refusal, RepositoryName};

impl Registry {
    /// GET: how much is in it, and since when.
    pub(super) async fn repository_show(
        &self,
        who: &Authorized<ReadMetadata>,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let _turn = self.turn_to_scan().await?;
        let summary = self.store.summary(name).await;
        let summary = summary.map_err(|error| self.not_read(name, error))?;
        let body = serde_json::json!({
            "registry": registry_of(request),
            "imageName": name.as_str(),
            "createdTime": summary.created.rfc3339(),
            "lastUpdateTime": summary.changed.rfc3339(),
            "manifestCount": summary.manifests,
            "tagCount": summary.tags,
            "changeableAttributes": attributes(),
        });
        Ok(Reply::json(200, &body).to(sender(&who.principal)))
    }

    /// DELETE: of all manifests that are in it, with their tags. What is pushed meanwhile may stay.
    /// It ends early, with what was deleted by then, after a fault and when the sender has gone.
    pub(super) async fn repository_delete(
        &self,
        who: &Authorized<Delete>,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let _turn = self.turn_to_delete().await?;
        let left = async {
            request.body.gone().await;
            Err(StoreError::Unavailable)
        };
        let deleted = self.store.delete_all(name, &Origin::Client);
        let deleted = smol::future::or(deleted, left).await;
        log::info!(
            "deletion of repository={name} by={}: {}",
            self.name_of(request, &who.principal),
            match &deleted {
                Ok(manifests) => format!("manifests={manifests}"),
                Err(error) => format!("broken off: {error}"),
            }
        );
        match deleted.map_err(|error| self.not_read(name, error))? {
            0 => Err(self.not_read(name, StoreError::NotFound)),
            _ => Ok(Reply::new(202)),
        }
    }
}
