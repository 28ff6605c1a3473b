//! A workload of every kind of change, cut off at every call to the disk.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use super::gc::{HOUR, Hands, OPTIONS, digest_of, name};
use super::*;
use crate::store::registry::manifests::testing::child;
use crate::store::replica::outbox::{Origin, OutboxChange, OutboxEntry};
use crate::store::rows::Kind;
use crate::store::tree::connected_registries::Settings;
use crate::store::tree::creation::NewConnectedRegistry;
use crate::store::tree::scope_maps::ScopeMapUpdate;
use crate::store::tree::tokens::{NewToken, TokenGrants};
use crate::sys::memory_disk::Survivors;
use crate::types::Offered;
use crate::types::connected_registry::Activation;
use crate::types::message::{Batch, Item, Message};
use crate::types::{Manifest, UnixSeconds, media};

type View = BTreeMap<Vec<u8>, Vec<u8>>;
type Keys = BTreeSet<Vec<u8>>;
pub(super) type Act = Box<dyn Fn(&mut Node) -> Result<(), StoreError>>;
type Steps = Vec<(String, Act)>;

/// What one thread has found wrong is enough.
struct StopsOthers<'a>(&'a AtomicU64);

impl Drop for StopsOthers<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(u64::MAX / 2, Ordering::Relaxed);
        }
    }
}

/// Steps after one that failed until the power goes, when it goes soon: before all that was left
/// undone is made durable by the way.
const STEPS_UNTIL_DARK: usize = 3;

/// A store on a disk, as one run of the program has it.
pub(super) struct Node {
    disk: MemoryDisk,
    hands: Arc<Hands>,
    store: Option<Store>,
}

impl Node {
    fn on(disk: &MemoryDisk) -> Node {
        Node { disk: disk.clone(), hands: Arc::default(), store: None }
    }

    fn open(&mut self) -> Result<(), StoreError> {
        let sys = Sys { clock: self.hands.clone(), ..sys_on(&self.disk) };
        let mut options = options(Path::new("/s"), IndexKind::Map);
        (options.segment_bytes, options.checkpoint_bytes_min) = (2000, 5000);
        options.merge_bytes = 1500;
        let opened = Store::open(sys, options);
        self.store = Some(opened.map_err(|error| StoreError::Io(error.to_string()))?.0);
        Ok(())
    }

    /// A node whose store somebody else has opened.
    pub(super) fn with(disk: &MemoryDisk, hands: Arc<Hands>, store: Store) -> Node {
        Node { disk: disk.clone(), hands, store: Some(store) }
    }

    pub(super) fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    pub(super) fn view(&self) -> View {
        let rows = self.store().look_up(|index| index.scan(&[], None, usize::MAX));
        rows.unwrap().into_iter().collect()
    }
}

fn bytes(round: u32, len: usize) -> Vec<u8> {
    format!("content of round {round} ").bytes().cycle().take(len).collect()
}

fn manifest(round: u32) -> (Vec<u8>, Digest) {
    let layers = [bytes(round, 300), bytes(round, 90_000)].map(|bytes| digest_of(&bytes));
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{}","size":300}},
            "layers":[{{"mediaType":"a/c","digest":"{}","size":90000}}]}}"#,
        layers[0], layers[1]
    );
    (text.clone().into_bytes(), digest_of(text.as_bytes()))
}

fn cursor(sequence: u64) -> Cursor {
    Cursor { epoch: 7, sequence }
}

/// Every kind of record, without what depends on when threads run.
pub(super) fn first_half() -> Steps {
    some_rounds(0..3)
}

/// The same, after what the first half left.
pub(super) fn second_half() -> Steps {
    some_rounds(3..5)
}

fn some_rounds(rounds: std::ops::Range<u32>) -> Steps {
    let mut steps = Steps::new();
    for round in rounds {
        let mut add = |what: &str, act: Act| steps.push((format!("{what} {round}"), act));
        push_steps(round, &mut add);
        management_steps(round, &mut add);
        message_steps(round, &mut add);
    }
    steps
}

