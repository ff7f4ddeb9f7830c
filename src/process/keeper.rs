//! A keeper: the parent of one attempt at a time, which it starts, times, and ends with all that descends from it.
//!
//! A process of its own, long-lived and re-used, that does no disk I/O, so that nothing delays a kill. It holds the
//! lease: when nobody renews it the attempt ends, whatever became of the rest of the worker. When its executor's socket
//! closes it ends what runs, and itself. It knows nothing of jobs, output or agents.
//!
//! ```text
//!   idle ──Run──> running ──(cancel, time-out, lease)──> ending ──┐
//!    ^               └────────────── bash ends ───────────────────┤
//!    └──────────────── Done <── everything that is left is killed ┘
//! ```

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::core::outcome::Cancel;
use crate::core::time::Timestamp;
use crate::core::timing::Timing;

use super::packet::{Done, FromKeeper, Reason, Run, ToKeeper};
use super::spawn::{Spawned, Stack, spawn};
use super::{clock, detach, signal, tree};

/// The body of the hidden command `keeper`: serves the socket that is its standard input until that closes.
///
/// # Errors
/// When the process cannot be set up; afterwards everything is reported over the socket.
pub fn run(timing: Timing) -> anyhow::Result<()> {
    signal::reset_all();
    detach::close_from(3, detach::Closing::OnExec);
    tree::become_reaper()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC)?;
    let mut keeper = Keeper { socket, null: null.into(), timer, timing, stack: Stack::new(), attempt: None };
    let ended = keeper.serve();
    keeper.end_everything();
    ended?;
    Ok(())
}

struct Keeper {
    socket: OwnedFd,
    null: OwnedFd,
    timer: TimerFd,
    timing: Timing,
    stack: Stack,
    attempt: Option<Attempt>,
}

/// What runs.
struct Attempt {
    bash: Spawned,
    started: Timestamp,
    timeout_at: Option<Timestamp>,
    lease_until: Option<Timestamp>,
    ending: Option<Ending>,
}

/// An attempt that is being ended: the signal that comes next, and when.
struct Ending {
    reason: Reason,
    next: Option<(Timestamp, i32)>,
}

