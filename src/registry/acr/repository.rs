//! Repositories: how much is in one.

use super::{attributes, registry_of};
use crate::auth::{Authorized, ReadMetadata};
use crate::http::{Reply, Request};
use crate::registry::{Registry, sender};
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
}
