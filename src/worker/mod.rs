//! A worker's agent: dials its pool for ever, passes it a `Worker` capability, and stands between pool and executor.
//!
//! It may crash, be replaced or lose the link; jobs belong to the executor. Decisions are in `core::agent`.

mod driver;
mod options;
mod registration;
mod service;
mod signals;
mod uplink;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};

pub use self::driver::Ending;
pub use self::options::{JoinMode, JoinOptions, PoolAddress, RootJobs};

use crate::core::access::Role;
use crate::core::id::{Fingerprint, Name};
use crate::core::limits::NAME_BYTES_MAX;
use crate::core::membership::SubmitterTrust;
use crate::core::pool::NameChoice;
use crate::core::refusal::Refusal;
use crate::net::dial::DialError;
use crate::net::enrol::{self, EnrolError};
use crate::net::key::KeyPair;
use crate::process::facts;
use crate::store::place::{StateRoot, Surroundings};

/// Room for `-2` and the like behind a name.
const SUFFIX_BYTES: usize = 8;
/// In a worker's directory: its key.
const KEY: &str = "key";
/// In a worker's directory, once a pool has taken its key.
const ENROLLED: &str = "enrolled";

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
        /// The key that answered.
        presented: Fingerprint,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// A worker's own directory, with its lock.
struct Home {
    directory: PathBuf,
    _lock: Flock<fs::File>,
}

