//! Who a worker is: its name, its directory and its key, kept from an earlier join or had for a token.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::known_pools::{Known, KnownPools, OwnPool};
use super::{JoinError, JoinOptions, pause, random};
use crate::core::access::Role;
use crate::core::id::{Fingerprint, Name};
use crate::core::limits::NAME_BYTES_MAX;
use crate::core::membership::Tenure;
use crate::core::pool::NameChoice;
use crate::core::refusal::Refusal;
use crate::core::succession::Renewal;
use crate::net::address;
use crate::net::dial::DialError;
use crate::net::enrol::{self, EnrolError, Enrolled};
use crate::net::key::{KeyFile, KeyPair};
use crate::net::keyring::Keyring;
use crate::net::succession;
use crate::net::token::Token;
use crate::process::facts;
use crate::store::StoreError;
use crate::store::lock::StateLock;
use crate::store::place::StateRoot;

/// Room for `-2` and the like behind a name.
const SUFFIX_BYTES: usize = 8;
/// In a worker's directory: its key.
pub(super) const KEY: &str = "key";
/// In a worker's directory, once a pool has taken its key.
pub(super) const ENROLLED: &str = "enrolled";

/// A worker's own directory, with its lock.
pub(super) struct Home {
    lock: StateLock,
}

impl Home {
    pub(super) fn directory(&self) -> &Path {
        self.lock.directory()
    }

    /// The pool does not know the worker of this directory: its next join is its first.
    pub(super) fn forget_identity(&self) -> std::io::Result<()> {
        match fs::remove_file(self.directory().join(ENROLLED)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other?,
        }
        KeyFile::new(self.directory().join(KEY)).remove()
    }
}

/// How a worker is known to its pool.
pub(super) struct Identity {
    /// Its key, and its pool; none of a pool that is reached by its socket.
    pub(super) key: Option<KeyFile>,
    pub(super) pool: Option<OwnPool>,
    pub(super) name: Name,
    pub(super) choice: NameChoice,
}

impl Identity {
    /// What asks the pool to take the next key for the present one, if somebody has made one.
    pub(super) fn renewal(&self) -> anyhow::Result<Option<Renewal>> {
        let (Some(file), Some(pool)) = (&self.key, &self.pool) else { return Ok(None) };
        let Some(next) = file.next()? else { return Ok(None) };
        Ok(Some(succession::renew(pool.key(), file.present()?.fingerprint(), &next)?))
    }
}

/// The pool's socket says whose worker it is.
pub(super) fn of_local_worker(
    options: &JoinOptions,
    root: &StateRoot,
    state: &Path,
) -> Result<(Identity, Home), JoinError> {
    let pool = Keyring::first(state).map_err(anyhow::Error::from)?;
    let (name, choice, home) = take_home(options, root, &pool)?;
    Ok((Identity { key: None, pool: None, name, choice }, home))
}

/// Keeps the identity of an earlier join, or enrols by the token.
pub(super) async fn of_network_worker(
    options: &JoinOptions,
    root: &StateRoot,
    address: &str,
) -> Result<(Identity, Home), JoinError> {
    let path = KnownPools::path(root);
    let pools = KnownPools::read(&path)?;
    // A kept identity wins over a token, be that spent or not.
    let kept = known(options, &pools, address);
    let identity = |pool: Known, (name, choice, home): (Name, NameChoice, Home)| {
        let key = KeyFile::new(home.directory().join(KEY));
        let pool = OwnPool::new(pool.key, path.clone());
        (Identity { key: Some(key), pool: Some(pool), name, choice }, home)
    };
    if let Some(pool) = kept {
        let taken = take_home(options, root, &pool.first)?;
        if taken.2.directory().join(ENROLLED).exists() {
            if pools.at(address).is_none() {
                KnownPools::remember(&path, address, pool)?;
            }
            return Ok(identity(pool, taken));
        }
    }
    if let Some(token) = options.token.as_ref().filter(|token| token.role != Role::Worker) {
        let refused = Refusal::new(
            "auth-token-wrong-role",
            format!("this token is for a {}; a worker needs one made with --worker", token.role.as_str()),
        );
        return Err(JoinError::Refused(refused.hint("clusterctl token create --worker")));
    }
    let Some(token) = &options.token else {
        let refused =
            Refusal::new("auth-no-token", format!("this worker is not known to the pool at {address} yet"))
                .hint("on the pool's machine: clusterctl token create --worker");
        return Err(JoinError::Refused(refused));
    };
    // As long as the pool's whole key is not known, the home is named by the half that the token knows.
    let mut half = [0; 32];
    half[..16].copy_from_slice(&token.pool);
    let first = kept.map_or(Fingerprint(half), |pool| pool.first);
    let (name, choice, home) = take_home(options, root, &first)?;
    let key = KeyPair::load_or_create(&home.directory().join(KEY)).map_err(anyhow::Error::from)?;
    let enrolled = enrol(options, address, &key, token, (&name, choice)).await?;
    let pool = Known { first, key: enrolled.pool_key };
    KnownPools::remember(&path, address, pool)?;
    fs::write(home.directory().join(ENROLLED), &enrolled.name).context("cannot write the worker's state")?;
    let name = Name::parse(&enrolled.name).map_err(anyhow::Error::from)?;
    Ok(identity(pool, (name, choice, home)))
}

