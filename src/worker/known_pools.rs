//! Which pools this user's workers have met: at a known address nobody else is accepted.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use anyhow::Context;

use crate::core::id::Fingerprint;

/// Which pool answered at an address when this user's workers first joined there.
#[derive(Default)]
pub(super) struct KnownPools(BTreeMap<String, Fingerprint>);

impl KnownPools {
    /// Every pool that was met.
    pub(super) fn all(&self) -> impl Iterator<Item = Fingerprint> {
        self.0.values().copied()
    }

    /// The pool that answered at an address.
    pub(super) fn at(&self, address: &str) -> Option<Fingerprint> {
        self.0.get(address).copied()
    }

    /// Every address with the pool that answered there.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&str, Fingerprint)> {
        self.0.iter().map(|(address, pool)| (address.as_str(), *pool))
    }

    pub(super) fn remember(&mut self, address: &str, pool: Fingerprint) {
        self.0.insert(address.to_owned(), pool);
    }

    /// None are known where there is no file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let table: BTreeMap<String, String> =
            toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let key = |hex: &String| {
            let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).ok()?;
            Some(Fingerprint(bytes.try_into().ok()?))
        };
        Ok(Self(table.iter().filter_map(|(address, hex)| Some((address.clone(), key(hex)?))).collect()))
    }

    /// All of the file is written, or nothing.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let table: BTreeMap<&String, String> =
            self.0.iter().map(|(address, key)| (address, data_encoding::HEXLOWER.encode(&key.0))).collect();
        let directory = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(directory)?;
        fs::write(file.path(), toml::to_string(&table)?)?;
        file.persist(path)?;
        Ok(())
    }
}