/// Each step makes at most one record, so that it is wholly there or not at all. Nobody pushes to a
/// store that has never noted anything: whoever pushes has a token.
fn steps() -> Steps {
    let mut steps: Steps = vec![("open".into(), Box::new(Node::open))];
    for round in 0..5 {
        let mut add = |what: &str, act: Act| steps.push((format!("{what} {round}"), act));
        management_steps(round, &mut add);
        push_steps(round, &mut |what: &str, act: Act| {
            let by_a_token = move |n: &mut Node| match n.store().sequence() {
                0 => Err(StoreError::Unavailable),
                _ => act(n),
            };
            add(what, Box::new(by_a_token));
        });
        message_steps(round, &mut add);
        add("settle", Box::new(|n| block_on(n.store().settle())));
        for number in 0..12 {
            let act = move |n: &mut Node| put(n.store(), number, &format!("{round} {number}"));
            add("row", Box::new(act));
        }
        if round > 0 {
            cleaning_steps(round - 1, &mut add);
        }
        if round % 2 == 1 {
            let scrub = |n: &mut Node| {
                block_on(n.store().scrub(0))?;
                // Its progress is noted if it can be.
                if n.store().read_only() { Err(StoreError::Unavailable) } else { Ok(()) }
            };
            add("scrub", Box::new(scrub));
            add("close", Box::new(|n| block_on(n.store().close())));
            let reopen = |n: &mut Node| {
                n.store = None;
                n.open()
            };
            add("reopen", Box::new(reopen));
        }
    }
    steps
}

fn push_steps(round: u32, add: &mut impl FnMut(&str, Act)) {
    add(
        "blob in one piece",
        Box::new(move |n| {
            let content = bytes(round, 300);
            block_on(n.store().blob_put(&digest_of(&content), content)).map(|_| ())
        }),
    );
    add(
        "blob in chunks",
        Box::new(move |n| {
            block_on(async {
                let content = bytes(round, 90_000);
                let repository = name("app");
                let mut upload = n.store().upload_start(&repository, "").await?;
                let id = upload.id().to_owned();
                upload.write(&content[..40_000]).await?;
                upload.pause().await?;
                let mut upload = n.store().upload_resume(&repository, &id).await?;
                upload.write(&content[40_000..]).await?;
                upload.finish(&digest_of(&content)).await.map(|_| ())
            })
        }),
    );
    for len in [300, 90_000] {
        let digest = digest_of(&bytes(round, len));
        // As a push that finds the content there already, also when an earlier one failed.
        let act = move |n: &mut Node| {
            let open = block_on(n.store().blob_open(&digest))?.ok_or(StoreError::NotFound)?;
            block_on(n.store().link_blob(&name("app"), &open.lease, open.len))
        };
        add("link", Box::new(act));
    }
    add(
        "manifest and tag",
        Box::new(move |n| {
            let (text, digest) = manifest(round);
            let put = PutManifest {
                content: block_on(n.store().blob_put(&digest, text.clone()))?,
                media_type: media::OCI_MANIFEST.to_owned(),
                bytes_len: text.len() as u64,
                parsed: Manifest::parse(Some(media::OCI_MANIFEST), &text).unwrap(),
                tags: vec!["latest".parse().unwrap(), format!("v{round}").parse().unwrap()],
                precondition: Precondition::None,
                required: Required::All,
                origin: Origin::Client,
            };
            match block_on(n.store().put_manifest(&name("app"), put))? {
                PutOutcome::Stored => Ok(()),
                other => Err(StoreError::Invalid(format!("{other:?}"))),
            }
        }),
    );
}