/// A worker that its pool knows, or knows from now on; with the name that its directory has.
pub(super) async fn admitted(
    options: &JoinOptions,
    root: &StateRoot,
    address: &str,
) -> Result<String, JoinError> {
    let (name, _) = wished_name(options);
    if let Some(pool) = known(options, &KnownPools::read(&KnownPools::path(root))?, address) {
        let directory = root.worker(&pool.first, name.as_str());
        // It may be running as the very service.
        if directory.join(ENROLLED).exists() && StateLock::is_held(&directory) {
            return Ok(name.to_string());
        }
    }
    let (_, home) = of_network_worker(options, root, address).await?;
    Ok(StateRoot::worker_name(home.directory()).map_or_else(|| name.to_string(), str::to_owned))
}

/// The pool that is meant, if this user's workers have met it: by the token if there is one, else by its address.
fn known(options: &JoinOptions, pools: &KnownPools, address: &str) -> Option<Known> {
    match &options.token {
        Some(token) => {
            let is_meant = |pool: &Known| token.is_for(&pool.key) || token.is_for(&pool.first);
            pools.all().map(|(_, pool)| pool).find(is_meant)
        }
        None => pools.at(address),
    }
}

/// Spends the token; a pool that is away is waited for.
async fn enrol(
    options: &JoinOptions,
    address: &str,
    key: &KeyPair,
    token: &Token,
    name: (&Name, NameChoice),
) -> Result<Enrolled, JoinError> {
    let mut attempts = 0_u32;
    loop {
        match enrol::enrol(address, key, token, name, &options.route()).await {
            Ok(enrolled) => return Ok(enrolled),
            Err(EnrolError::Refused(why, text)) => {
                let refused = Refusal::new(why.code(), text).fact("pool", address);
                let hint = why.hint(Role::Worker, address::host(address));
                return Err(JoinError::Refused(refused.hint(hint)));
            }
            Err(EnrolError::Dial(DialError::OtherKey { presented })) => {
                let (expected, presented) = token.tell_apart(&presented);
                return Err(JoinError::OtherPool { address: address.to_owned(), expected, presented });
            }
            Err(error) => {
                if attempts == 0 {
                    tracing::warn!("waiting for the pool at {address}: {error}");
                }
                attempts += 1;
                tokio::time::sleep(pause(options.timing.dial_pause_max, attempts, random())).await;
            }
        }
    }
}

/// The name that is given, else the host's. Of an ephemeral worker both are only how its name begins.
pub(super) fn wished_name(options: &JoinOptions) -> (Name, NameChoice) {
    match &options.name {
        Some(name) if options.tenure == Tenure::Lasting => (name.clone(), NameChoice::Given),
        Some(name) => (name.clone(), NameChoice::Default),
        None => (Name::from_any(&facts::hostname()), NameChoice::Default),
    }
}

/// Takes the directory of a worker of this pool: a default name that is in use gets a number behind it.
fn take_home(
    options: &JoinOptions,
    root: &StateRoot,
    pool: &Fingerprint,
) -> Result<(Name, NameChoice, Home), JoinError> {
    let (wished, choice) = wished_name(options);
    for n in 1_u32.. {
        let stem = wished.as_str();
        let name = match n {
            1 => wished.clone(),
            n => Name::from_any(&format!("{}-{n}", &stem[..stem.len().min(NAME_BYTES_MAX - SUFFIX_BYTES)])),
        };
        let directory = root.worker(pool, name.as_str());
        match StateLock::acquire(&directory) {
            Ok(lock) => return Ok((name, choice, Home { lock })),
            Err(StoreError::Held { pid, .. }) if choice == NameChoice::Given => {
                let text = format!("worker \"{name}\" is already running (pid {pid})");
                return Err(JoinError::Refused(Refusal::new("worker-running", text)));
            }
            Err(StoreError::Held { .. }) => {}
            Err(error) => return Err(anyhow::Error::new(error).into()),
        }
    }
    unreachable!("some name is free")
}
