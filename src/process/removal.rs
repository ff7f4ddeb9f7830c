//! Removing what jobs leave: however deep it is, following no link, and leaving the tree nowhere.
//!
//! One directory is open at a time, and each is entered by its name in the one above. The way back is `..`, believed only
//! if it leads to where we came from: a job that still runs may move things about.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A directory that is being emptied.
struct Level {
    /// Its name in the one above.
    name: CString,
    /// Device and inode.
    id: (u64, u64),
    /// What could not be removed from it.
    left: BTreeSet<CString>,
}

/// What an entry came to.
enum Entry {
    Gone,
    /// It has to be emptied before.
    Directory,
    /// It belongs to somebody else, or is in use.
    Stays,
}

/// Removes a directory with all in it, or a file. What belongs to somebody else stays.
pub(super) fn remove_tree(path: &Path) {
    // Whatever is left is seen by whoever looks, and harms nobody.
    if let Err(error) = try_remove(path) {
        tracing::debug!(%error, path = %path.display(), "something was left");
    }
}

fn try_remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let above =
        nix::fcntl::open(parent, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let name = CString::new(name.as_bytes())?;
    if !matches!(unlink(&above, &name), Entry::Directory) {
        return Ok(());
    }
    let mut here = enter(&above, &name)?;
    let mut levels = vec![Level { name: name.clone(), id: id_of(&here)?, left: BTreeSet::new() }];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = empty(&here, &mut level.left)? {
            match enter(&here, &name).and_then(|below| Ok((id_of(&below)?, below))) {
                Ok((id, below)) => {
                    here = below;
                    levels.push(Level { name, id, left: BTreeSet::new() });
                }
                Err(_) => drop(level.left.insert(name)),
            }
            continue;
        }
        let done = levels.pop().expect("there is a level in this round");
        let Some(above_it) = levels.last_mut() else { break };
        here = openat(&here, c"..", DIRECTORY, Mode::empty())?;
        if id_of(&here)? != above_it.id {
            return Err(io::Error::other("a directory was moved while it was removed"));
        }
        if unlinkat(&here, done.name.as_c_str(), UnlinkatFlags::RemoveDir).is_err() {
            above_it.left.insert(done.name);
        }
    }
    unlinkat(&above, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
    Ok(())
}

/// Removes what can be removed from a directory; the name of the first one in it that has to be emptied before. (To try
/// that one would cost the kernel a walk through all below.)
fn empty(here: &OwnedFd, left: &mut BTreeSet<CString>) -> nix::Result<Option<CString>> {
    loop {
        let mut removed = 0_u32;
        // Of its own, so that each round begins at the beginning.
        let listed = openat(here, c".", DIRECTORY, Mode::empty())?;
        for entry in Dir::from_fd(listed)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_owned();
            if name.as_c_str() == c"." || name.as_c_str() == c".." || left.contains(&name) {
                continue;
            }
            let came_to = match entry.file_type() {
                Some(nix::dir::Type::Directory) => Entry::Directory,
                _ => unlink(here, &name),
            };
            match came_to {
                Entry::Gone => removed += 1,
                Entry::Directory => return Ok(Some(name)),
                Entry::Stays => drop(left.insert(name)),
            }
        }
        // What was listed while others were removed may not be all that there was.
        if removed == 0 {
            return Ok(None);
        }
    }
}

fn unlink(here: &OwnedFd, name: &CStr) -> Entry {
    match unlinkat(here, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Entry::Gone,
        Err(Errno::EISDIR) => Entry::Directory,
        Err(_) => Entry::Stays,
    }
}

/// Opens a directory, also one that its job has shut. Root needs no permission, and gives none: not to be led by a job to
/// what is somebody else's.
fn enter(here: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let is_root = nix::unistd::geteuid().is_root();
    let open = || openat(here, name, DIRECTORY, Mode::empty());
    let below = match open() {
        Err(Errno::EACCES) if !is_root => {
            let kind = fstatat(here, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
            if SFlag::from_bits_truncate(kind) & SFlag::S_IFMT != SFlag::S_IFDIR {
                return Err(Errno::ENOTDIR.into());
            }
            fchmodat(here, name, Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            open()?
        }
        opened => opened?,
    };
    if !is_root {
        // It may be one that can be read and not changed. If this fails, so will the removal.
        let _ = fchmod(&below, Mode::S_IRWXU);
    }
    Ok(below)
}

fn id_of(directory: &OwnedFd) -> nix::Result<(u64, u64)> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn removal_follows_no_link_and_opens_what_is_shut() {
        let base = tempfile::tempdir().unwrap();
        let keep = base.path().join("keep");
        fs::create_dir(&keep).unwrap();
        fs::write(keep.join("file"), "x").unwrap();
        let doomed = base.path().join("doomed");
        fs::create_dir_all(doomed.join("shut/deep")).unwrap();
        fs::create_dir_all(doomed.join("readable/deep")).unwrap();
        std::os::unix::fs::symlink(&keep, doomed.join("link")).unwrap();
        fs::set_permissions(doomed.join("shut"), fs::Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(doomed.join("readable"), fs::Permissions::from_mode(0o500)).unwrap();

        remove_tree(&doomed);

        assert!(!doomed.exists());
        assert!(keep.join("file").exists());
    }

    #[test]
    fn however_deep_and_wide_it_is() {
        let base = tempfile::tempdir().unwrap();
        let doomed = base.path().join("doomed");
        fs::create_dir(&doomed).unwrap();
        for n in 0..500 {
            fs::create_dir(doomed.join(n.to_string())).unwrap();
            fs::write(doomed.join(format!("{n}/file")), "x").unwrap();
        }
        // Deeper than a path can be long, and than a stack could follow.
        let mut here: OwnedFd = fs::File::open(&doomed).unwrap().into();
        for _ in 0..20_000 {
            nix::sys::stat::mkdirat(&here, c"d", Mode::S_IRWXU).unwrap();
            here = openat(&here, c"d", DIRECTORY, Mode::empty()).unwrap();
        }
        // Whoever holds the deepest holds all above it, and makes the kernel walk.
        drop(here);

        remove_tree(&doomed);

        assert!(!doomed.exists());
    }

    #[test]
    fn what_is_entered_is_a_directory_also_when_it_was_one_a_moment_ago() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", base.path().join("link")).unwrap();
        let here: OwnedFd = fs::File::open(base.path()).unwrap().into();

        assert!(enter(&here, c"elsewhere").is_ok());
        assert!(enter(&here, c"link").is_err());
    }

    #[test]
    fn a_file_and_what_is_not_there_are_as_good() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("file");
        fs::write(&file, "x").unwrap();

        remove_tree(&file);
        remove_tree(&base.path().join("nothing"));

        assert!(!file.exists());
    }
}
