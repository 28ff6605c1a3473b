//! A disk that forgets. What was written lives in memory until the file is synced, a name until its
//! directory is: at a power cut everything else is gone, or a random part of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::fuse::{self, Attributes, Call, ROOT, Reply};

/// What the disk reports as its size; what is stored is not counted.
const SPACE: u64 = 1 << 34;
/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// Which syncs do what they say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syncs {
    Honest,
    /// Neither content nor names become durable.
    Lie,
    /// Content becomes durable, names do not.
    NamesLie,
}

pub struct Lossy {
    path: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Changes of names since they were last synced, in order.
    names: Vec<Vec<NameChange>>,
    syncs: Syncs,
    /// Changes until the power fails; 0 is never.
    countdown: u64,
    power: Power,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// No call is answered.
    Failing,
    /// Every call fails: those who called are being killed.
    Off,
}

#[derive(Clone, PartialEq, Eq)]
struct NameChange {
    directory: u64,
    name: String,
    node: Option<u64>,
}

struct Node {
    mode: u32,
    modified_s: u64,
    now: Content,
    durable: Content,
    /// What happened to the content since it was last synced.
    pending: Vec<Change>,
}

#[derive(Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    names: BTreeMap<String, u64>,
}

enum Change {
    Write(usize, Vec<u8>),
    Len(usize),
}

/// Random numbers, the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

impl Lossy {
    /// An empty disk, mounted on a directory that exists. Needs root and `/dev/fuse`.
    pub fn mount(path: &Path) -> std::io::Result<Lossy> {
        let mut nodes = BTreeMap::new();
        nodes.insert(ROOT, Node::new(0o040_700));
        let state = State {
            nodes,
            next: ROOT + 1,
            names: Vec::new(),
            syncs: Syncs::Honest,
            countdown: 0,
            power: Power::On,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut disk = Lossy { path: path.to_owned(), shared, server: None };
        disk.attach()?;
        Ok(disk)
    }

    pub fn set_syncs(&self, syncs: Syncs) {
        self.shared.hold().syncs = syncs;
    }

    /// The power fails at the change of this number from now on: a write, a name, a sync.
    pub fn fail_at(&self, change: u64) {
        self.shared.hold().countdown = change;
    }

    /// Waits until the power has failed; after `limit` it fails at once. From then on nobody gets
    /// an answer until [`Lossy::release`].
    pub fn wait_for_failure(&self, limit: Duration) {
        let state = self.shared.hold();
        let on = |state: &mut State| state.power == Power::On;
        let (mut state, _) = self.shared.changed.wait_timeout_while(state, limit, on).unwrap();
        state.power = Power::Failing;
    }

    /// Lets calls fail, so that the processes that made them can end.
    pub fn release(&self) {
        self.shared.hold().power = Power::Off;
        self.shared.changed.notify_all();
    }

    /// Forgets what was not synced, but for a random part if there are dice; then mounts anew.
    /// No process may use the disk.
    pub fn cut(&mut self, survivors: Option<&mut Dice>) {
        self.detach();
        self.shared.hold().forget(survivors);
        self.attach().expect("mounted before");
    }

    fn attach(&mut self) -> std::io::Result<()> {
        let device = fuse::attach(&self.path)?;
        let shared = self.shared.clone();
        self.server = Some(std::thread::spawn(move || {
            fuse::serve(&device, |node, call| shared.answer(node, call));
        }));
        Ok(())
    }

    fn detach(&mut self) {
        self.release();
        fuse::detach(&self.path);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.detach();
    }
}

impl Shared {
    fn hold(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn answer(&self, node: u64, call: &Call<'_>) -> Result<Reply, Errno> {
        let mut state = self.hold();
        if state.power == Power::On && call.changes() && state.countdown > 0 {
            state.countdown -= 1;
            if state.countdown == 0 {
                state.power = Power::Failing;
                self.changed.notify_all();
            }
        }
        let failing = |state: &mut State| state.power == Power::Failing;
        state = self.changed.wait_while(state, failing).unwrap();
        match state.power {
            Power::On => state.answer(node, call),
            _ => Err(Errno::IO),
        }
    }
}

impl Call<'_> {
    fn changes(&self) -> bool {
        !matches!(
            self,
            Call::Lookup(_)
                | Call::Attributes
                | Call::Open
                | Call::Read { .. }
                | Call::List
                | Call::Space
                | Call::Close
        )
    }
}

impl State {
    fn answer(&mut self, number: u64, call: &Call<'_>) -> Result<Reply, Errno> {
        let node = self.nodes.get_mut(&number).ok_or(Errno::NOENT)?;
        match *call {
            Call::Lookup(name) => {
                let found = *node.now.names.get(name).ok_or(Errno::NOENT)?;
                Ok(Reply::Node(self.nodes[&found].attributes(found)))
            }
            Call::Attributes => Ok(Reply::Attributes(node.attributes(number))),
            Call::SetLen(len) => {
                node.change(Change::Len(usize::try_from(len).map_err(|_| Errno::FBIG)?));
                Ok(Reply::Attributes(node.attributes(number)))
            }
            Call::Make { name, mode, open } => self.make(number, name, mode, open),
            Call::Remove(name) => {
                let found = *node.now.names.get(name).ok_or(Errno::NOENT)?;
                if !self.nodes[&found].now.names.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.rename(vec![NameChange::new(number, name, None)]);
                Ok(Reply::Done)
            }
            Call::Rename { from, to_node, to } => {
                let found = *node.now.names.get(from).ok_or(Errno::NOENT)?;
                self.rename(vec![
                    NameChange::new(number, from, None),
                    NameChange::new(to_node, to, Some(found)),
                ]);
                Ok(Reply::Done)
            }
            Call::Read { offset, size } => {
                let len = node.now.bytes.len();
                let start = usize::try_from(offset).unwrap_or(len).min(len);
                Ok(Reply::Bytes(node.now.bytes[start..(start + size).min(len)].to_vec()))
            }
            Call::Write { offset, bytes } => {
                let offset = usize::try_from(offset).map_err(|_| Errno::FBIG)?;
                node.change(Change::Write(offset, bytes.to_vec()));
                Ok(Reply::Written(bytes.len()))
            }
            Call::Allocate { end } => {
                let end = usize::try_from(end).map_err(|_| Errno::FBIG)?;
                if end > node.now.bytes.len() {
                    node.change(Change::Len(end));
                }
                Ok(Reply::Done)
            }
            Call::Sync => {
                self.sync(number);
                Ok(Reply::Done)
            }
            Call::List => {
                let names = self.nodes[&number].now.names.iter();
                let listed = names.map(|(name, node)| (name.clone(), *node, self.nodes[node].mode));
                Ok(Reply::Names(listed.collect()))
            }
            Call::Open => Ok(Reply::Open),
            Call::Space => Ok(Reply::Space { free: SPACE / 2, total: SPACE }),
            Call::Close => Ok(Reply::Done),
        }
    }

