//! Which protocol answers which path, per listener.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::admin::Admin;
use crate::gateway::Gateway;
use crate::http::{Handler, Method, Reply, Request};
use crate::registry::{Registry, acr};
use crate::store::Store;
use crate::token::Tokens;
use crate::types::{NodeState, Reason, Refusal, Role};

/// When clients of a node that waits for its parent may ask again, seconds.
const RETRY_AFTER_S: u64 = 5;

/// Which listener a request came through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Door {
    /// The login server: registry API, tokens, health; on a connected registry also the gateway.
    Login,
    /// The root's gateway.
    Gateway,
    /// The admin socket: management, and what is in the repositories.
    Admin,
}

/// Every protocol of a node.
pub(super) struct Router {
    pub(super) role: Role,
    pub(super) store: Store,
    pub(super) registry: Registry,
    pub(super) tokens: Tokens,
    pub(super) gateway: Gateway,
    pub(super) admin: Admin,
}

impl Router {
    /// The handler of one listener.
    pub(super) fn behind(self: Arc<Self>, door: Door) -> Arc<dyn Handler> {
        Arc::new(Entrance { router: self, door })
    }

    async fn answer(&self, door: Door, request: &mut Request) -> Reply {
        if let Some(refused) = self.gateway.refuse_earlier(request) {
            return refused;
        }
        request.is_operator = door == Door::Admin;
        let first = request.path.trim_start_matches('/').split('/').next().unwrap_or_default();
        // What `skerry repository` asks for.
        let is_content = match first {
            "acr" => request.path.starts_with(acr::ROOT),
            "v2" => request.method == Method::Delete && request.path.contains("/manifests/"),
            _ => false,
        };
        let is_management = door == Door::Admin && !is_content;
        if is_management || matches!(first, "healthz" | "readyz" | "metrics") {
            return self.admin.handle(request, is_management).await;
        }
        self.store.wait_for_index().await;
        let has_gateway = door == Door::Gateway || self.role == Role::Connected;
        let serves = self.role == Role::Root || self.store.is_provisioned();
        match (door, first) {
            _ if !serves => self.unprovisioned(),
            (_, "gateway") if has_gateway => self.gateway.handle(request).await,
            (Door::Login | Door::Admin, "v2") => self.registry.handle(request).await,
            (Door::Login | Door::Admin, "acr") if request.path.starts_with(acr::ROOT) => {
                self.registry.handle_acr(request).await
            }
            (Door::Login, "oauth2" | "acr" | ".well-known") => self.tokens.handle(request).await,
            _ => {
                let text = format!("there is nothing at {} on this listener", request.path);
                Refusal::new(404, "NAME_UNKNOWN", Reason::NotFound, text).into()
            }
        }
    }

    /// A connected registry without a desired state serves status and health only.
    fn unprovisioned(&self) -> Reply {
        // Whoever asks is not whom the remedy is for: a child would take it for its own.
        let state = self.store.node_state();
        let state = state.as_ref().map_or("unknown", NodeState::name);
        let text = format!(
            "the connected registry at this address cannot serve yet: its state is {state}, and \
             `skerry status` there says what is to be done"
        );
        let mut refusal = Refusal::new(503, "TOOMANYREQUESTS", Reason::StoreUnavailable, text);
        refusal.retry_after_s = Some(RETRY_AFTER_S);
        refusal.into()
    }
}

struct Entrance {
    router: Arc<Router>,
    door: Door,
}

impl Handler for Entrance {
    fn handle<'a>(
        &'a self,
        request: &'a mut Request,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>> {
        Box::pin(self.router.answer(self.door, request))
    }
}
