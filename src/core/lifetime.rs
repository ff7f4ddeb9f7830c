//! How long an attempt may go on, and the steps by which it is ended: time-out, lease, cancel.
//!
//! Pure: it is told the time and what is wanted, and says which step comes now and when to ask again. Who sends signals,
//! and to whom, is not known here.
//!
//! ```text
//!   Interrupt ──5 s──> Terminate ──5 s──> Kill          Terminate ──10 s──> Kill
//!   time-out: Terminate      lease: Terminate 10 s before its end, Kill at its end
//! ```

use std::time::Duration;

use super::outcome::Cancel;
use super::time::Timestamp;
use super::timing::Timing;

/// Why an attempt ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndReason {
    /// By itself.
    #[default]
    Own,
    /// It ran longer than it was allowed to.
    TimedOut,
    /// Nobody renewed its lease.
    LeaseOver,
    /// Somebody wanted it.
    Cancelled(Cancel),
}

/// The time that an attempt has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    timing: Timing,
    timeout_at: Option<Timestamp>,
    lease_until: Option<Timestamp>,
    ending: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ending {
    reason: EndReason,
    /// The step that was taken last.
    step: Cancel,
    /// When the next one is due.
    next: Option<(Timestamp, Cancel)>,
}

impl Lifetime {
    /// Of an attempt that was given out at `now`; what is `None` never ends it.
    pub fn new(
        timing: Timing,
        now: Timestamp,
        timeout: Option<Duration>,
        lease_until: Option<Timestamp>,
    ) -> Self {
        Self { timing, timeout_at: timeout.map(|timeout| now + timeout), lease_until, ending: None }
    }

    /// The lease ends then, be that later or earlier than before. Without a lease nothing changes.
    pub fn set_lease(&mut self, until: Timestamp) {
        if self.lease_until.is_some() {
            self.lease_until = Some(until);
        }
    }

    /// Somebody wants it ended: the step to take now, unless one as strong was taken before. The KILL that is due is
    /// never put off.
    pub fn end(&mut self, now: Timestamp, how: Cancel) -> Option<Cancel> {
        self.begin(now, EndReason::Cancelled(how), how)
    }

    /// The step that has come due.
    pub fn due(&mut self, now: Timestamp) -> Option<Cancel> {
        if self.lease_until.is_some_and(|until| until <= now) {
            self.lease_until = None;
            return self.begin(now, EndReason::LeaseOver, Cancel::Kill);
        }
        if let Some(Ending { next: Some((at, step)), .. }) = self.ending
            && at <= now
        {
            return self.take(now, step);
        }
        if self.ending.is_some() {
            return None;
        }
        if self.timeout_at.is_some_and(|at| at <= now) {
            return self.begin(now, EndReason::TimedOut, Cancel::Terminate);
        }
        if self.lease_until.is_some_and(|until| until - self.timing.lease_term_before <= now) {
            return self.begin(now, EndReason::LeaseOver, Cancel::Terminate);
        }
        None
    }

    /// When to ask again.
    pub fn next(&self) -> Option<Timestamp> {
        let lease = self.lease_until.map(|until| match self.ending {
            None => until - self.timing.lease_term_before,
            Some(_) => until,
        });
        let step = self.ending.and_then(|ending| ending.next).map(|(at, _)| at);
        let timeout = self.timeout_at.filter(|_| self.ending.is_none());
        [lease, step, timeout].into_iter().flatten().min()
    }

    /// Whether it has been told to end and may still do so in its own way.
    pub fn has_grace(&self) -> bool {
        self.ending.is_some_and(|ending| ending.next.is_some())
    }

    /// Why it ended, if it has now.
    pub fn reason(&self) -> EndReason {
        self.ending.map_or(EndReason::Own, |ending| ending.reason)
    }

    fn begin(&mut self, now: Timestamp, reason: EndReason, step: Cancel) -> Option<Cancel> {
        match &mut self.ending {
            Some(ending) if ending.step >= step => return None,
            Some(ending) => {
                // The first reason counts; of two wishes the stronger one.
                if matches!((ending.reason, reason), (EndReason::Cancelled(_), EndReason::Cancelled(_))) {
                    ending.reason = reason;
                }
            }
            none => *none = Some(Ending { reason, step, next: None }),
        }
        self.take(now, step)
    }

