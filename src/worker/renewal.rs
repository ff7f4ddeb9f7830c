//! `worker identity renew`: another key for the workers of this user, at the pools that they have joined. A worker that
//! runs asks for it itself, is cut, and dials again with the new one; what it runs goes on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::JoinError;
use super::identity::{ENROLLED, KEY};
use super::known_pools::{Known, KnownPools};
use super::registration::{self, RegisterFailure, UNKNOWN_KEY};
use crate::core::id::Fingerprint;
use crate::core::refusal::Refusal;
use crate::core::timing::Timing;
use crate::net::dial::{self, Route};
use crate::net::key::{KeyFile, KeyPair};
use crate::net::succession;
use crate::store::StoreError;
use crate::store::lock::StateLock;
use crate::store::place::StateRoot;

/// How often to look whether a worker has another key.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A worker that has another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The worker's name.
    pub name: String,
    /// The pool's name.
    pub pool: String,
    /// Its key from now on.
    pub key: Fingerprint,
}

/// A worker of this user, where its pool is.
struct Joined {
    directory: PathBuf,
    key: KeyFile,
    addresses: Vec<(String, Known)>,
}

/// Renews the key of every worker of this user, or of the one that is named. What was done stands when one fails, and is
/// gone on with the next time.
///
/// # Errors
/// When there is no such worker, or its pool does not answer or refuses.
pub async fn renew(root: &StateRoot, name: Option<&str>, route: &Route) -> Result<Vec<Renewed>, JoinError> {
    let workers = joined(root, name)?;
    if workers.is_empty() {
        let text = match name {
            Some(name) => format!("no worker \"{name}\" of this user has joined a pool over the network"),
            None => "no worker of this user has joined a pool over the network".to_owned(),
        };
        return Err(JoinError::Refused(Refusal::new("no-such-worker", text)));
    }
    let mut renewed = Vec::new();
    for worker in workers {
        renewed.push(worker.renew(route).await?);
    }
    Ok(renewed)
}

/// The directories of workers that a pool has taken the key of.
fn joined(root: &StateRoot, name: Option<&str>) -> Result<Vec<Joined>, JoinError> {
    let known = KnownPools::read(&KnownPools::path(root))?;
    let mut found: Vec<(PathBuf, Joined)> = Vec::new();
    for (address, pool) in known.all() {
        for (own, directory) in root.workers_of(&pool.first) {
            let is_meant = name.is_none_or(|name| name == own);
            if !is_meant || fs::metadata(directory.join(ENROLLED)).is_err() {
                continue;
            }
            let place = (address.to_owned(), pool);
            match found.iter_mut().find(|(known, _)| *known == directory) {
                Some((_, worker)) => worker.addresses.push(place),
                None => {
                    let key = KeyFile::new(directory.join(KEY));
                    found.push((directory.clone(), Joined { directory, key, addresses: vec![place] }));
                }
            }
        }
    }
    Ok(found.into_iter().map(|(_, worker)| worker).collect())
}

impl Joined {
    /// A worker that runs does it itself, and nobody else may; for one that does not run it is done here.
    async fn renew(&self, route: &Route) -> Result<Renewed, JoinError> {
        let next = self.key.prepare_next().map_err(anyhow::Error::from)?;
        match StateLock::acquire(&self.directory) {
            Ok(_lock) => self.ask(&next, route).await,
            Err(StoreError::Held { .. }) => {
                self.wait_for_agent(next.fingerprint(), route.timing).await?;
                self.at_each(async |address, pool| self.greet(address, pool, &next, route).await).await
            }
            Err(error) => Err(anyhow::Error::from(error).into()),
        }
    }

    /// The agent looks for another key with each heartbeat, and puts it in its place when the pool has taken it.
    async fn wait_for_agent(&self, next: Fingerprint, timing: Timing) -> Result<(), JoinError> {
        let deadline = tokio::time::Instant::now() + timing.silent_after;
        while self.key.present().map_err(anyhow::Error::from)?.fingerprint() != next {
            if self.key.next().map_err(anyhow::Error::from)?.is_none() {
                let refused = Refusal::new("key-refused", "the pool did not take the new key");
                return Err(JoinError::Refused(refused.hint("its worker's log says why")));
            }
            if tokio::time::Instant::now() > deadline {
                let text = "the worker has not reached its pool: it takes the new key as soon as it has";
                return Err(JoinError::Refused(Refusal::new("unreachable", text)));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn ask(&self, next: &KeyPair, route: &Route) -> Result<Renewed, JoinError> {
        let renewed =
            self.at_each(async |address, pool| self.ask_at(address, pool, next, route).await).await?;
        self.key.promote_next(next.fingerprint()).map_err(anyhow::Error::from)?;
        Ok(renewed)
    }

    /// Tries one address of the pool after the other.
    async fn at_each(
        &self,
        work: impl AsyncFn(&str, &Known) -> Result<Renewed, RegisterFailure>,
    ) -> Result<Renewed, JoinError> {
        let mut last = None;
        for (address, pool) in &self.addresses {
            match work(address, pool).await {
                Ok(renewed) => return Ok(renewed),
                Err(failure) => last = Some(told(failure, address)),
            }
        }
        Err(last.expect("a worker has joined somewhere"))
    }

    async fn ask_at(
        &self,
        address: &str,
        pool: &Known,
        next: &KeyPair,
        route: &Route,
    ) -> Result<Renewed, RegisterFailure> {
        // The pool may have taken it already, for somebody who did not hear of that.
        match self.greet(address, pool, next, route).await {
            Err(RegisterFailure::ForGood(refused)) if refused.code == UNKNOWN_KEY => {}
            greeted => return greeted,
        }
        let failed =
            |error: &dyn std::fmt::Display| RegisterFailure::ForGood(Refusal::new("key-file", error));
        let present = self.key.present().map_err(|error| failed(&error))?;
        let asked =
            succession::renew(pool.key, present.fingerprint(), next).map_err(|error| failed(&error))?;
        let connection = dial::dial(address, &present, pool.key, route).await?;
        registration::renew_key(connection, address, &asked, route.timing).await?;
        self.greet(address, pool, next, route).await
    }

    /// Whom the pool takes the new key for.
    async fn greet(
        &self,
        address: &str,
        pool: &Known,
        key: &KeyPair,
        route: &Route,
    ) -> Result<Renewed, RegisterFailure> {
        let connection = dial::dial(address, key, pool.key, route).await?;
        let welcome = registration::greet(connection, address, route.timing).await?;
        Ok(Renewed { name: welcome.you, pool: welcome.pool, key: key.fingerprint() })
    }
}

fn told(failure: RegisterFailure, address: &str) -> JoinError {
    JoinError::Refused(match failure {
        RegisterFailure::Away(reason) => {
            Refusal::new("unreachable", format!("cannot reach the pool at {address}: {reason}"))
                .hint("both keys are kept; go on with: clusterctl worker identity renew")
        }
        RegisterFailure::NotNow(refused) | RegisterFailure::ForGood(refused) => refused,
    })
}
