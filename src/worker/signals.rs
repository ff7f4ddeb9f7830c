//! What somebody asks of a worker by signals.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::options::JoinOptions;

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGINT or SIGTERM: finish what runs, then end.
    Drain,
    /// A second one, or the time given for it is nearly over: end what runs, then end.
    Stop,
    /// The time is over but for a moment: kill what runs, then end.
    Kill,
    /// A third one, or the time is over: end, whatever still runs.
    GoNow,
    /// SIGHUP: the agent ends, executor and jobs go on.
    Leave,
}

/// How long a worker takes to end once it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// In all; none: as long as what runs takes.
    pub(super) within: Option<Duration>,
    /// From TERM to KILL, if there is time for it.
    pub(super) term_grace: Duration,
}

impl Patience {
    /// What is asked for by itself after a drain, and when.
    fn steps(self) -> Vec<(Duration, Asked)> {
        let Some(within) = self.within else { return Vec::new() };
        // What was killed has still to be told to the pool.
        let kill = within * 7 / 8;
        let stop = kill.saturating_sub(self.term_grace).max(within / 2);
        vec![(stop, Asked::Stop), (kill, Asked::Kill), (within, Asked::GoNow)]
    }
}

/// The signals, and how often a person has pressed.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    pressed: u32,
    patience: Patience,
    /// What comes by itself, and when.
    to_come: VecDeque<(Instant, Asked)>,
}

/// What somebody asks for, as it comes; for as long as the task is kept.
pub(super) fn forwarded(
    options: &JoinOptions,
) -> std::io::Result<(mpsc::UnboundedReceiver<Asked>, AbortOnDropHandle<()>)> {
    let patience = Patience { within: options.stop_within, term_grace: options.timing.term_grace };
    let mut signals = Signals::take(patience)?;
    let (sender, asked) = mpsc::unbounded_channel();
    let task = tokio::task::spawn_local(async move { while sender.send(signals.next().await).is_ok() {} });
    Ok((asked, AbortOnDropHandle::new(task)))
}

impl Signals {
    /// From now on these signals do not end the process by themselves.
    pub(super) fn take(patience: Patience) -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            pressed: 0,
            patience,
            to_come: VecDeque::new(),
        })
    }

    /// The next thing that somebody asks for, or that comes of it by itself. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        let due = self.to_come.front().map(|(at, _)| *at);
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => return Asked::Leave,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                return self.to_come.pop_front().expect("what is due was just seen").1;
            }
        }
        self.pressed += 1;
        match self.pressed {
            1 => {
                let now = Instant::now();
                self.to_come =
                    self.patience.steps().into_iter().map(|(after, asked)| (now + after, asked)).collect();
                Asked::Drain
            }
            2 => Asked::Stop,
            _ => Asked::GoNow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(within_s: u64) -> Vec<u64> {
        let patience =
            Patience { within: Some(Duration::from_secs(within_s)), term_grace: Duration::from_secs(10) };
        let steps = patience.steps();
        assert_eq!(
            steps.iter().map(|(_, asked)| *asked).collect::<Vec<_>>(),
            [Asked::Stop, Asked::Kill, Asked::GoNow]
        );
        steps.iter().map(|(after, _)| after.as_secs()).collect()
    }

    #[test]
    fn in_a_short_time_half_of_it_is_for_what_finishes_by_itself() {
        assert_eq!(steps(8), [4, 7, 8]);
    }

    #[test]
    fn in_a_long_time_jobs_have_all_of_it_but_for_what_ending_them_takes() {
        assert_eq!(steps(800), [690, 700, 800]);
    }

    #[test]
    fn without_a_bound_nothing_comes_by_itself() {
        let patience = Patience { within: None, term_grace: Duration::from_secs(10) };

        assert_eq!(patience.steps(), []);
    }
}
