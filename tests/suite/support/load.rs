//! Clients that push, mount, refer, move and delete at once, and the book of what they were told:
//! when the node has died and come back, or its disk was full, all of it must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::http::{Answer, bearer, send, token};
use super::image::{self, Image, MANIFEST};

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

pub struct Ledger {
    repository: &'static str,
    /// The repository that blobs are mounted from; `None`: each is pushed.
    from: Option<&'static str>,
    book: Mutex<Book>,
}

struct Book {
    /// What nothing refers to may be collected as garbage after so long.
    grace: Duration,
    tags: BTreeMap<String, Tag>,
    images: BTreeMap<String, Entry>,
    /// Manifests whose deletion was acknowledged.
    deleted: BTreeSet<String>,
    /// Those of them that referred to another one, and to which; until the next audit.
    withdrawn: Vec<(String, String)>,
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
    /// The manifest that it refers to, if any.
    subject: Option<String>,
    /// The client that pushed it.
    by: String,
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
    /// Pushes, without a tag, what refers to this manifest.
    Refer(Image, String),
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

/// A bearer token for all that the clients of these books do.
pub fn login(address: &str, user: (&str, &str), books: &[&Ledger]) -> Result<String, Answer> {
    let names = books.iter().flat_map(|book| [book.repository].into_iter().chain(book.from));
    let names: BTreeSet<&str> = names.collect();
    let scopes = names.into_iter().map(|name| format!("repository:{name}:pull,push,delete"));
    let scopes: Vec<String> = scopes.collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    token(address, user.0, user.1, &scopes)
}

impl Ledger {
    /// A book of repository `app` of a node with this `gc.grace`.
    pub fn with_grace(grace: Duration) -> Ledger {
        let book = Book {
            grace,
            tags: BTreeMap::new(),
            images: BTreeMap::new(),
            deleted: BTreeSet::new(),
            withdrawn: Vec::new(),
            fresh: BTreeMap::new(),
            acknowledged: 0,
            refused: 0,
        };
        Ledger { repository: "app", from: None, book: Mutex::new(book) }
    }

    /// A book of repository `copies` of the same node, whose one client mounts each blob from
    /// `app`.
    pub fn of_copies(grace: Duration) -> Ledger {
        let (repository, from) = ("copies", Some("app"));
        Ledger { repository, from, ..Ledger::with_grace(grace) }
    }

    /// The node has another `gc.grace` now.
    pub fn set_grace(&self, grace: Duration) {
        self.hold().grace = grace;
    }

    /// How many referrers there are.
    pub fn referrers(&self) -> usize {
        self.hold().images.values().filter(|entry| entry.subject.is_some()).count()
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
        let token = login(address, user, &[self]).unwrap();
        self.press_with(address, &token, round, refusals, meanwhile);
    }

