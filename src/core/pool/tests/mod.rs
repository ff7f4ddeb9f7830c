//! Claims about the pool's decisions, one at a time. Random histories are in `tests/sim`.

mod access;
mod audit;
mod draining;
mod ephemeral;
mod liveness;
mod prefetch;
mod queue;
mod registration;
mod replay;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::core::access::{Role, TokenWish};
use crate::core::attempt::AttemptEnd;
use crate::core::audit::{AuditEntry, AuditKind};
use crate::core::id::{Incarnation, JobNonce, Name, TaskId};
use crate::core::job::{Array, JobSpec};
use crate::core::label::{Constraint, Labels};
use crate::core::membership::{Carried, Facts, Report, Sharing, SubmitterTrust, Tenure};
use crate::core::outcome::{Cancel, Outcome, Usage};
use crate::core::output::OutputTotals;
use crate::core::record::HistoryItem;
use crate::core::time::WallTime;
use crate::core::view::{TaskEventKind, TaskState};

const ANN: &str = "ann";

/// A pool with a clock and a log.
struct World {
    pool: Pool,
    now: Now,
    log: Vec<Record>,
    trail: Vec<AuditEntry>,
    /// Entries of the log before this number are not needed any longer.
    keep_from: u64,
    requests: u64,
}

impl World {
    fn new() -> Self {
        let mut pool = Pool::new(Timing::default(), Host::default());
        let now = Now { at: Timestamp(0), wall: WallTime(1_000_000) };
        pool.start(now, Epoch(1));
        Self { pool, now, log: Vec::new(), trail: Vec::new(), keep_from: 1, requests: 0 }
    }

    /// The pool process is killed, and another begins with what the log still has.
    fn restart(&mut self) {
        let mut pool = Pool::new(Timing::default(), Host::default());
        for (seq, record) in (1..).zip(&self.log).filter(|(seq, _)| *seq >= self.keep_from) {
            pool.replay(self.now.at, seq, record);
        }
        let epoch = Epoch(self.pool.epoch.0 + 1);
        self.pool = pool;
        self.pool.start(self.now, epoch);
        self.turn();
    }

    /// Adds so much to the log that everything in it is worth repeating.
    fn lengthen_the_log(&mut self) {
        let token = self.pool.create_token(self.now, &Viewer::admin("root"), token_wish(), [7; 32]).unwrap();
        for _ in 0..5000 {
            self.pool.revoke_token(self.now, &Viewer::admin("root"), token).unwrap();
        }
        for _ in 0..10 {
            self.turn();
        }
    }

    fn viewer(&self) -> Viewer {
        Viewer::client(ANN, ANN, "10.0.0.1")
    }

    fn pass(&mut self, seconds: u64) -> Vec<Effect> {
        self.now.at = self.now.at + Duration::from_secs(seconds);
        self.now.wall.0 += i64::try_from(seconds).unwrap() * 1000;
        self.pool.handle_timeout(self.now);
        self.turn()
    }

    fn turn(&mut self) -> Vec<Effect> {
        let batch = self.pool.poll_batch(self.now);
        self.pool.check();
        let Some(batch) = batch else { return Vec::new() };
        self.keep_from = batch.turn().keep_from;
        self.log.extend(batch.turn().records.iter().cloned());
        self.trail.extend(batch.turn().history.iter().filter_map(|item| match item {
            HistoryItem::Audit(entry) => Some(entry.clone()),
            HistoryItem::Task(_) | HistoryItem::Job(_) => None,
        }));
        batch.into_effects()
    }

    fn submit(&mut self, spec: JobSpec) -> JobId {
        self.requests += 1;
        let request = RequestId(u128::from(self.requests).to_le_bytes());
        let nonce = JobNonce(self.requests);
        self.pool
            .submit(
                self.now,
                Submit { viewer: Viewer::client(ANN, ANN, "10.0.0.1"), request, nonce, spec: Arc::new(spec) },
            )
            .unwrap()
    }

    fn join(&mut self, name: &str, slots: u32) -> (WorkerId, ConnectionId) {
        let (id, _) =
            self.pool.local_worker(self.now, &Name::parse(name).unwrap(), NameChoice::Given).unwrap();
        let connection = ConnectionId(id.0);
        self.pool.register(self.now, id, connection, facts(slots, 1, 1), Vec::new()).unwrap();
        (id, connection)
    }

    fn state(&self, job: JobId) -> Option<TaskState> {
        self.pool.info(&self.viewer(), job).map(|info| info.counts.state())
    }

    fn end(&mut self, connection: ConnectionId, fence: Fence, outcome: Outcome) {
        self.pool.report(self.now, connection, vec![Report::Ended(ending(fence, outcome))]);
    }
}

fn facts(slots: u32, incarnation: u64, dial: u64) -> Facts {
    Facts {
        boot_id: "boot".into(),
        incarnation: Incarnation(incarnation),
        dial,
        slots,
        labels: Labels::from([("os".into(), "linux".into())]),
        memory_bytes: 0,
        uid: 1,
        trust: SubmitterTrust::Everybody,
        tenure: Tenure::Lasting,
        user: "ann".into(),
        pid: 1,
    }
}

fn ending(fence: Fence, outcome: Outcome) -> AttemptEnd {
    let usage = Usage { run: Duration::from_secs(1), ..Usage::default() };
    AttemptEnd { fence, outcome, usage, totals: OutputTotals::default(), tail: Vec::new() }
}

fn started(effects: &[Effect]) -> Vec<Fence> {
    let fences = effects.iter().filter_map(|effect| match effect {
        Effect::Start { fences, .. } => Some(fences.clone()),
        _ => None,
    });
    fences.flatten().collect()
}

fn token_wish() -> TokenWish {
    TokenWish {
        role: Role::Worker,
        name: None,
        owner: None,
        labels: Labels::new(),
        uses: Some(1),
        ttl: Duration::from_secs(3600),
    }
}

fn retrying(retries: u32) -> JobSpec {
    JobSpec { retries, ..JobSpec::new("true") }
}

/// What a worker carries whose executor has, had and knows nothing.
fn nothing_carried() -> Carried {
    Carried { incarnation: Incarnation(1), living: Vec::new(), ended: Vec::new(), never_started: Vec::new() }
}
