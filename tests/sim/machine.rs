//! A machine with a worker on it: its boot, its clock, its disk, its executor and its agent.

use clusterctl::core::attempt::ToExecutor;
use clusterctl::core::id::{Fingerprint, Incarnation, Name};
use clusterctl::core::label::Labels;
use clusterctl::core::membership::{Facts, StartOrder, SubmitterTrust, Tenure};
use clusterctl::core::time::Timestamp;

use crate::agent_process::AgentProcess;
use crate::executor::{Executor, Journal};

/// Names a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineId(pub usize);

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// The worker's name.
    pub name: Name,
    /// The worker's key. Two machines may have the same, if one is a copy of the other.
    pub key: Fingerprint,
    /// Whether the key was let in.
    pub enrolment: Enrolment,
    pub labels: Labels,
    pub slots: u32,
    pub boot_id: String,
    /// Of the boot in which it first came.
    pub first_boot_id: Option<String>,
    pub clock: Clock,
    pub executor: Option<Executor>,
    /// Of executors that are gone, as long as nobody has forgotten them.
    pub journals: Vec<Journal>,
    pub agent: Option<AgentProcess>,
    /// Nothing reaches it before, and nothing leaves it.
    pub away_until: Timestamp,
    pub future: Future,
    /// When its executor is to be looked at, as far as that is planned.
    pub wakes_at: Option<Timestamp>,
    /// What an agent that died had left to say, and starts that came: for those who are planted to deliver them again.
    pub late_words: Vec<ToExecutor>,
    pub delivered: Vec<StartOrder>,
}

impl Machine {
    /// One whose worker was never let in, and which was not booted yet.
    pub fn that_is_off(name: Name, key: Fingerprint, labels: Labels, slots: u32, clock: Clock) -> Self {
        Self {
            name,
            key,
            enrolment: Enrolment::Wanted,
            labels,
            slots,
            boot_id: String::new(),
            first_boot_id: None,
            clock,
            executor: None,
            journals: Vec::new(),
            agent: None,
            away_until: Timestamp(0),
            future: Future::Works,
            wakes_at: None,
            late_words: Vec::new(),
            delivered: Vec::new(),
        }
    }
}

/// Whether a machine's key was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolment {
    Wanted,
    Done,
}

/// What is to become of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Future {
    /// Its agent is started again whenever it is gone.
    Works,
    /// It is left alone: it was drained, removed, or burnt.
    Ends,
}

/// A machine's clock: from a number at boot on it runs a little too fast or too slowly.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub booted: Timestamp,
    pub at_boot: u64,
    /// In parts per million of the right rate.
    pub error: i64,
}

const MILLION: i128 = 1_000_000;

impl Clock {
    /// What it shows at a moment.
    pub fn local(self, real: Timestamp) -> Timestamp {
        let passed = i128::from(real.0 - self.booted.0);
        let shown = passed * (MILLION + i128::from(self.error)) / MILLION;
        Timestamp(self.at_boot + u64::try_from(shown).unwrap())
    }

    /// The first moment at which it shows this.
    pub fn real(self, local: Timestamp) -> Timestamp {
        let passed = i128::from(local.0.saturating_sub(self.at_boot));
        let rate = MILLION + i128::from(self.error);
        Timestamp(self.booted.0 + u64::try_from((passed * MILLION + rate - 1) / rate).unwrap())
    }
}

impl Machine {
    /// What its agent says of it when it dials.
    pub fn facts(&self, incarnation: Incarnation, dial: u64) -> Facts {
        facts((self.boot_id.clone(), incarnation), dial, (self.slots, self.labels.clone()))
    }
}

/// What the agent of a machine of this boot and executor says, which offers these slots and labels.
pub fn facts(
    (boot_id, incarnation): (String, Incarnation),
    dial: u64,
    (slots, labels): (u32, Labels),
) -> Facts {
    Facts {
        boot_id,
        incarnation,
        dial,
        slots,
        labels,
        memory_bytes: 1 << 30,
        uid: 1000,
        trust: SubmitterTrust::Everybody,
        tenure: Tenure::Lasting,
        user: "worker".to_owned(),
        pid: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_when_it_is_said_to_and_not_before() {
        for error in [-50_000, -1, 0, 7, 50_000] {
            let clock = Clock { booted: Timestamp(1_000_003), at_boot: 17, error };
            for local in (17..1_000_000_000_000).step_by(99_999_999_977) {
                let real = clock.real(Timestamp(local));

                assert!(clock.local(real).0 >= local);
                assert!(real == clock.booted || clock.local(Timestamp(real.0 - 1)).0 < local);
            }
        }
    }
}
