//! Where things lie: the state root, and what is below it for pools, workers and clients.
//!
//! It reads the environment, and decides by it alone; it makes nothing but the directory of a socket.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::core::id::{Fingerprint, Name};

/// A socket's path has at most this many bytes, on Linux.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// A pool's socket, beside its state.
const SOCKET: &str = "socket";
/// Names below the state root that are no pool's.
const RESERVED: [&str; 2] = ["client", "worker-"];

/// The directory below which everything of one user lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRoot(PathBuf);

/// No place for state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no home directory for this user")]
pub struct NoHome;

/// What the root is found from.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `--state` or `CLUSTERCTL_STATE`.
    pub state: Option<PathBuf>,
    /// `XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// The home directory of the user database.
    pub passwd_home: Option<PathBuf>,
    /// This process's user.
    pub uid: u32,
}

impl Surroundings {
    /// Of this process; `state` is what the command line says.
    pub fn of_process(state: Option<PathBuf>) -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            state: state.map(|path| std::path::absolute(&path).unwrap_or(path)),
            data_home: variable("XDG_DATA_HOME"),
            home: variable("HOME"),
            passwd_home: home(),
            uid: uid(),
        }
    }
}

impl StateRoot {
    /// `--state` > `CLUSTERCTL_STATE` > `XDG_DATA_HOME` > below `HOME` > below the passwd entry's home; as root
    /// `/var/lib/clusterctl`, unless one of the first three says otherwise.
    ///
    /// # Errors
    /// When there is none of them.
    pub fn find(surroundings: &Surroundings) -> Result<Self, NoHome> {
        if let Some(state) = &surroundings.state {
            return Ok(Self(state.clone()));
        }
        if let Some(data_home) = &surroundings.data_home {
            return Ok(Self(data_home.join("clusterctl")));
        }
        if surroundings.uid == 0 {
            return Ok(Self(PathBuf::from("/var/lib/clusterctl")));
        }
        let home = surroundings.home.as_ref().or(surroundings.passwd_home.as_ref()).ok_or(NoHome)?;
        Ok(Self(home.join(".local/share/clusterctl")))
    }

    /// The root itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A pool's state.
    pub fn pool(&self, name: &Name) -> PathBuf {
        self.0.join(name.as_str())
    }

    /// Whether a pool's state lies here.
    pub fn has(&self, pool: &Path) -> bool {
        pool.parent() == Some(&self.0)
    }

    /// Whether a pool may have this name.
    pub fn allows_pool(name: &Name) -> bool {
        name.as_str() != RESERVED[0] && !name.as_str().starts_with(RESERVED[1])
    }

    /// The state of a worker of a pool.
    pub fn worker(&self, pool: &Fingerprint, name: &str) -> PathBuf {
        let key = data_encoding::HEXLOWER.encode(&pool.0[..8]);
        self.0.join(format!("worker-{key}-{name}"))
    }

    /// The name in a worker's directory, which is `worker-<pool>-<name>`.
    pub fn worker_name(directory: &Path) -> Option<&str> {
        let (_, name) = directory.file_name()?.to_str()?.strip_prefix(RESERVED[1])?.split_once('-')?;
        Some(name)
    }

    /// Workers of a pool that this user has, each with its name and its directory.
    pub fn workers_of(&self, pool: &Fingerprint) -> Vec<(String, PathBuf)> {
        let unnamed = self.worker(pool, "");
        let prefix = unnamed.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let named = self.workers().into_iter().filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_prefix(&prefix)?.to_owned();
            Some((name, path))
        });
        named.collect()
    }

    /// Directories of this user's workers, of whatever pools.
    pub fn workers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(RESERVED[1]));
        let mut found: Vec<PathBuf> = named.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        found.sort();
        found
    }

    /// The one key of this user as a client, for every pool.
    pub fn client(&self) -> PathBuf {
        self.0.join("client")
    }

    /// Pools that have state here, by name.
    pub fn pools(&self) -> Vec<Name> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter(|entry| entry.path().join("queue.db").exists());
        names.filter_map(|entry| Name::parse(entry.file_name().to_str()?).ok()).collect()
    }
}

