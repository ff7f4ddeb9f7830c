//! The key of a pool, a worker or a client: made once, kept in a file of its user's alone, and all that it is known by.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rcgen::PublicKeyData;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::core::id::Fingerprint;

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
    #[error("{path}: {1}", path = .0.display())]
    Io(PathBuf, io::Error),
}

impl KeyPair {
    /// The key in a file; it is made (0600) if there is no such file. Of two who make it at once one wins, for both.
    ///
    /// # Errors
    /// When it cannot be read or made, or when others can read it.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let failed = |error| KeyError::Io(path.to_owned(), error);
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path)?,
            Err(error) => return Err(failed(error)),
            Ok(_) => {}
        }
        if fs::metadata(path).map_err(failed)?.mode() & 0o077 != 0 {
            return Err(KeyError::Exposed(path.to_owned()));
        }
        let pem = fs::read_to_string(path).map_err(failed)?;
        let unreadable = |error: rcgen::Error| KeyError::Unreadable(path.to_owned(), error.to_string());
        Self::of(rcgen::KeyPair::from_pem(&pem).map_err(unreadable)?).map_err(unreadable)
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

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

/// SHA-256 of a SubjectPublicKeyInfo.
pub(super) fn fingerprint_of(info: &[u8]) -> Fingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, info);
    Fingerprint(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

fn create(path: &Path) -> Result<(), KeyError> {
    let failed = |error| KeyError::Io(path.to_owned(), error);
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|error| KeyError::Unreadable(path.to_owned(), error.to_string()))?;
    // A temporary file is 0600 from the start, and appears under its name whole.
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    file.write_all(key.serialize_pem().as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed)?;
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error.error)),
        _ => Ok(()),
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
    fn a_key_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        KeyPair::load_or_create(&path).unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        assert!(matches!(KeyPair::load_or_create(&path), Err(KeyError::Exposed(_))));
    }
}