impl Home {
    /// The pool does not know the worker of this directory: its next join is its first.
    fn forget_identity(&self) -> std::io::Result<()> {
        for file in [ENROLLED, KEY] {
            match fs::remove_file(self.directory.join(file)) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// How a worker is known to its pool.
struct Identity {
    key: Option<KeyPair>,
    /// The pool's key; none for a pool that is reached by its socket.
    pool: Option<Fingerprint>,
    name: Name,
    choice: NameChoice,
}

/// Joins a pool, and works until it is drained, stopped or refused.
///
/// # Errors
/// When it cannot join, for good; a pool that is away is waited for.
pub async fn join(options: JoinOptions) -> Result<Ending, JoinError> {
    check_bash()?;
    check_root(&options)?;
    let root =
        StateRoot::find(&Surroundings::of_process(options.state.clone())).map_err(anyhow::Error::from)?;
    let (identity, home) = match &options.pool {
        PoolAddress::Local(state) => local_identity(&options, &root, state)?,
        PoolAddress::Network(address) => network_identity(&options, &root, address).await?,
    };
    driver::Driver::open(options, identity, home).await?.run().await
}

fn check_bash() -> Result<(), JoinError> {
    if fs::metadata("/bin/bash").is_ok() {
        return Ok(());
    }
    Err(JoinError::Refused(Refusal::new("no-bash", "this machine has no /bin/bash to run jobs with")))
}

/// Jobs of others never run as root unless somebody says so.
fn check_root(options: &JoinOptions) -> Result<(), JoinError> {
    let local_owner_only =
        matches!(options.pool, PoolAddress::Local(_)) && options.trust == SubmitterTrust::OwnerOnly;
    if facts::uid() != 0 || options.root == RootJobs::Allowed || local_owner_only {
        return Ok(());
    }
    let refused = Refusal::new("root-refused", "a worker does not run jobs as root")
        .hint("clusterctl worker join --allow-root … (who may submit then owns this machine)");
    Err(JoinError::Refused(refused))
}

fn local_identity(
    options: &JoinOptions,
    root: &StateRoot,
    state: &std::path::Path,
) -> Result<(Identity, Home), JoinError> {
    let pool = KeyPair::load_or_create(&state.join("key")).map_err(anyhow::Error::from)?.fingerprint();
    let (name, choice, home) = take_home(options, root, &pool)?;
    Ok((Identity { key: None, pool: None, name, choice }, home))
}

/// Keeps the identity of an earlier join, or enrols by the token.
async fn network_identity(
    options: &JoinOptions,
    root: &StateRoot,
    address: &str,
) -> Result<(Identity, Home), JoinError> {
    let known = root.path().join("worker-pools.toml");
    let mut pools = KnownPools::read(&known)?;
    let kept = match &options.token {
        // A kept identity wins over a token, be that spent or not.
        Some(token) => pools.0.values().copied().find(|pool| token.is_for(pool)),
        None => pools.0.get(address).copied(),
    };
    if let Some(pool) = kept {
        let (name, choice, home) = take_home(options, root, &pool)?;
        let key = KeyPair::load_or_create(&home.directory.join(KEY)).map_err(anyhow::Error::from)?;
        if home.directory.join(ENROLLED).exists() {
            return Ok((Identity { key: Some(key), pool: Some(pool), name, choice }, home));
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
    // Until the pool's whole key is known, the home is named by the half that the token knows.
    let mut half = [0; 32];
    half[..16].copy_from_slice(&token.pool);
    let (name, choice, home) = take_home(options, root, &Fingerprint(half))?;
    let key = KeyPair::load_or_create(&home.directory.join(KEY)).map_err(anyhow::Error::from)?;
    let mut attempts = 0_u32;
    let enrolled = loop {
        match enrol::enrol(address, &key, token, (&name, choice), &options.timing).await {
            Ok(enrolled) => break enrolled,
            Err(EnrolError::Refused(why, text)) => {
                let refused = Refusal::new(why.code(), text).fact("pool", address);
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                return Err(JoinError::Refused(
                    refused.hint(format!("on {host}: clusterctl token create --worker")),
                ));
            }
            Err(EnrolError::Dial(DialError::OtherKey { presented })) => {
                let expected = data_encoding::HEXLOWER.encode(&token.pool);
                return Err(JoinError::OtherPool { address: address.to_owned(), expected, presented });
            }
            Err(error) => {
                if attempts == 0 {
                    tracing::warn!("waiting for the pool at {address}: {error}");
                }
                attempts += 1;
                tokio::time::sleep(pause(options.timing.dial_pause_max, attempts)).await;
            }
        }
    };
    pools.0.insert(address.to_owned(), enrolled.pool_key);
    pools.write(&known)?;
    fs::write(home.directory.join(ENROLLED), &enrolled.name).context("cannot write the worker's state")?;
    let name = Name::parse(&enrolled.name).map_err(anyhow::Error::from)?;
    Ok((Identity { key: Some(key), pool: Some(enrolled.pool_key), name, choice }, home))
}

/// Takes the directory of a worker of this pool: a default name that is in use gets a number behind it.
fn take_home(
    options: &JoinOptions,
    root: &StateRoot,
    pool: &Fingerprint,
) -> Result<(Name, NameChoice, Home), JoinError> {
    let (wished, choice) = match &options.name {
        Some(name) => (name.clone(), NameChoice::Given),
        None => (Name::from_any(&facts::hostname()), NameChoice::Default),
    };
    for n in 1_u32.. {
        let stem = wished.as_str();
        let name = match n {
            1 => wished.clone(),
            n => Name::from_any(&format!("{}-{n}", &stem[..stem.len().min(NAME_BYTES_MAX - SUFFIX_BYTES)])),
        };
        let directory = root.worker(pool, name.as_str());
        match lock(&directory)? {
            Ok(lock) => return Ok((name, choice, Home { directory, _lock: lock })),
            Err(pid) if choice == NameChoice::Given => {
                let text = format!("worker \"{name}\" is already running (pid {pid})");
                return Err(JoinError::Refused(Refusal::new("worker-running", text)));
            }
            Err(_) => {}
        }
    }
    unreachable!("some name is free")
}

/// The lock of a worker's directory, or who has it.
fn lock(directory: &std::path::Path) -> anyhow::Result<Result<Flock<fs::File>, u32>> {
    use std::io::{Read, Write};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join("lock");
    let file =
        fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            Ok(Ok(file))
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            Ok(Err(pid.trim().parse().unwrap_or(0)))
        }
        Err((_, error)) => Err(error.into()),
    }
}

/// Which pool answered at an address when this user's workers first joined there.
#[derive(Default)]
struct KnownPools(std::collections::BTreeMap<String, Fingerprint>);

impl KnownPools {
    fn read(path: &std::path::Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let table: std::collections::BTreeMap<String, String> =
            toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let key = |hex: &String| {
            let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
            Some(Fingerprint(bytes.try_into().ok()?))
        };
        Ok(Self(table.iter().filter_map(|(address, hex)| Some((address.clone(), key(hex)?))).collect()))
    }

    fn write(&self, path: &std::path::Path) -> anyhow::Result<()> {
        let table: std::collections::BTreeMap<&String, String> =
            self.0.iter().map(|(address, key)| (address, data_encoding::HEXLOWER.encode(&key.0))).collect();
        let directory = path.parent().unwrap_or(std::path::Path::new("."));
        let file = tempfile::NamedTempFile::new_in(directory)?;
        fs::write(file.path(), toml::to_string(&table)?)?;
        file.persist(path)?;
        Ok(())
    }
}

/// The pause before the next dial: longer each time, up to a bound, and never the same for two workers.
fn pause(longest: Duration, attempts: u32) -> Duration {
    let mut random = [0; 4];
    // Without randomness all workers come at once, and no worse.
    let _ = getrandom::fill(&mut random);
    let spread = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    let longest = longest.min(Duration::from_millis(100) * 2_u32.saturating_pow(attempts.min(10)));
    longest.mul_f64(0.5 + spread / 2.0)
}
