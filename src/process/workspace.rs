//! Workspaces: a fresh private directory for each attempt, prepared ahead and removed behind, off the hot path.
//!
//! A directory that its job left untouched is handed out again. Nothing here looks at what jobs write; removal never
//! follows a link.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use nix::fcntl::{Flock, FlockArg};

use super::removal::remove_tree;
use super::run_as::Credentials;

/// For one user alone, or for others to pass through.
const PRIVATE: u32 = 0o700;
const PASSABLE: u32 = 0o711;
/// Directories that are prepared ahead.
const PREPARED: usize = 16;
/// Above workspaces: the user's own directory, and in it one of each executor.
const USER_PREFIX: &str = "clusterctl-";
const ROOT_PREFIX: &str = "worker-";

/// Makes and removes workspaces below one directory of its own, which goes with it.
pub(super) struct Workspaces {
    base: PathBuf,
    owner: Option<Owner>,
    root: Root,
    returned: Vec<Workspace>,
    janitor: Sender<PathBuf>,
    made: u64,
}

/// Whose workspaces are, if that is not this process's user: user and group.
#[derive(Clone, Copy, Debug)]
struct Owner(u32, u32);

/// The directory of one executor.
struct Root {
    path: PathBuf,
    prepared: Receiver<Workspace>,
    /// What cleans up /tmp leaves locked directories alone: tmpfiles.d(5).
    _lock: Option<Flock<File>>,
}

/// The directory of one attempt.
pub(super) struct Workspace {
    path: PathBuf,
    /// What it was when it was made: inode, mode, and time of the last change.
    fresh: (u64, u32, i64, i64),
}

impl Workspace {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn make(path: PathBuf, owner: Option<Owner>) -> io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        if let Some(Owner(uid, gid)) = owner {
            std::os::unix::fs::lchown(&path, Some(uid), Some(gid))?;
        }
        let fresh = state_of(&path)?;
        Ok(Self { path, fresh })
    }

    /// Times alone do not tell: on older kernels they stand still for some milliseconds.
    fn is_untouched(&self) -> bool {
        let is_empty = || fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        state_of(&self.path).is_ok_and(|state| state == self.fresh) && is_empty()
    }
}

impl Root {
    /// A new directory in `base`, which belongs to this user alone; another one who owns workspaces may pass through it.
    fn make(base: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let (ours, mode) = match owner {
            None => (directory_of_user(base), PRIVATE),
            Some(_) => {
                check_above(base)?;
                (base.join(format!("{USER_PREFIX}{}-jobs", nix::unistd::getuid())), PASSABLE)
            }
        };
        own_directory(&ours, mode)?;
        let path = tempfile::Builder::new().prefix(ROOT_PREFIX).tempdir_in(&ours)?.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let lock = Flock::lock(File::open(&path)?, FlockArg::LockSharedNonblock).ok();
        let (ready, prepared) = sync_channel(PREPARED);
        let below = path.clone();
        std::thread::Builder::new().name("prepare".into()).spawn(move || prepare(&below, owner, &ready))?;
        Ok(Self { path, prepared, _lock: lock })
    }
}

impl Workspaces {
    /// Workspaces below a new directory in `base`, of another user if one is given.
    pub(super) fn open(base: &Path, run_as: Option<&Credentials>) -> io::Result<Self> {
        let (janitor, doomed) = channel();
        std::thread::Builder::new().name("janitor".into()).spawn(move || clean(&doomed))?;
        let owner = run_as.map(|user| Owner(user.uid, user.gid));
        let root = Root::make(base, owner)?;
        Ok(Self { base: base.to_owned(), owner, root, returned: Vec::new(), janitor, made: 0 })
    }

    /// Where they are: remembered, so that a later executor can remove what is left.
    pub(super) fn root(&self) -> &Path {
        &self.root.path
    }

    /// A fresh directory.
    pub(super) fn take(&mut self) -> io::Result<Workspace> {
        while let Some(workspace) = self.returned.pop().or_else(|| self.root.prepared.try_recv().ok()) {
            // Somebody may have cleaned up after us.
            if workspace.is_untouched() {
                return Ok(workspace);
            }
        }
        match self.make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.root = Root::make(&self.base, self.owner)?;
                self.make()
            }
            made => made,
        }
    }

    fn make(&mut self) -> io::Result<Workspace> {
        self.made += 1;
        Workspace::make(self.root.path.join(format!("x{}", self.made)), self.owner)
    }

    /// Writes a script into a file that its job alone can read.
    pub(super) fn write_script(&self, name: &str, script: &[u8]) -> io::Result<PathBuf> {
        let path = self.root.path.join(name);
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        file.write_all(script)?;
        if let Some(Owner(uid, gid)) = self.owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(path)
    }

    /// The attempt is over.
    pub(super) fn give_back(&mut self, workspace: Workspace) {
        if self.returned.len() < PREPARED && workspace.is_untouched() {
            self.returned.push(workspace);
        } else {
            self.remove(workspace.path);
        }
    }

    /// Removes a directory that is not ours any longer, behind.
    pub(super) fn remove(&self, path: PathBuf) {
        // The janitor lives as long as this value; after that nothing is removed by us anyway.
        let _ = self.janitor.send(path);
    }
}

