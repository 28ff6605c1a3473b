//! How much memory the kernel lets this process have.

use std::path::Path;

/// A limit above this is none, bytes: version 1 tells the largest number that a page divides.
const LIMIT_MAX: u64 = 1 << 62;

/// The least memory limit of the cgroups that this process is in, such as `MemoryMax` of its
/// service or the limit of its container, bytes; `None`: there is none, or it is not told. See
/// cgroups(7).
#[allow(clippy::disallowed_methods, reason = "the kernel's own files, read once at the start")]
pub fn memory_max() -> Option<u64> {
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    least(&cgroups, |file| std::fs::read_to_string(file).ok())
}

fn least(cgroups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut found = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            v1 if v1.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A container may see its own as the root of all.
        for above in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = read(&Path::new(root).join(above).join(file)).unwrap_or_default();
            let limit = text.trim().parse().ok().filter(|limit| *limit < LIMIT_MAX);
            found = found.into_iter().chain(limit).min();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f209_the_least_limit_above_the_process_counts() {
        let told = |cgroups: &str, files: &[(&str, &str)]| {
            least(cgroups, |file| {
                let found = files.iter().find(|(path, _)| Path::new(path) == file);
                found.map(|(_, text)| format!("{text}\n"))
            })
        };
        let service = "0::/system.slice/skerry.service\n";
        let (own, slice, top) = (
            "/sys/fs/cgroup/system.slice/skerry.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/memory.max",
        );
        assert_eq!(told(service, &[(own, "max"), (slice, "max")]), None);
        assert_eq!(told(service, &[(own, "201326592"), (slice, "max")]), Some(201_326_592));
        assert_eq!(told(service, &[(own, "9"), (slice, "7"), (top, "8")]), Some(7));
        assert_eq!(told("0::/\n", &[(top, "8")]), Some(8));
        let v1 = "12:cpu,cpuacct:/a\n5:memory:/docker/0a\n0::/docker/0a\n";
        let (own, top) = (
            "/sys/fs/cgroup/memory/docker/0a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        );
        assert_eq!(told(v1, &[(top, "9223372036854771712")]), None);
        assert_eq!(told(v1, &[(own, "5000"), (top, "9223372036854771712")]), Some(5000));
        assert_eq!(told(v1, &[(top, "6000")]), Some(6000), "seen from within");
        assert_eq!(told("nonsense", &[]), None);
    }
}
