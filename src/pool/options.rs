//! How a pool is started.

use std::path::PathBuf;

use crate::core::id::Name;
use crate::core::timing::Timing;

/// How a pool is started.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Its name; none: the private pool, opened to the network if `listen` is given.
    pub name: Option<Name>,
    /// Where it listens, as `host:port`; none: on its socket only.
    pub listen: Option<String>,
    /// What its lines for others say instead of the address that it listens on.
    pub advertise: Option<String>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// Output that is kept at most, in bytes.
    pub output_limit: u64,
    /// Tasks of one owner that have not ended, at most.
    pub owner_tasks: u64,
    /// What all peers together make it keep for them, in bytes; beyond it the one with most is cut.
    pub peers_memory: usize,
    /// Who started it.
    pub mode: Mode,
    /// Durations.
    pub timing: Timing,
}

/// Who started a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A person, who sees its lines and ends it.
    Foreground,
    /// The same, who types into it as well: Ctrl-C is for what runs, not for the pool.
    Prompting,
    /// A client that needs a private pool: it detaches itself, brings a worker, and ends when nobody needs it.
    Background,
}
