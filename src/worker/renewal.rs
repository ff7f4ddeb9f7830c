//! `worker identity renew`: another key for the workers of this user, at the pools that they have joined. A worker that
//! runs goes on: it is cut, and dials again with the new one.

use std::fs;
use std::path::PathBuf;

use super::JoinError;
use super::identity::{ENROLLED, KEY};
use super::known_pools::{Known, KnownPools};
use super::registration::{self, RegisterFailure};
use crate::core::id::Fingerprint;
use crate::core::refusal::Refusal;
use crate::net::dial::{self, Route};
use crate::net::key::{KeyFile, KeyPair};
use crate::net::succession;
use crate::store::place::StateRoot;

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
                    found.push((directory, Joined { key, addresses: vec![place] }));
                }
            }
        }
    }
    Ok(found.into_iter().map(|(_, worker)| worker).collect())
}

impl Joined {
    async fn renew(&self, route: &Route) -> Result<Renewed, JoinError> {
        let mut last = None;
        for (address, pool) in &self.addresses {
            match self.renew_at(address, pool, route).await {
                Ok(renewed) => return Ok(renewed),
                Err(failure) => last = Some(told(failure, address)),
            }
        }
        Err(last.expect("a worker has joined somewhere"))
    }

    async fn renew_at(&self, address: &str, pool: &Known, route: &Route) -> Result<Renewed, RegisterFailure> {
        let failed =
            |error: &dyn std::fmt::Display| RegisterFailure::ForGood(Refusal::new("key-file", error));
        let next = self.key.prepare_next().map_err(|error| failed(&error))?;
        let key = next.fingerprint();
        let present = self.key.present().map_err(|error| failed(&error))?;
        // It may have been taken already, by a renewal that did not hear of it.
        let renewed = match self.greet(address, pool, &next, route).await {
            Ok(welcome) => Ok(welcome),
            Err(RegisterFailure::ForGood(_)) => {
                let asked = succession::renew(pool.key, present.fingerprint(), &next);
                let asked = asked.map_err(|error| failed(&error))?;
                let connection = dial::dial(address, &present, pool.key, route).await?;
                registration::renew_key(connection, address, &asked, route.timing).await?;
                self.greet(address, pool, &next, route).await
            }
            Err(failure) => Err(failure),
        }?;
        self.key.promote_next().map_err(|error| failed(&error))?;
        Ok(Renewed { name: renewed.you, pool: renewed.pool, key })
    }

    async fn greet(
        &self,
        address: &str,
        pool: &Known,
        key: &KeyPair,
        route: &Route,
    ) -> Result<crate::wire::hello::Welcome, RegisterFailure> {
        let connection = dial::dial(address, key, pool.key, route).await?;
        registration::greet(connection, address, route.timing).await
    }
}

fn told(failure: RegisterFailure, address: &str) -> JoinError {
    JoinError::Refused(match failure {
        RegisterFailure::Away(reason) => {
            Refusal::new("unreachable", format!("cannot reach the pool at {address}: {reason}"))
                .hint("nothing has changed; when it is back: clusterctl worker identity renew")
        }
        RegisterFailure::NotNow(refused) | RegisterFailure::ForGood(refused) => refused,
    })
}
