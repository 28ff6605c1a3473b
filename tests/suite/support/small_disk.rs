//! A real file system that is soon full: ext4 in a file, or memory where there are no loop devices.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::TempDir;

pub struct SmallDisk {
    path: PathBuf,
    /// Holds the file system.
    _image: TempDir,
}

impl SmallDisk {
    /// A file system of so many MiB, of blocks of so many bytes, mounted on a directory that
    /// exists; the error is why not.
    pub fn mount(path: &Path, mib: u64, block_bytes: u32) -> Result<SmallDisk, String> {
        let image = TempDir::new();
        let file = image.join("image");
        File::create(&file).and_then(|file| file.set_len(mib << 20)).map_err(|e| e.to_string())?;
        // Nothing is set aside for root, who runs the tests.
        let block = block_bytes.to_string();
        let options = ["-q", "-F", "-m", "0", "-b", &block];
        let made = run(Command::new("mkfs.ext4").args(options).arg(&file));
        let looped = made
            .and_then(|()| run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(path)));
        if let Err(ext4) = looped {
            let size = std::ffi::CString::new(format!("size={mib}m")).expect("no NUL");
            mount("skerry-test", path, "tmpfs", MountFlags::empty(), size.as_c_str())
                .map_err(|memory| format!("no ext4 ({ext4}) and no tmpfs ({memory})"))?;
            eprintln!("a full tmpfs stands for a full ext4: {ext4}");
        }
        Ok(SmallDisk { path: path.to_owned(), _image: image })
    }

    /// Takes all space that is left.
    pub fn fill(&self) {
        self.fill_but(0);
    }

    /// Takes all space but so many KiB.
    pub fn fill_but(&self, kib: u64) {
        let room = self.path.join("room");
        if kib > 0 {
            let file = File::create(&room).unwrap();
            let flags = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(&file, flags, 0, kib << 10).unwrap();
        }
        let mut options = File::options();
        let mut filler = options.append(true).create(true).open(self.path.join("filler")).unwrap();
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0x5a; size];
            loop {
                match filler.write(&piece) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("filling: {error}"),
                }
            }
        }
        filler.sync_all().unwrap();
        if kib > 0 {
            std::fs::remove_file(room).unwrap();
        }
    }

    /// Takes all space but so many KiB at once: no byte is written.
    pub fn take_but(&self, kib: u64) {
        let taken = File::create(self.path.join("filler")).unwrap();
        let bytes = self.free_bytes().saturating_sub(kib << 10);
        rustix::fs::fallocate(&taken, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    }

    pub fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.path).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Lets nothing be written any more, as ext4 does after an error of the medium; `false` where
    /// it is another file system.
    pub fn fail(&self) -> bool {
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "remount,abort"]).arg(&self.path)).is_ok()
    }

    /// Gives back what was taken.
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.path.join("filler"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.path.as_path(), UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(text.trim().to_owned()) }
}
