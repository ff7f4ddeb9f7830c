//! The simulation's store: remembers what was committed, forgets the rest on `crash`, and fails when it is told to.

use std::sync::{Arc, Mutex};

use super::{Commit, EachEntry, Store, StoreError};
use crate::core::id::Epoch;

/// A store in memory. Clones share one disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    epoch: Epoch,
    log: Vec<(u64, Vec<u8>)>,
    commits: Vec<Commit>,
    failing: bool,
}

impl MemoryStore {
    /// Every append fails from now on, as on a disk that is full or broken.
    pub fn fail(&self) {
        self.disk.lock().expect("nobody panics with the disk").failing = true;
    }

    /// All commits that were made durable: what a history would be made of.
    pub fn commits(&self) -> Vec<Commit> {
        self.disk.lock().expect("nobody panics with the disk").commits.clone()
    }
}

impl Store for MemoryStore {
    fn acquire(&mut self) -> Result<Epoch, StoreError> {
        let mut disk = self.disk.lock().expect("nobody panics with the disk");
        disk.epoch.0 += 1;
        Ok(disk.epoch)
    }

    fn load(&mut self, entry: &mut EachEntry<'_>) -> Result<u64, StoreError> {
        let disk = self.disk.lock().expect("nobody panics with the disk");
        for (seq, bytes) in &disk.log {
            entry(*seq, bytes)?;
        }
        Ok(disk.log.last().map_or(1, |(seq, _)| seq + 1))
    }

    fn append(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let mut disk = self.disk.lock().expect("nobody panics with the disk");
        if disk.epoch != commit.epoch {
            return Err(StoreError::Superseded(disk.epoch));
        }
        if disk.failing {
            return Err(StoreError::Io(std::io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        disk.log.extend((commit.first_seq..).zip(commit.entries.iter().cloned()));
        disk.log.retain(|(seq, _)| *seq >= commit.keep_from);
        disk.commits.push(commit.clone());
        Ok(())
    }
}
