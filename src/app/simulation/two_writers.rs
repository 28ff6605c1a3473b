//! A writer at the device and another one at its parent. Which of two changes wins is for the rules
//! of conflicts to say; here both sides must agree in the end, by what the parent tells alone,
//! without a full comparison.

use super::scenarios::{FIRST, SECOND, THIRD, app, in_tree, named, names, push, rest};
use super::*;
use crate::store::registry::conflicts::conflict_tag;

/// Seeds of an ordinary run.
const SEEDS: u64 = 40;

impl World {
    /// One change by a client of the device or of the parent.
    pub(super) async fn scribble(&self) {
        let (store, place) = match self.dice.roll(2) {
            0 => (&self.device(), "device"),
            _ => (&self.root, "root"),
        };
        let app = repository(self.dice.roll(REPOSITORIES));
        let tag: Tag = format!("v{}", self.dice.roll(TAGS)).parse().unwrap();
        let number = self.dice.roll(MANIFESTS + INDEXES);
        let (client, digest) = (Origin::Client, digest_of(&manifest(number)));
        let short = &digest.hex()[..6];
        let done = match self.dice.roll(10) {
            0..=5 => {
                let put = store_push(store, &app, std::slice::from_ref(&tag), number, client).await;
                format!("push {app}:{tag} {short}: {put:?}")
            }
            6 => {
                let put = store_push(store, &app, &[], number, client).await;
                format!("push {app}@{short}: {put:?}")
            }
            7 | 8 => {
                let was = store.delete_tag(&app, &tag, Precondition::None, &client).await;
                format!("delete {app}:{tag}: {}", was.is_ok())
            }
            _ => {
                let was = store.delete_manifest(&app, &digest, &client).await;
                format!("delete {app}@{short}: {}", was.is_ok())
            }
        };
        self.note(format!("  {place}: {done}"));
    }

    /// The tags of one side, each with how much is there of what it names.
    fn complete(&self, store: &Store) -> BTreeMap<(RepositoryName, Tag), (Digest, usize)> {
        let there = manifests(store);
        let parts = |app: &RepositoryName, digest: &Digest| {
            let row = store.manifest(app, digest).unwrap().unwrap();
            let named = row.named_manifests();
            named.filter(|part| there.contains(&(app.clone(), (*part).clone()))).count()
        };
        let all = tags(store).into_iter();
        all.map(|(key, digest)| {
            let parts = parts(&key.0, &digest);
            (key, (digest, parts))
        })
        .collect()
    }
}

async fn sync(engine: &Engine, roll: u64) -> Result<(), SyncError> {
    match roll {
        10..=13 => engine.push_once().await,
        14..=17 => engine.pull_once().await,
        _ => {
            let both = smol::future::zip(engine.pull_once(), engine.push_once()).await;
            both.0.and(both.1)
        }
    }
}

async fn run(spawner: Spawner, seed: u64) {
    let tree = tree(spawner, seed).await;
    let (world, hands) = (&tree.world, &tree.hands);
    let device = &world.device();
    world.two_writers.store(true, Ordering::Relaxed);
    let mut now = tree.start().await;
    now.pull_once().await.unwrap();
    world.calm.store(false, Ordering::Relaxed);
    for step in 0..STEPS {
        let roll = world.dice.roll(20);
        match roll {
            0..=7 => world.scribble().await,
            8 => device.request_reconcile().await.unwrap(),
            9 => drop(hands.0.fetch_add(1 + world.dice.roll(4000), Ordering::Relaxed)),
            _ => {
                world.note(format!("{step}: sync"));
                if !until_dark(world, Box::pin(sync(&now, roll))).await {
                    world.note(format!("{step}: the device starts anew"));
                    now = tree.start().await;
                }
            }
        }
    }
    world.calm.store(true, Ordering::Relaxed);
    world.note("calm".to_owned());
    // What indexes need that were pushed to the other side.
    for (app, number) in (0..REPOSITORIES).flat_map(|app| (0..MANIFESTS).map(move |n| (app, n))) {
        store_push(device, &repository(app), &[], number, Origin::Client).await;
    }
    let mut rounds = 0;
    loop {
        let pushed = now.push_once().await;
        let pulled = now.pull_once().await;
        hands.0.fetch_add(90_000, Ordering::Relaxed);
        let waits = device.outbox(9).unwrap();
        let (here, there) = (world.complete(device), world.complete(&world.root));
        if waits.is_empty() && device.refused_changes(9).unwrap().is_empty() && here == there {
            return;
        }
        rounds += 1;
        if rounds > ROUNDS_MAX {
            let log = world.told.lock().unwrap().log.join("\n");
            let (here, there) = (shown(&tags(device)), shown(&tags(&world.root)));
            panic!(
                "seed {seed}: {pulled:?} {pushed:?} {waits:?}\ndevice {here}\nroot {there}\n{log}"
            );
        }
    }
}

