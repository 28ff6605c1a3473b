//! Clients that push, move and delete at once, and the book of what they were told: when the node
//! has died and come back, or its disk was full, all of it must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::http::{Answer, bearer, send, token};
use super::image::{self, Image, MANIFEST};

const REPOSITORY: &str = "app";
const CLIENTS: u64 = 3;
/// Tags of each client.
const TAGS: u64 = 3;
/// Steps of a client in one round, each with a seed of its own.
const STEPS_MAX: u64 = 1_000_000;
/// Sizes of the layers of an image.
const LAYERS: &[usize] = &[3000, 70_000];
/// Images that each client pushes again and again, also after it has deleted them.
const REPEATED: u64 = 3;
const SOON: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

pub struct Ledger(Mutex<Book>);

struct Book {
    /// What nothing refers to may be collected as garbage after so long.
    grace: Duration,
    tags: BTreeMap<String, Tag>,
    images: BTreeMap<String, Entry>,
    /// Manifests whose deletion was acknowledged.
    deleted: BTreeSet<String>,
    /// Blobs and manifests that were acknowledged since the last audit, and when their push began.
    fresh: BTreeMap<String, Instant>,
    acknowledged: u64,
    refused: u64,
}

/// What a tag may name: what was acknowledged last, and what was under way when the node died.
#[derive(Default)]
struct Tag {
    acknowledged: Option<String>,
    under_way: Option<Option<String>>,
}

struct Entry {
    manifest: Vec<u8>,
    /// What must be there with it.
    blobs: Vec<String>,
    /// An external layer, until the manifest is acknowledged. It may be garbage before: then the
    /// manifest is accepted without it.
    external: Option<String>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Pushing,
    There,
    Deleting,
}

enum Step {
    Push(Image),
    Move(String),
    DeleteTag,
    DeleteImage(String),
}

/// Which acknowledged content an audit reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Audit {
    /// What the tags name.
    Tags,
    /// That, and what came since the last audit.
    Fresh,
    All,
}

impl Ledger {
    /// A book of a node with this `gc.grace`.
    pub fn with_grace(grace: Duration) -> Ledger {
        Ledger(Mutex::new(Book {
            grace,
            tags: BTreeMap::new(),
            images: BTreeMap::new(),
            deleted: BTreeSet::new(),
            fresh: BTreeMap::new(),
            acknowledged: 0,
            refused: 0,
        }))
    }