fn management_steps(round: u32, add: &mut impl FnMut(&str, Act)) {
    let map = |round: u32| format!("map-{round}").parse().unwrap();
    add(
        "scope map",
        Box::new(move |n| {
            let grants = vec!["repositories/app/content/read".parse().unwrap()];
            let created = n.store().scope_map_create(map(round), "for a test".to_owned(), grants);
            block_on(created).map(|_| ())
        }),
    );
    add(
        "scope map update",
        Box::new(move |n| {
            let update = ScopeMapUpdate { description: Some("new".into()), ..Default::default() };
            block_on(n.store().scope_map_update(map(round), update)).map(|_| ())
        }),
    );
    let token = |round: u32| format!("token-{round}").parse().unwrap();
    add(
        "token",
        Box::new(move |n| {
            let new = NewToken {
                name: token(round),
                grants: TokenGrants::Map(map(round)),
                enabled: true,
                passwords: true,
                expires: None,
            };
            block_on(n.store().token_create(new)).map(|_| ())
        }),
    );
    if round > 0 {
        let act = move |n: &mut Node| block_on(n.store().token_delete(token(round - 1)));
        add("token delete", Box::new(act));
    }
    let node = move |round: u32| format!("docks{round}").parse().unwrap();
    add(
        "connected registry",
        Box::new(move |n| {
            let new = NewConnectedRegistry {
                name: node(round),
                mode: None,
                parent: (round > 0).then(|| node(round - 1)),
                repositories: vec!["app".parse().unwrap()],
                sync_token: None,
                client_tokens: Vec::new(),
                settings: Settings::default(),
            };
            block_on(n.store().connected_registry_create(new)).map(|_| ())
        }),
    );
    add(
        "activation",
        Box::new(move |n| {
            let active = Activation { epoch: 1, instance_id: "one".to_owned(), at: UnixSeconds(9) };
            block_on(n.store().record_activation(node(round), active))
        }),
    );
}

fn message_steps(round: u32, add: &mut impl FnMut(&str, Act)) {
    let at = u64::from(round) * 10;
    add("reconciled", Box::new(move |n| block_on(n.store().reconciled(cursor(at)))));
    add(
        "messages",
        Box::new(move |n| {
            let item = |sequence| Item {
                sequence,
                message: Message::ConfigChanged { name: "docks1".parse().unwrap() },
            };
            let items = vec![item(at + 1), item(at + 2)];
            let batch = Batch { from: cursor(at), through: cursor(at + 5), items };
            block_on(n.store().receive(batch))
        }),
    );
    add(
        "messages applied",
        Box::new(|n| {
            let done = n.store().inbox(1)?.into_iter().map(|(id, _)| id).collect();
            block_on(n.store().inbox_done(done))
        }),
    );
    add(
        "on its way up",
        Box::new(move |n| {
            let Origin::Child(delivery) = child(u64::from(round)) else { unreachable!() };
            let id = delivery.id;
            let change = OutboxChange::ManifestDeleted { digest: manifest(round).1 };
            let entry = OutboxEntry {
                id,
                repository: name("app"),
                change,
                unheard: Vec::new(),
                offered: Offered::No,
                instead_of: vec![],
                anew: false,
            };
            let key = rows::key(Kind::Outbox, &[&u64::from(round).to_be_bytes()]);
            block_on(n.store().commit(move |txn| txn.put(key, &entry)))
        }),
    );
    add(
        "taken by the parent",
        Box::new(move |n| block_on(n.store().outbox_delivered(u64::from(round), 0)).map(|_| ())),
    );
}

fn cleaning_steps(old: u32, add: &mut impl FnMut(&str, Act)) {
    add(
        "tag delete",
        Box::new(move |n| {
            let tag = format!("v{old}").parse().unwrap();
            let app = name("app");
            let deleted = n.store().delete_tag(&app, &tag, Precondition::None, &Origin::Client);
            block_on(deleted).map(|_| ())
        }),
    );
    add(
        "manifest delete",
        Box::new(move |n| {
            let digest = manifest(old).1;
            block_on(n.store().delete_manifest(&name("app"), &digest, &Origin::Client))
        }),
    );
    for _ in 0..2 {
        add(
            "garbage",
            Box::new(|n| {
                n.hands.pass(2 * HOUR);
                block_on(n.store().collect_garbage(OPTIONS)).map(|_| ())
            }),
        );
    }
}

