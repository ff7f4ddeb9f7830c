//! The executor: owns the jobs of a worker, and outlives the agent that gives them to it.
//!
//! One thread, one epoll. It gives attempts to keepers, reads their pipes, holds their output until it is acknowledged
//! and their endings until they are forgotten, and speaks to one agent at a time. Jobs do not outlive it, so what goes
//! wrong with one attempt concerns that attempt alone. It knows no pool, no network, and decides nothing but the order in
//! which things are done.

mod agent;
mod attempt;
mod keepers;
mod pipe;
mod watched;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::epoll::{EpollFlags, EpollTimeout};

use crate::core::attempt::{AttemptEnd, Held, ToExecutor};
use crate::core::id::{Fence, Incarnation};
use crate::core::outcome::{Cancel, Outcome};
use crate::core::time::Timestamp;
use crate::core::timing::Timing;

use self::agent::Agent;
use self::attempt::{Attempt, Flow, Phase};
use self::keepers::Keepers;
use self::watched::{Source, Watched};
use super::journal::{Journal, read_journals};
use super::launch::Inherited;
use super::packet::ToKeeper;
use super::run_as::JobUser;
use super::workspace::{self, Workspaces};
use super::{cgroup, clock, detach, facts, launch, limit, signal, tree};

/// Where an executor listens, below its directory.
pub(super) const SOCKET: &str = "executor.sock";
/// Its log, below its directory.
pub const LOG: &str = "executor.log";
/// Held as long as an executor or a keeper of it lives.
const LOCK: &str = "executor.lock";
/// The user as whom jobs run, below its directory.
const USER: &str = "user";
/// An executor that was killed leaves keepers, which are gone by then.
const LOCK_WITHIN: Duration = Duration::from_secs(30);
/// How often to look whether they are.
const LOCK_AGAIN: Duration = Duration::from_millis(10);
/// Attempts that ended and were forgotten are still known, so that a late start of one is not taken for a new one.
const FORGOTTEN_MAX: usize = 16 << 10;
/// A pipe that was not emptied by then is watched; a job that is over before costs no epoll call.
const WATCH_AFTER: Duration = Duration::from_millis(10);
/// Bytes are held back so long for more to come with them.
const FLUSH_AFTER: Duration = Duration::from_millis(4);
/// A start that takes longer hangs, in a directory that does not answer: nobody but us could end it.
const START_WITHIN: Duration = Duration::from_secs(10);
/// Bytes read at a time, from an agent or from a pipe.
const READ_BYTES: usize = 256 << 10;
/// Processes that are left at our end get so long to die.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How an executor is started.
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// Its own directory: socket, journal, spools; 0700.
    pub directory: PathBuf,
    /// Below which workspaces are made.
    pub work_directory: PathBuf,
    /// As whom jobs run; none: as this process's user.
    pub run_as: Option<JobUser>,
    /// Durations; its keepers go by the same.
    pub timing: Timing,
}

impl ExecutorOptions {
    /// As whom jobs run.
    fn jobs_uid(&self) -> u32 {
        self.run_as.as_ref().map_or_else(facts::uid, |user| user.credentials.uid)
    }

    /// Whether the executor that has this directory runs jobs as the user that is meant.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn check_user(&self) -> anyhow::Result<()> {
        let there = fs::read_to_string(self.directory.join(USER)).unwrap_or_default();
        let wanted = self.jobs_uid().to_string();
        anyhow::ensure!(
            there.is_empty() || there == wanted,
            "jobs of this worker run as user {there}, not {wanted}: start it as before until they have ended"
        );
        Ok(())
    }
}

/// What to look at again, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    /// Whether its pipes are to be watched.
    Watch(Fence),
    /// Whether it has output to send.
    Flush(Fence),
    /// Whether its bash has started.
    Started(Fence),
    /// Whether anybody needs us.
    Idle,
}

/// When an executor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    ForEver,
    UntilEmpty,
}

struct Executor {
    options: ExecutorOptions,
    incarnation: Incarnation,
    /// Starts by lower dials are refused.
    dial: u64,
    watched: Watched,
    listener: UnixListener,
    agent: Option<Agent>,
    keepers: Keepers,
    /// Left with us, where it could be made.
    _cgroup: Option<cgroup::Own>,
    attempts: BTreeMap<Fence, Attempt>,
    /// For a slot, in the order in which they came.
    waiting: VecDeque<Fence>,
    /// So many run at a time.
    slots: usize,
    /// What waits begins until then.
    begin_until: Timestamp,
    /// What has a lease runs until then, as was said last.
    lease_until: Timestamp,
    forgotten: VecDeque<Fence>,
    forgotten_set: BTreeSet<Fence>,
    /// Attempts with output that may be sent.
    unsent: VecDeque<Fence>,
    /// Whether output of attempts that start now may be sent.
    flow: Flow,
    /// Bytes sent and not acknowledged, of all attempts.
    in_flight: u64,
    deadlines: BTreeSet<(Timestamp, Deadline)>,
    /// Since when there has been neither an agent nor an attempt.
    idle_since: Timestamp,
    workspaces: Workspaces,
    journal: Journal,
    inherited: Inherited,
    buffer: Vec<u8>,
    stay: Stay,
}

