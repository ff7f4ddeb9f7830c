//! A worker's agent: dials its pool for ever, passes it a `Worker` capability, and stands between pool and executor.
//!
//! It may crash, be replaced or lose the link; jobs belong to the executor. Decisions are in `core::agent`.

mod doctor;
mod driver;
mod identity;
mod known_pools;
mod machine;
mod options;
mod registration;
mod renewal;
mod room;
mod service;
mod signals;
mod site;
mod uplink;

use std::fs;
use std::rc::Rc;
use std::time::Duration;

pub use self::doctor::{DoctorOptions, examine};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

pub use self::driver::Ending;
pub use self::options::{JoinMode, JoinOptions, PoolAddress, RootJobs};
pub use self::registration::{RegisterFailure, Registrar, RunningLink, by_network, by_socket};
pub use self::renewal::{Renewed, renew};
pub use self::signals::Asked;
pub use self::site::{Met, Site};

use self::driver::Driver;
use self::identity::Identity;
use self::machine::Machine;
use crate::core::membership::SubmitterTrust;
use crate::core::refusal::Refusal;
use crate::process::first;
use crate::store::place::{StateRoot, Surroundings};

/// Why a worker cannot join, for good.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The pool, or the machine, says no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// Another pool answers.
    #[error("{address} is not the pool this token is for")]
    OtherPool {
        /// Where.
        address: String,
        /// What the token knows of its pool's key.
        expected: String,
        /// The same of the key that answered.
        presented: String,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Joins a pool, and works until it is drained, stopped or refused.
///
/// # Errors
/// When it cannot join, for good; a pool that is away is waited for.
pub async fn join(options: JoinOptions) -> Result<Ending, JoinError> {
    check_bash()?;
    check_root(&options.pool, options.trust, options.jobs_user().1, options.root)?;
    let root =
        StateRoot::find(&Surroundings::of_process(options.state.clone())).map_err(anyhow::Error::from)?;
    let (identity, home) = match &options.pool {
        PoolAddress::Local(state) => identity::of_local_worker(&options, &root, state)?,
        PoolAddress::Network(address) => identity::of_network_worker(&options, &root, address).await?,
    };
    let (asked, _signals) = signals::forwarded(&options).map_err(anyhow::Error::from)?;
    let _reaper = first::is_first().then(reaper);
    let (options, identity) = (Rc::new(options), Rc::new(identity));
    let machine = Machine { options: Rc::clone(&options), identity: Rc::clone(&identity), home };
    Driver::open(options, identity, machine, asked).await?.run().await
}

/// Works at a site that the caller brings, as a worker that a pool knows by its name alone.
///
/// # Errors
/// As `join`.
pub async fn work_at(
    site: impl Site,
    options: JoinOptions,
    asked: mpsc::UnboundedReceiver<Asked>,
) -> Result<Ending, JoinError> {
    let (name, choice) = identity::wished_name(&options);
    let identity = Identity { key: None, pool: None, name, choice };
    Driver::open(Rc::new(options), Rc::new(identity), site, asked).await?.run().await
}

/// Reaps orphans for as long as it is kept.
fn reaper() -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::task::spawn_local(async {
        let Err(error) = first::reap_orphans().await;
        tracing::warn!(%error, "orphans are not reaped");
    }))
}

/// Has a worker let in by its pool, if it is not known there yet, and does no more: afterwards it joins by its key. With
/// the name by which its directory is found again. A pool that is away is waited for.
///
/// # Errors
/// When it cannot join, for good.
pub async fn admit(options: JoinOptions) -> Result<String, JoinError> {
    check_bash()?;
    check_root(&options.pool, options.trust, options.jobs_user().1, options.root)?;
    let root =
        StateRoot::find(&Surroundings::of_process(options.state.clone())).map_err(anyhow::Error::from)?;
    match &options.pool {
        PoolAddress::Local(_) => Ok(identity::wished_name(&options).0.to_string()),
        PoolAddress::Network(address) => identity::admitted(&options, &root, address).await,
    }
}

fn check_bash() -> Result<(), JoinError> {
    if fs::metadata("/bin/bash").is_ok() {
        return Ok(());
    }
    Err(JoinError::Refused(Refusal::new("no-bash", "this machine has no /bin/bash to run jobs with")))
}

/// Jobs of others never run as root unless somebody says so.
///
/// # Errors
/// When they would.
pub fn check_root(
    pool: &PoolAddress,
    trust: SubmitterTrust,
    jobs_uid: u32,
    root: RootJobs,
) -> Result<(), JoinError> {
    let local_owner_only = matches!(pool, PoolAddress::Local(_)) && trust == SubmitterTrust::OwnerOnly;
    if jobs_uid != 0 || root == RootJobs::Allowed || local_owner_only {
        return Ok(());
    }
    let refused = Refusal::new("root-refused", "a worker does not run jobs as root")
        .hint("--run-as USER, or --allow-root (who may submit then owns this machine)");
    Err(JoinError::Refused(refused))
}

/// The pause before the next dial: longer each time, up to a bound, and never the same for two workers.
fn pause(longest: Duration, attempts: u32, random: u32) -> Duration {
    let spread = f64::from(random) / f64::from(u32::MAX);
    let longest = longest.min(Duration::from_millis(100) * 2_u32.saturating_pow(attempts.min(10)));
    longest.mul_f64(0.5 + spread / 2.0)
}

fn random() -> u32 {
    let mut random = [0; 4];
    // Without randomness all workers come at once, and no worse.
    let _ = getrandom::fill(&mut random);
    u32::from_le_bytes(random)
}
