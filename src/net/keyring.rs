//! The keys of a pool: the one that it is known by, and former ones, to which it answers for a time, so that whoever
//! knows only those learns of it.
//!
//! In the pool's state `key` is the present one. `keys.toml` has the former ones, oldest first, each with the day until
//! which it is answered to, and the fingerprint of the very first, which stays what the pool's directories are named by.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::key::{KeyError, KeyFile, KeyPair, sync_directory};
use super::succession::succeed;
use super::tls;
use crate::core::id::Fingerprint;
use crate::core::limits;
use crate::core::succession::Succession;
use crate::core::time::WallTime;

const KEY: &str = "key";
const FORMER: &str = "keys.toml";

/// The keys of a pool. Shared between all that answer.
pub struct Keyring {
    state: PathBuf,
    clock: fn() -> WallTime,
    held: RwLock<Held>,
}

struct Held {
    present: Answering,
    former: Vec<Former>,
    first: Fingerprint,
}

/// A key that handshakes are answered with.
struct Answering {
    fingerprint: Fingerprint,
    certified: Arc<CertifiedKey>,
    pem: String,
}

struct Former {
    key: Answering,
    until: WallTime,
    succession: Succession,
}

/// What came of a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The key before.
    pub before: Fingerprint,
    /// The key from now on.
    pub after: Fingerprint,
    /// What each former key says of it, for those who are connected.
    pub said: Vec<Succession>,
}

/// As it lies in the state.
#[derive(Default, Serialize, Deserialize)]
struct File {
    /// Fingerprint of the first key that this pool had, in hexadecimal.
    first: String,
    #[serde(default)]
    former: Vec<FormerKey>,
}

#[derive(Serialize, Deserialize)]
struct FormerKey {
    /// Wall clock, milliseconds since 1970.
    until_ms: i64,
    /// Private, in PEM.
    key: String,
}

/// Why a pool does not have another key.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It answers to as many former ones as it can.
    #[error("the pool answers to {} former keys already", limits::FORMER_KEYS_MAX)]
    TooMany,
    /// The files say no.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Keyring {
    /// The keys in a pool's state; the first is made if there is none. The caller holds the lock of the state.
    ///
    /// # Errors
    /// When they cannot be read or made, or when others can read them.
    pub fn open(state: &Path, clock: fn() -> WallTime) -> Result<Self, KeyError> {
        let file = KeyFile::new(state.join(KEY));
        let mut present = file.present()?;
        let mut kept = File::read(state)?;
        let last = kept.former.last().map(|former| load(state, &former.key)).transpose()?;
        if last.is_some_and(|last| last.fingerprint() == present.fingerprint()) {
            // A renewal that was cut short: all of it had been written.
            let next = file.next()?.ok_or_else(|| unusable(state, &"the key that took its place is gone"))?;
            file.promote_next(next.fingerprint())?;
            present = file.present()?;
        }
        if kept.first.is_empty() {
            kept.first = hex(present.fingerprint());
        }
        let held = Held::load(state, &present, &kept, clock())?;
        Ok(Self { state: state.to_owned(), clock, held: RwLock::new(held) })
    }

    /// The fingerprint of the first key that the pool of a state had, by which directories are named. The key is made if
    /// there is none.
    ///
    /// # Errors
    /// When it cannot be read or made, or when others can read it.
    pub fn first(state: &Path) -> Result<Fingerprint, KeyError> {
        match unhex(&File::read(state)?.first) {
            Some(first) => Ok(first),
            None => Ok(KeyFile::new(state.join(KEY)).present()?.fingerprint()),
        }
    }

    /// What the pool is known by.
    pub fn present(&self) -> Fingerprint {
        self.held().present.fingerprint
    }

    /// What the pool is and was known by, as far as it still answers to it.
    pub fn all(&self) -> Vec<Fingerprint> {
        let (held, now) = (self.held(), (self.clock)());
        let former = held.former.iter().filter(|former| now < former.until);
        former.map(|former| former.key.fingerprint).chain([held.present.fingerprint]).collect()
    }

    /// What each former key says of the present one.
    pub fn successions(&self) -> Vec<Succession> {
        let now = (self.clock)();
        let held = self.held();
        let former = held.former.iter().filter(|former| now < former.until);
        former.map(|former| former.succession.clone()).collect()
    }

    /// Makes another key, by which the pool is known from now on; to the present one it answers until then.
    ///
    /// # Errors
    /// When there are too many, or the state cannot be written: then nothing has changed.
    pub fn renew(&self, until: WallTime) -> Result<Renewed, RenewError> {
        let mut held = self.held.write().expect("nobody panics with the keys");
        let now = (self.clock)();
        let standing = held.former.iter().filter(|former| now < former.until);
        let kept = standing.map(|former| (former.until, &former.key)).chain([(until, &held.present)]);
        let kept = File {
            first: hex(held.first),
            former: kept.map(|(until, key)| FormerKey { until_ms: until.0, key: key.pem.clone() }).collect(),
        };
        if kept.former.len() > limits::FORMER_KEYS_MAX {
            return Err(RenewError::TooMany);
        }
        let file = KeyFile::new(self.state.join(KEY));
        let next = file.prepare_next()?;
        // Also one that is answered to no longer: who is connected has proved that the pool is who it was.
        let renewed = Held::load(&self.state, &next, &kept, WallTime(i64::MIN))?;
        kept.write(&self.state)?;
        file.promote_next(next.fingerprint())?;
        let before = held.present.fingerprint;
        *held = renewed;
        let said = held.former.iter().map(|former| former.succession.clone()).collect();
        Ok(Renewed { before, after: held.present.fingerprint, said })
    }

    fn held(&self) -> std::sync::RwLockReadGuard<'_, Held> {
        self.held.read().expect("nobody panics with the keys")
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({:?})", self.all())
    }
}

