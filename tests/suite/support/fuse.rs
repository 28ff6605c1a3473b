//! The kernel's side of a file system in this process: `/dev/fuse`, as `linux/fuse.h` describes it
//! (protocol 7.31). Calls come in one at a time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The node of the directory that is mounted.
pub const ROOT: u64 = 1;
const PAGE: u32 = 4096;
const WRITE_PAGES_MAX: u16 = 256;
/// A write of so many pages and what stands before it.
const BUFFER: usize = (WRITE_PAGES_MAX as usize + 1) * PAGE as usize;
const OUT_HEADER: usize = 16;
const BIG_WRITES: u32 = 1 << 5;
const MAX_PAGES: u32 = 1 << 22;
/// Nobody but the kernel changes the files: it may remember what it was told.
const VALID_S: u64 = 3600;
const SET_LEN: u32 = 1 << 3;
const ALLOCATE_KEEPS_LEN: u32 = 1;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const KINDS: u32 = 0o170_000;

/// What a process asks of a node.
pub enum Call<'a> {
    Lookup(&'a str),
    Attributes,
    SetLen(u64),
    Make { name: &'a str, mode: u32, open: bool },
    Remove(&'a str),
    Rename { from: &'a str, to_node: u64, to: &'a str },
    Open,
    Read { offset: u64, size: usize },
    Write { offset: u64, bytes: &'a [u8] },
    Allocate { end: u64 },
    Sync,
    List,
    Space,
    Close,
}

pub enum Reply {
    Node(Attributes),
    Opened(Attributes),
    Attributes(Attributes),
    Open,
    Bytes(Vec<u8>),
    Written(usize),
    Names(Vec<(String, u64, u32)>),
    Space { free: u64, total: u64 },
    Done,
}

pub struct Attributes {
    pub node: u64,
    pub mode: u32,
    pub len: u64,
    pub modified_s: u64,
}

pub fn is_directory(mode: u32) -> bool {
    mode & KINDS == DIRECTORY
}

/// Mounts; the calls come from the file that is returned. Needs root.
pub fn attach(path: &Path) -> io::Result<File> {
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let options = std::ffi::CString::new(options).expect("no NUL");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("skerry-test", path, "fuse", flags, options.as_c_str())?;
    Ok(device)
}

/// Takes the mount away, also while files are open.
pub fn detach(path: &Path) {
    let _ = unmount(path, UnmountFlags::DETACH);
}

/// Answers calls until the mount is gone.
pub fn serve(device: &File, mut answer: impl FnMut(u64, &Call<'_>) -> Result<Reply, Errno>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match (&*device).read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => continue,
            Err(_) => return,
        };
        let request = Request { bytes: &buffer[..len] };
        let listed_from = request.u64(48);
        let reply = match request.u32(4) {
            // FORGET, INTERRUPT and BATCH_FORGET have no answer.
            2 | 36 | 42 => continue,
            26 => Ok(initial()),
            _ => request.call().and_then(|call| answer(request.u64(16), &call)).map(|reply| {
                encode(reply, usize::try_from(listed_from).unwrap_or(usize::MAX), request.u32(56))
            }),
        };
        let (error, body) = match reply {
            Ok(body) => (0, body),
            Err(error) => (-error.raw_os_error(), Vec::new()),
        };
        let mut out = Vec::with_capacity(OUT_HEADER + body.len());
        let len = u32::try_from(OUT_HEADER + body.len()).expect("short");
        out.extend_from_slice(&len.to_ne_bytes());
        out.extend_from_slice(&error.to_ne_bytes());
        out.extend_from_slice(&request.u64(8).to_ne_bytes());
        out.extend_from_slice(&body);
        // A caller that was killed waits no more: that is no fault.
        let _ = (&*device).write(&out);
    }
}

/// A request: a header of 40 bytes, then what the operation needs.
struct Request<'a> {
    bytes: &'a [u8],
}

impl<'a> Request<'a> {
    /// The number at an offset; 0 where the request is shorter.
    fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        u32::from_ne_bytes(bytes.unwrap_or_default())
    }

    fn u64(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
        u64::from_ne_bytes(bytes.unwrap_or_default())
    }

    /// The names from an offset of the body on, each ended by a NUL.
    fn names(&self, at: usize) -> Result<(&'a str, &'a str), Errno> {
        let text = self.bytes.get(40 + at..).and_then(|b| std::str::from_utf8(b).ok());
        let mut names = text.ok_or(Errno::INVAL)?.split('\0');
        Ok((names.next().unwrap_or_default(), names.next().unwrap_or_default()))
    }

    fn call(&self) -> Result<Call<'a>, Errno> {
        let name = |at| self.names(at).map(|names| names.0);
        let rename = |at| {
            let (from, to) = self.names(at)?;
            Ok(Call::Rename { from, to_node: self.u64(40), to })
        };
        Ok(match self.u32(4) {
            1 => Call::Lookup(name(0)?),
            4 if self.u32(40) & SET_LEN != 0 => Call::SetLen(self.u64(56)),
            // Owners, modes and times are not kept.
            3 | 4 => Call::Attributes,
            8 => Call::Make { name: name(16)?, mode: self.u32(40), open: false },
            9 => Call::Make { name: name(8)?, mode: self.u32(40) | DIRECTORY, open: false },
            10 | 11 => Call::Remove(name(0)?),
            12 => rename(8)?,
            45 if self.u32(48) == 0 => rename(16)?,
            14 | 27 => Call::Open,
            15 => Call::Read { offset: self.u64(48), size: self.u32(56) as usize },
            16 => {
                let bytes = self.bytes.get(80..80 + self.u32(56) as usize).ok_or(Errno::INVAL)?;
                Call::Write { offset: self.u64(48), bytes }
            }
            17 => Call::Space,
            18 | 25 | 29 | 38 => Call::Close,
            20 | 30 | 50 => Call::Sync,
            28 => Call::List,
            35 => Call::Make { name: name(16)?, mode: self.u32(44) | REGULAR, open: true },
            43 if self.u32(64) & !ALLOCATE_KEEPS_LEN != 0 => return Err(Errno::OPNOTSUPP),
            43 if self.u32(64) == ALLOCATE_KEEPS_LEN => Call::Allocate { end: 0 },
            43 => Call::Allocate { end: self.u64(48) + self.u64(56) },
            _ => return Err(Errno::NOSYS),
        })
    }
}