fn changed(before: &View, after: &View) -> Keys {
    let all = before.keys().chain(after.keys());
    all.filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}

/// What each step changes, from a run that nothing disturbs, and the calls to the disk in all.
fn undisturbed(steps: &[(String, Act)]) -> (Vec<Keys>, u64) {
    let disk = MemoryDisk::new();
    let mut node = Node::on(&disk);
    let mut before = View::new();
    let mut changes = Vec::new();
    for (what, act) in steps {
        act(&mut node).unwrap_or_else(|error| panic!("{what}: {error}"));
        let after = node.view();
        changes.push(changed(&before, &after));
        before = after;
    }
    (changes, disk.calls())
}

/// Goes on as long as the disk lets it; what was acknowledged last, and the steps that failed.
fn disturbed(disk: &MemoryDisk, steps: &[(String, Act)]) -> (View, Vec<usize>) {
    let mut node = Node::on(disk);
    disturb(&mut node, steps, usize::MAX)
}

/// `further`: steps to go on for after the first that failed.
fn disturb(node: &mut Node, steps: &[(String, Act)], further: usize) -> (View, Vec<usize>) {
    let (mut acknowledged, mut failed) = (View::new(), Vec::new());
    for (number, (_, act)) in steps.iter().enumerate() {
        if failed.first().is_some_and(|first| number - first > further) {
            break;
        }
        match act(node) {
            Ok(()) => acknowledged = node.view(),
            Err(_) => failed.push(number),
        }
        if node.store.is_none() {
            break;
        }
    }
    (acknowledged, failed)
}

/// The store opens, and holds what was acknowledged, at most one failed step more, and the right
/// content for every row and every name.
fn check(disk: &MemoryDisk, acknowledged: &View, failed: &[usize], changes: &[Keys], what: &str) {
    let mut node = Node::on(disk);
    node.open().unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
    assert_eq!(node.store().loss(), None, "{what}: nothing acknowledged is lost");
    let found = node.view();
    let difference = changed(acknowledged, &found);
    let explained = difference.is_empty() || failed.iter().any(|step| changes[*step] == difference);
    let keys: Vec<_> = difference.iter().map(|key| String::from_utf8_lossy(key)).collect();
    assert!(explained, "{what}: rows differ: {keys:?}");
    for key in found.keys() {
        if key[0] == Kind::Blob as u8 || key[0] == Kind::Manifest as u8 {
            let (_, digest) = split_key(key).unwrap();
            let content = block_on(node.store().blob_read(&digest));
            assert!(matches!(content, Ok(Some(_))), "{what}: {digest}: {content:?}");
        }
    }
    check_accounts(&node, what);
    let top = Path::new("/s/blobs/sha256");
    for fan_out in disk.list(top).unwrap_or_default() {
        for entry in disk.list(&top.join(&fan_out.name)).unwrap() {
            let content = disk.read(&top.join(&fan_out.name).join(&entry.name), u64::MAX).unwrap();
            assert_eq!(digest_of(&content).hex(), entry.name, "{what}");
        }
    }
    put(node.store(), 500, "life goes on").unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// What a repository is said to hold is what its links and manifests come to.
fn check_accounts(node: &Node, what: &str) {
    for repository in node.store().repositories(None, 10).unwrap() {
        let said = node.store().repository(&repository).unwrap().unwrap().bytes;
        let part = repository.as_str().as_bytes();
        let links = node.store().scan::<BlobLink>(&rows::prefix(Kind::Blob, &[part]), None, 1000);
        let manifests = node.store().manifests(&repository, None, 1000).unwrap();
        let links: u64 = links.unwrap().iter().map(|(_, link)| link.size).sum();
        let manifests: u64 = manifests.iter().map(|(_, row)| row.size).sum();
        assert_eq!(said, links + manifests, "{what}: {repository}");
    }
}

fn kind_of(path: &Path) -> &'static str {
    let text = path.to_string_lossy();
    let kinds = [
        (".ckpt", "checkpoint"),
        (".log", "segment"),
        ("/blobs", "blobs"),
        ("/uploads", "uploads"),
        ("/identity", "identity"),
        ("/journal", "journal"),
        ("ballast", "ballast"),
        ("format", "format"),
    ];
    kinds.into_iter().find(|(part, _)| text.contains(part)).map_or("state", |(_, kind)| kind)
}

