//! One attempt at its executor: from the launch to the last acknowledged byte.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::EpollFlags;

use crate::core::attempt::{AttemptEnd, FromExecutor, Launch};
use crate::core::id::Fence;
use crate::core::limits;
use crate::core::outcome::{Cancel, Outcome};
use crate::core::output::Stream;

use super::{Deadline, Executor, FLUSH_AFTER, Source, WATCH_AFTER};
use crate::process::packet::{OwnedFdEq, Run, ToKeeper};
use crate::process::spool::Spool;
use crate::process::workspace::Workspace;
use crate::process::{clock, launch};

/// An attempt that this executor has.
pub(super) struct Attempt {
    pub(super) phase: Phase,
    pub(super) spool: Spool,
    pub(super) flow: Flow,
    /// Whether it stands in the list of those with output to send.
    pub(super) queued: bool,
    /// Whether it is ended because the worker is stopped.
    pub(super) stopped: bool,
    workspace: Option<Workspace>,
    script_file: Option<PathBuf>,
}

/// Where an attempt is in its life.
pub(super) enum Phase {
    /// For a keeper.
    Waiting(Box<Launch>),
    Running {
        keeper: u64,
        pipes: [Option<Pipe>; 2],
    },
    /// Until it is forgotten.
    Ended(AttemptEnd),
}

/// The read end of a stream.
pub(super) struct Pipe {
    end: OwnedFd,
    source: Option<u64>,
}

