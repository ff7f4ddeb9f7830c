//! A pool that ends by what befalls its storage, and is started again at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::lab::Between;
use crate::cluster::{Home, kill, pool_command, wait_until};
use crate::compiled::compiled;

/// `tests/lab/storage-shim.c`, compiled.
pub struct Shim {
    library: PathBuf,
    counts: PathBuf,
}

/// What the process asked for, as the shim counted it.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub syncs: u64,
    pub writes: u64,
    /// Requests at which something was done.
    pub done: u64,
    /// The file of the first of them.
    pub path: String,
}

/// At which request what is done.
#[derive(Clone, Debug)]
pub struct Fault {
    pub at: String,
    pub deed: &'static str,
}

impl Shim {
    /// None, said loudly, where there is no C compiler.
    pub fn compile(directory: &Path) -> Option<Self> {
        let library =
            compiled("storage-shim.c", &["-shared", "-fPIC"], directory, "a pool whose storage fails")?;
        let counts = directory.join("storage-shim.counts");
        Some(Self { library, counts })
    }

    /// Loads it into a command, counts from nothing, and does this.
    pub fn load(&self, into: &mut Command, fault: Option<&Fault>) {
        std::fs::write(&self.counts, [0; 4096]).unwrap();
        into.env("LD_PRELOAD", &self.library).env("STORAGE_SHIM_COUNTS", &self.counts);
        if let Some(Fault { at, deed }) = fault {
            into.env("STORAGE_SHIM_AT", at).env("STORAGE_SHIM_DO", deed);
        }
    }

    pub fn counts(&self) -> Counts {
        let bytes = std::fs::read(&self.counts).unwrap();
        let word = |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap());
        let path = bytes[24..280].split(|byte| *byte == 0).next().unwrap();
        let path = String::from_utf8_lossy(path).into_owned();
        Counts { syncs: word(0), writes: word(1), done: word(2), path }
    }
}

/// How the first process of a pool ended.
#[derive(Clone, Debug)]
pub struct End {
    /// None: by a signal.
    pub code: Option<i32>,
    /// What it said.
    pub said: String,
}

/// A pool that is started again when it ends, without what befell it.
pub struct Revived {
    pid: Arc<AtomicI32>,
    stopping: Arc<AtomicBool>,
    first: Arc<Mutex<Option<End>>>,
    thread: Option<JoinHandle<()>>,
}

impl Revived {
    pub fn start(home: &Home, address: &str, change: impl FnOnce(&mut Command), between: Between) -> Self {
        let (pid, stopping) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
        let first = Arc::new(Mutex::new(None));
        let mut command = pool_command(home, address);
        change(&mut command);
        let (home, address) = (home.clone(), address.to_owned());
        let thread = {
            let (pid, stopping, first) = (Arc::clone(&pid), Arc::clone(&stopping), Arc::clone(&first));
            move || {
                loop {
                    let log = home.path().join("pool.log");
                    let said = std::fs::File::create(&log).unwrap();
                    let mut pool = command.stdout(Stdio::null()).stderr(said).spawn().unwrap();
                    pid.store(i32::try_from(pool.id()).unwrap(), Ordering::SeqCst);
                    let ended = pool.wait().unwrap();
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let said = std::fs::read_to_string(log).unwrap();
                    let mut first = first.lock().unwrap();
                    assert!(first.is_none(), "a pool to which nothing happens has ended: {ended}: {said}");
                    between();
                    *first = Some(End { code: ended.code(), said });
                    command = pool_command(&home, &address);
                }
            }
        };
        Self { pid, stopping, first, thread: Some(std::thread::spawn(thread)) }
    }

    /// How the first process ended, if it has.
    pub fn first_end(&self) -> Option<End> {
        self.first.lock().unwrap().clone()
    }

    /// Ends the process that there is now; a new one is started.
    pub fn kill(&self) {
        kill(self.pid.load(Ordering::SeqCst), libc::SIGKILL);
    }
}

impl Drop for Revived {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let thread = self.thread.take().unwrap();
        wait_until("the pool has ended", || {
            self.kill();
            thread.is_finished()
        });
        let ended = thread.join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}
