//! One process per state directory: a locked file that says who has it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::StoreError;

const TRIES: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(2);

/// Held as long as a process may write to a state directory.
#[derive(Debug)]
pub struct StateLock {
    directory: PathBuf,
    _file: Flock<File>,
}

impl StateLock {
    /// Makes the directory (0700) if need be, and takes its lock.
    ///
    /// # Errors
    /// `Held`, with the process that has it; or that the directory cannot be made.
    pub fn acquire(directory: &Path) -> Result<Self, StoreError> {
        let at = |error| StoreError::At(directory.to_owned(), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let path = directory.join("lock");
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        let file = options.open(path).map_err(at)?;
        match lock(file) {
            Ok(mut file) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Self { directory: directory.to_owned(), _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                let pid = text.trim().parse().unwrap_or(0);
                Err(StoreError::Held { path: directory.to_owned(), pid })
            }
            Err((_, error)) => Err(at(error.into())),
        }
    }

    /// Whether a process holds a directory.
    pub fn is_held(directory: &Path) -> bool {
        let Ok(file) = File::open(directory.join("lock")) else { return false };
        matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, nix::errno::Errno::EWOULDBLOCK)))
    }

    /// The directory that is held.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Takes an exclusive lock. Somebody who only looks has it for a moment, so it is tried more than once.
fn lock(mut file: File) -> Result<Flock<File>, (File, nix::errno::Errno)> {
    for _ in 0..TRIES {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
            other => return other,
        };
        std::thread::sleep(TRY_AGAIN);
    }
    Err((file, nix::errno::Errno::EWOULDBLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateLock::acquire(&directory.path().join("lab")).unwrap();

        let second = StateLock::acquire(first.directory());

        assert!(matches!(second, Err(StoreError::Held { pid, .. }) if pid == std::process::id()));
        assert!(StateLock::is_held(first.directory()));
        drop(first);
        assert!(!StateLock::is_held(&directory.path().join("lab")));
        assert!(StateLock::acquire(&directory.path().join("lab")).is_ok());
    }
}
