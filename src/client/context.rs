//! Which pool is meant: contexts in `~/.config/clusterctl/config.toml`, each with where a pool is and what its key is.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::Failure;
use crate::core::id::Fingerprint;
use crate::core::refusal::os_words;
use crate::net::key::KeyFile;
use crate::store::place::StateRoot;

/// What is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The context that counts when nothing else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A pool that this user knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// As `host:port`; none for a pool of this user on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The pool's key, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The state directory of a pool of this user on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PathBuf>,
}

impl Context {
    /// The pool's key.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        let bytes = data_encoding::HEXLOWER.decode(self.key.as_ref()?.as_bytes()).ok()?;
        Some(Fingerprint(bytes.try_into().ok()?))
    }

    /// The pool is known by this key from now on.
    pub fn set_fingerprint(&mut self, key: Fingerprint) {
        self.key = Some(data_encoding::HEXLOWER.encode(&key.0));
    }
}

impl Config {
    /// Reads it; there may be none.
    ///
    /// # Errors
    /// When it cannot be read, or is no configuration.
    pub fn load() -> Result<Self, Failure> {
        let Some(path) = config_path() else { return Ok(Self::default()) };
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                let text = format!("cannot read {}: {}", path.display(), os_words(&error));
                Err(Failure::new("config", text))
            }
            Ok(text) => toml::from_str(&text).map_err(|error| {
                Failure::new("config", format!("cannot read {}", path.display())).fact("at", error)
            }),
        }
    }

    /// A pool is known by another key from now on, wherever it is known.
    ///
    /// # Errors
    /// As for `load` and `save`.
    pub fn renew_pool_key(before: Fingerprint, after: Fingerprint) -> Result<(), Failure> {
        let mut config = Self::load()?;
        let known = config.contexts.values_mut().filter(|known| known.fingerprint() == Some(before));
        known.for_each(|known| known.set_fingerprint(after));
        config.save()
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When there is no home directory, or it cannot be written.
    pub fn save(&self) -> Result<(), Failure> {
        let path = config_path().ok_or_else(|| Failure::new("no-home", "no home directory for this user"))?;
        let directory = path.parent().expect("the configuration lies in a directory");
        let text = toml::to_string(self).map_err(|error| Failure::new("config", error))?;
        let write = || {
            fs::create_dir_all(directory)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(text.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)
        };
        let written: std::io::Result<_> = write();
        written.map(drop).map_err(|error| {
            Failure::new("config", format!("cannot write {}: {}", path.display(), os_words(&error)))
        })
    }
}

/// The one key of this user, for every pool.
pub fn own_key(root: &StateRoot) -> KeyFile {
    KeyFile::new(root.client().join("key"))
}

/// Where it lies.
pub fn config_path() -> Option<PathBuf> {
    base("XDG_CONFIG_HOME", ".config").map(|base| base.join("clusterctl/config.toml"))
}

/// Where the REPL's history lies.
pub fn history_path() -> Option<PathBuf> {
    base("XDG_STATE_HOME", ".local/state").map(|base| base.join("clusterctl/history"))
}

/// Where reports of faults in the program lie.
pub fn crash_directory() -> Option<PathBuf> {
    base("XDG_STATE_HOME", ".local/state").map(|base| base.join("clusterctl"))
}

fn base(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}
