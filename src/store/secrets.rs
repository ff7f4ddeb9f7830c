//! Secret variables of jobs that have not ended: sealed in the database, with a key for each job in a file of its own
//! beside it (0600). When the job ends the file goes, and what is sealed can never be opened again, wherever the database
//! was copied to.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::core::id::SecretsId;
use crate::core::job::Variable;

const DIRECTORY: &str = "secrets";
const KEY_BYTES: usize = 32;

/// The keys of a pool's secrets.
#[derive(Clone, Debug)]
pub struct Secrets {
    directory: PathBuf,
}

impl Secrets {
    /// Those of a state directory.
    ///
    /// # Errors
    /// When their directory cannot be made.
    pub fn open(state: &Path) -> io::Result<Self> {
        let directory = state.join(DIRECTORY);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory })
    }

    /// Seals the values of a job's secret variables. A request that comes twice has one key.
    ///
    /// # Errors
    /// When no key can be kept.
    pub fn seal(&self, id: SecretsId, secrets: Vec<Variable>) -> io::Result<Vec<Variable>> {
        if secrets.is_empty() {
            return Ok(secrets);
        }
        let key = self.key_for(id)?;
        secrets.into_iter().map(|(name, value)| Ok((name.clone(), seal(&key, &name, value)?))).collect()
    }

    /// Opens what was sealed.
    ///
    /// # Errors
    /// When the key is gone, or belongs to something else.
    pub fn unseal(&self, id: SecretsId, sealed: &[Variable]) -> io::Result<Vec<Variable>> {
        let key = read_key(&self.path(id))?;
        sealed.iter().map(|(name, value)| Ok((name.clone(), unseal(&key, name, value)?))).collect()
    }

    /// Nobody opens what is sealed with this key any longer.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn erase(&self, id: SecretsId) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Erases all but these: what a pool that was killed did not come to.
    ///
    /// # Errors
    /// When the keys cannot be listed.
    pub fn erase_all_but(&self, kept: &[SecretsId]) -> io::Result<()> {
        let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !kept.iter().any(|name| entry.file_name() == name.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn path(&self, id: SecretsId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    /// The job's key; a new one is on the disk before anything is sealed with it.
    fn key_for(&self, id: SecretsId) -> io::Result<LessSafeKey> {
        let path = self.path(id);
        let mut new = [0; KEY_BYTES];
        getrandom::fill(&mut new).map_err(|error| io::Error::other(error.to_string()))?;
        let mut file = tempfile::Builder::new().prefix(".new-").make_in(&self.directory, |path| {
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
        })?;
        file.write_all(&new)?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(&path) {
            Ok(_) => fs::File::open(&self.directory)?.sync_all()?,
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.error),
        }
        read_key(&path)
    }
}

fn read_key(path: &Path) -> io::Result<LessSafeKey> {
    let bytes = fs::read(path)?;
    let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a secret's key is damaged"))?;
    Ok(LessSafeKey::new(key))
}

/// Nonce, then what is sealed; a value moved to another name does not open.
fn seal(key: &LessSafeKey, name: &[u8], mut value: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut value)
        .map_err(|_| io::Error::other("a secret cannot be sealed"))?;
    Ok([nonce.as_slice(), &value].concat())
}

fn unseal(key: &LessSafeKey, name: &[u8], sealed: &[u8]) -> io::Result<Vec<u8>> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a secret is not what was sealed");
    let (nonce, value) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
    let mut value = value.to_vec();
    let opened = key
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name), &mut value)
        .map_err(|_| wrong())?;
    Ok(opened.to_vec())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn id(n: u8) -> SecretsId {
        SecretsId([n; 16])
    }

    fn some() -> Vec<Variable> {
        vec![(b"TOKEN".to_vec(), b"s3cret".to_vec()), (b"EMPTY".to_vec(), Vec::new())]
    }

    #[test]
    fn what_was_sealed_opens_with_its_own_key_until_that_is_erased() {
        let state = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(state.path()).unwrap();

        let sealed = secrets.seal(id(1), some()).unwrap();
        let again = secrets.seal(id(1), some()).unwrap();
        secrets.seal(id(2), some()).unwrap();

        assert!(!sealed[0].1.windows(6).any(|bytes| bytes == b"s3cret"));
        assert_eq!(secrets.unseal(id(1), &sealed).unwrap(), some());
        assert_eq!(secrets.unseal(id(1), &again).unwrap(), some());
        assert!(secrets.unseal(id(2), &sealed).is_err());
        let key = state.path().join("secrets").join(id(1).to_string());
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        secrets.erase(id(1)).unwrap();
        assert!(secrets.unseal(id(1), &sealed).is_err());
        secrets.erase(id(1)).unwrap();
    }

    #[test]
    fn a_sealed_value_is_bound_to_its_name() {
        let state = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(state.path()).unwrap();
        let mut sealed = secrets.seal(id(1), some()).unwrap();

        sealed[0].0 = b"OTHER".to_vec();

        assert!(secrets.unseal(id(1), &sealed).is_err());
    }

    #[test]
    fn what_no_job_has_is_erased_at_the_next_start() {
        let state = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(state.path()).unwrap();
        let (kept, left) = (secrets.seal(id(1), some()).unwrap(), secrets.seal(id(2), some()).unwrap());

        Secrets::open(state.path()).unwrap().erase_all_but(&[id(1)]).unwrap();

        assert!(secrets.unseal(id(1), &kept).is_ok());
        assert!(secrets.unseal(id(2), &left).is_err());
    }
}
