//! The key of a pool, a worker or a client: kept in a file of its user's alone, and all that it is known by.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rcgen::PublicKeyData;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::core::id::Fingerprint;
use crate::core::refusal::os_words;

/// A P-256 key, and a certificate over it that never expires and that nobody signs.
pub struct KeyPair {
    key: rcgen::KeyPair,
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Others may read it.
    #[error("{path} can be read by others: chmod 600 {path}", path = .0.display())]
    Exposed(PathBuf),
    /// It is no key.
    #[error("{path} holds no key: {1}", path = .0.display())]
    Unreadable(PathBuf, String),
    /// The operating system's own.
    #[error("{path}: {words}", path = .0.display(), words = os_words(.1))]
    Io(PathBuf, io::Error),
}

impl KeyPair {
    /// The key in a file; it is made (0600) if there is no such file. Of two who make it at once one wins, for both.
    ///
    /// # Errors
    /// When it cannot be read or made, or when others can read it.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
            loaded => return loaded,
        }
        create(path)?;
        Self::load(path)
    }

    /// The key in a file.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or others can read it.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let failed = |error| KeyError::Io(path.to_owned(), error);
        if fs::metadata(path).map_err(failed)?.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed(path.to_owned()));
        }
        let pem = fs::read_to_string(path).map_err(failed)?;
        Self::from_pem(&pem).map_err(|error| KeyError::Unreadable(path.to_owned(), error.to_string()))
    }

    /// A key that is kept nowhere.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self, rcgen::Error> {
        Self::of(rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
    }

    fn of(key: rcgen::KeyPair) -> Result<Self, rcgen::Error> {
        let mut parameters = rcgen::CertificateParams::new(vec!["clusterctl".to_owned()])?;
        parameters.not_before = rcgen::date_time_ymd(1970, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let certificate = parameters.self_signed(&key)?.der().clone();
        let fingerprint = fingerprint_of(&key.subject_public_key_info());
        Ok(Self { key, certificate, fingerprint })
    }

    /// What it is known by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Its public half as a SubjectPublicKeyInfo in DER.
    pub(super) fn info(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    pub(super) fn signing_key(&self) -> &impl rcgen::SigningKey {
        &self.key
    }

    pub(super) fn to_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub(super) fn from_pem(pem: &str) -> Result<Self, rcgen::Error> {
        Self::of(rcgen::KeyPair::from_pem(pem)?)
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

/// The file of a holder's key, and beside it, while it is being replaced, the next one. Whoever dials tries both: which
/// of them a pool knows tells only that pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// A key by its file.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The key; made if there is none.
    ///
    /// # Errors
    /// As for `KeyPair::load_or_create`.
    pub fn present(&self) -> Result<KeyPair, KeyError> {
        KeyPair::load_or_create(&self.0)
    }

    /// The one that is to take its place, if one is.
    ///
    /// # Errors
    /// As for `KeyPair::load`.
    pub fn next(&self) -> Result<Option<KeyPair>, KeyError> {
        match KeyPair::load(&self.next_path()) {
            Err(KeyError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            loaded => loaded.map(Some),
        }
    }

    /// Makes the next one; one that was made before, and has not taken its place everywhere, is the next one still.
    ///
    /// # Errors
    /// As for `KeyPair::load_or_create`.
    pub fn prepare_next(&self) -> Result<KeyPair, KeyError> {
        KeyPair::load_or_create(&self.next_path())
    }

    /// The next one, which is this, takes the place of the present one, which is gone.
    ///
    /// # Errors
    /// The operating system's own; or that another one is next by now: then nothing has changed.
    pub fn promote_next(&self, next: Fingerprint) -> Result<(), KeyError> {
        let failed = |error| KeyError::Io(self.0.clone(), error);
        if self.next()?.is_none_or(|key| key.fingerprint() != next) {
            return Err(failed(io::Error::other("somebody else has replaced it meanwhile")));
        }
        fs::rename(self.next_path(), &self.0).map_err(failed)?;
        sync_directory(&self.0).map_err(failed)
    }

    /// The next one is gone, and the present one stays.
    ///
    /// # Errors
    /// The operating system's own.
    pub fn drop_next(&self) -> io::Result<()> {
        remove_if_there(&self.next_path())
    }

    /// Keeps everybody else from replacing the key, or having a pool learn of it, as long as this is held. Waits for
    /// them.
    ///
    /// # Errors
    /// The operating system's own.
    pub fn lock(&self) -> Result<Flock<File>, KeyError> {
        let path = self.beside(".lock");
        let failed = |error| KeyError::Io(path.clone(), error);
        make_directory(&path).map_err(failed)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        Flock::lock(file.map_err(failed)?, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))
    }

    /// Neither is there any longer.
    ///
    /// # Errors
    /// The operating system's own.
    pub fn remove(&self) -> io::Result<()> {
        remove_if_there(&self.next_path())?;
        remove_if_there(&self.0)
    }

    /// The first of present and next that was not tried yet. It is read anew: another process may be replacing it.
    ///
    /// # Errors
    /// As for `KeyPair::load_or_create`.
    pub fn untried(&self, tried: &[Fingerprint]) -> Result<Option<KeyPair>, KeyError> {
        // In this order, so that a key that moves from the one place to the other meanwhile is met in one of them.
        let next = self.next()?;
        let keys = [Some(self.present()?), next];
        Ok(keys.into_iter().flatten().find(|key| !tried.contains(&key.fingerprint())))
    }

    fn next_path(&self) -> PathBuf {
        self.beside(".next")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(suffix);
        path.into()
    }
}

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// SHA-256 of a SubjectPublicKeyInfo.
pub(super) fn fingerprint_of(info: &[u8]) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, info);
    Fingerprint(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

fn create(path: &Path) -> Result<(), KeyError> {
    let failed = |error| KeyError::Io(path.to_owned(), error);
    let directory = make_directory(path).map_err(failed)?;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| KeyError::Unreadable(path.to_owned(), error.to_string()))?;
    // A temporary file is 0600 from the start, and appears under its name whole.
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    file.write_all(key.serialize_pem().as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed)?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error.error)),
        _ => sync_directory(path).map_err(failed),
    }
}

/// Makes the directory that a file is to lie in.
fn make_directory(path: &Path) -> io::Result<&Path> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    Ok(directory)
}

/// That a file has its name survives a power cut from here on.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_same_file_is_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/key");

        let first = KeyPair::load_or_create(&path).unwrap().fingerprint();

        assert_eq!(KeyPair::load_or_create(&path).unwrap().fingerprint(), first);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn while_a_key_is_replaced_both_are_tried() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::new(directory.path().join("key"));
        let untried = |tried: &[Fingerprint]| file.untried(tried).unwrap().map(|key| key.fingerprint());
        let first = file.present().unwrap().fingerprint();
        assert_eq!(untried(&[first]), None);

        let second = file.prepare_next().unwrap().fingerprint();
        assert_eq!(file.prepare_next().unwrap().fingerprint(), second);
        assert_eq!(untried(&[]), Some(first));
        assert_eq!(untried(&[first]), Some(second));
        assert!(file.promote_next(first).is_err());
        file.promote_next(second).unwrap();

        assert_eq!(untried(&[first]), Some(second));
        assert_eq!(untried(&[second]), None);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        KeyPair::load_or_create(&path).unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        assert!(matches!(KeyPair::load_or_create(&path), Err(KeyError::Exposed(_))));
    }
}