/// The answer to INIT.
fn initial() -> Vec<u8> {
    let mut out = numbers(&[7, 31, 128 * 1024, BIG_WRITES | MAX_PAGES, 0]);
    out.extend(numbers(&[u32::from(WRITE_PAGES_MAX) * PAGE, 1]));
    out.extend(WRITE_PAGES_MAX.to_ne_bytes());
    out.resize(64, 0);
    out
}

fn numbers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn encode(reply: Reply, listed_from: usize, room: u32) -> Vec<u8> {
    match reply {
        Reply::Node(attributes) => entry(&attributes),
        Reply::Opened(attributes) => [entry(&attributes), vec![0; 16]].concat(),
        Reply::Attributes(attributes) => {
            let mut out = VALID_S.to_ne_bytes().to_vec();
            out.extend([0; 8]);
            attributes.write(&mut out);
            out
        }
        Reply::Open => vec![0; 16],
        Reply::Bytes(bytes) => bytes,
        Reply::Written(len) => numbers(&[u32::try_from(len).expect("a write"), 0]),
        Reply::Names(names) => list(&names, listed_from, room as usize),
        Reply::Space { free, total } => {
            let blocks = [total / 4096, free / 4096, free / 4096, 1 << 20, 1 << 20];
            let mut out: Vec<u8> = blocks.iter().flat_map(|b: &u64| b.to_ne_bytes()).collect();
            out.extend(numbers(&[4096, 255, 4096]));
            out.resize(80, 0);
            out
        }
        Reply::Done => Vec::new(),
    }
}

fn entry(attributes: &Attributes) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    for value in [attributes.node, 0, VALID_S, VALID_S, 0] {
        out.extend(value.to_ne_bytes());
    }
    attributes.write(&mut out);
    out
}

fn list(names: &[(String, u64, u32)], from: usize, room: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, (name, node, mode)) in names.iter().enumerate().skip(from) {
        let len = (24 + name.len()).next_multiple_of(8);
        if out.len() + len > room {
            break;
        }
        let end = out.len() + len;
        out.extend(node.to_ne_bytes());
        out.extend((number as u64 + 1).to_ne_bytes());
        out.extend(numbers(&[u32::try_from(name.len()).expect("short"), (mode & KINDS) >> 12]));
        out.extend(name.as_bytes());
        out.resize(end, 0);
    }
    out
}

impl Attributes {
    fn write(&self, out: &mut Vec<u8>) {
        let time = self.modified_s;
        for value in [self.node, self.len, self.len.div_ceil(512), time, time, time] {
            out.extend(value.to_ne_bytes());
        }
        let links = if is_directory(self.mode) { 2 } else { 1 };
        out.extend(numbers(&[0, 0, 0, self.mode, links, 0, 0, 0, 4096, 0]));
    }
}
