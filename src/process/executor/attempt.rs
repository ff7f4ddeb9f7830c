//! One attempt at its executor: from the launch to the last acknowledged byte.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::attempt::{AttemptEnd, FromExecutor, Launch};
use crate::core::id::Fence;
use crate::core::outcome::{Cancel, Outcome};
use crate::core::time::Timestamp;

use super::pipe::Pipes;
use super::{Deadline, Executor, START_WITHIN, WATCH_AFTER};
use crate::process::packet::{Run, ToKeeper};
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
    lease_until: Option<Timestamp>,
    workspace: Option<Workspace>,
    script_file: Option<PathBuf>,
}

/// Where an attempt is in its life.
pub(super) enum Phase {
    /// For a slot.
    Waiting(Box<Launch>),
    /// Given to a keeper.
    Running(Running),
    /// Until it is forgotten.
    Ended(AttemptEnd),
}

/// An attempt that a keeper has.
pub(super) struct Running {
    pub(super) keeper: u64,
    pub(super) pipes: Pipes,
    /// Whether the keeper has said that bash runs.
    pub(super) started: bool,
}

/// Whether output may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    Paused,
}

impl Attempt {
    fn new(launch: Launch, flow: Flow) -> Self {
        Self {
            lease_until: launch.lease_until,
            phase: Phase::Waiting(Box::new(launch)),
            spool: Spool::new(),
            flow,
            queued: false,
            stopped: false,
            workspace: None,
            script_file: None,
        }
    }

    /// Whether bash may have run.
    pub(super) fn was_begun(&self) -> bool {
        !matches!(self.phase, Phase::Waiting(_))
    }

    pub(super) fn running(&mut self) -> Option<&mut Running> {
        match &mut self.phase {
            Phase::Running(running) => Some(running),
            Phase::Waiting(_) | Phase::Ended(_) => None,
        }
    }
}

impl Executor {
    /// Takes a launch, unless it comes late or again.
    pub(super) fn receive(&mut self, launch: Launch) {
        let fence = launch.fence;
        if launch.dial < self.dial {
            self.say(&FromExecutor::Refused(fence));
            return;
        }
        if self.attempts.contains_key(&fence) || self.forgotten_set.contains(&fence) {
            return;
        }
        let noted = self.journal.received(fence);
        self.attempts.insert(fence, Attempt::new(launch, self.flow));
        match noted {
            Ok(()) => self.waiting.push_back(fence),
            Err(error) => {
                self.conclude(fence, Outcome::SpawnFailed(format!("cannot note its start: {error}")))
            }
        }
    }

    /// Starts what waits, as far as there are slots, and as long as the pool was heard lately.
    pub(super) fn start_waiting(&mut self) {
        while self.keepers.busy() < self.slots
            && !self.waiting.is_empty()
            && clock::boottime() <= self.begin_until
            && let Some(fence) = self.waiting.pop_front()
        {
            if !self.attempts.get(&fence).is_some_and(|attempt| matches!(attempt.phase, Phase::Waiting(_))) {
                continue;
            }
            let started = match self.journal.starting(fence) {
                Ok(()) => self.start(fence),
                Err(error) => Err(anyhow::Error::new(error).context("cannot note its start")),
            };
            if let Err(error) = started {
                self.conclude(fence, Outcome::SpawnFailed(format!("{error:#}")));
            }
        }
    }

    /// What waits is given back, as if it had never come; what was begun goes on.
    pub(super) fn give_back(&mut self, fence: Fence) {
        if self.attempts.get(&fence).is_some_and(|attempt| !attempt.was_begun()) {
            self.attempts.remove(&fence);
            self.waiting.retain(|waiting| *waiting != fence);
            self.say(&FromExecutor::Refused(fence));
            self.note_idle();
        }
    }

    fn start(&mut self, fence: Fence) -> anyhow::Result<()> {
        let attempt = self.attempts.get_mut(&fence).expect("a waiting attempt is known");
        let Phase::Waiting(launch) = &attempt.phase else { return Ok(()) };
        // What is made from here on is given back when the attempt ends, however far it came.
        let workspace = attempt.workspace.insert(self.workspaces.take()?);
        let (workspaces, script_file) = (&self.workspaces, &mut attempt.script_file);
        let arguments = launch::arguments(launch, |script| {
            let path = workspaces.write_script(&format!("script-{fence}"), script)?;
            Ok(script_file.insert(path).clone())
        })?;
        let run_as = self.options.run_as.as_ref().map(|user| &user.credentials);
        let (pipes, outputs) = Pipes::new(run_as)?;
        let run = Run {
            arguments,
            environment: launch::environment(launch, &self.inherited, workspace.path()),
            directory: launch.cwd.clone().unwrap_or_else(|| path_bytes(workspace.path())),
            timeout: launch.timeout,
            // It may have been renewed while it waited.
            lease_until: attempt.lease_until.map(|until| until.max(self.lease_until)),
            outputs,
        };
        let keeper = self.give_to_keeper(fence, &run)?;
        let attempt = self.attempts.get_mut(&fence).expect("an attempt that starts is known");
        attempt.phase = Phase::Running(Running { keeper, pipes, started: false });
        self.look_at(WATCH_AFTER, Deadline::Watch(fence));
        self.look_at(START_WITHIN, Deadline::Started(fence));
        Ok(())
    }

    /// A keeper that starts bash waits until that runs; where it hangs, only we can end it.
    pub(super) fn look_whether_started(&mut self, fence: Fence) {
        let running = self.attempts.get_mut(&fence).and_then(Attempt::running);
        if let Some(keeper) = running.filter(|running| !running.started).map(|running| running.keeper) {
            self.kill_keeper(keeper);
            let text = format!("its start hung for {} s", START_WITHIN.as_secs());
            self.conclude(fence, Outcome::SpawnFailed(text));
        }
    }

    /// Ends an attempt: at once if it waits, by its keeper if it runs.
    pub(super) fn end(&mut self, fence: Fence, how: Cancel) {
        let Some(attempt) = self.attempts.get(&fence) else { return };
        match &attempt.phase {
            Phase::Waiting(_) if attempt.stopped => {
                self.conclude(fence, Outcome::Lost("the worker was stopped".to_owned()));
            }
            Phase::Waiting(_) => self.conclude(fence, Outcome::Cancelled(how)),
            Phase::Running(running) => self.keepers.tell(running.keeper, &ToKeeper::End(how)),
            Phase::Ended(_) => {}
        }
    }

    /// An attempt is over: its pipes, its workspace and its script go, its ending stays.
    pub(super) fn ended(&mut self, end: AttemptEnd) {
        let fence = end.fence;
        let Some(attempt) = self.attempts.get_mut(&fence) else { return };
        if let Phase::Running(running) = &mut attempt.phase {
            running.pipes.close(&mut self.watched);
        }
        if let Some(workspace) = attempt.workspace.take() {
            self.workspaces.give_back(workspace);
        }
        if let Some(path) = attempt.script_file.take() {
            // It lies beside the workspaces, and is gone with them at the latest.
            let _ = fs::remove_file(path);
        }
        attempt.phase = Phase::Ended(end.clone());
        self.say(&FromExecutor::Ended(end));
        self.may_send(fence);
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
        if self.attempts.get_mut(&fence).and_then(Attempt::running).is_some() {
            self.look_at(Duration::ZERO, Deadline::Watch(fence));
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

fn path_bytes(path: &std::path::Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}