/// The body of the hidden command `executor`. Says `ready` on its standard output when an agent may connect.
///
/// # Errors
/// When another executor has the directory, or the process cannot be set up.
pub fn run(options: ExecutorOptions) -> anyhow::Result<()> {
    detach::detach()?;
    signal::reset_all();
    tree::become_reaper()?;
    let files = limit::raise_files();
    let mut executor = Executor::open(options, files)?;
    detach::ready()?;
    let ended = executor.serve();
    executor.keepers.end_all();
    tree::kill_all(&BTreeSet::new(), END_WITHIN);
    // Somebody else's socket is never removed: the lock is still ours.
    let _ = fs::remove_file(executor.options.directory.join(SOCKET));
    ended
}

impl Executor {
    fn open(options: ExecutorOptions, files: u64) -> anyhow::Result<Self> {
        workspace::private_directory(&options.directory)?;
        let lock = lock(&options.directory)?;
        fs::write(options.directory.join(USER), options.jobs_uid().to_string())?;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let incarnation = Incarnation(u64::from_le_bytes(seed));
        let cgroup = cgroup::Own::enter(&options.directory, incarnation);
        let credentials = options.run_as.as_ref().map(|user| user.credentials.clone());
        let workspaces = Workspaces::open(&options.work_directory, credentials.as_ref())
            .with_context(|| format!("cannot make workspaces in {}", options.work_directory.display()))?;
        let boot_id = facts::boot_id();
        let journal = Journal::begin(&options.directory, incarnation, &boot_id, workspaces.root())?;
        for past in read_journals(&options.directory)? {
            sweep(&past.started);
            past.workspaces.into_iter().for_each(|path| workspaces.remove(path));
        }
        let listener = listen(&options.directory)?;
        let mut watched = Watched::new()?;
        watched.add(&listener, Source::Listener)?;
        let mut executor = Self {
            incarnation,
            dial: 0,
            watched,
            listener,
            agent: None,
            keepers: Keepers::new(lock, files, credentials),
            _cgroup: cgroup,
            attempts: BTreeMap::new(),
            waiting: VecDeque::new(),
            slots: usize::MAX,
            begin_until: Timestamp(u64::MAX),
            lease_until: Timestamp::default(),
            forgotten: VecDeque::new(),
            forgotten_set: BTreeSet::new(),
            unsent: VecDeque::new(),
            flow: Flow::Paused,
            in_flight: 0,
            deadlines: BTreeSet::new(),
            idle_since: clock::boottime(),
            workspaces,
            journal,
            inherited: launch::inherited(options.run_as.as_ref()),
            buffer: vec![0; READ_BYTES],
            stay: Stay::ForEver,
            options,
        };
        executor.note_idle();
        Ok(executor)
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        while !self.may_end() {
            for (source, events) in self.watched.wait(self.wait_for())? {
                self.handle(source, events);
            }
            self.handle_deadlines();
            self.start_waiting();
            self.send_output();
            self.flush_agent();
        }
        Ok(())
    }