/// Whether output may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    Paused,
}

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Executor {
    /// Takes a launch, unless it comes late or again.
    pub(super) fn receive(&mut self, launch: Launch) -> anyhow::Result<()> {
        let fence = launch.fence;
        if launch.dial < self.dial {
            self.say(&FromExecutor::Refused(fence));
            return Ok(());
        }
        if self.attempts.contains_key(&fence) || self.forgotten_set.contains(&fence) {
            return Ok(());
        }
        self.journal.received(fence)?;
        self.attempts.insert(
            fence,
            Attempt {
                phase: Phase::Waiting(Box::new(launch)),
                spool: Spool::new(),
                flow: self.flow,
                queued: false,
                stopped: false,
                workspace: None,
                script_file: None,
            },
        );
        self.waiting.push_back(fence);
        Ok(())
    }

    /// Starts what waits.
    pub(super) fn start_waiting(&mut self) -> anyhow::Result<()> {
        while let Some(fence) = self.waiting.pop_front() {
            if !self.attempts.get(&fence).is_some_and(|attempt| matches!(attempt.phase, Phase::Waiting(_))) {
                continue;
            }
            self.journal.starting(fence)?;
            if let Err(error) = self.start(fence) {
                self.conclude(fence, Outcome::SpawnFailed(format!("{error:#}")));
            }
        }
        Ok(())
    }

    fn start(&mut self, fence: Fence) -> anyhow::Result<()> {
        let workspace = self.workspaces.take()?;
        let directory = self.options.directory.clone();
        let attempt = self.attempts.get_mut(&fence).expect("a waiting attempt is known");
        let Phase::Waiting(launch) = &attempt.phase else { return Ok(()) };
        let mut script_file = None;
        let arguments = launch::arguments(launch, |script| {
            let path = directory.join(format!("script-{}-{}", fence.task, fence.attempt));
            let mut file =
                fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
            file.write_all(script)?;
            script_file = Some(path.clone());
            Ok(path)
        })?;
        let (pipes, outputs) = make_pipes()?;
        let run = Run {
            arguments,
            environment: launch::environment(launch, &self.inherited, workspace.path()),
            directory: launch.cwd.clone().unwrap_or_else(|| path_bytes(workspace.path())),
            timeout: launch.timeout,
            lease: launch.lease,
            outputs,
        };
        attempt.workspace = Some(workspace);
        attempt.script_file = script_file;
        let keeper = self.give_to_keeper(fence, run)?;
        let attempt = self.attempts.get_mut(&fence).expect("an attempt that starts is known");
        attempt.phase = Phase::Running { keeper, pipes };
        self.deadlines.insert((clock::boottime() + WATCH_AFTER, Deadline::Watch(fence)));
        Ok(())
    }

    /// Ends an attempt: at once if it waits, by its keeper if it runs.
    pub(super) fn end(&mut self, fence: Fence, how: Cancel) -> anyhow::Result<()> {
        let Some(attempt) = self.attempts.get(&fence) else { return Ok(()) };
        match &attempt.phase {
            Phase::Waiting(_) if attempt.stopped => {
                self.conclude(fence, Outcome::Lost("the worker was stopped".to_owned()));
            }
            Phase::Waiting(_) => self.conclude(fence, Outcome::Cancelled(how)),
            Phase::Running { keeper, .. } => self.keepers.tell(*keeper, &ToKeeper::End(how)),
            Phase::Ended(_) => {}
        }
        Ok(())
    }

    /// An attempt is over: its pipes, its workspace and its script go, its ending stays.
    pub(super) fn ended(&mut self, end: AttemptEnd) {
        let fence = end.fence;
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        if let Phase::Running { pipes, .. } = &mut attempt.phase {
            for pipe in pipes.iter_mut().filter_map(Option::take) {
                if let Some(source) = pipe.source {
                    self.sources.remove(&source);
                }
            }
        }
        if let Some(workspace) = attempt.workspace.take() {
            self.workspaces.give_back(workspace);
        }
        if let Some(path) = attempt.script_file.take() {
            // It is in our own directory, and gone with it at the latest.
            let _ = fs::remove_file(path);
        }
        attempt.phase = Phase::Ended(end.clone());
        self.say(&FromExecutor::Ended(end));
        self.may_send(fence);
    }

    /// From now on epoll tells when a pipe has something.
    pub(super) fn watch_pipes(&mut self, fence: Fence) -> anyhow::Result<()> {
        for stream in STREAMS {
            let Some(Attempt { phase: Phase::Running { pipes, .. }, .. }) = self.attempts.get(&fence) else {
                return Ok(());
            };
            let Some(pipe) = pipes[stream as usize].as_ref().filter(|pipe| pipe.source.is_none()) else {
                continue;
            };
            let end = pipe.end.try_clone()?;
            let source = self.watch(end.as_fd(), Source::Pipe(fence, stream), EpollFlags::EPOLLIN)?;
            if let Some(Attempt { phase: Phase::Running { pipes, .. }, .. }) = self.attempts.get_mut(&fence)
                && let Some(pipe) = &mut pipes[stream as usize]
            {
                // Epoll watches the pipe as long as one descriptor of it is open: keep the one that it was given.
                pipe.end = end;
                pipe.source = Some(source);
            }
        }
        Ok(())
    }

    pub(super) fn read_pipe(&mut self, fence: Fence, stream: Stream) -> anyhow::Result<()> {
        let Some(Attempt { phase: Phase::Running { pipes, .. }, spool, .. }) = self.attempts.get_mut(&fence)
        else {
            return Ok(());
        };
        let Some(pipe) = &pipes[stream as usize] else { return Ok(()) };
        let mut buffer = [0; limits::OUTPUT_CHUNK_BYTES_MAX];
        match nix::unistd::read(&pipe.end, &mut buffer) {
            Ok(count) if count > 0 => {
                if spool.push(stream, &buffer[..count], &self.options.directory).is_err() {
                    // No space: the job stalls on its pipe until something is acknowledged.
                    self.unwatch(fence, stream);
                }
                self.deadlines.insert((clock::boottime() + FLUSH_AFTER, Deadline::Flush(fence)));
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Ok(_) | Err(_) => self.unwatch(fence, stream),
        }
        Ok(())
    }

    fn unwatch(&mut self, fence: Fence, stream: Stream) {
        let Some(Attempt { phase: Phase::Running { pipes, .. }, .. }) = self.attempts.get_mut(&fence) else {
            return;
        };
        if let Some(pipe) = &mut pipes[stream as usize]
            && let Some(source) = pipe.source.take()
        {
            self.sources.remove(&source);
            let _ = self.epoll.delete(&pipe.end);
        }
    }

    /// Reads what is left in the pipes of an attempt whose processes are gone.
    pub(super) fn drain_pipes(&mut self, fence: Fence) {
        let Some(Attempt { phase: Phase::Running { pipes, .. }, spool, .. }) = self.attempts.get_mut(&fence)
        else {
            return;
        };
        let mut buffer = [0; limits::OUTPUT_CHUNK_BYTES_MAX];
        for stream in STREAMS {
            let Some(pipe) = &pipes[stream as usize] else { continue };
            loop {
                match nix::unistd::read(&pipe.end, &mut buffer) {
                    Ok(count) if count > 0 => {
                        if spool.push(stream, &buffer[..count], &self.options.directory).is_err() {
                            spool.drop_bytes(count);
                        }
                    }
                    Err(Errno::EINTR) => {}
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }

    /// Puts an attempt into the list of those with output to send.
    pub(super) fn may_send(&mut self, fence: Fence) {
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        if attempt.flow == Flow::Open && !attempt.queued && attempt.spool.has_unsent() {
            attempt.queued = true;
            self.unsent.push_back(fence);
        }
    }

    pub(super) fn acknowledge(&mut self, fence: Fence, position: u64) {
        self.change_spool(fence, |spool| spool.acknowledge(position));
        // A job that stalled may go on.
        if self.attempts.get(&fence).is_some_and(|attempt| matches!(attempt.phase, Phase::Running { .. })) {
            self.deadlines.insert((clock::boottime(), Deadline::Watch(fence)));
        }
    }

    pub(super) fn send_from(&mut self, fence: Fence, position: u64) {
        self.change_spool(fence, |spool| spool.rewind(position));
        if let Some(attempt) = self.attempts.get_mut(&fence) {
            attempt.flow = Flow::Open;
        }
        self.may_send(fence);
    }

    /// No output is sent until it is asked for.
    pub(super) fn pause(&mut self) {
        self.flow = Flow::Paused;
        self.unsent.clear();
        for attempt in self.attempts.values_mut() {
            attempt.flow = Flow::Paused;
            attempt.queued = false;
        }
    }

    fn change_spool(&mut self, fence: Fence, change: impl FnOnce(&mut Spool)) {
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        self.in_flight -= attempt.spool.in_flight();
        change(&mut attempt.spool);
        self.in_flight += attempt.spool.in_flight();
    }
}

/// Both streams: our ends, which never block, and the job's, which do.
fn make_pipes() -> anyhow::Result<([Option<Pipe>; 2], Vec<OwnedFdEq>)> {
    let mut ours = [None, None];
    let mut theirs = Vec::with_capacity(2);
    for end in &mut ours {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        *end = Some(Pipe { end: read, source: None });
        theirs.push(OwnedFdEq(write));
    }
    Ok((ours, theirs))
}

fn path_bytes(path: &std::path::Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}
