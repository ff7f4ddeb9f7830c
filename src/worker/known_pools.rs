//! Which pools this user's workers have met: at a known address nobody else is accepted, but who was named by the pool
//! itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::core::id::Fingerprint;
use crate::core::succession::Succession;
use crate::net::succession::present_key;
use crate::store::place::StateRoot;

/// A pool that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// The key by which it was met first: directories of its workers are named by it.
    pub(super) first: Fingerprint,
    /// Its key.
    pub(super) key: Fingerprint,
}

/// Which pool answered at an address when this user's workers first joined there.
#[derive(Default)]
pub(super) struct KnownPools(BTreeMap<String, Known>);

/// As it lies in the file, in hexadecimal.
#[derive(Serialize, Deserialize)]
struct Entry {
    first: String,
    key: String,
}

impl KnownPools {
    /// Where this user's are remembered.
    pub(super) fn path(root: &StateRoot) -> PathBuf {
        root.path().join("worker-pools.toml")
    }

    /// The pool that answered at an address.
    pub(super) fn at(&self, address: &str) -> Option<Known> {
        self.0.get(address).copied()
    }

    /// Every address with the pool that answered there.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, Known)> {
        self.0.iter().map(|(address, pool)| (address.as_str(), *pool))
    }

    /// A pool answers at an address.
    pub(super) fn remember(path: &Path, address: &str, pool: Known) -> anyhow::Result<()> {
        Self::change(path, |pools| {
            pools.0.insert(address.to_owned(), pool);
        })
    }

    /// Changes what is remembered, one process after the other.
    fn change(path: &Path, change: impl FnOnce(&mut Self)) -> anyhow::Result<()> {
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.with_extension("lock"))
            .with_context(|| format!("cannot use {}", path.display()))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let mut pools = Self::read(path)?;
        change(&mut pools);
        pools.write(path)
    }

    fn renew(&mut self, before: Fingerprint, after: Fingerprint) {
        self.0.values_mut().filter(|pool| pool.key == before).for_each(|pool| pool.key = after);
    }

    /// None are known where there is no file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let table: BTreeMap<String, Entry> =
            toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let key = |hex: &String| {
            let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
            Some(Fingerprint(bytes.try_into().ok()?))
        };
        let known = |entry: &Entry| Some(Known { first: key(&entry.first)?, key: key(&entry.key)? });
        Ok(Self(table.iter().filter_map(|(address, entry)| Some((address.clone(), known(entry)?))).collect()))
    }

    /// All of the file is written, or nothing.
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        let hex = |key: Fingerprint| data_encoding::HEXLOWER.encode(&key.0);
        let entry = |pool: &Known| Entry { first: hex(pool.first), key: hex(pool.key) };
        let table: BTreeMap<&String, Entry> =
            self.0.iter().map(|(address, pool)| (address, entry(pool))).collect();
        let directory = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(directory)?;
        fs::write(file.path(), toml::to_string(&table)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        fs::File::open(directory)?.sync_all()?;
        Ok(())
    }
}

/// The pool that an agent is a worker of, by the key that it is known by at the time.
pub(super) struct OwnPool {
    key: Cell<Fingerprint>,
    path: PathBuf,
}

impl OwnPool {
    pub(super) fn new(key: Fingerprint, path: PathBuf) -> Self {
        Self { key: Cell::new(key), path }
    }

    pub(super) fn key(&self) -> Fingerprint {
        self.key.get()
    }

    /// The pool told what its former keys say: from now on it is known by the one that they name.
    pub(super) fn heed(&self, said: &[Succession]) -> anyhow::Result<()> {
        let before = self.key();
        let after = present_key(before, said);
        if after == before {
            return Ok(());
        }
        // Remembered first: what fails is told again with the next registration.
        KnownPools::change(&self.path, |pools| pools.renew(before, after))?;
        self.key.set(after);
        tracing::info!(key = %format!("{after:.4}"), "the pool has another key");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::key::KeyPair;
    use crate::net::succession::succeed;

    #[test]
    fn a_pool_is_known_by_its_new_key_at_every_address_once_the_old_one_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pools.toml");
        let (old, new, thief) =
            (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let first = old.fingerprint();
        for address in ["a:1", "b:1"] {
            KnownPools::remember(&path, address, Known { first, key: first }).unwrap();
        }
        let own = OwnPool::new(first, path.clone());

        own.heed(&[succeed(&thief, thief.fingerprint()).unwrap()]).unwrap();
        assert_eq!(own.key(), first);
        own.heed(&[succeed(&old, new.fingerprint()).unwrap()]).unwrap();

        let expected = Known { first, key: new.fingerprint() };
        assert_eq!(own.key(), expected.key);
        let pools = KnownPools::read(&path).unwrap();
        assert_eq!(pools.all().collect::<Vec<_>>(), [("a:1", expected), ("b:1", expected)]);
    }
}