    /// How many pushes, moves and deletes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.hold().acknowledged
    }

    /// How many were refused.
    pub fn refused(&self) -> u64 {
        self.hold().refused
    }

    pub fn tags(&self) -> usize {
        self.hold().tags.len()
    }

    /// Puts the node under load from several connections, until `end` has ended the node.
    pub fn load(&self, address: &str, user: (&str, &str), round: u64, end: impl FnOnce()) {
        self.press(address, user, round, &[], end);
    }

    /// Puts the node under load while `meanwhile` runs. Clients go on after these refusals, which
    /// must have changed nothing.
    pub fn press(
        &self,
        address: &str,
        user: (&str, &str),
        round: u64,
        refusals: &[u16],
        meanwhile: impl FnOnce(),
    ) {
        let scope = format!("repository:{REPOSITORY}:pull,push,delete");
        let token = token(address, user.0, user.1, &[&scope]).unwrap();
        let authorization = format!("Bearer {token}");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let client = Client {
                    book: &self.0,
                    address,
                    authorization: &authorization,
                    name: format!("p{number}"),
                    repeated: u64::MAX / 2000 - number * REPEATED,
                    seed: (round * CLIENTS + number) * STEPS_MAX,
                    refusals,
                    stop: &stop,
                };
                scope.spawn(move || client.run());
            }
            meanwhile();
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// What was acknowledged and does not hold. The book goes on from what is there.
    pub fn audit(&self, address: &str, user: (&str, &str), what: Audit) -> Vec<String> {
        let scope = format!("repository:{REPOSITORY}:pull");
        let token = match token(address, user.0, user.1, &[&scope]) {
            Ok(token) => token,
            Err(answer) => return vec![format!("the client cannot log in: {answer:?}")],
        };
        let mut auditor = Auditor { address, token: &token, lost: Vec::new() };
        let mut book = self.hold();
        book.forget_garbage();
        let Book { grace, tags, images, fresh, .. } = &mut *book;
        for (name, tag) in tags {
            let Some(found) = auditor.tag(name, tag) else { continue };
            match images.get_mut(&found) {
                Some(entry) => {
                    if entry.state == State::Pushing {
                        entry.arrive(fresh, *grace);
                    }
                    // What a tag names is whole, acknowledged or not.
                    entry.blobs.iter().for_each(|blob| auditor.blob(blob));
                }
                None => auditor.lost.push(format!("the image {found} of tag {name}")),
            }
        }
        for digest in &book.deleted {
            if auditor.manifest(digest).is_some() {
                auditor.lost.push(format!("the deletion of {digest}"));
            }
        }
        if what == Audit::Tags {
            return auditor.lost;
        }
        let read_all = what == Audit::All;
        let fresh = std::mem::take(&mut book.fresh);
        let mut deleted = Vec::new();
        for (digest, entry) in &mut book.images {
            let found = match entry.state {
                State::There if !read_all && !fresh.contains_key(digest) => continue,
                State::Pushing => continue,
                State::There | State::Deleting => auditor.manifest(digest),
            };
            match (entry.state, found) {
                (_, Some(found)) if found == entry.manifest => entry.state = State::There,
                (State::Deleting, None) => deleted.push(digest.clone()),
                _ => auditor.lost.push(format!("manifest {digest}")),
            }
        }
        let blobs = book.images.values().filter(|entry| entry.state == State::There);
        let blobs: BTreeSet<&String> = blobs.flat_map(|entry| &entry.blobs).collect();
        let manifests = &book.images;
        let alone = fresh.keys().filter(|digest| !manifests.contains_key(*digest));
        for digest in blobs.iter().copied().filter(|_| read_all).chain(alone) {
            auditor.blob(digest);
        }
        let lost = auditor.lost;
        book.deleted.extend(deleted.iter().cloned());
        book.images
            .retain(|digest, entry| entry.state == State::There && !deleted.contains(digest));
        lost
    }

    /// Deletes all images that the last audit found, which makes garbage of their content.
    pub fn delete_all(&self, address: &str, user: (&str, &str)) {
        let scope = format!("repository:{REPOSITORY}:pull,delete");
        let token = token(address, user.0, user.1, &[&scope]).unwrap();
        let mut book = self.hold();
        for digest in std::mem::take(&mut book.images).into_keys() {
            let target = format!("/v2/{REPOSITORY}/manifests/{digest}");
            let answer = bearer(address, &token, "DELETE", &target, &[], b"");
            assert_eq!(answer.status, 202, "{digest}: {answer:?}");
            book.deleted.insert(digest);
        }
        for tag in book.tags.values_mut() {
            *tag = Tag::default();
        }
        book.fresh.clear();
    }

    fn hold(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }
}

impl Entry {
    /// Its manifest is there, and refers to its content from now on.
    fn arrive(&mut self, fresh: &BTreeMap<String, Instant>, grace: Duration) {
        self.state = State::There;
        let is_young = |begun: &Instant| begun.elapsed() < grace;
        let external = self.external.take();
        self.blobs.extend(external.filter(|blob| fresh.get(blob).is_some_and(is_young)));
    }
}

impl Book {
    /// What nothing refers to and may have been collected is not looked for.
    fn forget_garbage(&mut self) {
        let (grace, images) = (self.grace, &self.images);
        let there = |entry: &&Entry| entry.state != State::Pushing;
        let there = images.values().filter(there).flat_map(|entry| &entry.blobs);
        let there: BTreeSet<&String> = images.keys().chain(there).collect();
        self.fresh.retain(|digest, begun| there.contains(digest) || begun.elapsed() < grace);
    }
}

struct Auditor<'a> {
    address: &'a str,
    token: &'a str,
    lost: Vec<String>,
}

