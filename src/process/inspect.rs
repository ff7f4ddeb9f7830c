//! A look at this machine for `doctor`: modes, space, bash, and what can end processes. What is found is for
//! `core::checkup` to judge.
//!
//! It changes nothing, but for a directory that it makes where workspaces would be, and removes.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{AccessFlags, access};

use super::{facts, workspace};
use crate::core::checkup::machine::{Children, Entry, Found, Means, Owner, Programs, WorkPlace};
use crate::core::refusal::os_words;

/// Where control groups of version 2 are mounted.
const GROUPS: &str = "/sys/fs/cgroup";

/// A file or directory as it is.
pub fn found(path: &Path) -> Found {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Missing,
        Err(error) => Found::Unreadable(os_words(&error)),
        Ok(metadata) => {
            let owner = if metadata.uid() == facts::uid() { Owner::Us } else { Owner::Other(metadata.uid()) };
            Found::There(Entry { mode: metadata.mode() & 0o7777, owner })
        }
    }
}

/// Whether bash can be run.
///
/// # Errors
/// Why not, in the operating system's words.
pub fn bash() -> Result<(), String> {
    may(Path::new("/bin/bash"), AccessFlags::X_OK)
}

/// Whether something can be made in a directory; if it does not exist, whether it can be made.
///
/// # Errors
/// Why not, in the operating system's words.
pub fn can_make_in(directory: &Path) -> Result<(), String> {
    let there = directory.ancestors().find(|path| !path.as_os_str().is_empty() && path.exists());
    let there = there.ok_or("no such directory")?;
    if !there.is_dir() {
        return Err(format!("{} is no directory", there.display()));
    }
    may(there, AccessFlags::W_OK | AccessFlags::X_OK)
}

/// Whether a file can be written to; if it does not exist, whether it can be made.
///
/// # Errors
/// Why not, in the operating system's words.
pub fn can_append_to(file: &Path) -> Result<(), String> {
    match OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(file) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            can_make_in(file.parent().unwrap_or(Path::new(".")))
        }
        Err(error) => Err(os_words(&error)),
    }
}

/// The directory below which workspaces are made.
pub fn work_place(directory: &Path) -> WorkPlace {
    let tried = try_workspace(directory).map_err(|error| os_words(&error));
    let (mut programs, mut free_bytes, mut free_files) = (Programs::Run, None, None);
    if let Ok(system) = statvfs(directory) {
        if system.flags().contains(FsFlags::ST_NOEXEC) {
            programs = Programs::Refused;
        }
        free_bytes = Some(system.blocks_available() * system.fragment_size());
        // File systems that make them as they are needed say 0 of 0.
        free_files = Some(system.files_available()).filter(|_| system.files() > 0);
    }
    WorkPlace { tried, programs, free_bytes, free_files }
}

/// As a worker makes one: in this user's own directory, if that is there.
fn try_workspace(directory: &Path) -> io::Result<()> {
    let ours = workspace::directory_of_user(directory);
    let base = match fs::symlink_metadata(&ours) {
        Ok(_) => {
            workspace::private_directory(&ours)?;
            ours
        }
        Err(_) => directory.to_owned(),
    };
    let made = tempfile::Builder::new().prefix("doctor-").tempdir_in(base)?;
    let mut file = fs::File::create(made.path().join("file"))?;
    file.write_all(&[0; 4096])?;
    // Where there is no space, it may be told only now.
    file.sync_all()
}

/// What can end the processes of a job.
pub fn means_of_ending() -> Means {
    let words = |error: nix::Error| os_words(&error.into());
    Means {
        reaper: nix::sys::prctl::get_child_subreaper().map(|_| ()).map_err(words),
        descriptors: open_own_descriptor().map_err(words),
        children: match fs::read_to_string(format!("/proc/self/task/{}/children", nix::unistd::gettid())) {
            Ok(_) => Children::Listed,
            Err(_) => Children::Searched,
        },
        group: own_group(),
    }
}

fn open_own_descriptor() -> nix::Result<()> {
    let pid = nix::unistd::getpid().as_raw();
    // SAFETY: it takes two numbers, and makes a descriptor.
    let opened = nix::errno::Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let descriptor = i32::try_from(opened).map_err(|_| nix::errno::Errno::EOVERFLOW)?;
    nix::unistd::close(descriptor)
}

/// The control group that this process is in, if this user may divide it.
fn own_group() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = format!("{GROUPS}{}", own.trim_end_matches('/'));
    let files = ["", "/cgroup.procs", "/cgroup.subtree_control"];
    let may_divide =
        files.iter().all(|file| may(Path::new(&format!("{path}{file}")), AccessFlags::W_OK).is_ok());
    may_divide.then_some(path)
}

fn may(path: &Path, what: AccessFlags) -> Result<(), String> {
    access(path, what).map_err(|error| os_words(&error.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_there_is_told_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        assert_eq!(found(&file), Found::Missing);
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();

        assert_eq!(found(&file), Found::There(Entry { mode: 0o640, owner: Owner::Us }));
        assert!(matches!(found(&file.join("below")), Found::Unreadable(_)));
    }

    #[test]
    fn a_look_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deep/history");

        assert_eq!(can_append_to(&file), Ok(()));
        assert_eq!(work_place(directory.path()).tried, Ok(()));
        assert_eq!((bash(), means_of_ending().reaper), (Ok(()), Ok(())));

        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_nothing_can_be_made_that_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();

        assert_eq!(can_append_to(directory.path()), Err("is a directory".to_owned()));
        assert_eq!(can_make_in(&file.join("below")), Err(format!("{} is no directory", file.display())));
        assert!(work_place(&directory.path().join("none")).tried.is_err());
    }

    #[test]
    fn a_directory_of_workspaces_that_others_can_look_into_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let ours = workspace::directory_of_user(directory.path());
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o755)).unwrap();

        let words = work_place(directory.path()).tried.unwrap_err();

        assert!(words.contains("is not a directory of this user alone"), "{words}");
    }
}