    /// The same with a bearer token.
    pub fn press_with(
        &self,
        address: &str,
        token: &str,
        round: u64,
        refusals: &[u16],
        meanwhile: impl FnOnce(),
    ) {
        let authorization = format!("Bearer {token}");
        let stop = AtomicBool::new(false);
        let clients = if self.from.is_some() { 1 } else { CLIENTS };
        std::thread::scope(|scope| {
            for number in 0..clients {
                let client = Client {
                    ledger: self,
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
        match login(address, user, &[self]) {
            Ok(token) => self.audit_with(address, &token, what),
            Err(answer) => vec![format!("the client cannot log in: {answer:?}")],
        }
    }

    /// The same with a bearer token.
    pub fn audit_with(&self, address: &str, token: &str, what: Audit) -> Vec<String> {
        let mut auditor = Auditor { address, token, repository: self.repository, lost: Vec::new() };
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
        for (subject, digest) in std::mem::take(&mut book.withdrawn) {
            auditor.listed(&subject, &digest, false);
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
            if let Some(subject) = &entry.subject {
                auditor.listed(subject, digest, entry.state == State::There);
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
        let repository = self.repository;
        let token = login(address, user, &[self]).unwrap();
        let mut book = self.hold();
        for digest in std::mem::take(&mut book.images).into_keys() {
            let target = format!("/v2/{repository}/manifests/{digest}");
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
        self.book.lock().unwrap()
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
    fn begin(&mut self, image: &Image, subject: Option<String>, client: &str) {
        let mut blobs: Vec<String> = image.blobs().map(|b| image::digest(b)).collect();
        let external = image.has_external_layer().then(|| blobs.remove(0));
        let (manifest, by, state) = (image.manifest.clone(), client.to_owned(), State::Pushing);
        self.deleted.remove(&image.digest());
        let pushing = Entry { manifest, blobs, external, subject, by, state };
        // A push of what is there changes nothing of it.
        self.images.entry(image.digest()).or_insert(pushing);
    }

    /// Its push is acknowledged; its digest.
    fn arrive(&mut self, image: &Image) -> String {
        let digest = image.digest();
        self.images.get_mut(&digest).unwrap().arrive(&self.fresh, self.grace);
        self.fresh.insert(digest.clone(), Instant::now());
        digest
    }

    /// What this client has pushed and refers to something.
    fn referrer_of(&self, client: &str) -> Option<String> {
        let is_one = |entry: &Entry| entry.subject.is_some() && entry.by == client;
        let mut found = self.images.iter().filter(|(_, entry)| is_one(entry));
        found.next().map(|(digest, _)| digest.clone())
    }

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
    repository: &'a str,
    lost: Vec<String>,
}

impl Auditor<'_> {
    fn get(&self, target: &str) -> Answer {
        let ask = || bearer(self.address, self.token, "GET", target, &[("accept", MANIFEST)], b"");
        again_while_unavailable(ask)
    }

    fn manifest(&mut self, reference: &str) -> Option<Vec<u8>> {
        let answer = self.get(&format!("/v2/{}/manifests/{reference}", self.repository));
        if answer.status != 200 && answer.status != 404 {
            self.lost.push(format!("{reference}: {answer:?}"));
        }
        (answer.status == 200).then_some(answer.body)
    }

    fn blob(&mut self, digest: &str) {
        let answer = self.get(&format!("/v2/{}/blobs/{digest}", self.repository));
        if answer.status != 200 || image::digest(&answer.body) != digest {
            self.lost.push(format!("blob {digest}: {answer:?}"));
        }
    }

    /// Whether this manifest is among those that refer to the subject is as it should be.
    fn listed(&mut self, subject: &str, digest: &str, should: bool) {
        let answer = self.get(&format!("/v2/{}/referrers/{subject}", self.repository));
        let list = (answer.status == 200).then(|| answer.json()["manifests"].clone());
        let list = list.as_ref().and_then(|list| list.as_array());
        let is_listed = list.is_some_and(|list| list.iter().any(|one| one["digest"] == digest));
        if list.is_none() || is_listed != should {
            self.lost.push(format!("referrer {digest} of {subject}, {should}: {answer:?}"));
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
    ledger: &'a Ledger,
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
        let book = self.ledger.hold();
        let named = book.tags.get(tag).and_then(|tag| tag.acknowledged.clone());
        let mut others = book.tags.iter().filter(|(name, _)| name.starts_with(&self.name));
        match (number % 8, named) {
            (3, _) => match others.find_map(|(_, other)| other.acknowledged.clone()) {
                Some(digest) => Step::Move(digest),
                None => self.push(number),
            },
            (1, _) => Step::Push(Image::new(self.repeated - number / 8 % REPEATED, LAYERS)),
            (5, Some(_)) => Step::DeleteTag,
            (6, Some(subject)) => {
                let size = book.images[&subject].manifest.len();
                Step::Refer(Image::referring(self.seed + number, &subject, size), subject)
            }
            (7, named) if number % 16 == 15 => match book.referrer_of(&self.name).or(named) {
                Some(digest) => Step::DeleteImage(digest),
                None => self.push(number),
            },
            (7, Some(digest)) => Step::DeleteImage(digest),
            _ => self.push(number),
        }
    }

    fn push(&self, number: u64) -> Step {
        let image = Image::new(self.seed + number, LAYERS);
        Step::Push(if number % 4 == 2 { image.with_external_layer() } else { image })
    }

    fn begin(&self, tag: &str, step: &Step) {
        let mut book = self.ledger.hold();
        let under_way = match step {
            Step::Push(image) => {
                book.begin(image, None, &self.name);
                Some(image.digest())
            }
            Step::Refer(image, subject) => {
                return book.begin(image, Some(subject.clone()), &self.name);
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
            Step::Push(image) | Step::Refer(image, _) => {
                for blob in image.blobs() {
                    let begun = Instant::now();
                    let status = self.bring_blob(blob)?;
                    if status != 201 {
                        return Ok((status, 201));
                    }
                    self.ledger.hold().fresh.insert(image::digest(blob), begun);
                }
                image.manifest.clone()
            }
            Step::Move(digest) => self.ledger.hold().images[digest].manifest.clone(),
        };
        let (headers, digest) = ([("content-type", MANIFEST)], image::digest(&manifest));
        let reference = if let Step::Refer(..) = step { &digest } else { tag };
        let answer = self.send("PUT", &format!("manifests/{reference}"), &headers, &manifest)?;
        if let Step::Refer(_, subject) = step
            && answer.status == 201
        {
            assert_eq!(answer.header("oci-subject"), Some(subject.as_str()), "{answer:?}");
        }
        Ok((answer.status, 201))
    }

    fn acknowledge(&self, tag: &str, step: Step) {
        let mut book = self.ledger.hold();
        book.acknowledged += 1;
        let acknowledged = match step {
            Step::Push(image) => Some(book.arrive(&image)),
            Step::Refer(image, _) => {
                book.arrive(&image);
                return;
            }
            Step::Move(digest) => Some(digest),
            Step::DeleteTag => None,
            Step::DeleteImage(digest) => {
                let entry = book.images.remove(&digest).unwrap();
                for blob in &entry.blobs {
                    book.fresh.remove(blob);
                }
                book.withdrawn.extend(entry.subject.map(|subject| (subject, digest.clone())));
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
        let mut book = self.ledger.hold();
        book.refused += 1;
        match step {
            Step::Push(image) | Step::Refer(image, _) => {
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
        let (Step::Push(image) | Step::Refer(image, _)) = step else { return false };
        let book = self.ledger.hold();
        let is_young = |blob: &Vec<u8>| {
            let begun = book.fresh.get(&image::digest(blob));
            begun.is_some_and(|begun| begun.elapsed() < book.grace)
        };
        !image.blobs().all(is_young)
    }

    /// Brings a blob into the repository; a mount that is acknowledged is as good as a push.
    fn bring_blob(&self, blob: &[u8]) -> std::io::Result<u16> {
        let own = self.ledger.repository;
        let Some(from) = self.ledger.from else { return self.push_blob(own, blob) };
        let begun = Instant::now();
        let status = self.push_blob(from, blob)?;
        if status != 201 {
            return Ok(status);
        }
        let mount = format!("blobs/uploads/?mount={}&from={from}", image::digest(blob));
        let answer = self.send("POST", &mount, &[], b"")?;
        if answer.status != 202 {
            return Ok(answer.status);
        }
        // It cannot be mounted: it may have been garbage since.
        assert!(begun.elapsed() >= self.ledger.hold().grace, "{mount}: {answer:?}");
        let location = answer.header("location").expect("Location");
        let headers = [("authorization", self.authorization)];
        send(self.address, "DELETE", location, &headers, b"")?;
        self.push_blob(own, blob)
    }

    fn push_blob(&self, repository: &str, blob: &[u8]) -> std::io::Result<u16> {
        let start = self.send_to(repository, "POST", "blobs/uploads/", &[], b"")?;
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
        self.send_to(self.ledger.repository, method, target, headers, body)
    }

    fn send_to(
        &self,
        repository: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut all = vec![("authorization", self.authorization)];
        all.extend_from_slice(headers);
        send(self.address, method, &format!("/v2/{repository}/{target}"), &all, body)
    }
}
