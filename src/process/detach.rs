//! Leaving whoever started this process: its terminal, its session, its files.

use std::os::fd::{AsFd, AsRawFd};

/// Makes this process one that nothing of its starter's holds: own session, cwd `/`, no descriptor but the standard
/// ones. Called before anything is opened; standard output stays for `ready`.
pub fn detach() -> nix::Result<()> {
    // A session leader already is one: then there is nothing to leave.
    let _ = nix::unistd::setsid();
    nix::unistd::chdir("/")?;
    close_from(3, Closing::Now);
    Ok(())
}

/// Tells the starter, who reads this process's standard output, that it may go on, and lets go of it.
pub fn ready() -> nix::Result<()> {
    let stdout = std::io::stdout();
    // The starter may have gone: then nobody waits.
    let _ = nix::unistd::write(stdout.as_fd(), b"ready\n");
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // SAFETY: both descriptors are open, and standard output belongs to the whole process.
    match unsafe { libc::dup2(null.as_raw_fd(), 1) } {
        -1 => Err(nix::errno::Errno::last()),
        _ => Ok(()),
    }
}

/// When descriptors are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    Now,
    OnExec,
}

/// Closes every descriptor from a number on.
pub(super) fn close_from(first: u32, closing: Closing) {
    let flags = match closing {
        Closing::Now => 0,
        Closing::OnExec => libc::CLOSE_RANGE_CLOEXEC,
    };
    // SAFETY: called before anything in this process owns such a descriptor, or to mark them only.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
}
