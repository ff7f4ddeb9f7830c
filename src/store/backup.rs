//! A copy of a pool's state, made while the pool runs, that a pool can be started from.
//!
//! The database first, at one moment; then the output, of which there is never less than the database speaks of. Keys of
//! secrets stay behind: a backup is not to hold what they lock up.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, output, sqlite};

/// Beside the database: the pool's identity, and output.
const FILES: [&str; 2] = ["key", "keys.toml"];
pub(super) const OUTPUT: &str = "output";

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Of the database.
    pub database_bytes: u64,
    /// Of kept output.
    pub output_bytes: u64,
}

/// Copies a pool's state into a directory that is not there yet, whole or not at all.
///
/// # Errors
/// When there is no such state, the directory is there, or the disk says no.
pub fn back_up(state: &Path, to: &Path) -> Result<Copied, StoreError> {
    let at = |error| StoreError::At(to.to_owned(), error);
    if fs::symlink_metadata(to).is_ok() {
        return Err(at(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already")));
    }
    let partial = beside(to);
    fs::DirBuilder::new().mode(0o700).create(&partial).map_err(at)?;
    let copied = copy(state, &partial).and_then(|copied| {
        fs::rename(&partial, to)?;
        sync(to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        Ok(copied)
    });
    if copied.is_err() {
        // The reason is told; what is left tells by its name that it is not whole.
        let _ = fs::remove_dir_all(&partial);
    }
    copied
}

fn beside(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    name.into()
}

fn copy(state: &Path, to: &Path) -> Result<Copied, StoreError> {
    let mut copied = Copied { database_bytes: copy_database(state, to)?, ..Copied::default() };
    fs::DirBuilder::new().mode(0o700).create(to.join(OUTPUT))?;
    for segment in output::files(&state.join(OUTPUT))? {
        let name = segment.file_name().unwrap_or_default().to_owned();
        // One may have been dropped for its age since it was listed.
        copied.output_bytes += copy_file(&segment, &to.join(OUTPUT).join(name))?.unwrap_or(0);
    }
    for name in FILES {
        copy_file(&state.join(name), &to.join(name))?;
    }
    sync(&to.join(OUTPUT))?;
    sync(to)?;
    Ok(copied)
}

fn copy_database(state: &Path, to: &Path) -> Result<u64, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(state.join(sqlite::FILE), flags)?;
    connection.busy_timeout(sqlite::BUSY)?;
    let target = to.join(sqlite::FILE);
    // Made first, for its mode.
    fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&target)?;
    let name = target.to_str().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no UTF-8", target.display()))
    })?;
    connection.execute("VACUUM INTO ?1", [name])?;
    let file = File::open(&target)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// As much of a file as there is; how much that was. None if there is no such file.
fn copy_file(from: &Path, to: &Path) -> io::Result<Option<u64>> {
    let mut from = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(to)?;
    let bytes = io::copy(&mut from, &mut file)?;
    file.sync_all()?;
    Ok(Some(bytes))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
