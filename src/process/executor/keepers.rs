//! The keepers of an executor: one for each attempt that runs, kept for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::core::attempt::FromExecutor;
use crate::core::id::Fence;
use crate::core::outcome::{Outcome, Usage};

use super::{Executor, Phase, Source};
use crate::process::packet::{Done, FromKeeper, Reason, Run, SpawnStep, ToKeeper};
use crate::process::{signal, tree};

/// This executor's keepers, by a number of their own.
#[derive(Default)]
pub(super) struct Keepers {
    all: BTreeMap<u64, Keeper>,
    idle: Vec<u64>,
    last: u64,
}

struct Keeper {
    socket: OwnedFd,
    process: std::process::Child,
    source: u64,
    busy: Option<Fence>,
}

impl Keepers {
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
        for (_, keeper) in std::mem::take(&mut self.all) {
            let Keeper { socket, mut process, .. } = keeper;
            drop(socket);
            // It was our child until now; that it cannot be waited for means that it is gone.
            let _ = process.wait();
        }
    }

    fn processes(&self) -> BTreeSet<i32> {
        self.all.values().map(|keeper| i32::try_from(keeper.process.id()).unwrap_or(0)).collect()
    }
}

impl Executor {
    /// Gives an attempt to a keeper that is idle, or to a new one.
    pub(super) fn give_to_keeper(&mut self, fence: Fence, run: Run) -> anyhow::Result<u64> {
        loop {
            let id = match self.keepers.idle.pop() {
                Some(id) => id,
                None => self.start_keeper()?,
            };
            let Some(keeper) = self.keepers.all.get_mut(&id) else { continue };
            keeper.busy = Some(fence);
            // A send to a keeper that has just died fails; its socket tells the rest.
            let sent = ToKeeper::Run(run).send(keeper.socket.as_raw_fd());
            if let Err(error) = sent
                && error != nix::errno::Errno::EPIPE
            {
                return Err(error.into());
            }
            return Ok(id);
        }
    }

    fn start_keeper(&mut self) -> anyhow::Result<u64> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // The very program that runs now, whatever has been installed since.
        let process = Command::new("/proc/self/exe")
            .arg0("clusterctl")
            .arg("keeper")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        self.keepers.last += 1;
        let id = self.keepers.last;
        let source = self.watch(ours.as_fd(), Source::Keeper(id), EpollFlags::EPOLLIN)?;
        self.keepers.all.insert(id, Keeper { socket: ours, process, source, busy: None });
        Ok(id)
    }

    pub(super) fn read_keeper(&mut self, id: u64) -> anyhow::Result<()> {
        loop {
            let Some(keeper) = self.keepers.all.get(&id) else { return Ok(()) };
            match FromKeeper::receive(keeper.socket.as_raw_fd()) {
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(()),
                Ok(Some(word)) => self.heed(id, word)?,
                Ok(None) | Err(_) => {
                    self.keeper_died(id);
                    return Ok(());
                }
            }
        }
    }

    fn heed(&mut self, id: u64, word: FromKeeper) -> anyhow::Result<()> {
        let Some(keeper) = self.keepers.all.get_mut(&id) else { return Ok(()) };
        let Some(fence) = keeper.busy else { return Ok(()) };
        match word {
            FromKeeper::Started => {
                self.say(&FromExecutor::Started(fence));
            }
            FromKeeper::SpawnFailed(step, errno) => {
                keeper.busy = None;
                self.keepers.idle.push(id);
                self.conclude(fence, Outcome::SpawnFailed(spawn_failure(step, errno)));
            }
            FromKeeper::Done(done) => {
                keeper.busy = None;
                self.keepers.idle.push(id);
                self.done(fence, &done)?;
            }
        }
        Ok(())
    }

    /// A keeper is gone: what it ran comes to us, and is killed here.
    fn keeper_died(&mut self, id: u64) {
        let Some(mut keeper) = self.keepers.all.remove(&id) else { return };
        self.sources.remove(&keeper.source);
        self.keepers.idle.retain(|idle| *idle != id);
        signal::send(i32::try_from(keeper.process.id()).unwrap_or(0), libc::SIGKILL);
        // Reaped before the sweep: its children are ours only then.
        let _ = keeper.process.wait();
        tree::kill_all(&self.keepers.processes());
        if let Some(fence) = keeper.busy {
            self.drain_pipes(fence);
            self.conclude(fence, Outcome::Lost("the process that kept it was killed".to_owned()));
        }
    }

    fn done(&mut self, fence: Fence, done: &Done) -> anyhow::Result<()> {
        self.drain_pipes(fence);
        let Some(attempt) = self.attempts.get_mut(&fence) else { return Ok(()) };
        let outcome = if attempt.stopped && done.reason != Reason::Own {
            Outcome::Lost("the worker was stopped".to_owned())
        } else {
            outcome_of(done)
        };
        let micros = std::time::Duration::from_micros;
        let usage = Usage {
            run: micros(done.run_us),
            cpu_user: micros(done.user_us),
            cpu_system: micros(done.system_us),
            peak_memory_bytes: done.peak_kib * 1024,
        };
        let totals = attempt.spool.totals();
        let tail = attempt.spool.take_tail()?;
        debug_assert!(matches!(attempt.phase, Phase::Running { .. }), "only what runs is done");
        self.ended(crate::core::attempt::AttemptEnd { fence, outcome, usage, totals, tail });
        Ok(())
    }
}

fn outcome_of(done: &Done) -> Outcome {
    match done.reason {
        Reason::TimedOut => Outcome::TimedOut,
        Reason::LeaseOver => Outcome::Lost("its lease ran out".to_owned()),
        Reason::Cancelled(how) => Outcome::Cancelled(how),
        Reason::Own if libc::WIFSIGNALED(done.status) => {
            Outcome::Signaled(u8::try_from(libc::WTERMSIG(done.status)).unwrap_or(0))
        }
        Reason::Own => Outcome::Exited(u8::try_from(libc::WEXITSTATUS(done.status)).unwrap_or(u8::MAX)),
    }
}

fn spawn_failure(step: SpawnStep, errno: i32) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    match step {
        SpawnStep::Clone => format!("cannot make a process: {error}"),
        SpawnStep::Directory => format!("cannot enter its directory: {error}"),
        SpawnStep::Execute => format!("cannot run /bin/bash: {error}"),
    }
}