    fn make(&mut self, number: u64, name: &str, mode: u32, open: bool) -> Result<Reply, Errno> {
        if self.nodes[&number].now.names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        let made = self.next;
        self.next += 1;
        let node = Node::new(mode);
        let attributes = node.attributes(made);
        self.nodes.insert(made, node);
        self.rename(vec![NameChange::new(number, name, Some(made))]);
        Ok(if open { Reply::Opened(attributes) } else { Reply::Node(attributes) })
    }

    fn rename(&mut self, changes: Vec<NameChange>) {
        for change in &changes {
            if let Some(directory) = self.nodes.get_mut(&change.directory) {
                change.apply(&mut directory.now);
            }
        }
        self.names.push(changes);
    }

    fn sync(&mut self, number: u64) {
        let Some(node) = self.nodes.get_mut(&number) else { return };
        if fuse::is_directory(node.mode) {
            if self.syncs == Syncs::Honest {
                self.keep_names(|changes| changes.iter().any(|c| c.directory == number));
            }
        } else if self.syncs != Syncs::Lie {
            for change in std::mem::take(&mut node.pending) {
                change.apply(&mut node.durable.bytes);
            }
        }
    }

    /// Makes changes of names durable, each with all earlier ones of the same names. Both names of
    /// a rename change together.
    fn keep_names(&mut self, mut wanted: impl FnMut(&[NameChange]) -> bool) {
        let mut touched = BTreeSet::new();
        let (mut kept, mut left) = (Vec::new(), Vec::new());
        for changes in std::mem::take(&mut self.names).into_iter().rev() {
            let names = |c: &NameChange| (c.directory, c.name.clone());
            if wanted(&changes) || changes.iter().any(|c| touched.contains(&names(c))) {
                touched.extend(changes.iter().map(names));
                kept.push(changes);
            } else {
                left.push(changes);
            }
        }
        left.reverse();
        self.names = left;
        for change in kept.iter().rev().flatten() {
            if let Some(directory) = self.nodes.get_mut(&change.directory) {
                change.apply(&mut directory.durable);
            }
        }
    }

    fn forget(&mut self, mut survivors: Option<&mut Dice>) {
        if let Some(dice) = survivors.as_deref_mut() {
            self.keep_names(|_| dice.below(2) == 0);
        }
        self.names.clear();
        for node in self.nodes.values_mut() {
            for change in std::mem::take(&mut node.pending) {
                if let Some(dice) = survivors.as_deref_mut() {
                    change.survive(dice, &mut node.durable.bytes);
                }
            }
            node.now = node.durable.clone();
        }
        let (mut reached, mut next) = (BTreeSet::from([ROOT]), vec![ROOT]);
        while let Some(number) = next.pop() {
            let names = self.nodes[&number].now.names.values();
            next.extend(names.copied().filter(|node| reached.insert(*node)));
        }
        self.nodes.retain(|number, _| reached.contains(number));
        self.countdown = 0;
        self.power = Power::On;
    }
}

impl Node {
    fn new(mode: u32) -> Node {
        let modified_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (now, durable) = (Content::default(), Content::default());
        Node { mode, modified_s, now, durable, pending: Vec::new() }
    }

    fn attributes(&self, node: u64) -> Attributes {
        let len = self.now.bytes.len() as u64;
        Attributes { node, mode: self.mode, len, modified_s: self.modified_s }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now.bytes);
        self.modified_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.pending.push(change);
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Len(len) => content.resize(*len, 0),
            Change::Write(offset, bytes) => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
        }
    }

    /// Half of the changes reach the disk without a sync; some of the writes only in part.
    fn survive(self, dice: &mut Dice, content: &mut Vec<u8>) {
        let change = match self {
            Change::Write(offset, mut bytes) if dice.below(4) == 0 => {
                let sectors = bytes.len().div_ceil(SECTOR) as u64;
                bytes.truncate(usize::try_from(dice.below(sectors + 1)).unwrap() * SECTOR);
                Change::Write(offset, bytes)
            }
            change => change,
        };
        if dice.below(2) == 0 {
            change.apply(content);
        }
    }
}

impl NameChange {
    fn new(directory: u64, name: &str, node: Option<u64>) -> NameChange {
        NameChange { directory, name: name.to_owned(), node }
    }

    fn apply(&self, content: &mut Content) {
        match self.node {
            Some(node) => content.names.insert(self.name.clone(), node),
            None => content.names.remove(&self.name),
        };
    }
}