/// The name of this user's private pool on this machine.
pub fn private_pool_name() -> Name {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host = host.to_string_lossy();
    Name::from_any(&format!("private-{}", host.split('.').next().unwrap_or_default()))
}

/// The path of a pool's socket: beside its state, or, if that is too long, in this user's own directory below `/tmp`.
pub fn socket_path(state: &Path) -> PathBuf {
    let beside = state.join(SOCKET);
    if beside.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return beside;
    }
    let hash = blake3::hash(beside.as_os_str().as_encoded_bytes());
    short_socket_directory().join(&hash.to_hex()[..32])
}

fn uid() -> u32 {
    nix::unistd::Uid::current().as_raw()
}

/// The home directory of the user database.
fn home() -> Option<PathBuf> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current()).ok().flatten();
    user.map(|user| user.dir).filter(|dir| dir.is_absolute())
}

fn short_socket_directory() -> PathBuf {
    PathBuf::from(format!("/tmp/clusterctl-{}", uid()))
}

/// Makes the directory of a socket, if it is not the state directory itself, and makes sure that it is this user's
/// alone.
///
/// # Errors
/// When somebody else has made it.
pub fn prepare_socket(socket: &Path) -> io::Result<()> {
    let directory = short_socket_directory();
    if socket.parent() != Some(&directory) {
        return Ok(());
    }
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    let metadata = fs::symlink_metadata(&directory)?;
    if metadata.is_dir() && metadata.uid() == uid() && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let text = format!("{} belongs to somebody else", directory.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Where a pool can be reached from its own machine, as it says in its state.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// The address that it listens on; none for a private pool.
    pub listen: Option<String>,
    /// Its socket.
    pub socket: PathBuf,
}

impl Endpoint {
    /// Writes it into a pool's state, whole or not at all.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        let file = tempfile::NamedTempFile::new_in(state)?;
        serde_json::to_writer(&file, self)?;
        file.persist(state.join("endpoint"))?;
        Ok(())
    }

    /// Reads it from a pool's state, if it is there.
    pub fn read(state: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(state.join("endpoint")).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(surroundings: &Surroundings) -> Result<PathBuf, NoHome> {
        StateRoot::find(surroundings).map(|root| root.path().to_owned())
    }

    #[test]
    fn the_first_that_is_there_counts() {
        let mut surroundings = Surroundings { uid: 1000, ..Surroundings::default() };
        assert_eq!(root(&surroundings), Err(NoHome));
        surroundings.passwd_home = Some("/p".into());
        assert_eq!(root(&surroundings), Ok("/p/.local/share/clusterctl".into()));
        surroundings.home = Some("/h".into());
        assert_eq!(root(&surroundings), Ok("/h/.local/share/clusterctl".into()));
        surroundings.uid = 0;
        assert_eq!(root(&surroundings), Ok("/var/lib/clusterctl".into()));
        surroundings.data_home = Some("/d".into());
        assert_eq!(root(&surroundings), Ok("/d/clusterctl".into()));
        surroundings.state = Some("/s".into());
        assert_eq!(root(&surroundings), Ok("/s".into()));
    }

    #[test]
    fn a_workers_name_reads_back_from_its_directory() {
        let directory = StateRoot("/s".into()).worker(&Fingerprint([7; 32]), "n1-2");

        assert_eq!(StateRoot::worker_name(&directory), Some("n1-2"));
        assert_eq!(StateRoot::worker_name(Path::new("/s/lab")), None);
    }

    #[test]
    fn a_socket_whose_path_would_be_too_long_lies_elsewhere() {
        assert_eq!(socket_path(Path::new("/s/lab")), Path::new("/s/lab/socket"));
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));

        assert!(socket_path(&long).as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
    }
}
