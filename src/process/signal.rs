//! Signals as a new process finds them.

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

/// Sends a signal to a process or, negative, to a group; that it is gone already is as good.
pub(super) fn send(pid: i32, signal: i32) {
    // SAFETY: kill touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}
