//! The parent: real, and disturbed in between.

use super::*;
use crate::types::refusal::PARTIAL;

/// Is given each call with its path, and `?after` where it has that, and the status of the answer,
/// 0 before there is one.
pub(super) type Hook = Arc<
    dyn Fn(Arc<World>, String, u16) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync,
>;

/// The parent, as it behaves today.
pub(super) struct Parent {
    pub(super) world: Arc<World>,
    pub(super) registry: Registry,
    pub(super) tokens: Tokens,
    pub(super) gateway: Gateway,
    /// The same of its next start.
    pub(super) gateway_anew: Gateway,
}

impl Parent {
    async fn route(&self, request: &mut Request) -> Reply {
        let is_anew = self.world.started_anew.load(Ordering::Relaxed);
        let gateway = if is_anew { &self.gateway_anew } else { &self.gateway };
        if let Some(refused) = gateway.refuse_earlier(request) {
            return refused;
        }
        match request.path.split('/').nth(1) {
            Some("gateway") => self.world.versions.handle(gateway, request).await,
            Some("v2") => self.registry.handle(request).await,
            _ => self.tokens.handle(request).await,
        }
    }

    /// What a hook answers `true` to goes as the answer of a parent that is not whole yet.
    async fn hooked(&self, request: &mut Request) -> Reply {
        let hook = self.world.hook.lock().unwrap().clone();
        let Some(hook) = hook else {
            return self.answer(request).await;
        };
        let of = |key: &str| request.query(key).map(|_| format!("?{key}"));
        let query = of("after").or(of("manifests")).unwrap_or_default();
        let call = format!("{:?} {}{query}", request.method, request.path);
        hook(self.world.clone(), call.clone(), 0).await;
        let reply = self.answer(request).await;
        let is_partial = hook(self.world.clone(), call, reply.status).await;
        if is_partial { reply.with(PARTIAL, "1".to_owned()) } else { reply }
    }

    async fn answer(&self, request: &mut Request) -> Reply {
        let world = &self.world;
        let changes = matches!(request.method, Method::Put | Method::Delete);
        if world.is_cut.load(Ordering::Relaxed) {
            let text = "the link is cut".to_owned();
            return Refusal::new(503, "UNAVAILABLE", Reason::StoreUnavailable, text).into();
        }
        if request.path.contains("/repositories/app0")
            && world.holds_listing.swap(false, Ordering::Relaxed)
        {
            let reply = self.route(request).await;
            world.is_held.store(true, Ordering::Relaxed);
            while !world.device().outbox(1).unwrap().is_empty() {
                smol::future::yield_now().await;
            }
            world.is_cut.store(true, Ordering::Relaxed);
            return reply;
        }
        if let Some((path, status)) = &*world.fails.lock().unwrap()
            && request.path.contains(path.as_str())
            && changes
        {
            return Reply::new(*status);
        }
        world.requests.fetch_add(1, Ordering::Relaxed);
        if world.calm.load(Ordering::Relaxed) || !request.path.starts_with("/v2/") {
            if changes && world.refuses.swap(false, Ordering::Relaxed) {
                return Refusal::new(403, "DENIED", Reason::ReadOnly, "no".to_owned()).into();
            }
            let reply = self.route(request).await;
            let pushed =
                world.pushed_then.lock().unwrap().take_if(|_| changes && reply.status >= 400);
            if let Some(number) = pushed {
                store_push(&world.device(), &repository(0), &[], number, Origin::Client).await;
            }
            if request.method == Method::Head && reply.status == 404 {
                world.push_meanwhile().await;
                world.deliver_meanwhile().await;
            }
            return reply;
        }
        world.maybe_write().await;
        let name = format!("{:?} {}", request.method, short_path(&request.path));
        let id = request.header("skerry-outbox-id").unwrap_or("-").to_owned();
        let busy = || Refusal::new(503, "UNAVAILABLE", Reason::StoreUnavailable, "busy".to_owned());
        let (reply, how) = match world.dice.roll(if changes { 10 } else { 40 }) {
            0 => (busy().into(), "not heard"),
            1 if changes => {
                let reply = self.route(request).await;
                world.note(format!("  parent: {name} [{id}] took effect: {}", reply.status));
                (busy().into(), "answer lost")
            }
            2 if changes && world.dice.roll(2) == 0 => {
                let reply = self.route(request).await;
                world.note(format!("  parent: {name} [{id}] took effect: {}", reply.status));
                world.dark.store(true, Ordering::Relaxed);
                (busy().into(), "power")
            }
            // Of what is refused by itself in a life of the store that is lost, while later changes
            // pass, a tag that names the same can tell the parent that it was delivered.
            2 | 3 if changes && !world.quiet.load(Ordering::Relaxed) => {
                let text = "no".to_owned();
                (Refusal::new(403, "DENIED", Reason::ReadOnly, text).into(), "refused")
            }
            _ => (self.route(request).await, "answered"),
        };
        let reply: Reply = reply;
        if changes || reply.status >= 400 {
            world.note(format!("  parent: {name} [{id}] {how}: {}", reply.status));
        }
        world.maybe_write().await;
        reply
    }
}

fn short_path(path: &str) -> String {
    match path.rsplit_once(':') {
        Some((start, hex)) => format!("{start}:{}", &hex[..6]),
        None => path.to_owned(),
    }
}

impl Handler for Parent {
    fn handle<'a>(
        &'a self,
        request: &'a mut Request,
    ) -> Pin<Box<dyn Future<Output = Reply> + Send + 'a>> {
        Box::pin(self.hooked(request))
    }
}
