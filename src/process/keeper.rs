//! A keeper: the parent of one attempt at a time, which it starts, times, and ends with all that descends from it.
//!
//! A process of its own, long-lived and re-used, that does no disk I/O, so that nothing delays a kill. It holds the
//! lease: when nobody renews it the attempt ends, whatever became of the rest of the worker. When its executor's socket
//! closes it ends what runs, and itself. It knows nothing of jobs, output or agents.
//!
//! ```text
//!   idle ──Run──> running ──bash ends──> ending: what it left may use its grace, then is killed ──nothing left──> idle
//!                    └── (cancel, time-out, lease): signals to the whole tree
//! ```

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::core::lifetime::Lifetime;
use crate::core::outcome::Cancel;
use crate::core::time::Timestamp;
use crate::core::timing::Timing;

use super::packet::{Done, FromKeeper, Run, ToKeeper};
use super::run_as::Credentials;
use super::spawn::{Spawned, Stack, spawn};
use super::{clock, detach, limit, signal, tree};

/// How often to look whether processes that bash left have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What cannot be killed for so long never will be: it runs as another user, or hangs in the kernel.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// The body of the hidden command `keeper`: serves the socket that is its standard input until that closes. Its standard
/// output is the executor's lock, so that the next executor waits until the last keeper is gone.
///
/// # Errors
/// When the process cannot be set up; afterwards everything is reported over the socket.
pub fn run(timing: Timing, files: u64, run_as: Option<Credentials>) -> anyhow::Result<()> {
    signal::reset_all();
    detach::close_from(3, detach::Closing::OnExec);
    limit::set_files(files);
    tree::become_reaper()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    let mut keeper =
        Keeper { socket, null: null.into(), timer, timing, run_as, stack: Stack::new(), attempt: None };
    let ended = keeper.serve();
    keeper.end_everything();
    match ended {
        // The executor is gone in the midst of a word.
        Ok(()) | Err(Errno::ECONNRESET | Errno::EPIPE) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Keeper {
    socket: OwnedFd,
    null: OwnedFd,
    timer: TimerFd,
    timing: Timing,
    /// As whom bash runs.
    run_as: Option<Credentials>,
    stack: Stack,
    attempt: Option<Attempt>,
}

/// What runs, or is being ended.
struct Attempt {
    /// Of bash, and of its process group.
    pid: i32,
    started: Timestamp,
    lifetime: Lifetime,
    phase: Phase,
}

enum Phase {
    Bash(Spawned),
    /// Bash has ended like this; processes that it left are still there.
    Remains {
        end: BashEnd,
        give_up_at: Option<Timestamp>,
    },
}

/// How bash ended, as `wait4` gave it.
#[derive(Clone, Copy)]
struct BashEnd {
    status: i32,
    usage: libc::rusage,
}

/// What happened, of all that a keeper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fired {
    socket: bool,
    timer: bool,
    bash: bool,
}

impl Keeper {
    /// Serves until the executor is gone.
    fn serve(&mut self) -> nix::Result<()> {
        loop {
            let fired = match self.wait() {
                Err(Errno::EINTR) => continue,
                fired => fired?,
            };
            if fired.bash {
                self.bash_ended()?;
            }
            if fired.timer {
                self.look_at_the_time()?;
            }
            if fired.socket {
                match ToKeeper::receive(self.socket.as_raw_fd())? {
                    None => return Ok(()),
                    Some(word) => self.handle(word)?,
                }
            }
        }
    }

    fn wait(&self) -> nix::Result<Fired> {
        let mut fds = vec![
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(Attempt { phase: Phase::Bash(bash), .. }) = &self.attempt {
            fds.push(PollFd::new(bash.pidfd.as_fd(), PollFlags::POLLIN));
        }
        poll(&mut fds, PollTimeout::NONE)?;
        let fired = |n: usize| fds.get(n).is_some_and(|fd| fd.any().unwrap_or(true));
        Ok(Fired { socket: fired(0), timer: fired(1), bash: fired(2) })
    }

    fn handle(&mut self, word: ToKeeper) -> nix::Result<()> {
        match word {
            ToKeeper::Run(run) => self.start(&run),
            ToKeeper::End(how) => {
                let now = clock::boottime();
                let step = self.attempt.as_mut().and_then(|attempt| attempt.lifetime.end(now, how));
                self.take(step)
            }
            ToKeeper::Lease(until) => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.lifetime.set_lease(until);
                }
                self.arm()
            }
        }
    }

    fn start(&mut self, run: &Run) -> nix::Result<()> {
        assert!(self.attempt.is_none(), "an executor gives a keeper one attempt at a time");
        // Counted from before the start, which may hang on a directory that does not answer.
        let started = clock::boottime();
        let lifetime = Lifetime::new(self.timing, started, run.timeout, run.lease_until);
        match spawn(run, self.null.as_raw_fd(), self.run_as.as_ref(), &mut self.stack) {
            Err((step, errno)) => self.say(&FromKeeper::SpawnFailed(step, errno)),
            Ok(bash) => {
                let pid = bash.pid;
                self.attempt = Some(Attempt { pid, started, lifetime, phase: Phase::Bash(bash) });
                self.arm()?;
                self.say(&FromKeeper::Started)
            }
        }
    }

    fn look_at_the_time(&mut self) -> nix::Result<()> {
        // Read so that it is quiet until it is armed again; it may have been armed again since it fired.
        match nix::unistd::read(self.timer.as_fd(), &mut [0; 8]) {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(error) => return Err(error),
        }
        let now = clock::boottime();
        let step = self.attempt.as_mut().and_then(|attempt| attempt.lifetime.due(now));
        self.take(step)
    }

    /// Takes a step towards the end of what runs.
    fn take(&mut self, step: Option<Cancel>) -> nix::Result<()> {
        let Some(attempt) = &self.attempt else { return Ok(()) };
        // Bash's process id names its group only until it is reaped.
        let group = match attempt.phase {
            Phase::Bash(_) => Some(attempt.pid),
            Phase::Remains { .. } => None,
        };
        match step {
            Some(Cancel::Interrupt) => tree::signal_all(group, libc::SIGINT),
            Some(Cancel::Terminate) => tree::signal_all(group, libc::SIGTERM),
            Some(Cancel::Kill) => tree::kill_children(group),
            None => {}
        }
        self.look_at_remains()?;
        self.arm()
    }

    /// Bash has ended: what it left is killed, unless it was told to end and has time for that.
    fn bash_ended(&mut self) -> nix::Result<()> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        if !attempt.lifetime.has_grace() {
            signal::send(-attempt.pid, libc::SIGKILL);
        }
        let mut end = BashEnd { status: 0, usage: empty_usage() };
        // SAFETY: waits for our own child with room for its status and usage.
        let waited =
            unsafe { libc::wait4(attempt.pid, &raw mut end.status, libc::__WALL, &raw mut end.usage) };
        if waited < 0 {
            return Err(Errno::last());
        }
        attempt.phase = Phase::Remains { end, give_up_at: None };
        self.look_at_remains()?;
        self.arm()
    }

    /// Reaps, and kills what has no grace; when nothing is left, or nothing helps, the attempt is over.
    fn look_at_remains(&mut self) -> nix::Result<()> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let Phase::Remains { end, give_up_at } = &mut attempt.phase else { return Ok(()) };
        let has_grace = attempt.lifetime.has_grace();
        let now = clock::boottime();
        if !tree::reap() && (has_grace || now < *give_up_at.get_or_insert(now + GIVE_UP_AFTER)) {
            if !has_grace {
                tree::kill_children(None);
            }
            return Ok(());
        }
        let done = Done {
            status: end.status,
            reason: attempt.lifetime.reason(),
            run_us: micros(now.since(attempt.started)),
            user_us: micros_of(end.usage.ru_utime),
            system_us: micros_of(end.usage.ru_stime),
            peak_kib: u64::try_from(end.usage.ru_maxrss).unwrap_or(0),
        };
        self.attempt = None;
        self.say(&FromKeeper::Done(done))
    }

    /// Kills what runs, for an executor that is gone.
    fn end_everything(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            tree::kill_children(Some(attempt.pid).filter(|_| matches!(attempt.phase, Phase::Bash(_))));
        }
        tree::kill_all(&BTreeSet::new(), GIVE_UP_AFTER);
    }

    /// Sets the timer to whatever comes next.
    fn arm(&mut self) -> nix::Result<()> {
        let Some(attempt) = &self.attempt else { return self.timer.unset() };
        let look = match attempt.phase {
            Phase::Bash(_) => None,
            Phase::Remains { .. } => Some(clock::boottime() + LOOK_AGAIN),
        };
        let Some(at) = [attempt.lifetime.next(), look].into_iter().flatten().min() else {
            return self.timer.unset();
        };
        let at = Duration::from_nanos(at.0.max(1));
        self.timer.set(Expiration::OneShot(TimeSpec::from(at)), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
    }

    fn say(&self, word: &FromKeeper) -> nix::Result<()> {
        let socket: RawFd = self.socket.as_raw_fd();
        word.send(socket)
    }
}

fn empty_usage() -> libc::rusage {
    // SAFETY: rusage is plain numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn micros_of(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0)
}
