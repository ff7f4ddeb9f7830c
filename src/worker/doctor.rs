//! `worker doctor`: what keeps a worker on this machine from working, or could.
//!
//! It joins nothing, and takes no worker's directory: beside a worker that runs it only looks. What is found is judged in
//! `core::checkup`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::identity::{ENROLLED, KEY};
use super::known_pools::{Known, KnownPools};
use super::options::PoolAddress;
use super::registration::{self, RegisterFailure};
use crate::core::checkup::machine::{self, BashFor};
use crate::core::checkup::pool::{Way, beside, reached};
use crate::core::checkup::{Check, Verdict};
use crate::core::id::Fingerprint;
use crate::core::membership::Sharing;
use crate::net::address;
use crate::net::dial::{self, DialError, Route};
use crate::net::key::{KeyFile, KeyPair};
use crate::process::{facts, inspect};
use crate::store::place::StateRoot;
use crate::wire::hello::Welcome;

/// Pools that are looked at when none is named.
const POOLS_MAX: usize = 8;

/// What is looked at.
#[derive(Clone, Debug)]
pub struct DoctorOptions {
    /// This user's state.
    pub root: StateRoot,
    /// The pool that is meant; none: those that workers of this user have joined.
    pub pool: Option<PoolAddress>,
    /// Below which workspaces would be made.
    pub work_directory: PathBuf,
    /// How pools are dialled.
    pub route: Route,
}

/// Looks at the pool that is meant, and at this machine.
pub async fn examine(options: &DoctorOptions) -> Vec<Check> {
    let mut checks = vec![machine::user(&facts::user(), facts::uid())];
    match KnownPools::read(&KnownPools::path(&options.root)) {
        Ok(known) => checks.extend(at_pools(options, &known).await),
        Err(error) => {
            checks.push(Check::fail("pools", format!("{error:#}"), "Remove the file, and join again"))
        }
    }
    checks.extend(on_machine(options));
    checks
}

async fn at_pools(options: &DoctorOptions, known: &KnownPools) -> Vec<Check> {
    match &options.pool {
        Some(PoolAddress::Local(state)) => at_socket(state, &options.route).await,
        Some(PoolAddress::Network(address)) => at_address(options, known.at(address), address).await,
        None => {
            let mut checks = Vec::new();
            for (address, pool) in known.all().take(POOLS_MAX) {
                checks.extend(at_address(options, Some(pool), address).await);
            }
            if checks.is_empty() {
                let words = "no worker of this user has joined a pool; name one to look at it: HOST:PORT";
                checks.push(Check::ok("network", words));
            }
            checks
        }
    }
}

async fn at_socket(state: &Path, route: &Route) -> Vec<Check> {
    let began = Instant::now();
    let found = registration::greet_local(state, route.timing).await;
    let name = state.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    greeted(&Way::Socket(format!("pool \"{name}\"")), found, began.elapsed())
}

/// By the key of a worker that has joined there; else by the first look of a stranger.
async fn at_address(options: &DoctorOptions, pool: Option<Known>, address: &str) -> Vec<Check> {
    let join = format!("Join: clusterctl worker join {address} --token CCT1-w-…");
    let joined =
        pool.and_then(|pool| Some((pool.key, joined_keys(&options.root, &pool.first).into_iter().next()?)));
    let Some((pool, key)) = joined else {
        return match dial::look(address, &options.route).await {
            Ok(key) => vec![
                Check::ok("network", format!("{address} reachable, shows the key {key}")),
                Check::warn("auth", "no worker of this user has joined there", join),
            ],
            Err(error) => vec![unreachable(address, &error)],
        };
    };
    let keys = KeyFile::new(key);
    let mut tried = Vec::new();
    let mut checks = Vec::new();
    // While a key is replaced the pool knows the one or the other.
    loop {
        match keys.untried(&tried) {
            Ok(Some(key)) => {
                tried.push(key.fingerprint());
                checks = by_key(options, &key, pool, address).await;
                if checks.iter().all(|check| check.verdict != Verdict::Fail) {
                    return checks;
                }
            }
            Ok(None) => return checks,
            Err(error) => return vec![Check::fail("auth", error.to_string(), join)],
        }
    }
}

