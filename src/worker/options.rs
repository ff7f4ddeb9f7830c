//! How a worker is started.

use std::path::PathBuf;
use std::time::Duration;

use crate::core::id::Name;
use crate::core::label::Labels;
use crate::core::membership::{SubmitterTrust, Tenure};
use crate::core::time::Clock;
use crate::core::timing::Timing;
use crate::net::dial::Route;
use crate::net::proxy::Proxies;
use crate::net::token::Token;
use crate::process::facts;
use crate::process::run_as::JobUser;

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Where its pool is.
    pub pool: PoolAddress,
    /// Lets it in the first time.
    pub token: Option<Token>,
    /// The name that it wishes; none: its host's.
    pub name: Option<Name>,
    /// What it can run at a time.
    pub slots: u32,
    /// Given with `--label`, over what it finds by itself.
    pub labels: Labels,
    /// Below which workspaces are made.
    pub work_directory: PathBuf,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// Whose jobs it takes on its pool's own machine.
    pub trust: SubmitterTrust,
    /// Whether its pool remembers it when it has gone.
    pub tenure: Tenure,
    /// As whom jobs run; none: as this process's user.
    pub run_as: Option<JobUser>,
    /// Whether it may run jobs as root.
    pub root: RootJobs,
    /// Whether a person watches it.
    pub mode: JoinMode,
    /// How long it takes to end once it was asked to; none: as long as what runs takes.
    pub stop_within: Option<Duration>,
    /// Durations.
    pub timing: Timing,
    /// What it reads the time by.
    pub clock: Clock,
    /// What may be between it and its pool.
    pub proxies: Proxies,
}

impl JoinOptions {
    /// How it dials.
    pub(super) fn route(&self) -> Route {
        Route { timing: self.timing, proxies: self.proxies.clone() }
    }

    /// As whom jobs run: name and number.
    pub(super) fn jobs_user(&self) -> (String, u32) {
        match &self.run_as {
            Some(user) => (user.name.clone(), user.credentials.uid),
            None => (facts::user(), facts::uid()),
        }
    }
}

/// Where a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolAddress {
    /// `host:port`.
    Network(String),
    /// The state directory of a pool of this user on this machine.
    Local(PathBuf),
}

/// Whether a worker may run jobs as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootJobs {
    /// Not unless they are the pool owner's own.
    Refused,
    /// `--allow-root`.
    Allowed,
}

/// Whether a person watches a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinMode {
    /// A person, who sees its lines and ends it.
    Foreground,
    /// The private pool's own.
    Background,
}
