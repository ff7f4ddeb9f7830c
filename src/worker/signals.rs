//! What somebody asks of a worker by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGINT or SIGTERM: finish what runs, then end.
    Drain,
    /// A second one: end what runs, then end.
    Stop,
    /// A third one: end, whatever still runs.
    GoNow,
    /// SIGHUP: the agent ends, executor and jobs go on.
    Leave,
}

/// The signals, and how often a person has pressed.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    pressed: u32,
}

impl Signals {
    /// From now on these signals do not end the process by themselves.
    pub(super) fn take() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            pressed: 0,
        })
    }

    /// The next thing that somebody asks for. Cancel-safe.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => return Asked::Leave,
        }
        self.pressed += 1;
        match self.pressed {
            1 => Asked::Drain,
            2 => Asked::Stop,
            _ => Asked::GoNow,
        }
    }
}
