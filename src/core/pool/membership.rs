//! Workers that come, are heard, report, and go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::core::attempt::AttemptEnd;
use crate::core::audit::AuditKind;
use crate::core::id::{ConnectionId, Fence, Incarnation, TaskId, WorkerId};
use crate::core::membership::{Carried, Facts, Registered, Report, Sharing, SubmitterTrust};
use crate::core::outcome::Outcome;
use crate::core::record::{PutBack, Record, TaskEnded, Validity};
use crate::core::time::{Now, Timestamp};
use crate::core::view::TaskEventKind;

use super::apply::is_retryable;
use super::batch::Effect;
use super::cancel::Lost;
use super::draining::DRAINED;
use super::job::Phase;
use super::worker::{Hearing, Intake};
use super::{Pool, Viewer};

/// Why a registration is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Nobody knows this worker, or it was removed.
    #[error("the pool does not know this worker")]
    Unknown,
    /// Another machine holds this membership and was heard a moment ago.
    #[error("worker \"{0}\" is connected from another machine: two machines hold the same key")]
    Elsewhere(String),
    /// A copy of its directory is in use on this machine, and was heard a moment ago.
    #[error("worker \"{0}\" is connected from another directory of its machine: one is a copy of the other")]
    Copied(String),
    /// A newer dial of the same worker has registered already.
    #[error("a newer connection of this worker was registered")]
    Outdated,
    /// More slots than a worker may have.
    #[error("{0} slots are more than the limit of 4096")]
    Slots(u32),
}

/// Why a worker cannot be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// There is none of that name.
    #[error("no such worker")]
    Unknown,
}

impl Pool {
    /// A worker comes, or comes back: what it carries decides about everything that the pool believes to be there.
    pub fn register(
        &mut self,
        now: Now,
        id: WorkerId,
        connection: ConnectionId,
        facts: Facts,
        carried: Vec<Carried>,
    ) -> Result<Registered, RegisterError> {
        self.check_registration(now, id, &facts, &carried)?;
        let before = self.note_facts(now, id, facts.clone());
        self.connect(now, id, connection, &facts);
        let verdicts = self.settle(now, id, &Arrival { facts: &facts, carried: &carried, before });
        self.refresh_offer(id);
        self.look_whether_evicted(now, id);
        let worker = &self.workers[&id];
        Ok(Registered {
            name: worker.state.name.clone(),
            pool: String::new(),
            lease: self.timing.lease,
            heartbeat: self.timing.heartbeat,
            silent_after: self.timing.silent_after,
            forget: verdicts.forget,
            kill: verdicts.kill,
            positions: Vec::new(),
            only_owner: worker.only_owner.clone(),
        })
    }

    fn check_registration(
        &self,
        now: Now,
        id: WorkerId,
        facts: &Facts,
        carried: &[Carried],
    ) -> Result<(), RegisterError> {
        let worker = self.workers.get(&id).ok_or(RegisterError::Unknown)?;
        if worker.state.validity == Validity::Revoked {
            return Err(RegisterError::Unknown);
        }
        if facts.slots > crate::core::limits::SLOTS_MAX {
            return Err(RegisterError::Slots(facts.slots));
        }
        let Some(known) = &worker.state.facts else { return Ok(()) };
        let name = || worker.state.name.clone();
        let is_heard =
            worker.connection.is_some() && worker.was_heard_within(now.at, self.timing.silent_after);
        if known.boot_id != facts.boot_id {
            return if is_heard { Err(RegisterError::Elsewhere(name())) } else { Ok(()) };
        }
        // Also when the newer connection is gone by now: what this one carries was true before that.
        if facts.dial < known.dial {
            return Err(RegisterError::Outdated);
        }
        // Who comes after an executor in its own directory carries its journal; a copy of the directory does not.
        let comes_after = facts.incarnation == known.incarnation
            || carried.iter().any(|carried| carried.incarnation == known.incarnation);
        if is_heard && !comes_after {
            return Err(RegisterError::Copied(name()));
        }
        Ok(())
    }

    /// Remembers what a worker says of itself; what it said when it last registered.
    fn note_facts(&mut self, now: Now, id: WorkerId, facts: Facts) -> Option<Facts> {
        let before = self.workers[&id].state.facts.clone();
        // The dial number grows with each connection, and no connection outlives the pool: not worth a record.
        let told_before = before
            .as_ref()
            .is_some_and(|known| Facts { dial: facts.dial, pid: facts.pid, ..known.clone() } == facts);
        if told_before {
            let worker = self.workers.get_mut(&id).expect("the worker was just found");
            worker.state.facts = Some(facts);
        } else {
            let mut state = self.workers[&id].state.clone();
            state.facts = Some(facts);
            self.record(now, Record::Worker(state));
        }
        before
    }

