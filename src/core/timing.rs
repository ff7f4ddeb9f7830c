//! Every duration that a promise names, in one value, so that a test can scale them as a whole.

use std::time::Duration;

/// The durations of the promises. `Timing::default()` is what ships.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// An agent sends a heartbeat this often.
    pub heartbeat: Duration,
    /// A worker from which no byte came for so long is *silent*, its attempts *unknown*.
    pub silent_after: Duration,
    /// A keeper may run its attempt for so long after the heartbeat that was last answered was *sent*.
    pub lease: Duration,
    /// Added to `lease` before the pool takes an attempt for dead.
    pub lease_grace: Duration,
    /// TERM is sent so long before a lease ends.
    pub lease_term_before: Duration,
    /// The lease that a pool grants when it goes down on purpose.
    pub lease_at_shutdown: Duration,
    /// An unknown attempt without `--retries` is lost after so long.
    pub lost_after: Duration,
    /// From TERM to KILL on cancel, time-out and stop.
    pub term_grace: Duration,
    /// From INT to TERM, and from that to KILL, on Ctrl-C.
    pub interrupt_grace: Duration,
    /// A private pool without clients and unfinished jobs ends after so long.
    pub idle_exit: Duration,
    /// The longest that one `wait` call stays unanswered.
    pub wait_call: Duration,
    /// The longest pause between two dials.
    pub dial_pause_max: Duration,
    /// The pause after a typed refusal.
    pub dial_pause_refused: Duration,
    /// A dial that has not connected by then is given up.
    pub dial_connect: Duration,
    /// From accept to a proven identity.
    pub handshake: Duration,
    /// As first process of a container, a worker has ended so long after it was asked to; its runtime kills it after 10 s.
    pub container_stop: Duration,
    /// A worker is handed about so much work beyond its slots, by how long a job's tasks took so far.
    pub prefetch: Duration,
    /// What waits at a worker for so long is asked back.
    pub recall_after: Duration,
    /// An ephemeral worker that has gone is forgotten after so long.
    pub forget_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            heartbeat: seconds(5),
            silent_after: seconds(15),
            lease: seconds(60),
            lease_grace: seconds(15),
            lease_term_before: seconds(10),
            lease_at_shutdown: seconds(600),
            lost_after: seconds(24 * 3600),
            term_grace: seconds(10),
            interrupt_grace: seconds(5),
            idle_exit: seconds(600),
            wait_call: seconds(20),
            dial_pause_max: seconds(2),
            dial_pause_refused: seconds(30),
            dial_connect: seconds(3),
            handshake: seconds(5),
            container_stop: seconds(8),
            prefetch: Duration::from_millis(200),
            recall_after: seconds(1),
            forget_after: seconds(600),
        }
    }
}

impl Timing {
    /// So long after it granted a lease the pool takes an attempt for dead that was not renewed. The grace grows with
    /// the lease, as the error of a clock does.
    pub fn over_after(&self, lease: Duration) -> Duration {
        lease + self.lease_grace.mul_f64(lease.as_secs_f64() / self.lease.as_secs_f64())
    }

    /// All durations divided by `by`: a test's clock that runs faster than the promises.
    pub fn scaled_down(self, by: u32) -> Self {
        let s = |d: Duration| d / by;
        Self {
            heartbeat: s(self.heartbeat),
            silent_after: s(self.silent_after),
            lease: s(self.lease),
            lease_grace: s(self.lease_grace),
            lease_term_before: s(self.lease_term_before),
            lease_at_shutdown: s(self.lease_at_shutdown),
            lost_after: s(self.lost_after),
            term_grace: s(self.term_grace),
            interrupt_grace: s(self.interrupt_grace),
            idle_exit: s(self.idle_exit),
            wait_call: s(self.wait_call),
            dial_pause_max: s(self.dial_pause_max),
            dial_pause_refused: s(self.dial_pause_refused),
            dial_connect: s(self.dial_connect),
            handshake: s(self.handshake),
            container_stop: s(self.container_stop),
            prefetch: s(self.prefetch),
            recall_after: s(self.recall_after),
            forget_after: s(self.forget_after),
        }
    }
}
