//! Whose files they are that this process makes.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{
    CapabilitySet, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

use super::{Disk, SystemDisk};

/// Largest `/etc/passwd` that is read for a name, bytes.
const PASSWD_BYTES_MAX: u64 = 1024 * 1024;

/// The owner of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// Of a directory, or, while there is none, of the nearest one above it.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn of(directory: &Path) -> io::Result<Owner> {
        let mut place = directory;
        loop {
            match std::fs::metadata(place) {
                Ok(found) => {
                    let (uid, gid) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
                    return Ok(Owner { uid, gid });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    place = match place.parent() {
                        Some(above) if !above.as_os_str().is_empty() => above,
                        Some(_) if place != Path::new(".") => Path::new("."),
                        _ => return Err(error),
                    };
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_self(self) -> bool {
        self == Owner { uid: geteuid(), gid: getegid() }
    }

    /// Gives this thread the owner's user and group, and of the superuser's rights only `kept`.
    fn assume(self, kept: CapabilitySet) -> io::Result<()> {
        set_thread_groups(&[self.gid])?;
        set_thread_res_gid(None, Some(self.gid), None)?;
        set_thread_res_uid(None, Some(self.uid), None)?;
        let mut sets = capabilities(None)?;
        sets.effective = kept & sets.permitted;
        Ok(set_capabilities(None, sets)?)
    }

    /// As `sudo -u` takes it.
    fn user(self) -> String {
        let uid = self.uid.as_raw().to_string();
        let passwd = SystemDisk.read(Path::new("/etc/passwd"), PASSWD_BYTES_MAX);
        let text = String::from_utf8_lossy(&passwd.unwrap_or_default()).into_owned();
        let named = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1) == Some(uid.as_str())).then(|| name.to_owned())
        });
        named.unwrap_or_else(|| format!("'#{uid}'"))
    }
}

/// Lets the superuser make files as the owner of `directory` from here on. Another user must be
/// able to write there. `command` is for the error, a line for people.
///
/// The user changes before anything is opened, so that there is no moment, and no end by a signal,
/// that leaves a file which the service cannot open; a change of owners at the end would leave
/// such. The right to pass over permissions stays, as root has it: a backup that only root can read
/// can be restored, and what an earlier command left to root can be opened. Users and rights are
/// those of a thread: no other thread may run yet, and those that are started later inherit them.
pub fn become_owner(directory: &Path, command: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("{}: {error}", directory.display());
    let owner = Owner::of(directory).map_err(failed)?;
    let refusal = |why: &str| {
        format!(
            "{} belongs to another user, {}{why}; run this as that user: sudo -u {} skerry \
             {command}",
            directory.display(),
            owner.uid,
            owner.user()
        )
    };
    if !geteuid().is_root() {
        let is_writable = || SystemDisk.check_writable(directory).is_ok();
        let may = owner.uid == geteuid() || !directory.exists() || is_writable();
        return if may { Ok(()) } else { Err(refusal("")) };
    }
    if owner.is_self() {
        return Ok(());
    }
    let assumed = owner.assume(CapabilitySet::DAC_OVERRIDE);
    assumed.map_err(|error| refusal(&format!(", which cannot be assumed here ({error})")))
}

/// Looks at `directory` with the rights of its owner, when the superuser asks; otherwise, or where
/// that cannot be, with those of this process.
#[allow(clippy::disallowed_methods, reason = "this is the seam")]
pub fn as_owner<T: Send>(directory: &Path, look: impl Fn() -> T + Send + Sync) -> T {
    let other = Owner::of(directory).ok().filter(|owner| geteuid().is_root() && !owner.is_self());
    let Some(owner) = other else {
        return look();
    };
    // The user is that of a thread, which ends with the look.
    let looked = std::thread::scope(|scope| {
        let assumed = || owner.assume(CapabilitySet::empty()).ok().map(|()| look());
        scope.spawn(assumed).join().ok().flatten()
    });
    looked.unwrap_or_else(look)
}
