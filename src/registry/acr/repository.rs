//! Repositories: how much is in one.

use super::{attributes, registry_of};
use crate::http::{Reply, Request};
use crate::registry::Registry;
use crate::sys::spawn;
use crate::types::{Refusal, RepositoryName};

impl Registry {
    /// GET: how much is in it, and since when.
    pub(super) async fn repository_show(
        &self,
        request: &Request,
        name: &RepositoryName,
    ) -> Result<Reply, Refusal> {
        let (store, of) = (self.store.clone(), name.clone());
        let summary = spawn::blocking(move || store.summary(&of)).await;
        let summary = summary.map_err(|error| self.not_read(name, error))?;
        Ok(Reply::json(
            200,
            &serde_json::json!({
                "registry": registry_of(request),
                "imageName": name.as_str(),
                "createdTime": summary.created.rfc3339(),
                "lastUpdateTime": summary.changed.rfc3339(),
                "manifestCount": summary.manifests,
                "tagCount": summary.tags,
                "changeableAttributes": attributes(),
            }),
        ))
    }
}
