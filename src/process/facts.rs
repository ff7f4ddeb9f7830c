//! What a machine says of itself: boot id, name, size, user.

use std::fs;

use nix::unistd::{Uid, User};

use super::cgroup;
use crate::core::label::Labels;

/// Of the machine's present boot.
pub fn boot_id() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

/// The machine's name up to the first dot.
pub fn hostname() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Processors that this process may use, by its affinity and by its control group's quota.
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

/// Memory of the machine, or what our control group may use of it, in bytes.
pub fn memory_bytes() -> u64 {
    machine_memory_bytes().min(cgroup::memory_limit().unwrap_or(u64::MAX))
}

fn machine_memory_bytes() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    total.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// The name of this process's user, or its number.
pub fn user() -> String {
    let uid = Uid::current();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// This process's user.
pub fn uid() -> u32 {
    Uid::current().as_raw()
}

/// Labels that a worker finds by itself: os, arch, hostname, cpus, memory (GiB, rounded), kernel.
pub fn labels() -> Labels {
    let memory_gib = memory_bytes().div_ceil(1 << 30);
    let pairs = [
        ("os", std::env::consts::OS.to_owned()),
        ("arch", std::env::consts::ARCH.to_owned()),
        ("hostname", hostname()),
        ("cpus", cpus().to_string()),
        ("memory", format!("{memory_gib}G")),
        ("kernel", read("/proc/sys/kernel/osrelease")),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