impl Drop for Workspaces {
    fn drop(&mut self) {
        remove_tree(&self.root.path);
    }
}

/// Whether a path is one that `Workspaces::open` may have made: nothing else is ever removed on the word of a file.
pub(super) fn is_root(path: &Path) -> bool {
    let begins = |name: Option<&std::ffi::OsStr>, prefix: &str| {
        name.and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    };
    let plain = path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    path.is_absolute()
        && plain
        && begins(path.file_name(), ROOT_PREFIX)
        && begins(path.parent().and_then(Path::file_name), USER_PREFIX)
}

/// Keeps directories ready until nobody wants them.
fn prepare(root: &Path, owner: Option<Owner>, ready: &SyncSender<Workspace>) {
    for n in 1_u64.. {
        let Ok(workspace) = Workspace::make(root.join(n.to_string()), owner) else {
            // No space, perhaps: then the next attempt says so, when it makes its own.
            return;
        };
        if ready.send(workspace).is_err() {
            return;
        }
    }
}

fn clean(doomed: &Receiver<PathBuf>) {
    for path in doomed {
        remove_tree(&path);
    }
}

/// Where all of this user's executors make theirs.
pub(super) fn directory_of_user(base: &Path) -> PathBuf {
    base.join(format!("{USER_PREFIX}{}", nix::unistd::getuid()))
}

/// Makes a directory for this user alone, or finds that it is one.
pub(super) fn private_directory(path: &Path) -> io::Result<()> {
    own_directory(path, PRIVATE)
}

/// The same; with `PASSABLE` others may pass through, but neither list nor change it.
fn own_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
        // The process's umask may have taken something away.
        Ok(()) => return fs::set_permissions(path, fs::Permissions::from_mode(mode)),
    }
    let metadata = fs::symlink_metadata(path)?;
    let belongs = metadata.is_dir() && metadata.uid() == nix::unistd::getuid().as_raw();
    if belongs && metadata.mode() & !PASSABLE & 0o777 == 0 {
        if metadata.mode() & mode != mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        return Ok(());
    }
    let text = format!("{} is not a directory of this user alone (mode 0700)", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Where jobs of another user have their workspaces nobody but root may put something else in the place of what is ours:
/// every directory above is root's, and others write to it only as to `/tmp`.
fn check_above(base: &Path) -> io::Result<()> {
    for directory in base.canonicalize()?.ancestors() {
        let metadata = fs::symlink_metadata(directory)?;
        let others_write = metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0;
        if metadata.uid() != 0 || others_write {
            let text = format!(
                "with --run-as the work directory and all above it have to be root's, and writable by nobody else: {} is not",
                directory.display()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    Ok(())
}

fn state_of(path: &Path) -> io::Result<(u64, u32, i64, i64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.ino(), metadata.mode(), metadata.ctime(), metadata.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_directory_is_never_handed_out_again() {
        let base = tempfile::tempdir().unwrap();
        let mut workspaces = Workspaces::open(base.path(), None).unwrap();
        let workspace = workspaces.take().unwrap();
        let path = workspace.path().to_owned();
        fs::write(path.join("x"), "y").unwrap();
        fs::remove_file(path.join("x")).unwrap();

        workspaces.give_back(workspace);

        assert!(workspaces.returned.is_empty());
    }

    #[test]
    fn what_was_cleaned_up_is_made_anew() {
        let base = tempfile::tempdir().unwrap();
        let mut workspaces = Workspaces::open(base.path(), None).unwrap();
        let first = workspaces.take().unwrap();
        // Directories are still being prepared there.
        while fs::remove_dir_all(workspaces.root()).is_err() {}
        workspaces.give_back(first);

        let next = workspaces.take().unwrap();

        assert!(next.path().exists());
    }

    #[test]
    fn an_untouched_directory_is() {
        let base = tempfile::tempdir().unwrap();
        let mut workspaces = Workspaces::open(base.path(), None).unwrap();
        let workspace = workspaces.take().unwrap();
        let path = workspace.path().to_owned();

        workspaces.give_back(workspace);

        assert_eq!(workspaces.take().unwrap().path(), path);
    }
}