    fn take(&mut self, now: Timestamp, step: Cancel) -> Option<Cancel> {
        let Timing { interrupt_grace, term_grace, .. } = self.timing;
        let ending = self.ending.as_mut().expect("a step is taken of an ending");
        let after_interrupt = ending.step == Cancel::Interrupt;
        let next = match step {
            Cancel::Interrupt => Some((now + interrupt_grace, Cancel::Terminate)),
            Cancel::Terminate if after_interrupt => Some((now + interrupt_grace, Cancel::Kill)),
            Cancel::Terminate => Some((now + term_grace, Cancel::Kill)),
            Cancel::Kill => None,
        };
        ending.step = step;
        ending.next = next;
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000_000)
    }

    fn lifetime(timeout: Option<u64>, lease: Option<u64>) -> Lifetime {
        Lifetime::new(Timing::default(), at(0), timeout.map(Duration::from_secs), lease.map(at))
    }

    /// The steps that are taken when time passes second by second, each with its second.
    fn steps(lifetime: &mut Lifetime, seconds: std::ops::Range<u64>) -> Vec<(u64, Cancel)> {
        seconds.filter_map(|second| lifetime.due(at(second)).map(|step| (second, step))).collect()
    }

    #[test]
    fn a_cancel_terminates_and_kills_ten_seconds_later() {
        let mut lifetime = lifetime(None, None);

        assert_eq!(lifetime.end(at(3), Cancel::Terminate), Some(Cancel::Terminate));

        assert!(lifetime.has_grace());
        assert_eq!(steps(&mut lifetime, 3..60), [(13, Cancel::Kill)]);
        assert!(!lifetime.has_grace());
        assert_eq!(lifetime.reason(), EndReason::Cancelled(Cancel::Terminate));
    }

    #[test]
    fn an_interrupt_terminates_after_five_seconds_and_kills_after_five_more() {
        let mut lifetime = lifetime(None, None);

        assert_eq!(lifetime.end(at(0), Cancel::Interrupt), Some(Cancel::Interrupt));

        assert_eq!(steps(&mut lifetime, 0..60), [(5, Cancel::Terminate), (10, Cancel::Kill)]);
    }

    #[test]
    fn a_wish_that_is_repeated_never_puts_the_kill_off() {
        let mut lifetime = lifetime(None, None);
        lifetime.end(at(0), Cancel::Terminate);

        assert_eq!(lifetime.end(at(9), Cancel::Terminate), None);
        assert_eq!(lifetime.end(at(9), Cancel::Interrupt), None);

        assert_eq!(steps(&mut lifetime, 9..60), [(10, Cancel::Kill)]);
    }

    #[test]
    fn a_stronger_wish_counts_at_once() {
        let mut lifetime = lifetime(None, None);
        lifetime.end(at(0), Cancel::Interrupt);

        assert_eq!(lifetime.end(at(1), Cancel::Kill), Some(Cancel::Kill));

        assert_eq!(lifetime.reason(), EndReason::Cancelled(Cancel::Kill));
        assert_eq!(lifetime.next(), None);
    }

    #[test]
    fn a_lease_terminates_ten_seconds_before_its_end_and_kills_at_its_end() {
        let mut lifetime = lifetime(None, Some(60));

        assert_eq!(steps(&mut lifetime, 0..90), [(50, Cancel::Terminate), (60, Cancel::Kill)]);
        assert_eq!(lifetime.reason(), EndReason::LeaseOver);
    }

    #[test]
    fn a_renewed_lease_goes_on_and_one_that_is_shortened_ends_earlier() {
        let mut renewed = lifetime(None, Some(60));
        renewed.set_lease(at(100));
        assert_eq!(steps(&mut renewed, 0..120), [(90, Cancel::Terminate), (100, Cancel::Kill)]);

        let mut shortened = lifetime(None, Some(600));
        shortened.set_lease(at(60));
        assert_eq!(steps(&mut shortened, 0..120), [(50, Cancel::Terminate), (60, Cancel::Kill)]);

        let mut without = lifetime(None, None);
        without.set_lease(at(1));
        assert_eq!(steps(&mut without, 0..120), []);
    }

    #[test]
    fn a_time_out_keeps_its_reason_whatever_comes_later() {
        let mut lifetime = lifetime(Some(2), None);

        assert_eq!(lifetime.next(), Some(at(2)));
        assert_eq!(steps(&mut lifetime, 0..5), [(2, Cancel::Terminate)]);
        assert_eq!(lifetime.end(at(5), Cancel::Kill), Some(Cancel::Kill));

        assert_eq!(lifetime.reason(), EndReason::TimedOut);
    }

    #[test]
    fn what_ends_late_by_a_suspended_machine_is_killed_at_once() {
        let mut lifetime = lifetime(Some(1000), Some(60));

        assert_eq!(lifetime.due(at(5000)), Some(Cancel::Kill));
    }
}
