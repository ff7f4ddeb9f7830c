//! Signals as a new process finds them.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Gives every signal its default disposition and blocks none: Rust ignores SIGPIPE, and what is ignored or blocked is
/// inherited by every job.
pub(super) fn reset_all() {
    for signal in nix::sys::signal::Signal::iterator() {
        if matches!(signal, nix::sys::signal::Signal::SIGKILL | nix::sys::signal::Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default disposition runs no code of ours.
        let reset = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
        reset.expect("every other signal can be reset");
    }
    nix::sys::signal::SigSet::empty().thread_set_mask().expect("the mask of the own thread can be set");
}

/// A process that was found by its number, and stays that process.
pub(super) struct Process(OwnedFd);

impl Process {
    /// The process that has this number now.
    pub(super) fn open(pid: i32) -> Option<Self> {
        // SAFETY: a system call on numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Some(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends it a signal; that it is gone already is as good.
    pub(super) fn send(&self, signal: i32) {
        let information: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: a system call on a descriptor that is ours, and on nothing else.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, information, 0) };
    }
}

/// Sends a signal to a process or, negative, to a group; that it is gone already is as good.
pub(super) fn send(pid: i32, signal: i32) {
    // SAFETY: kill touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}
