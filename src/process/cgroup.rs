//! Control groups: how much memory this process may use, and a group of an executor's own, by which all that it ever
//! started can be ended at once, also when the executor and its keepers are killed in one instant.
//!
//! The group is of the unified hierarchy (v2, since Linux 5.14 with `cgroup.kill`). Where none can be made, as for an
//! ordinary user to whom none was delegated, there is none. See cgroups(7).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::id::Incarnation;

use super::clock;

/// What is killed is gone within this, or cannot be killed now.
const GONE_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The memory that this process may use, in bytes, as far as a control group bounds it.
pub(super) fn memory_limit() -> Option<u64> {
    let (own, mounts) = own_files()?;
    let bound = |hierarchy, file: &str| {
        let place = Place::find(&own, &mounts, hierarchy)?;
        place
            .upwards()
            .filter_map(|group| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok())
            .min()
    };
    let bounds = [bound(Hierarchy::Unified, "memory.max"), bound(Hierarchy::Memory, "memory.limit_in_bytes")];
    bounds.into_iter().flatten().min()
}

/// A group that this process is in alone with what it starts.
pub(super) struct Own {
    group: PathBuf,
    /// Where the process was before.
    before: PathBuf,
}

impl Own {
    /// Ends all that executors of this directory have left, and enters a group of its own. Only who holds the
    /// directory's lock may do so.
    pub(super) fn enter(directory: &Path, incarnation: Incarnation) -> Option<Self> {
        let (own, mounts) = own_files()?;
        let before = Place::find(&own, &mounts, Hierarchy::Unified)?.group;
        let prefix = prefix(directory);
        for entry in fs::read_dir(&before).ok()?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix)
                && let Err(error) = end(&entry.path())
            {
                tracing::warn!(%error, "cannot end what an earlier executor left in its control group");
            }
        }
        let group = before.join(format!("{prefix}{:016x}", incarnation.0));
        fs::create_dir(&group).ok()?;
        let entered = Self { group, before };
        // Whoever is not let in leaves none.
        fs::write(entered.group.join("cgroup.procs"), "0").ok()?;
        Some(entered)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Nothing else is in it any more; if anything is, the next executor ends it.
        let _ = fs::write(self.before.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.group);
    }
}

/// How groups of executors of one directory begin.
fn prefix(directory: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let path = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let hash = blake3::hash(path.as_os_str().as_bytes()).to_hex();
    format!("clusterctl-{}-", &hash[..16])
}

/// Kills all in a group and removes it.
fn end(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.kill"), "1")?;
    let deadline = clock::boottime() + GONE_WITHIN;
    while fs::read_to_string(group.join("cgroup.events"))?.contains("populated 1") {
        if clock::boottime() > deadline {
            return Err(io::Error::other("a process in it does not die"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    fs::remove_dir(group)
}

fn own_files() -> Option<(String, String)> {
    let read = |path| fs::read_to_string(path).ok();
    Some((read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?))
}

/// A tree of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    /// v2.
    Unified,
    /// That of the memory controller of v1.
    Memory,
}

/// Where a process is in a hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The directory of its group.
    group: PathBuf,
    /// Where the hierarchy is mounted.
    mount: PathBuf,
}

impl Place {
    /// Finds a process by its `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
    fn find(own: &str, mounts: &str, hierarchy: Hierarchy) -> Option<Self> {
        let path = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = match hierarchy {
                Hierarchy::Unified => controllers.is_empty(),
                Hierarchy::Memory => controllers.split(',').any(|controller| controller == "memory"),
            };
            is_it.then_some(path)
        })?;
        mounts.lines().find_map(|line| {
            let (fields, system) = line.split_once(" - ")?;
            let mut fields = fields.split(' ').skip(3);
            let (root, mount) = (fields.next()?, fields.next()?);
            let mut system = system.split(' ');
            let (kind, options) = (system.next()?, system.nth(1)?);
            let is_it = match hierarchy {
                Hierarchy::Unified => kind == "cgroup2",
                Hierarchy::Memory => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
            };
            // What is above the root of the mount cannot be seen, nor can we be there.
            let below = Path::new(path).strip_prefix(root).ok()?;
            is_it.then(|| Self { group: Path::new(mount).join(below), mount: mount.into() })
        })
    }

    /// Its group and those above it.
    fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.group.ancestors().take_while(|group| group.starts_with(&self.mount))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "4:memory:/jobs/a\n1:cpu,cpuacct:/\n0::/user.slice/session-1.scope\n";

    #[test]
    fn a_process_is_found_in_both_hierarchies() {
        let unified = Place::find(OWN, MOUNTS, Hierarchy::Unified).unwrap();
        assert_eq!(unified.group, Path::new("/sys/fs/cgroup/unified/user.slice/session-1.scope"));

        let memory = Place::find(OWN, MOUNTS, Hierarchy::Memory).unwrap();
        let up: Vec<&Path> = memory.upwards().collect();
        let expected =
            ["/sys/fs/cgroup/memory/jobs/a", "/sys/fs/cgroup/memory/jobs", "/sys/fs/cgroup/memory"];
        assert_eq!(up, expected.map(Path::new));
    }

    #[test]
    fn in_a_container_the_mount_shows_the_part_below_its_root() {
        let mounts = "900 800 0:26 /docker/42 /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n";

        let place = Place::find("0::/docker/42/init\n", mounts, Hierarchy::Unified).unwrap();

        assert_eq!(place.group, Path::new("/sys/fs/cgroup/init"));
        assert_eq!(Place::find("0::/elsewhere\n", mounts, Hierarchy::Unified), None);
    }

    #[test]
    fn without_a_unified_hierarchy_there_is_no_place() {
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

        assert_eq!(Place::find(OWN, mounts, Hierarchy::Unified), None);
    }

    #[test]
    fn executors_of_two_directories_have_groups_of_different_names() {
        assert_ne!(prefix(Path::new("/a")), prefix(Path::new("/b")));
        assert_eq!(prefix(Path::new("/a")), prefix(Path::new("/a")));
    }
}
