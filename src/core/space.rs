//! Whether a disk has room for what is new. It does not look: whoever knows the disk tells.

use super::size::sizes;

/// Whether the pool's disk has room for more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Space {
    /// It has.
    #[default]
    Enough,
    /// What is left is for what was accepted already.
    Low {
        /// What is free.
        free_bytes: u64,
        /// What has to be for new jobs.
        needed_bytes: u64,
    },
}

/// `3.0 MiB are free, 5.0 MiB have to be for new jobs`
pub fn low(free_bytes: u64, needed_bytes: u64) -> String {
    let (free, needed) = sizes(free_bytes, needed_bytes);
    format!("{free} are free, {needed} have to be for new jobs")
}
