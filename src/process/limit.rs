//! How many files this process may have open.
//!
//! Servers need many, and the usual soft limit of 1,024 is for programs that use `select`. Jobs get back what their
//! worker was started with.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit to the hard one; with what it was before.
pub fn raise_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    // A limit that cannot be raised stays: then fewer fit.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    soft
}

/// Sets the soft limit.
pub(super) fn set_files(soft: u64) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard);
    }
}
