//! Files. All calls block; callers on the executor go through [`super::spawn::blocking`].

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::io::ReadWriteFlags;

use crate::types::UnixSeconds;

/// An open file; reads and writes are positional, so that one handle serves many readers.
#[allow(clippy::len_without_is_empty, reason = "a file is asked for its length, not emptiness")]
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the content durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reserves space for the first `len` bytes, so that writing them cannot fill the disk.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Whether the file still has a name.
    fn is_named(&self) -> io::Result<bool> {
        Ok(true)
    }
    /// The real file behind this one, for sendfile; `None` on a simulated disk.
    fn as_file(&self) -> Option<&File>;
    /// Whether the byte at `offset` is in memory, so that reading it says nothing of the disk.
    fn is_cached(&self, _offset: u64) -> bool {
        true
    }
    /// Has the content of a range in memory, if the system keeps files there; ends early at the
    /// end of the file. Waits for the disk.
    fn bring_in(&self, offset: u64, len: u64) -> io::Result<()> {
        self.read_at(&mut [0], offset + len.saturating_sub(1)).map(|_| ())
    }
    /// Lets the next read of `len` bytes at `offset` come from the disk; 0: up to the end.
    fn forget_cached(&self, _offset: u64, _len: u64) {}

    /// Reads exactly `buffer.len()` bytes at `offset`.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let read = self.read_at(buffer, offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = &mut buffer[read..];
            offset += read as u64;
        }
        Ok(())
    }
}