/// The calls that were struck, by call and kind of file.
type Struck = Mutex<BTreeMap<(&'static str, &'static str), u64>>;

fn strike(call: u64, changes: &[Keys], struck: &Struck) -> usize {
    let steps = steps();
    let disk = MemoryDisk::new();
    disk.crash_at(call);
    let (acknowledged, failed) = disturbed(&disk, &steps);
    let hit = disk.struck();
    if let Some((what, path)) = &hit {
        *struck.lock().unwrap().entry((what, kind_of(path))).or_default() += 1;
    }
    let variants =
        [Survivors::Synced, Survivors::Everything, Survivors::Torn(call), Survivors::Torn(!call)];
    for survivors in variants {
        let what = format!("power cut at call {call} ({hit:?}), {survivors:?}");
        check(&disk.after_crash(survivors), &acknowledged, &failed, changes, &what);
    }
    let disk = MemoryDisk::new();
    disk.fail_at(call);
    let (acknowledged, failed) = disturbed(&disk, &steps);
    for survivors in [Survivors::Synced, Survivors::Everything] {
        let what = format!("call {call} failed ({:?}), {survivors:?}", disk.struck());
        check(&disk.after_crash(survivors), &acknowledged, &failed, changes, &what);
    }
    let disk = MemoryDisk::new();
    disk.fail_at(call);
    let (acknowledged, failed) = disturb(&mut Node::on(&disk), &steps, STEPS_UNTIL_DARK);
    let what = format!("call {call} failed ({:?}), power cut soon after", disk.struck());
    check(&disk.after_crash(Survivors::Synced), &acknowledged, &failed, changes, &what);
    fill_up(call, &steps, changes);
    variants.len() + 4
}

/// The disk is full from the `call`-th call on. When there is space again, the store goes on
/// without a restart.
fn fill_up(call: u64, steps: &[(String, Act)], changes: &[Keys]) {
    let disk = MemoryDisk::new();
    disk.full_at(call);
    let mut node = Node::on(&disk);
    let (mut acknowledged, failed) = disturb(&mut node, steps, usize::MAX);
    let what = format!("disk full from call {call}");
    disk.set_full(false);
    node.hands.pass(HOUR);
    if node.store.is_some() && !node.store().read_only() {
        assert_eq!(node.view(), acknowledged, "{what}");
        put(node.store(), 500, "there is space").unwrap_or_else(|e| panic!("{what}: {e}"));
        acknowledged = node.view();
    }
    drop(node);
    check(&disk.after_crash(Survivors::Synced), &acknowledged, &failed, changes, &what);
}

#[test]
#[allow(clippy::print_stderr, reason = "the counts are for people")]
#[allow(clippy::disallowed_methods, reason = "a test makes its own threads")]
fn f112_f116_every_crash_point_keeps_what_was_acknowledged() {
    let (changes, calls) = undisturbed(&steps());
    let (next, points, struck) = (AtomicU64::new(1), AtomicUsize::new(0), Struck::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _stops = StopsOthers(&next);
                loop {
                    // Threads of the store make the calls of a run a few more or less.
                    let call = next.fetch_add(1, Ordering::Relaxed);
                    if call > calls {
                        return;
                    }
                    points.fetch_add(strike(call, &changes, &struck), Ordering::Relaxed);
                }
            });
        }
    });
    let points = points.load(Ordering::Relaxed);
    for ((call, kind), count) in &*struck.lock().unwrap() {
        eprintln!("{count:5} x {call} {kind}");
    }
    eprintln!("{points} crash points at {calls} calls, {} steps", changes.len());
    assert!(points >= 2000, "only {points} crash points");
}