impl ResolvesServerCert for Keyring {
    /// The key that the peer means; the present one if it means none that is answered to, and the peer judges.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let meant = hello.server_name().and_then(tls::meant_by);
        let (held, now) = (self.held(), (self.clock)());
        let former = held.former.iter().find(|former| {
            now < former.until && meant.is_some_and(|meant| former.key.fingerprint.0.starts_with(&meant))
        });
        Some(Arc::clone(&former.map_or(&held.present, |former| &former.key).certified))
    }
}

impl Held {
    /// The keys of a file that are still answered to; each vouches for the present one.
    fn load(state: &Path, present: &KeyPair, kept: &File, now: WallTime) -> Result<Self, KeyError> {
        let standing = kept.former.iter().filter(|former| now < WallTime(former.until_ms));
        let former = standing.map(|former| {
            let key = load(state, &former.key)?;
            let succession = succeed(&key, present.fingerprint()).map_err(|error| unusable(state, &error))?;
            Ok(Former { key: Answering::new(state, &key)?, until: WallTime(former.until_ms), succession })
        });
        Ok(Self {
            former: former.collect::<Result<_, KeyError>>()?,
            present: Answering::new(state, present)?,
            first: unhex(&kept.first).unwrap_or_else(|| present.fingerprint()),
        })
    }
}

impl Answering {
    fn new(state: &Path, key: &KeyPair) -> Result<Self, KeyError> {
        let certified = CertifiedKey::from_der(key.chain(), key.private(), &tls::provider());
        Ok(Self {
            fingerprint: key.fingerprint(),
            certified: Arc::new(certified.map_err(|error| unusable(state, &error))?),
            pem: key.to_pem(),
        })
    }
}

impl File {
    /// There is none as long as the pool has had one key only.
    fn read(state: &Path) -> Result<Self, KeyError> {
        let path = state.join(FORMER);
        match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(KeyError::Io(path, error)),
            Ok(text) => toml::from_str(&text).map_err(|error| KeyError::Unreadable(path, error.to_string())),
        }
    }

    /// All of it, or nothing; read by its user alone.
    fn write(&self, state: &Path) -> Result<(), KeyError> {
        let path = state.join(FORMER);
        let failed = |error| KeyError::Io(path.clone(), error);
        let text =
            toml::to_string(self).map_err(|error| KeyError::Unreadable(path.clone(), error.to_string()))?;
        let mut file = tempfile::NamedTempFile::new_in(state).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        sync_directory(&path).map_err(failed)
    }
}

