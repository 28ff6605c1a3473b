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

/// Largest `/etc/passwd` or `/etc/group` that is read, bytes. Over it: users and groups are known
/// by their numbers only.
const ACCOUNTS_BYTES_MAX: u64 = 1024 * 1024;

/// The last of the groups that a unit might give its service (`SupplementaryGroups=`), as far as
/// they are tried.
const GROUP_MAX: u32 = 65_000;

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
        keep_capabilities(kept)
    }

    /// Makes this thread what a process of the owner with these groups would be. It does not become
    /// the superuser again. access(2) asks for the real user.
    fn become_entirely(self, groups: &[Gid]) -> io::Result<()> {
        let gid = Some(groups.first().copied().unwrap_or(self.gid));
        set_thread_groups(groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(Some(self.uid), Some(self.uid), None)?;
        keep_capabilities(CapabilitySet::empty())
    }

    /// Name and group of the user, as `/etc/passwd` has them.
    fn account(self) -> Option<(String, Gid)> {
        let uid = self.uid.as_raw().to_string();
        accounts("/etc/passwd").lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1).filter(|field| *field == uid).and(fields.next())?;
            Some((name.to_owned(), Gid::from_raw(gid.parse().ok()?)))
        })
    }

    /// As `sudo -u` takes it.
    fn user(self) -> String {
        let named = self.account().map(|(name, _)| name);
        named.unwrap_or_else(|| format!("'#{}'", self.uid.as_raw()))
    }

    /// The groups of a process of this user, its main one first. A directory of the group of the
    /// superuser says nothing of the group of the user.
    fn groups(self) -> Vec<Gid> {
        let Some((name, gid)) = self.account() else {
            return vec![self.gid];
        };
        let mut groups = vec![gid];
        groups.extend((self.gid != Gid::ROOT).then_some(self.gid));
        for line in accounts("/etc/group").lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [_, _, gid, members] = fields[..]
                && members.split(',').any(|member| member == name)
            {
                groups.extend(gid.parse().ok().map(Gid::from_raw));
            }
        }
        groups
    }
}

fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective = kept & sets.permitted;
    Ok(set_capabilities(None, sets)?)
}

fn accounts(path: &str) -> String {
    let bytes = SystemDisk.read(Path::new(path), ACCOUNTS_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The user of a service, whom the superuser asks about: the owner of its state directory.
#[derive(Clone, Copy)]
pub struct ServiceUser(Owner);

/// With which groups somebody is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Those that the user is known to be in.
    Known,
    /// Every one but that of the superuser: a unit may give its service any of them.
    Any,
}

impl ServiceUser {
    /// `None` while the directory is not there, and when it belongs to who asks, or another one
    /// than the superuser does.
    pub fn of(state_dir: &Path) -> Option<ServiceUser> {
        let owner = Owner::of(state_dir).ok().filter(|_| state_dir.exists())?;
        (geteuid().is_root() && !owner.is_self() && !owner.uid.is_root()).then_some(Self(owner))
    }

    /// As `sudo -u` takes it.
    pub fn name(self) -> String {
        self.0.user()
    }

    /// Looks with the rights of this user; `None` where that cannot be.
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    pub fn look<T: Send>(self, groups: Groups, look: impl FnOnce() -> T + Send) -> Option<T> {
        let mut list = self.0.groups();
        if groups == Groups::Any {
            list.extend((1..=GROUP_MAX).map(Gid::from_raw));
        }
        // The user is that of a thread, which ends with the look.
        std::thread::scope(|scope| {
            let assumed = || self.0.become_entirely(&list).ok().map(|()| look());
            scope.spawn(assumed).join().ok().flatten()
        })
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