impl Auditor<'_> {
    fn get(&self, target: &str) -> Answer {
        let ask = || bearer(self.address, self.token, "GET", target, &[("accept", MANIFEST)], b"");
        again_while_unavailable(ask)
    }

    fn manifest(&mut self, reference: &str) -> Option<Vec<u8>> {
        let answer = self.get(&format!("/v2/{REPOSITORY}/manifests/{reference}"));
        if answer.status != 200 && answer.status != 404 {
            self.lost.push(format!("{reference}: {answer:?}"));
        }
        (answer.status == 200).then_some(answer.body)
    }

    fn blob(&mut self, digest: &str) {
        let answer = self.get(&format!("/v2/{REPOSITORY}/blobs/{digest}"));
        if answer.status != 200 || image::digest(&answer.body) != digest {
            self.lost.push(format!("blob {digest}: {answer:?}"));
        }
    }

    /// The image that the tag names.
    fn tag(&mut self, name: &str, tag: &mut Tag) -> Option<String> {
        let found = self.manifest(name).map(|manifest| image::digest(&manifest));
        if found != tag.acknowledged && Some(&found) != tag.under_way.as_ref() {
            let (was, meant) = (&tag.acknowledged, &tag.under_way);
            self.lost.push(format!("tag {name}: {was:?}, under way {meant:?}, found {found:?}"));
        }
        *tag = Tag { acknowledged: found.clone(), under_way: None };
        found
    }
}

/// Asks again as a client does that hears that the store is not available just now: an index that
/// failed on a full disk is built again in milliseconds, and nothing is lost by it. After `SOON`
/// the answer stands.
fn again_while_unavailable(ask: impl Fn() -> Answer) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = ask();
        let is_unavailable = answer.status == 503 && answer.error().1 == "store_unavailable";
        if !is_unavailable || begun.elapsed() > SOON {
            return answer;
        }
        std::thread::sleep(PAUSE);
    }
}

struct Client<'a> {
    book: &'a Mutex<Book>,
    address: &'a str,
    authorization: &'a str,
    name: String,
    /// Seed of the first image that is pushed repeatedly.
    repeated: u64,
    seed: u64,
    /// What may be answered instead; without any, the node is about to die.
    refusals: &'a [u16],
    stop: &'a AtomicBool,
}

