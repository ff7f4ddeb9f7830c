//! The keepers of an executor: one for each attempt that runs, kept for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::core::attempt::{AttemptEnd, FromExecutor};
use crate::core::id::Fence;
use crate::core::lifetime::EndReason;
use crate::core::outcome::{Outcome, Usage};

use super::attempt::Attempt;
use super::watched::{Source, Watch};
use super::{Executor, Phase};
use crate::process::packet::{Done, FromKeeper, Run, SpawnStep, ToKeeper};
use crate::process::run_as::Credentials;
use crate::process::{signal, tree};

/// Processes that a keeper's death leaves to us get so long to die; what cannot be killed must not hold up the others.
const SWEEP_WITHIN: Duration = Duration::from_millis(500);

/// This executor's keepers, by a number of their own.
pub(super) struct Keepers {
    all: BTreeMap<u64, Keeper>,
    idle: Vec<u64>,
    last: u64,
    /// Each keeper holds it too.
    lock: Flock<File>,
    /// The limit of open files that jobs find.
    files: u64,
    /// As whom jobs run.
    run_as: Option<Credentials>,
}

struct Keeper {
    socket: OwnedFd,
    process: std::process::Child,
    watch: Watch,
    busy: Option<Fence>,
}

impl Keeper {
    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("pids are positive")
    }
}

impl Keepers {
    pub(super) fn new(lock: Flock<File>, files: u64, run_as: Option<Credentials>) -> Self {
        Self { all: BTreeMap::new(), idle: Vec::new(), last: 0, lock, files, run_as }
    }

    /// How many run something.
    pub(super) fn busy(&self) -> usize {
        self.all.len() - self.idle.len()
    }

    /// Tells everybody who runs something.
    pub(super) fn tell_busy(&self, word: &ToKeeper) {
        for keeper in self.all.values().filter(|keeper| keeper.busy.is_some()) {
            // One that is gone is noticed by its socket.
            let _ = word.send(keeper.socket.as_raw_fd());
        }
    }

    pub(super) fn tell(&self, id: u64, word: &ToKeeper) {
        if let Some(keeper) = self.all.get(&id) {
            let _ = word.send(keeper.socket.as_raw_fd());
        }
    }

    /// Lets go of all: each ends what it runs, and itself.
    pub(super) fn end_all(&mut self) {
        let processes: Vec<_> =
            std::mem::take(&mut self.all).into_values().map(|keeper| keeper.process).collect();
        for mut process in processes {
            // It was our child until now; that it cannot be waited for means that it is gone.
            let _ = process.wait();
        }
    }

    fn processes(&self) -> BTreeSet<i32> {
        self.all.values().map(Keeper::pid).collect()
    }
}

impl Executor {
    /// Gives an attempt to a keeper that is idle, or to a new one.
    pub(super) fn give_to_keeper(&mut self, fence: Fence, run: &Run) -> anyhow::Result<u64> {
        loop {
            let id = match self.keepers.idle.pop() {
                Some(id) => id,
                None => self.start_keeper()?,
            };
            let Some(keeper) = self.keepers.all.get_mut(&id) else { continue };
            match run.send(keeper.socket.as_raw_fd()) {
                Ok(()) => {
                    keeper.busy = Some(fence);
                    return Ok(id);
                }
                // It has died while it was idle, and has not got this: another one will.
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.keeper_died(id),
                Err(error) => {
                    self.keepers.idle.push(id);
                    return Err(error.into());
                }
            }
        }
    }