    fn handle(&mut self, source: Source, events: EpollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Agent => {
                if events.contains(EpollFlags::EPOLLOUT) {
                    self.flush_agent();
                }
                self.read_agent();
            }
            Source::Keeper(id) => self.read_keeper(id),
            Source::Pipe(fence, stream) => self.read_pipe(fence, stream),
        }
    }

    fn may_end(&self) -> bool {
        self.stay == Stay::UntilEmpty && self.attempts.is_empty()
    }

    fn wait_for(&self) -> EpollTimeout {
        let Some(&(at, _)) = self.deadlines.first() else { return EpollTimeout::NONE };
        let wait = at.since(clock::boottime());
        // Rounded up, or it would spin through the last millisecond.
        let millis = wait.as_nanos().div_ceil(1_000_000).min(3_600_000);
        EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::NONE)
    }

    fn handle_deadlines(&mut self) {
        let now = clock::boottime();
        while let Some(&(at, deadline)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            match deadline {
                Deadline::Watch(fence) => self.watch_pipes(fence),
                Deadline::Flush(fence) => self.may_send(fence),
                Deadline::Started(fence) => self.look_whether_started(fence),
                Deadline::Idle => self.look_whether_needed(now),
            }
        }
    }

    fn look_at(&mut self, after: Duration, deadline: Deadline) {
        self.deadlines.insert((clock::boottime() + after, deadline));
    }

    /// Nobody needs an executor that has had no agent and no attempt for a while.
    fn look_whether_needed(&mut self, now: Timestamp) {
        let idle = self.agent.is_none() && self.attempts.is_empty();
        if idle && now.since(self.idle_since) >= self.options.timing.idle_exit {
            self.stay = Stay::UntilEmpty;
        }
    }

    fn note_idle(&mut self) {
        if self.agent.is_none() && self.attempts.is_empty() {
            self.idle_since = clock::boottime();
            self.look_at(self.options.timing.idle_exit, Deadline::Idle);
        }
    }

    fn obey(&mut self, word: ToExecutor) {
        match word {
            ToExecutor::Start(launch) => self.receive(launch),
            ToExecutor::End { fence, how } => self.end(fence, how),
            ToExecutor::Lease(until) => {
                self.lease_until = until;
                self.keepers.tell_busy(&ToKeeper::Lease(until));
            }
            ToExecutor::Starts { slots, until } => (self.slots, self.begin_until) = (slots as usize, until),
            ToExecutor::TakeBack(fence) => self.give_back(fence),
            ToExecutor::Acknowledged { fence, position } => self.acknowledge(fence, position),
            ToExecutor::SendFrom { fence, position } => self.send_from(fence, position),
            ToExecutor::Pause => self.pause(),
            ToExecutor::Unpause => self.flow = Flow::Open,
            ToExecutor::Forget(fence) => self.forget(fence),
            ToExecutor::Dial(dial) => self.dial = self.dial.max(dial),
            ToExecutor::ExitWhenEmpty => self.stay = Stay::UntilEmpty,
            ToExecutor::StopAll => self.stop_all(),
        }
    }

    fn stop_all(&mut self) {
        self.stay = Stay::UntilEmpty;
        let all: Vec<Fence> = self.attempts.keys().copied().collect();
        for fence in all {
            if let Some(attempt) = self.attempts.get_mut(&fence) {
                attempt.stopped = true;
            }
            self.end(fence, Cancel::Terminate);
        }
    }

    fn held(&self) -> Vec<Held> {
        let held = |(fence, attempt): (&Fence, &Attempt)| match &attempt.phase {
            Phase::Waiting(_) => Held::Waiting(*fence),
            Phase::Running(_) => Held::Running(*fence),
            Phase::Ended(end) => Held::Ended(end.clone()),
        };
        self.attempts.iter().map(held).collect()
    }

    fn forget(&mut self, fence: Fence) {
        let ended = self.attempts.get(&fence).is_some_and(|attempt| matches!(attempt.phase, Phase::Ended(_)));
        if !ended {
            return;
        }
        if let Some(attempt) = self.attempts.remove(&fence) {
            self.in_flight -= attempt.spool.in_flight();
        }
        self.forgotten.push_back(fence);
        self.forgotten_set.insert(fence);
        while self.forgotten.len() > FORGOTTEN_MAX {
            if let Some(oldest) = self.forgotten.pop_front() {
                self.forgotten_set.remove(&oldest);
            }
        }
        self.shorten_journal();
        self.note_idle();
    }

    /// The journal need not tell of what was forgotten.
    fn shorten_journal(&mut self) {
        if !self.journal.is_long() {
            return;
        }
        let kept = self.attempts.iter().map(|(fence, attempt)| (*fence, attempt.was_begun()));
        if let Err(error) = self.journal.shorten(kept) {
            tracing::warn!(%error, "cannot shorten the journal");
        }
    }

    /// Ends an attempt that no keeper tells of.
    fn conclude(&mut self, fence: Fence, outcome: Outcome) {
        let totals = self.attempts.get(&fence).map(|attempt| attempt.spool.totals()).unwrap_or_default();
        let usage = crate::core::outcome::Usage::default();
        self.ended(AttemptEnd { fence, outcome, usage, totals, tail: Vec::new() });
    }
}

/// Waits until the executor before this one is gone with all of its keepers.
fn lock(directory: &std::path::Path) -> anyhow::Result<Flock<fs::File>> {
    let path = directory.join(LOCK);
    let mut file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    let deadline = clock::boottime() + LOCK_WITHIN;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) if clock::boottime() < deadline => file,
            Err((_, error)) => anyhow::bail!("another executor has {}: {error}", directory.display()),
        };
        std::thread::sleep(LOCK_AGAIN);
    }
}

/// Listens below the directory, by a path that is short whatever the directory's is.
fn listen(directory: &std::path::Path) -> anyhow::Result<UnixListener> {
    let path = directory.join(SOCKET);
    // The lock is ours, so whoever made this socket is gone.
    let _ = fs::remove_file(&path);
    let handle = fs::File::open(directory)?;
    let short = short_path(&handle);
    let listener =
        UnixListener::bind(&short).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket's path has at most 107 bytes; this one has about 30.
pub(super) fn short_path(directory: &fs::File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))
}

/// Kills what an executor and its keepers left that were killed in one instant: processes that carry one of these
/// fences in their environment.
fn sweep(started: &BTreeSet<Fence>) {
    let marks: BTreeSet<Vec<u8>> =
        started.iter().map(|fence| format!("CLUSTERCTL_FENCE={fence}").into_bytes()).collect();
    if marks.is_empty() {
        return;
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // Opened before it is looked at: what is looked at is what is killed.
        let Some(process) = signal::Process::open(pid) else { continue };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| marks.contains(variable)) {
            process.send(libc::SIGKILL);
        }
    }
}