impl Keeper {
    /// Serves until the executor is gone.
    fn serve(&mut self) -> nix::Result<()> {
        loop {
            let mut fds = vec![
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.timer.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(attempt) = &self.attempt {
                fds.push(PollFd::new(attempt.bash.pidfd.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            let fired: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            drop(fds);
            if fired.get(2) == Some(&true) {
                self.finish()?;
            }
            if fired[1] {
                self.look_at_the_time()?;
            }
            if fired[0] {
                match ToKeeper::receive(self.socket.as_raw_fd())? {
                    None => return Ok(()),
                    Some(word) => self.handle(word)?,
                }
            }
        }
    }

    fn handle(&mut self, word: ToKeeper) -> nix::Result<()> {
        match word {
            ToKeeper::Run(run) => self.start(&run),
            ToKeeper::End(how) => self.end(Reason::Cancelled(how), how),
            ToKeeper::Lease(lease) => {
                let until = clock::boottime() + lease;
                if let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.lease_until.is_some()) {
                    attempt.lease_until = attempt.lease_until.max(Some(until));
                }
                self.arm()
            }
        }
    }

    fn start(&mut self, run: &Run) -> nix::Result<()> {
        assert!(self.attempt.is_none(), "an executor gives a keeper one attempt at a time");
        match spawn(run, self.null.as_raw_fd(), &mut self.stack) {
            Err((step, errno)) => self.say(&FromKeeper::SpawnFailed(step, errno)),
            Ok(bash) => {
                let started = clock::boottime();
                self.attempt = Some(Attempt {
                    bash,
                    started,
                    timeout_at: run.timeout.map(|timeout| started + timeout),
                    lease_until: run.lease.map(|lease| started + lease),
                    ending: None,
                });
                self.arm()?;
                self.say(&FromKeeper::Started)
            }
        }
    }

    /// Begins to end what runs; a stronger way overrides a weaker one, and the first reason counts.
    fn end(&mut self, reason: Reason, how: Cancel) -> nix::Result<()> {
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        let now = clock::boottime();
        let (number, next) = match how {
            Cancel::Interrupt => (libc::SIGINT, Some((now + self.timing.interrupt_grace, libc::SIGTERM))),
            Cancel::Terminate => (libc::SIGTERM, Some((now + self.timing.term_grace, libc::SIGKILL))),
            Cancel::Kill => (libc::SIGKILL, None),
        };
        let reason = match &attempt.ending {
            Some(ending)
                if !matches!((ending.reason, reason), (Reason::Cancelled(_), Reason::Cancelled(_))) =>
            {
                ending.reason
            }
            _ => reason,
        };
        attempt.ending = Some(Ending { reason, next });
        tree::signal_all(attempt.bash.pid, number, &std::collections::BTreeSet::new());
        self.arm()
    }

    fn look_at_the_time(&mut self) -> nix::Result<()> {
        // The timer is read so that it is quiet until it is armed again.
        let mut expirations = [0; 8];
        nix::unistd::read(self.timer.as_fd(), &mut expirations)?;
        let now = clock::boottime();
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        if let Some(Ending { next: Some((at, number)), .. }) = &attempt.ending
            && *at <= now
        {
            let number = *number;
            let then = (number == libc::SIGTERM).then(|| (now + self.timing.interrupt_grace, libc::SIGKILL));
            if let Some(ending) = &mut attempt.ending {
                ending.next = then;
            }
            tree::signal_all(attempt.bash.pid, number, &std::collections::BTreeSet::new());
        }
        let lease_over = attempt.lease_until.is_some_and(|until| until <= now);
        let lease_ends =
            attempt.lease_until.is_some_and(|until| until - self.timing.lease_term_before <= now);
        let timed_out = attempt.timeout_at.is_some_and(|at| at <= now);
        if lease_over {
            attempt.lease_until = None;
            return self.end(Reason::LeaseOver, Cancel::Kill);
        }
        if attempt.ending.is_none() && lease_ends {
            return self.end(Reason::LeaseOver, Cancel::Terminate);
        }
        if timed_out {
            attempt.timeout_at = None;
            if attempt.ending.is_none() {
                return self.end(Reason::TimedOut, Cancel::Terminate);
            }
        }
        self.arm()
    }

    /// Bash has ended: everything that it left is killed, and the executor is told.
    fn finish(&mut self) -> nix::Result<()> {
        let Some(attempt) = self.attempt.take() else { return Ok(()) };
        let pid = attempt.bash.pid;
        signal::send(-pid, libc::SIGKILL);
        let (mut status, mut usage) = (0, empty_usage());
        // SAFETY: waits for our own child with room for its status and usage.
        unsafe { libc::wait4(pid, &raw mut status, libc::__WALL, &raw mut usage) };
        let run = clock::boottime().since(attempt.started);
        tree::kill_all_children();
        self.arm()?;
        self.say(&FromKeeper::Done(Done {
            status,
            reason: attempt.ending.map_or(Reason::Own, |ending| ending.reason),
            run_us: micros(run),
            user_us: micros_of(usage.ru_utime),
            system_us: micros_of(usage.ru_stime),
            peak_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
        }))
    }

    /// Kills what runs, for an executor that is gone.
    fn end_everything(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            signal::send(-attempt.bash.pid, libc::SIGKILL);
        }
        tree::kill_all_children();
    }

    /// Sets the timer to whatever comes next.
    fn arm(&mut self) -> nix::Result<()> {
        let Some(attempt) = &self.attempt else { return self.timer.unset() };
        let lease = attempt.lease_until.map(|until| match attempt.ending {
            None => until - self.timing.lease_term_before,
            Some(_) => until,
        });
        let next = attempt.ending.as_ref().and_then(|ending| ending.next).map(|(at, _)| at);
        let Some(at) = [attempt.timeout_at, lease, next].into_iter().flatten().min() else {
            return self.timer.unset();
        };
        let wait = Duration::from_nanos(at.0.max(1));
        self.timer.set(Expiration::OneShot(TimeSpec::from(wait)), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
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