    fn connect(&mut self, now: Now, id: WorkerId, connection: ConnectionId, facts: &Facts) {
        let sharing = Sharing::between((&facts.boot_id, facts.uid), (&self.host.boot_id, self.host.uid));
        let only_owner = (sharing == Sharing::User && facts.trust == SubmitterTrust::OwnerOnly)
            .then(|| self.host.owner.clone());
        let over = now.at + self.timing.over_after(self.timing.lease);
        let worker = self.workers.get_mut(&id).expect("a registering worker is known");
        let replaced = worker.connection.replace(connection);
        worker.heard = Some(now.at);
        worker.grant(over);
        worker.hearing = Hearing::Heard;
        worker.intake = Intake::Open;
        worker.full = None;
        worker.only_owner = only_owner;
        worker.sharing = sharing;
        if let Some(old) = replaced.filter(|&old| old != connection) {
            self.connections.remove(&old);
            self.turn.act(Effect::Cut(old));
        }
        self.connections.insert(connection, id);
        self.arm_silence(id, now.at);
        // It may have fewer slots than before.
        self.arm_recall(now, id);
    }

    /// Decides about every attempt that the pool or the worker believes to be there.
    fn settle(&mut self, now: Now, id: WorkerId, arrival: &Arrival<'_>) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let mut settled: BTreeSet<Fence> = BTreeSet::new();
        for &fence in arrival.carried.iter().flat_map(|carried| &carried.ended) {
            // It is not over yet: its output must be durable first, so the worker sends that and reports again.
            settled.insert(fence);
            if self.is_at(fence, id) {
                self.lives(fence, id);
            } else {
                verdicts.forget.push(fence);
            }
        }
        for &fence in arrival.carried.iter().flat_map(|carried| &carried.living) {
            settled.insert(fence);
            if self.is_at(fence, id) {
                self.lives(fence, id);
                self.cancel_if_wanted(fence, id);
            } else {
                verdicts.kill.push(fence);
            }
        }
        for fence in self.fences_at(id).into_iter().filter(|fence| !settled.contains(fence)) {
            self.settle_missing(now, fence, arrival);
        }
        verdicts
    }

    /// Decides about an attempt that the worker does not have.
    fn settle_missing(&mut self, now: Now, fence: Fence, arrival: &Arrival<'_>) {
        let Some(active) = self.active(fence) else { return };
        let (worker, cancel) = (active.worker, active.cancel);
        if active.incarnation == arrival.facts.incarnation {
            // It never arrived: the same attempt goes to the same executor again, or is over if nobody wants it.
            match cancel {
                Some(how) => self.end_without_report(now, fence, Outcome::Cancelled(how)),
                None => self.send_again(fence, worker),
            }
        } else if !arrival.proves_ended(active.incarnation) {
            self.doom(now, fence);
        } else if arrival.never_started(fence) {
            self.never_started(now, fence);
        } else {
            self.lose(now, fence, Lost::Worker, "the worker's executor ended");
        }
    }

    /// An attempt is proven never to have started, and never will: its task waits again, or is over if nobody wants it.
    fn never_started(&mut self, now: Now, fence: Fence) {
        match self.active(fence).map(|active| active.cancel) {
            None => {}
            Some(None) => self.record(now, Record::PutBack { fence, reason: PutBack::NeverStarted }),
            Some(Some(how)) => self.end_without_report(now, fence, Outcome::Cancelled(how)),
        }
    }

    fn send_again(&mut self, fence: Fence, worker: WorkerId) {
        let Some(connection) = self.workers[&worker].connection else { return };
        let job = &self.jobs[&fence.task.job];
        let lease = job.is_leased().then_some(self.timing.lease);
        self.turn.start(connection, &job.submission, fence, lease);
        if let Some(active) = self.active_mut(fence) {
            active.phase = Phase::Sent;
            active.doomed = None;
            active.heard_of();
        }
    }

    /// An attempt is there, whatever was feared.
    fn lives(&mut self, fence: Fence, worker: WorkerId) {
        let Some(active) = self.active_mut(fence) else { return };
        if active.phase == Phase::Sent {
            active.phase = Phase::Arrived;
        }
        active.doomed = None;
        if active.heard_of() {
            self.tell(fence, worker, TaskEventKind::Returned);
        }
    }