#[test]
fn f119_f130_two_writers_and_their_registries_agree_in_the_end() {
    for seed in seeds(SEEDS) {
        let spawner = Spawner::new();
        boxed(&spawner, run(spawner.clone(), seed));
    }
}

/// The conflict tag of a conflict tag that is as long as tags may be is another one.
#[test]
fn f130_a_conflict_over_a_conflict_tag_as_long_as_tags_may_be_ends() {
    in_tree(async |tree, engine| {
        let (root, device) = (&tree.world.root, &tree.world.device());
        let long = "t".repeat(110);
        push(root, &[&long], FIRST).await;
        engine.pull_once().await.unwrap();
        push(device, &[&long], SECOND).await;
        push(root, &[&long], THIRD).await;
        let mut kept = names(&[&long]).remove(0);
        let second = digest_of(&manifest(SECOND));
        // Somebody at the root uses the names of the first conflict tags before they arrive.
        for _ in 0..2 {
            kept = conflict_tag(&kept, &"dock01".parse().unwrap(), &second).unwrap();
            push(root, &[kept.as_str()], THIRD).await;
        }
        let before = tree.world.requests.load(Ordering::Relaxed);
        for _ in 0..3 {
            engine.push_once().await.unwrap();
        }
        let requests = tree.world.requests.load(Ordering::Relaxed) - before;
        assert!(requests < 100, "{requests} requests in three rounds");
        assert_eq!(device.outbox(9).unwrap(), []);
        kept = conflict_tag(&kept, &"dock01".parse().unwrap(), &second).unwrap();
        assert_eq!(named(root, kept.as_str()), Some(second));
    });
}

/// Symptom: a tag was gone at both sides, but for a conflict tag. Cause: a removal that was made
/// here first took it along at the parent, which had moved it to what goes; the push behind it
/// found nothing there, and nothing told that this was our doing.
#[test]
fn f130_f174_a_push_behind_a_removal_has_the_tag_that_the_removal_took_along() {
    for is_delivered_first in [false, true] {
        in_tree(async |tree, engine| {
            let (root, device) = (&tree.world.root, &tree.world.device());
            push(root, &["v1"], FIRST).await;
            push(root, &["x"], SECOND).await;
            engine.pull_once().await.unwrap();
            push(root, &["v1"], SECOND).await;
            let second = digest_of(&manifest(SECOND));
            device.delete_manifest(&app(), &second, &Origin::Client).await.unwrap();
            if is_delivered_first {
                engine.push_once().await.unwrap();
                assert_eq!(named(root, "v1"), None, "gone with its manifest");
            }
            push(device, &["v1"], THIRD).await;
            engine.push_once().await.unwrap();
            rest(tree, engine).await;
            for store in [root, device] {
                assert_eq!(named(store, "v1"), Some(digest_of(&manifest(THIRD))));
                assert_eq!(store.tags(&app(), None, 9).unwrap().len(), 1, "no conflict tag");
            }
            // What is removed there once this node has heard stays so.
            let v1 = names(&["v1"]).remove(0);
            root.delete_tag(&app(), &v1, Precondition::None, &Origin::Client).await.unwrap();
            push(device, &["v1"], FIRST).await;
            rest(tree, engine).await;
            assert_eq!((named(root, "v1"), named(device, "v1")), (None, None));
        });
    }
}
