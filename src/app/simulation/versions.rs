//! A device and its parent of adjacent versions: one may know the first version of messages only.

use super::scenarios::{FIRST, SECOND, app, in_tree, named, push};
use super::*;
use crate::types::connected_registry::ConnectionState;

const V1: &str = "application/vnd.skerry.gateway.v1+postcard";
const V2: &str = "application/vnd.skerry.gateway.v2+postcard";

/// Stands between a device and the gateway, and sees what they say.
#[derive(Default)]
pub(super) struct Versions {
    child_is_old: AtomicBool,
    parent_is_old: AtomicBool,
    /// The last part of each call, the type of its body, and the type of the answer's.
    seen: Mutex<Vec<[String; 3]>>,
}

impl Versions {
    fn are_old(&self, (child, parent): (bool, bool)) {
        self.child_is_old.store(child, Ordering::Relaxed);
        self.parent_is_old.store(parent, Ordering::Relaxed);
    }

    /// What was said since this was asked last, of the calls that it matters for.
    fn seen(&self) -> Vec<[String; 3]> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    pub(super) async fn handle(&self, gateway: &Gateway, request: &mut Request) -> Reply {
        let call = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        let sent = request.header("content-type").unwrap_or_default().to_owned();
        let (child_is_old, parent_is_old) =
            (self.child_is_old.load(Ordering::Relaxed), self.parent_is_old.load(Ordering::Relaxed));
        if parent_is_old {
            // It reads whatever comes as the first version, and answers in that.
            request.headers.retain(|(name, _)| name != "content-type" && name != "accept");
        }
        if child_is_old {
            request.headers.retain(|(name, _)| name != "accept");
            request.headers.push(("accept".to_owned(), V1.to_owned()));
        }
        let reply = gateway.handle(request).await;
        let answer = reply.headers.iter().find(|(name, _)| *name == "content-type");
        let answered = answer.map(|(_, value)| value.clone()).unwrap_or_default();
        if reply.status < 300 {
            self.seen.lock().unwrap().push([call, sent, answered]);
        }
        reply
    }
}

/// What a device is told and tells in a session.
async fn session(tree: &Tree, engine: &Engine, tag: &str, number: u64) {
    let (root, device) = (&tree.world.root, &tree.world.device());
    push(root, &[tag], number).await;
    // Its desired state is another one then.
    grant(root, &app(), false).await;
    grant(root, &app(), true).await;
    let pattern = format!("team/{tag}").parse().unwrap();
    let name = "dock01".parse().unwrap();
    root.permissions_update(name, vec![pattern], Vec::new()).await.unwrap();
    engine.begin_once().await.unwrap();
    engine.pull_once().await.unwrap();
    device.request_reconcile().await.unwrap();
    engine.pull_once().await.unwrap();
    assert_eq!(named(device, tag), named(root, tag), "{tag}");
    let mirrored = Scope::of_config(&device.self_config().unwrap().unwrap());
    assert!(mirrored.covers(&format!("team/{tag}").parse().unwrap()), "{tag}");
    engine.report_once().await.unwrap();
    let told = root.status(&"dock01".parse().unwrap()).unwrap().unwrap().report;
    assert_eq!(told.login_server, "dock.example:5000");
    assert_eq!(told.state, ConnectionState::Online);
}

#[test]
fn f202_neighbours_of_both_versions_understand_each_other() {
    for ((child, parent), version) in
        [((false, false), V2), ((true, false), V1), ((false, true), V1), ((true, true), V1)]
    {
        in_tree(async |tree, _| {
            let versions = &tree.world.versions;
            versions.are_old((child, parent));
            versions.seen();
            let engine = tree.start().await;
            session(tree, &engine, "one", FIRST).await;
            let seen = versions.seen();
            let who = format!("child is old: {child}, parent is old: {parent}: {seen:#?}");
            let of = |call: &str| seen.iter().filter(|[name, ..]| name == call).collect::<Vec<_>>();
            for call in ["activation", "config", "messages", "app0"] {
                assert!(!of(call).is_empty(), "{call}: {who}");
                assert!(of(call).iter().all(|[.., answer]| answer == version), "{call}: {who}");
            }
            // Nothing is known of the parent when a device activates itself.
            assert!(of("activation").iter().all(|[_, sent, _]| sent == V1), "{who}");
            assert!(!of("status").is_empty(), "{who}");
            assert!(of("status").iter().all(|[_, sent, _]| sent == version), "{who}");
        });
    }
}

#[test]
fn f202_a_neighbour_may_be_of_another_version_at_any_time() {
    in_tree(async |tree, engine| {
        let versions = &tree.world.versions;
        let told = || {
            let seen = versions.seen();
            let status = seen.into_iter().rfind(|[name, ..]| name == "status");
            status.map(|[_, sent, _]| sent)
        };
        session(tree, engine, "one", FIRST).await;
        assert_eq!(told().as_deref(), Some(V2));
        // In the midst of a session a parent of the earlier version takes the place of this one: it
        // cannot read what comes, and reads what comes next.
        versions.are_old((false, true));
        let refused = engine.report_once().await;
        assert!(refused.is_err(), "{refused:?}");
        assert_eq!(told(), None);
        engine.report_once().await.unwrap();
        assert_eq!(told().as_deref(), Some(V1));
        versions.are_old((false, false));
        session(tree, engine, "two", SECOND).await;
        assert_eq!(told().as_deref(), Some(V2));
        // The parent was updated, and the session goes on.
        versions.are_old((false, true));
        engine.begin_once().await.unwrap();
        versions.are_old((false, false));
        engine.report_once().await.unwrap();
        assert_eq!(told().as_deref(), Some(V1));
    });
}