    fn cancel_if_wanted(&mut self, fence: Fence, worker: WorkerId) {
        if let Some(how) = self.active(fence).and_then(|active| active.cancel) {
            self.send_cancel(fence, worker, how);
        }
    }

    /// Whether a fence names the attempt that counts, and that is at this worker.
    fn is_at(&self, fence: Fence, worker: WorkerId) -> bool {
        self.active(fence).is_some_and(|active| active.worker == worker)
    }

    /// A heartbeat came: every attempt there may run for another lease from when it was sent. A worker that is full gets
    /// nothing until it says that it is not.
    pub fn heartbeat(
        &mut self,
        now: Now,
        connection: ConnectionId,
        full: Option<String>,
    ) -> Option<Duration> {
        self.heard(connection, now.at);
        let id = *self.connections.get(&connection)?;
        let over = now.at + self.timing.over_after(self.timing.lease);
        let worker = self.workers.get_mut(&id)?;
        worker.grant(over);
        if worker.full != full {
            let has_room = full.is_none();
            worker.full = full;
            self.refresh_offer(id);
            if !has_room {
                self.recall_all(now, id);
            }
        }
        Some(self.timing.lease)
    }

    /// A byte came, at this time: the worker is not silent.
    pub fn heard(&mut self, connection: ConnectionId, at: Timestamp) {
        let Some(&id) = self.connections.get(&connection) else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // What is told late may be no news.
        if worker.heard.is_some_and(|heard| at <= heard) {
            return;
        }
        worker.heard = Some(at);
        if worker.hearing != Hearing::Silent {
            return;
        }
        worker.hearing = Hearing::Heard;
        let fences = self.fences_at(id);
        for fence in fences {
            // What can only lapse is not at who is heard.
            if let Some(active) = self.active_mut(fence).filter(|active| active.doomed.is_none())
                && active.heard_of()
            {
                self.tell(fence, id, TaskEventKind::Returned);
            }
        }
        self.arm_silence(id, at);
        self.refresh_offer(id);
    }

    /// What happened at a worker, in order. Answers with the attempts that it need not keep any longer.
    pub fn report(&mut self, now: Now, connection: ConnectionId, reports: Vec<Report>) -> Vec<Fence> {
        self.heard(connection, now.at);
        let Some(&id) = self.connections.get(&connection) else { return Vec::new() };
        let mut forget = Vec::new();
        for report in reports {
            match report {
                Report::Started(fence) => self.started(fence, id),
                Report::Ended(end) => {
                    forget.push(end.fence);
                    self.ended(now, id, end);
                }
                Report::TakenBack(fence) => {
                    if self.is_at(fence, id) {
                        self.never_started(now, fence);
                    }
                }
            }
        }
        forget
    }

    fn started(&mut self, fence: Fence, worker: WorkerId) {
        let Some(active) = self.active_mut(fence).filter(|active| active.worker == worker) else { return };
        active.doomed = None;
        active.heard_of();
        // It is reported again after a break, since the first report may have been lost with the link.
        if std::mem::replace(&mut active.phase, Phase::Running) != Phase::Running {
            self.tell(fence, worker, TaskEventKind::Started);
        }
    }

    /// An attempt ended at a worker. It counts only if its fence is the one that the pool has recorded, there.
    fn ended(&mut self, now: Now, worker: WorkerId, end: AttemptEnd) {
        let Some(active) = self.active(end.fence).filter(|active| active.worker == worker) else { return };
        if let (Outcome::Cancelled(_), None) = (&end.outcome, active.cancel) {
            // Nobody wanted its end but whoever drained its worker.
            self.lose(now, end.fence, Lost::Attempt, DRAINED);
            return;
        }
        let job = &self.jobs[&end.fence.task.job];
        if is_retryable(&end.outcome) && job.may_retry(active) {
            let reason = match &end.outcome {
                Outcome::Lost(reason) | Outcome::SpawnFailed(reason) => reason.clone(),
                other => format!("{other:?}"),
            };
            self.lose(now, end.fence, Lost::Attempt, &reason);
            return;
        }
        let run_ms = i64::try_from(end.usage.run.as_millis()).unwrap_or(i64::MAX);
        let started = crate::core::time::WallTime(now.wall.0.saturating_sub(run_ms));
        let worker = self.worker_name(worker);
        self.end_task(now, TaskEnded { end: Arc::new(end), worker, started, ended: now.wall });
    }