fn load(state: &Path, pem: &str) -> Result<KeyPair, KeyError> {
    KeyPair::from_pem(pem).map_err(|error| unusable(state, &error))
}

fn unusable(state: &Path, error: &dyn fmt::Display) -> KeyError {
    KeyError::Unreadable(state.join(FORMER), error.to_string())
}

fn hex(key: Fingerprint) -> String {
    data_encoding::HEXLOWER.encode(&key.0)
}

fn unhex(text: &str) -> Option<Fingerprint> {
    let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
    Some(Fingerprint(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::super::succession::present_key;
    use super::*;

    static NOW: AtomicI64 = AtomicI64::new(0);

    fn clock() -> WallTime {
        WallTime(NOW.load(Ordering::Relaxed))
    }

    #[test]
    fn former_keys_vouch_for_the_present_one_until_their_day() {
        let state = tempfile::tempdir().unwrap();
        let keys = Keyring::open(state.path(), clock).unwrap();
        let first = keys.present();
        assert_eq!(keys.successions(), []);

        let second = keys.renew(WallTime(100)).unwrap().after;
        let third = keys.renew(WallTime(50)).unwrap().after;
        let again = Keyring::open(state.path(), clock).unwrap();

        for keys in [&keys, &again] {
            assert_eq!(keys.present(), third);
            assert_eq!(keys.all(), [first, second, third]);
            assert_eq!(present_key(first, &keys.successions()), third);
        }
        NOW.store(60, Ordering::Relaxed);
        assert_eq!(again.all(), [first, third]);
        assert_eq!(present_key(first, &again.successions()), third);
        assert_eq!(present_key(second, &again.successions()), second);
        let later = Keyring::open(state.path(), clock).unwrap();
        assert_eq!(present_key(first, &later.successions()), third);
        assert_eq!(Keyring::first(state.path()).unwrap(), first);
    }

    #[test]
    fn a_renewal_that_was_cut_short_is_carried_out() {
        let state = tempfile::tempdir().unwrap();
        let keys = Keyring::open(state.path(), || WallTime(0)).unwrap();
        let first = keys.present();
        let second = keys.renew(WallTime(100)).unwrap().after;
        // As it was before the last step.
        let key = state.path().join(KEY);
        std::fs::rename(&key, state.path().join("key.next")).unwrap();
        let kept = File::read(state.path()).unwrap();
        let mut file = tempfile::NamedTempFile::new_in(state.path()).unwrap();
        file.write_all(kept.former[0].key.as_bytes()).unwrap();
        file.persist(&key).unwrap();

        let again = Keyring::open(state.path(), || WallTime(0)).unwrap();

        assert_eq!(again.all(), [first, second]);
    }

    #[test]
    fn who_is_connected_is_told_also_of_a_key_that_is_answered_to_no_longer() {
        let state = tempfile::tempdir().unwrap();
        let keys = Keyring::open(state.path(), || WallTime(0)).unwrap();
        let before = keys.present();

        let renewed = keys.renew(WallTime(0)).unwrap();

        assert_eq!(present_key(before, &renewed.said), renewed.after);
        assert_eq!((keys.successions(), keys.all()), (vec![], vec![renewed.after]));
    }

    #[test]
    fn no_more_former_keys_than_can_be_answered_to() {
        let state = tempfile::tempdir().unwrap();
        let keys = Keyring::open(state.path(), || WallTime(0)).unwrap();
        for _ in 0..limits::FORMER_KEYS_MAX {
            keys.renew(WallTime(100)).unwrap();
        }
        let present = keys.present();

        assert!(matches!(keys.renew(WallTime(100)), Err(RenewError::TooMany)));
        assert_eq!(keys.present(), present);
    }
}