    fn start_keeper(&mut self) -> anyhow::Result<u64> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        // The very program that runs now, whatever has been installed since.
        let process = Command::new("/proc/self/exe")
            .arg0("clusterctl")
            .args(["keeper", "--files", &self.keepers.files.to_string()])
            .args(self.keepers.run_as.iter().flat_map(|user| ["--run-as".to_owned(), user.to_string()]))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(self.keepers.lock.try_clone()?))
            .spawn()?;
        self.keepers.last += 1;
        let id = self.keepers.last;
        let watch = self.watched.add(&ours, Source::Keeper(id))?;
        self.keepers.all.insert(id, Keeper { socket: ours, process, watch, busy: None });
        Ok(id)
    }

    pub(super) fn read_keeper(&mut self, id: u64) {
        loop {
            let Some(keeper) = self.keepers.all.get(&id) else { return };
            match FromKeeper::receive(keeper.socket.as_raw_fd()) {
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Ok(Some(word)) => self.heed(id, word),
                Ok(None) | Err(_) => return self.keeper_died(id),
            }
        }
    }

    fn heed(&mut self, id: u64, word: FromKeeper) {
        let Some(keeper) = self.keepers.all.get_mut(&id) else { return };
        let Some(fence) = keeper.busy else { return };
        if word != FromKeeper::Started {
            keeper.busy = None;
            self.keepers.idle.push(id);
        }
        match word {
            FromKeeper::Started => {
                if let Some(running) = self.attempts.get_mut(&fence).and_then(Attempt::running) {
                    running.started = true;
                }
                self.say(&FromExecutor::Started(fence));
            }
            FromKeeper::SpawnFailed(step, errno) => {
                self.conclude(fence, Outcome::SpawnFailed(spawn_failure(step, errno)));
            }
            FromKeeper::Done(done) => self.done(fence, &done),
        }
    }

    /// A keeper is gone: what it ran comes to us, and is killed here.
    fn keeper_died(&mut self, id: u64) {
        let Some(mut keeper) = self.keepers.all.remove(&id) else { return };
        self.watched.remove(&keeper.socket, keeper.watch);
        self.keepers.idle.retain(|idle| *idle != id);
        signal::send(keeper.pid(), libc::SIGKILL);
        // Reaped before the sweep: its children are ours only then.
        let _ = keeper.process.wait();
        if !tree::kill_all(&self.keepers.processes(), SWEEP_WITHIN) {
            tracing::warn!("processes that a keeper left cannot be killed");
        }
        if let Some(fence) = keeper.busy {
            self.drain_pipes(fence);
            self.conclude(fence, Outcome::Lost("the process that kept it was killed".to_owned()));
        }
    }

    /// Kills a keeper that hangs, and what it was starting.
    pub(super) fn kill_keeper(&mut self, id: u64) {
        let Some(keeper) = self.keepers.all.get_mut(&id) else { return };
        keeper.busy = None;
        tree::children_of(keeper.pid()).into_iter().for_each(|pid| signal::send(pid, libc::SIGKILL));
        self.keeper_died(id);
    }

    fn done(&mut self, fence: Fence, done: &Done) {
        self.drain_pipes(fence);
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        let outcome = if attempt.stopped && done.reason != EndReason::Own {
            Outcome::Lost("the worker was stopped".to_owned())
        } else {
            outcome_of(done)
        };
        let micros = Duration::from_micros;
        let usage = Usage {
            run: micros(done.run_us),
            cpu_user: micros(done.user_us),
            cpu_system: micros(done.system_us),
            peak_memory_bytes: done.peak_kib * 1024,
        };
        let totals = attempt.spool.totals();
        let tail = attempt.spool.take_tail();
        debug_assert!(matches!(attempt.phase, Phase::Running(_)), "only what runs is done");
        self.ended(AttemptEnd { fence, outcome, usage, totals, tail });
    }
}

fn outcome_of(done: &Done) -> Outcome {
    match done.reason {
        EndReason::TimedOut => Outcome::TimedOut,
        EndReason::LeaseOver => Outcome::Lost("its lease ran out".to_owned()),
        EndReason::Cancelled(how) => Outcome::Cancelled(how),
        EndReason::Own if libc::WIFSIGNALED(done.status) => {
            Outcome::Signaled(u8::try_from(libc::WTERMSIG(done.status)).unwrap_or(0))
        }
        EndReason::Own => Outcome::Exited(u8::try_from(libc::WEXITSTATUS(done.status)).unwrap_or(u8::MAX)),
    }
}

fn spawn_failure(step: SpawnStep, errno: i32) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    let words = crate::core::refusal::os_words(&error);
    match step {
        SpawnStep::Clone => format!("cannot make a process: {words}"),
        SpawnStep::User => format!("cannot become the user of --run-as: {words}"),
        SpawnStep::Directory => format!("cannot enter its directory: {words}"),
        SpawnStep::Execute => format!("cannot run /bin/bash: {words}"),
    }
}