async fn by_key(options: &DoctorOptions, key: &KeyPair, pool: Fingerprint, address: &str) -> Vec<Check> {
    let connection = match dial::dial(address, key, pool, &options.route).await {
        Ok(connection) => connection,
        Err(DialError::OtherKey { presented }) => {
            let words = format!(
                "{address} presented a different key than before (expected {pool}, presented {presented})"
            );
            let remedy = "If the pool was made anew, join by a token of it: clusterctl worker join --token";
            return vec![Check::fail("network", words, remedy)];
        }
        Err(error) => return vec![unreachable(address, &error)],
    };
    let began = Instant::now();
    let found = registration::greet(connection, address, options.route.timing).await;
    let proxy = options.route.proxies.to(address).ok().flatten();
    let way = match proxy {
        Some(proxy) => Way::Proxy(address.to_owned(), proxy.to_string()),
        None => Way::Network(address.to_owned()),
    };
    greeted(&way, found, began.elapsed())
}

fn unreachable(address: &str, error: &DialError) -> Check {
    let host = address::host(address);
    let remedy = match error {
        DialError::Proxy(_) => format!("NO_PROXY={host} goes without; --proxy URL goes through another"),
        DialError::UnknownHost { .. } => {
            format!("Is {host} written as it should be, and known to this machine? getent hosts {host}")
        }
        DialError::Unreachable { .. }
        | DialError::OtherKey { .. }
        | DialError::NoPool(_)
        | DialError::Own(_) => {
            format!("On {host}: clusterctl pool status; and let this machine connect to its port")
        }
    };
    Check::fail("network", format!("cannot reach {address}: {error}"), remedy)
}

/// What a pool said to a worker's first words.
fn greeted(way: &Way, found: Result<Welcome, RegisterFailure>, took: Duration) -> Vec<Check> {
    match found {
        Ok(welcome) => {
            let jobs = (&*facts::boot_id(), facts::uid());
            let sharing = Sharing::between(jobs, (&welcome.boot_id, welcome.uid));
            vec![
                reached(way, took),
                Check::ok("auth", format!("known to pool \"{}\" as {}", welcome.pool, welcome.you)),
                beside(&welcome.pool, sharing),
            ]
        }
        Err(RegisterFailure::ForGood(refused)) => {
            vec![Check::ok("network", way.words()), Check::refused("auth", &refused)]
        }
        Err(RegisterFailure::NotNow(refused)) => vec![Check::refused("network", &refused)],
        Err(RegisterFailure::Away(reason)) => {
            vec![Check::fail(
                "network",
                format!("the pool: {reason}"),
                "On its machine: clusterctl pool status",
            )]
        }
    }
}

fn on_machine(options: &DoctorOptions) -> Vec<Check> {
    let text = |path: PathBuf| (path.display().to_string(), inspect::found(&path));
    let root = &options.root;
    let workers = root.workers();
    let keys: Vec<_> = workers.iter().map(|directory| text(directory.join(KEY))).collect();
    let below: Vec<_> = workers.iter().cloned().map(text).collect();
    let (path, found) = text(root.path().to_owned());
    let mut checks = vec![machine::bash(inspect::bash(), BashFor::Jobs)];
    checks.extend(machine::keys(&keys));
    checks.extend(machine::state((&path, &found), &below, inspect::can_make_in(root.path())));
    let work = &options.work_directory;
    checks.extend(machine::work(&work.display().to_string(), &inspect::work_place(work)));
    checks.push(machine::ending(&inspect::means_of_ending()));
    checks
}

/// The keys by which a pool knows workers of this user.
fn joined_keys(root: &StateRoot, pool: &Fingerprint) -> Vec<PathBuf> {
    let workers = root.workers_of(pool).into_iter().map(|(_, path)| path);
    workers.filter(|path| fs::metadata(path.join(ENROLLED)).is_ok()).map(|path| path.join(KEY)).collect()
}