    /// A connection ended. What was there is not given up: the worker dials again.
    pub fn handle_disconnected(&mut self, connection: ConnectionId) {
        let Some(id) = self.connections.remove(&connection) else { return };
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.connection == Some(connection) {
            worker.connection = None;
            self.refresh_offer(id);
        }
    }

    /// A worker takes nothing new from now on.
    pub fn drain(&mut self, connection: ConnectionId) {
        let Some(&id) = self.connections.get(&connection) else { return };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.intake = Intake::Draining;
        }
        self.refresh_offer(id);
    }

    /// A worker goes on purpose. What was on its way to it waits again, what it still had is lost, and what is at another
    /// executor than the one that goes may run on there.
    pub fn leave(&mut self, now: Now, connection: ConnectionId) {
        let Some(id) = self.connections.remove(&connection) else { return };
        self.depart(id);
        self.arm_forgetting(now.at, id);
        let goes = self.workers[&id].state.facts.as_ref().map(|facts| facts.incarnation);
        for fence in self.fences_at(id) {
            let Some(active) = self.active(fence) else { continue };
            if Some(active.incarnation) != goes {
                self.doom(now, fence);
            } else if active.phase == Phase::Sent {
                self.never_started(now, fence);
            } else {
                self.lose(now, fence, Lost::Attempt, "the worker was stopped");
            }
        }
    }

    /// Forgets a worker for good. Attempts that may be retried stay unknown until their lease has run out; the others
    /// are lost at once.
    pub fn remove_worker(&mut self, now: Now, viewer: &Viewer, name: &str) -> Result<u64, RemoveError> {
        let id = *self.worker_names.get(name).ok_or(RemoveError::Unknown)?;
        let mut state = self.workers[&id].state.clone();
        if state.validity == Validity::Revoked {
            return Err(RemoveError::Unknown);
        }
        state.validity = Validity::Revoked;
        self.audit(now, viewer, AuditKind::WorkerRemoved, format!("worker {name}"), String::new());
        if let Some(key) = state.key {
            self.turn.act(Effect::Expel(key));
        }
        self.record(now, Record::Worker(state));
        if let Some(connection) = self.workers[&id].connection {
            self.connections.remove(&connection);
            self.turn.act(Effect::Dismiss(connection));
        }
        self.depart(id);
        let fences = self.fences_at(id);
        let lost = fences.len() as u64;
        for fence in fences {
            let job = &self.jobs[&fence.task.job];
            if self.active(fence).is_some_and(|active| job.may_retry(active)) {
                self.doom(now, fence);
            } else {
                self.lose(now, fence, Lost::Attempt, "its worker was removed");
            }
        }
        Ok(lost)
    }

    fn depart(&mut self, id: WorkerId) {
        let worker = self.workers.get_mut(&id).expect("a departing worker is known");
        worker.connection = None;
        worker.hearing = Hearing::Away;
        self.refresh_offer(id);
    }

    /// The attempts that a worker holds.
    pub(super) fn fences_at(&self, id: WorkerId) -> Vec<Fence> {
        let Some(worker) = self.workers.get(&id) else { return Vec::new() };
        let fence = |task: &TaskId| {
            let job = self.jobs.get(&task.job)?;
            job.active.get(&task.index).map(|active| job.fence(task.index, active.attempt))
        };
        worker.active.iter().filter_map(fence).collect()
    }
}

/// What a registration says, beside what the worker said when it last registered.
struct Arrival<'a> {
    facts: &'a Facts,
    carried: &'a [Carried],
    before: Option<Facts>,
}

impl Arrival<'_> {
    /// Whether an executor is proven to have ended: the machine was not booted since the executor took starts, and its
    /// journal is carried, so that whoever carries it holds the lock that the executor held. Anything else may be a
    /// copy of the worker beside the one that goes on, or a power cut that took the journal's last lines.
    fn proves_ended(&self, executor: Incarnation) -> bool {
        let same_boot = self
            .before
            .as_ref()
            .is_some_and(|before| before.incarnation == executor && before.boot_id == self.facts.boot_id);
        same_boot && self.carried.iter().any(|carried| carried.incarnation == executor)
    }

    /// Whether an executor that has ended journalled an attempt as received and not as starting.
    fn never_started(&self, fence: Fence) -> bool {
        self.carried.iter().any(|carried| carried.never_started.contains(&fence))
    }
}

/// What a worker is told about what it carries.
#[derive(Debug, Default)]
struct Verdicts {
    forget: Vec<Fence>,
    kill: Vec<Fence>,
}