impl Client<'_> {
    /// Works until the node answers no more.
    fn run(&self) {
        for number in 0.. {
            let tag = format!("{}-{}", self.name, number % TAGS);
            let step = self.plan(number, &tag);
            self.begin(&tag, &step);
            match self.carry_out(&tag, &step) {
                Ok((status, wanted)) if status == wanted => self.acknowledge(&tag, step),
                Ok((status, _)) if self.refusals.contains(&status) => self.give_up(&step),
                // Its layers were garbage before their manifest came.
                Ok((400, _)) if self.may_be_garbage(&step) => self.give_up(&step),
                Err(_) if self.refusals.is_empty() => return,
                other => panic!("{tag}, step {number}: {other:?}"),
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn plan(&self, number: u64, tag: &str) -> Step {
        let book = self.book.lock().unwrap();
        let named = book.tags.get(tag).and_then(|tag| tag.acknowledged.clone());
        let mut others = book.tags.iter().filter(|(name, _)| name.starts_with(&self.name));
        match (number % 8, named) {
            (3, _) => match others.find_map(|(_, other)| other.acknowledged.clone()) {
                Some(digest) => Step::Move(digest),
                None => self.push(number),
            },
            (1, _) => Step::Push(Image::new(self.repeated - number / 8 % REPEATED, LAYERS)),
            (5, Some(_)) => Step::DeleteTag,
            (7, Some(digest)) => Step::DeleteImage(digest),
            _ => self.push(number),
        }
    }

    fn push(&self, number: u64) -> Step {
        let image = Image::new(self.seed + number, LAYERS);
        Step::Push(if number % 4 == 2 { image.with_external_layer() } else { image })
    }

    fn begin(&self, tag: &str, step: &Step) {
        let mut book = self.book.lock().unwrap();
        let under_way = match step {
            Step::Push(image) => {
                let mut blobs: Vec<String> = image.blobs().map(|b| image::digest(b)).collect();
                let external = image.has_external_layer().then(|| blobs.remove(0));
                let manifest = image.manifest.clone();
                book.deleted.remove(&image.digest());
                let pushing = Entry { manifest, blobs, external, state: State::Pushing };
                // A push of what is there changes nothing of it.
                book.images.entry(image.digest()).or_insert(pushing);
                Some(image.digest())
            }
            Step::Move(digest) => Some(digest.clone()),
            Step::DeleteTag => None,
            Step::DeleteImage(digest) => {
                let entry = book.images.get_mut(digest).unwrap();
                entry.state = State::Deleting;
                let named = |tag: &&mut Tag| tag.acknowledged.as_ref() == Some(digest);
                for tag in book.tags.values_mut().filter(named) {
                    tag.under_way = Some(None);
                }
                return;
            }
        };
        book.tags.entry(tag.to_owned()).or_default().under_way = Some(under_way);
    }

    /// The status that ended a step, and the one that acknowledges it. A connection that breaks is
    /// an error.
    fn carry_out(&self, tag: &str, step: &Step) -> std::io::Result<(u16, u16)> {
        let delete = |reference: &str| {
            let answer = self.send("DELETE", &format!("manifests/{reference}"), &[], b"");
            Ok((answer?.status, 202))
        };
        let manifest = match step {
            Step::DeleteTag => return delete(tag),
            Step::DeleteImage(digest) => return delete(digest),
            Step::Push(image) => {
                for blob in image.blobs() {
                    let begun = Instant::now();
                    let status = self.push_blob(blob)?;
                    if status != 201 {
                        return Ok((status, 201));
                    }
                    self.book.lock().unwrap().fresh.insert(image::digest(blob), begun);
                }
                image.manifest.clone()
            }
            Step::Move(digest) => self.book.lock().unwrap().images[digest].manifest.clone(),
        };
        let headers = [("content-type", MANIFEST)];
        let answer = self.send("PUT", &format!("manifests/{tag}"), &headers, &manifest)?;
        Ok((answer.status, 201))
    }

    fn acknowledge(&self, tag: &str, step: Step) {
        let mut book = self.book.lock().unwrap();
        book.acknowledged += 1;
        let acknowledged = match step {
            Step::Push(image) => {
                let digest = image.digest();
                let Book { grace, images, fresh, .. } = &mut *book;
                images.get_mut(&digest).unwrap().arrive(fresh, *grace);
                fresh.insert(digest.clone(), Instant::now());
                Some(digest)
            }
            Step::Move(digest) => Some(digest),
            Step::DeleteTag => None,
            Step::DeleteImage(digest) => {
                let entry = book.images.remove(&digest).unwrap();
                for blob in &entry.blobs {
                    book.fresh.remove(blob);
                }
                book.fresh.remove(&digest);
                for tag in book.tags.values_mut() {
                    if tag.acknowledged.as_ref() == Some(&digest) {
                        *tag = Tag::default();
                    }
                }
                book.deleted.insert(digest);
                return;
            }
        };
        book.tags.insert(tag.to_owned(), Tag { acknowledged, under_way: None });
    }

    /// A refused step has changed nothing.
    fn give_up(&self, step: &Step) {
        let mut book = self.book.lock().unwrap();
        book.refused += 1;
        match step {
            Step::Push(image) => {
                let refused = |entry: &Entry| entry.state == State::Pushing;
                if book.images.get(&image.digest()).is_some_and(refused) {
                    book.images.remove(&image.digest());
                }
            }
            Step::DeleteImage(digest) => book.images.get_mut(digest).unwrap().state = State::There,
            Step::Move(_) | Step::DeleteTag => {}
        }
        for tag in book.tags.iter_mut().filter(|(name, _)| name.starts_with(&self.name)) {
            tag.1.under_way = None;
        }
    }

    /// Whether content of a push may have been collected before its manifest came.
    fn may_be_garbage(&self, step: &Step) -> bool {
        let Step::Push(image) = step else { return false };
        let book = self.book.lock().unwrap();
        let is_young = |blob: &Vec<u8>| {
            let begun = book.fresh.get(&image::digest(blob));
            begun.is_some_and(|begun| begun.elapsed() < book.grace)
        };
        !image.blobs().all(is_young)
    }

    fn push_blob(&self, blob: &[u8]) -> std::io::Result<u16> {
        let start = self.send("POST", "blobs/uploads/", &[], b"")?;
        let Some(location) = start.header("location") else { return Ok(start.status) };
        let target = format!("{location}?digest={}", image::digest(blob));
        let headers = [("authorization", self.authorization)];
        let status = send(self.address, "PUT", &target, &headers, blob)?.status;
        if status != 201 {
            // So many in so short a time would be too many open uploads.
            send(self.address, "DELETE", location, &headers, b"")?;
        }
        Ok(status)
    }

    fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut all = vec![("authorization", self.authorization)];
        all.extend_from_slice(headers);
        send(self.address, method, &format!("/v2/{REPOSITORY}/{target}"), &all, body)
    }
}