/// Space on a file system, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Free to unprivileged users.
    pub free: u64,
    /// In all.
    pub total: u64,
    /// Nothing can be written: the file system is mounted read-only, perhaps after it failed.
    pub read_only: bool,
}

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Entry {
    /// Last component of its path.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A file system.
pub trait Disk: Send + Sync {
    /// Opens for reading.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens for reading and writing; the file must exist.
    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Creates for reading and writing with mode 0600; the file must not exist.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames, replacing the target. Durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable only after [`Disk::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and what is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory and its parents with mode 0700; succeeds if it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Whether a file or directory exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Whether this is a link to a place where nothing is.
    fn leads_nowhere(&self, _path: &Path) -> bool {
        false
    }
    /// Length of a file in bytes.
    fn file_len(&self, path: &Path) -> io::Result<u64>;
    /// When a file was last written; `None` when the file system does not say.
    fn modified(&self, path: &Path) -> io::Result<Option<UnixSeconds>>;
    /// Space on the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the directory for this process until the guard is dropped (flock). An error of kind
    /// `WouldBlock`: another process has it.
    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Makes everything on the file system that holds `path` durable (syncfs).
    fn sync_fs(&self, path: &Path) -> io::Result<()>;
    /// Whether this process may make files in a directory; an error says why not.
    fn check_writable(&self, _directory: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Reads a whole file of at most `max` bytes.
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = file.len()?;
        if len > max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} has {len} bytes, more than {max}", path.display()),
            ));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Puts a small file in place so that after a crash either the old or the new content is
    /// there: temporary file, fsync, rename, fsync of the directory.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new("."));
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary: PathBuf = parent.join(name);
        if self.exists(&temporary)? {
            self.remove(&temporary)?;
        }
        let file = self.create(&temporary)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        self.sync_dir(parent)
    }
}

/// The real file system.
pub struct SystemDisk;

struct SystemFile(File);

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
impl DiskFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len)?)
    }

    fn is_named(&self) -> io::Result<bool> {
        Ok(self.0.metadata()?.nlink() > 0)
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.0)
    }

    fn bring_in(&self, offset: u64, len: u64) -> io::Result<()> {
        // As a transfer would read it, but without a copy: advice (WILLNEED) gives small pages,
        // which cost five times as much to read and to send.
        static NOWHERE: OnceLock<io::Result<File>> = OnceLock::new();
        let open = || OpenOptions::new().write(true).open("/dev/null");
        let Ok(nowhere) = NOWHERE.get_or_init(open) else {
            return self.read_at(&mut [0], offset).map(|_| ());
        };
        let end = offset.saturating_add(len);
        let mut at = offset;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX);
            match rustix::fs::sendfile(nowhere, &self.0, Some(&mut at), count) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn is_cached(&self, offset: u64) -> bool {
        let mut byte = [0];
        let mut slices = [IoSliceMut::new(&mut byte)];
        let read = rustix::io::preadv2(&self.0, &mut slices, offset, ReadWriteFlags::NOWAIT);
        read.is_ok()
    }

    fn forget_cached(&self, offset: u64, len: u64) {
        // Advice only.
        let advice = rustix::fs::Advice::DontNeed;
        let _ = rustix::fs::fadvise(&self.0, offset, NonZeroU64::new(len), advice);
    }
}

struct LockedDirectory(File);

impl Drop for LockedDirectory {
    fn drop(&mut self) {
        // Closing alone would leave the lock to a child that was forked and has not execed yet.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
impl Disk for SystemDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        // Without this a pull writes to the disk: the time of access of what was pulled. Only the
        // owner of a file may ask for it.
        let no_atime = rustix::fs::OFlags::NOATIME.bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(no_atime).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path)?,
            opened => opened?,
        };
        Ok(Arc::new(SystemFile(file)))
    }

    fn open_rw(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SystemFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn leads_nowhere(&self, path: &Path) -> bool {
        path.is_symlink() && !path.exists()
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.len())
    }

    fn modified(&self, path: &Path) -> io::Result<Option<UnixSeconds>> {
        let modified = std::fs::metadata(path)?.modified()?;
        let since_1970 = modified.duration_since(std::time::UNIX_EPOCH).ok();
        Ok(since_1970.map(|since| UnixSeconds(since.as_secs())))
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let directory = File::open(path)?;
        rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(LockedDirectory(directory)))
    }

    fn check_writable(&self, directory: &Path) -> io::Result<()> {
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(directory, access)?;
        match of_the_kernel(directory) {
            Some(kind) => {
                let text = format!("{} is on {kind}, which takes no files", directory.display());
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
            None => Ok(()),
        }
    }

    fn sync_fs(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(path)?)?)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks), read_only })
    }
}

/// The kind of a file system that shows what the kernel knows, where even root makes no files.
fn of_the_kernel(path: &Path) -> Option<&'static str> {
    kind_of(
        path,
        &[
            (0x9fa0, "procfs"),
            (0x6265_6572, "sysfs"),
            (0x27_e0eb, "cgroupfs"),
            (0x6367_7270, "cgroup2fs"),
        ],
    )
}

/// The kind of a file system whose content does not outlive the run of the machine or of the
/// container; `None` for any other, and where that cannot be found out.
pub fn volatile_kind(path: &Path) -> Option<&'static str> {
    let kinds = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs"), (0x794c_7630, "an overlay")];
    kind_of(path, &kinds)
}

/// Which of these kinds, by the numbers of statfs(2), a file system is.
fn kind_of(path: &Path, kinds: &[(i64, &'static str)]) -> Option<&'static str> {
    #[allow(clippy::useless_conversion, reason = "of 32 bits on 32-bit machines")]
    let kind = i64::from(rustix::fs::statfs(path).ok()?.f_type) & 0xffff_ffff;
    kinds.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name)
}

/// The permission bits of a file (chmod(2)); `None` where that cannot be found out.
pub fn mode(path: &Path) -> Option<u32> {
    Some(rustix::fs::stat(path).ok()?.st_mode & 0o7777)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make real files")]
mod tests {
    use std::fs::FileTimes;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn reading_does_not_change_the_time_of_access() {
        let path = std::env::temp_dir().join(format!("skerry-no-atime-{}", std::process::id()));
        std::fs::write(&path, b"content").unwrap();
        // Linux updates a time of access that is older than the last change.
        let times = FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH);
        File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        let mut bytes = [0; 7];
        SystemDisk.open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
        let accessed = std::fs::metadata(&path).unwrap().accessed().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((&bytes, accessed), (b"content", SystemTime::UNIX_EPOCH));
    }
}
