//! Room on the disk of a pool's state, and a reserve: when the disk fills up, what is accepted already can still end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

use crate::core::limits;

/// The reserve, in a pool's state.
const RESERVE: &str = "reserve";

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// That this user may still use, in bytes.
    pub free: u64,
    /// In all.
    pub total: u64,
}

impl Room {
    /// Of the file system that a directory lies on.
    ///
    /// # Errors
    /// The operating system's own.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let system = statvfs(directory)?;
        let unit = system.fragment_size();
        Ok(Self { free: system.blocks_available() * unit, total: system.blocks() * unit })
    }

    /// What is to stay free for a pool: nothing new is accepted below it, and old output makes room.
    pub fn watermark(&self) -> u64 {
        self.share(limits::DISK_FREE_BYTES)
    }

    /// Whether there may soon be none, although the reserve was let go.
    pub fn is_short(&self) -> bool {
        self.free < self.watermark() / 8
    }

    /// So many bytes; of a small disk a twentieth.
    pub fn share(&self, bytes: u64) -> u64 {
        bytes.min(self.total / 20)
    }

    /// How much is missing to that.
    pub fn missing(&self) -> u64 {
        self.watermark().saturating_sub(self.free)
    }
}

/// Space that is held as long as there is enough, and let go when there is not.
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of a pool's state.
    pub fn new(state: &Path) -> Self {
        Self { path: state.join(RESERVE) }
    }

    /// Lets go of it below half of the watermark, and takes it again when there is plenty.
    ///
    /// # Errors
    /// The operating system's own.
    pub fn keep(&self, room: Room) -> io::Result<()> {
        let (watermark, held) = (room.watermark(), self.path.exists());
        let size = watermark / 4;
        if held && room.free < watermark / 2 {
            return fs::remove_file(&self.path);
        }
        if !held && size > 0 && room.free > 2 * watermark {
            let file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&self.path)?;
            if let Err(error) = take(&file, size) {
                // Half a reserve is none.
                let _ = fs::remove_file(&self.path);
                return Err(error);
            }
        }
        Ok(())
    }
}

fn take(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, i64::try_from(bytes).unwrap_or(i64::MAX)) {
        // A file system without it: then there is no reserve.
        Err(nix::errno::Errno::EOPNOTSUPP) => Ok(()),
        taken => Ok(taken?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_small_disk_keeps_a_twentieth_free_and_a_large_one_no_more_than_it_needs() {
        assert_eq!(Room { free: 10 * MIB, total: 100 * MIB }.watermark(), 5 * MIB);
        assert_eq!(Room { free: 10 * MIB, total: 1 << 50 }.watermark(), limits::DISK_FREE_BYTES);
        assert_eq!(Room { free: 2 * MIB, total: 100 * MIB }.missing(), 3 * MIB);
        assert_eq!(Room { free: 20 * MIB, total: 100 * MIB }.missing(), 0);
    }

    #[test]
    fn the_reserve_is_held_in_plenty_and_let_go_in_need() {
        let state = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(state.path());
        let at = |free| Room { free, total: 100 * MIB };
        let held = || state.path().join(RESERVE).metadata().map_or(0, |file| file.len());

        reserve.keep(at(9 * MIB)).unwrap();
        assert_eq!(held(), 0, "there is not enough to take one");
        reserve.keep(at(50 * MIB)).unwrap();
        assert_eq!(held(), 5 * MIB / 4);
        reserve.keep(at(3 * MIB)).unwrap();
        assert_eq!(held(), 5 * MIB / 4, "it is low, and not yet needed");
        reserve.keep(at(2 * MIB)).unwrap();
        assert_eq!(held(), 0);
    }
}
