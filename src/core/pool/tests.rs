//! Claims about the pool's decisions, one at a time. Random histories are in `tests/sim`.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::core::access::{Role, TokenWish};
use crate::core::attempt::AttemptEnd;
use crate::core::id::{Incarnation, JobNonce, Name};
use crate::core::job::{Array, JobSpec};
use crate::core::label::{Constraint, Labels};
use crate::core::membership::{Carried, Facts, Report, SubmitterTrust};
use crate::core::outcome::{Cancel, Outcome, Usage};
use crate::core::output::OutputTotals;
use crate::core::time::WallTime;
use crate::core::view::{TaskEventKind, TaskState};

const ANN: &str = "ann";

/// A pool with a clock and a log.
struct World {
    pool: Pool,
    now: Now,
    log: Vec<Record>,
    /// Entries of the log before this number are not needed any longer.
    keep_from: u64,
    requests: u64,
}

impl World {
    fn new() -> Self {
        let mut pool = Pool::new(Timing::default(), Host::default());
        let now = Now { at: Timestamp(0), wall: WallTime(1_000_000) };
        pool.start(now, Epoch(1));
        Self { pool, now, log: Vec::new(), keep_from: 1, requests: 0 }
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
        let token = self.pool.create_token(self.now, token_wish(), [7; 32]).unwrap();
        for _ in 0..5000 {
            self.pool.revoke_token(self.now, token).unwrap();
        }
        for _ in 0..10 {
            self.turn();
        }
    }

    fn viewer(&self) -> Viewer {
        Viewer::Owner(ANN.into())
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
        batch.into_effects()
    }

    fn submit(&mut self, spec: JobSpec) -> JobId {
        self.requests += 1;
        let request = RequestId(u128::from(self.requests).to_le_bytes());
        let nonce = JobNonce(self.requests);
        self.pool
            .submit(self.now, Submit { owner: ANN.into(), request, nonce, spec: Arc::new(spec) })
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
        user: "ann".into(),
        pid: 1,
    }
}

fn ending(fence: Fence, outcome: Outcome) -> AttemptEnd {
    AttemptEnd { fence, outcome, usage: Usage::default(), totals: OutputTotals::default(), tail: Vec::new() }
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

#[test]
fn submit_and_placement_share_a_turn_when_a_worker_is_free() {
    let mut world = World::new();
    world.join("w1", 1);
    world.turn();

    world.submit(JobSpec::new("true"));
    let fences = started(&world.turn());

    assert_eq!(fences.len(), 1);
    assert!(matches!(world.log[world.log.len() - 2..], [Record::Submitted(_), Record::Assigned(_)]));
}

#[test]
fn the_same_request_again_is_the_same_job_and_another_body_is_refused() {
    let mut world = World::new();
    let submit = |script: &str| Submit {
        owner: ANN.into(),
        request: RequestId([9; 16]),
        nonce: JobNonce(1),
        spec: Arc::new(JobSpec::new(script)),
    };

    let first = world.pool.submit(world.now, submit("true")).unwrap();

    assert_eq!(world.pool.submit(world.now, submit("true")), Ok(first));
    assert_eq!(world.pool.submit(world.now, submit("false")), Err(SubmitError::RequestReused(first)));
}

#[test]
fn an_array_runs_as_many_tasks_as_there_are_slots_and_not_more_than_it_allows() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 8);
    let array = Array::parse("1-100%3").unwrap();
    let job = world.submit(JobSpec { array: Some(array), ..JobSpec::new("true") });
    let fences = started(&world.turn());
    assert_eq!(fences.len(), 3);

    world.end(connection, fences[0], Outcome::Exited(0));

    assert_eq!(started(&world.turn()).len(), 1);
    assert_eq!(world.pool.info(&world.viewer(), job).unwrap().counts.of(TaskState::Queued), 96);
}

#[test]
fn a_stale_ending_changes_nothing_and_may_be_forgotten() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("true"));
    let fence = started(&world.turn())[0];
    let stale = Fence { nonce: JobNonce(77), ..fence };

    let forget =
        world.pool.report(world.now, connection, vec![Report::Ended(ending(stale, Outcome::Exited(1)))]);

    assert_eq!(forget, [stale]);
    assert_eq!(world.state(job), Some(TaskState::Starting));
}

#[test]
fn a_silent_workers_attempt_without_retries_is_unknown_until_it_returns() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("sleep 9"));
    let fence = started(&world.turn())[0];

    assert_eq!(world.pass(14), []);
    assert_eq!(world.state(job), Some(TaskState::Starting));
    world.pass(2);
    assert_eq!(world.state(job), Some(TaskState::Unknown));
    world.pass(3600);
    assert_eq!(world.state(job), Some(TaskState::Unknown));

    world.end(connection, fence, Outcome::Exited(0));
    world.turn();
    assert_eq!(world.state(job), None);
}

#[test]
fn an_unknown_attempt_without_retries_is_lost_after_a_day() {
    let mut world = World::new();
    world.join("w1", 1);
    let job = world.submit(JobSpec::new("sleep 9"));
    world.turn();
    world.pass(16);

    world.pass(24 * 3600);

    assert_eq!(world.state(job), None);
    assert!(
        matches!(world.log.last(), Some(Record::Ended(end)) if matches!(end.end.outcome, Outcome::Lost(_)))
    );
}

#[test]
fn with_retries_another_attempt_starts_when_lease_and_grace_are_over_and_not_before() {
    let mut world = World::new();
    world.join("w1", 1);
    world.submit(retrying(1));
    let first = started(&world.turn())[0];
    let (_, second_worker) = world.join("w2", 1);
    world.turn();

    for _ in 0..7 {
        world.pool.heartbeat(world.now, second_worker);
        assert_eq!(started(&world.pass(10)), []);
    }
    world.pool.heartbeat(world.now, second_worker);
    let again = started(&world.pass(6));

    assert_eq!(again.len(), 1);
    assert_eq!((again[0].task, again[0].attempt.0), (first.task, 2));
}

#[test]
fn an_attempt_that_never_arrived_is_sent_again_to_the_same_executor() {
    let mut world = World::new();
    let (id, connection) = world.join("w1", 1);
    world.submit(JobSpec::new("true"));
    let fence = started(&world.turn())[0];
    world.pool.handle_disconnected(connection);

    world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), Vec::new()).unwrap();

    assert_eq!(started(&world.turn()), [fence]);
}

#[test]
fn an_executor_that_is_new_on_the_same_boot_proves_its_predecessors_attempts_dead() {
    let mut world = World::new();
    let (id, connection) = world.join("w1", 2);
    let lost = world.submit(JobSpec::new("true"));
    let never = world.submit(JobSpec::new("true"));
    let fences = started(&world.turn());
    let never_started = vec![*fences.iter().find(|fence| fence.task.job == never).unwrap()];
    world.pool.handle_disconnected(connection);
    let carried =
        Carried { incarnation: Incarnation(1), living: Vec::new(), ended: Vec::new(), never_started };

    world.pool.register(world.now, id, ConnectionId(50), facts(2, 2, 2), vec![carried]).unwrap();
    let again = started(&world.turn());

    assert_eq!(world.state(lost), None);
    assert_eq!(again.iter().map(|fence| (fence.task.job, fence.attempt.0)).collect::<Vec<_>>(), [(never, 2)]);
}

#[test]
fn an_attempt_that_never_arrived_is_sent_again_although_an_older_one_of_its_task_is_carried() {
    let mut world = World::new();
    let (id, connection) = world.join("w1", 1);
    world.submit(retrying(1));
    let first = started(&world.turn())[0];
    world.end(connection, first, Outcome::SpawnFailed("full".into()));
    let second = started(&world.turn())[0];
    world.pool.handle_disconnected(connection);
    let carried = Carried {
        incarnation: Incarnation(1),
        living: Vec::new(),
        ended: vec![first],
        never_started: Vec::new(),
    };

    world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), vec![carried]).unwrap();

    assert_eq!(started(&world.turn()), [second]);
}

/// What those who watch are told of tasks that have not ended.
fn told(effects: &[Effect]) -> Vec<TaskEventKind> {
    let kinds = effects.iter().filter_map(|effect| match effect {
        Effect::Notify { event: JobEvent::Task(event), .. } => Some(event.kind.clone()),
        _ => None,
    });
    kinds.collect()
}

#[test]
fn a_start_whose_report_was_lost_with_the_link_is_told_and_only_once() {
    let mut world = World::new();
    let (id, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("true"));
    let fence = started(&world.turn())[0];
    world.pool.watch(&world.viewer(), job).unwrap();
    world.pool.handle_disconnected(connection);
    let carried = Carried {
        incarnation: Incarnation(1),
        living: vec![fence],
        ended: Vec::new(),
        never_started: Vec::new(),
    };
    world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), vec![carried]).unwrap();
    assert_eq!(world.state(job), Some(TaskState::Starting));

    for _ in 0..2 {
        world.pool.report(world.now, ConnectionId(50), vec![Report::Started(fence)]);
    }

    assert_eq!(told(&world.turn()), [TaskEventKind::Started]);
    assert_eq!(world.state(job), Some(TaskState::Running));
}

/// A worker that was given an attempt and comes again as `facts` say, with the journal of its executor before. The first
/// attempt, and what is started then.
fn come_back_with_a_journal(world: &mut World, facts: Facts, never_started: &[Fence]) -> Vec<Fence> {
    let carried = Carried {
        incarnation: Incarnation(1),
        living: Vec::new(),
        ended: Vec::new(),
        never_started: never_started.to_vec(),
    };
    world.pool.register(world.now, WorkerId(1), ConnectionId(50), facts, vec![carried]).unwrap();
    started(&world.turn())
}

#[test]
fn a_journal_that_went_through_a_boot_proves_nothing() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("true"));
    let fence = started(&world.turn())[0];
    world.pool.handle_disconnected(connection);

    let rebooted = Facts { boot_id: "later".into(), ..facts(1, 2, 1) };
    let again = come_back_with_a_journal(&mut world, rebooted, &[fence]);

    assert_eq!(again, []);
    assert_eq!(world.state(job), Some(TaskState::Unknown));
}

#[test]
fn that_a_machine_was_booted_is_still_known_after_a_restart_of_the_pool() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    world.submit(retrying(1));
    world.turn();
    world.pool.handle_disconnected(connection);
    let rebooted = Facts { boot_id: "later".into(), ..facts(1, 2, 1) };
    come_back_with_a_journal(&mut world, rebooted.clone(), &[]);
    world.restart();

    let again = come_back_with_a_journal(&mut world, rebooted, &[]);

    assert_eq!(again, [], "the attempt may still run where the worker was before");
}

/// A worker that was given an attempt, and whose machine was booted since.
fn rebooted(world: &mut World, spec: JobSpec) -> (JobId, ConnectionId) {
    let (id, connection) = world.join("w1", 1);
    let job = world.submit(spec);
    world.turn();
    world.pool.handle_disconnected(connection);
    let later = Facts { boot_id: "later".into(), ..facts(1, 2, 1) };
    world.pool.register(world.now, id, ConnectionId(50), later, Vec::new()).unwrap();
    world.turn();
    (job, ConnectionId(50))
}

#[test]
fn an_attempt_of_an_earlier_boot_lapses_although_its_worker_was_silent_and_is_heard_again() {
    let mut world = World::new();
    let (job, connection) = rebooted(&mut world, JobSpec::new("true"));
    world.pass(20);
    world.pool.heartbeat(world.now, connection);
    assert_eq!(world.state(job), Some(TaskState::Unknown));

    world.pass(60);

    assert_eq!(world.state(job), None);
}

#[test]
fn an_attempt_of_an_earlier_boot_lapses_however_often_its_worker_registers() {
    let mut world = World::new();
    let (job, _) = rebooted(&mut world, JobSpec::new("true"));

    for n in 0..8 {
        world.pass(10);
        let later = Facts { boot_id: "later".into(), ..facts(1, 2, 2 + n) };
        world.pool.register(world.now, WorkerId(1), ConnectionId(51 + n), later, Vec::new()).unwrap();
        world.turn();
    }

    assert_eq!(world.state(job), None);
}

#[test]
fn an_executor_whose_journal_is_not_carried_may_go_on_elsewhere() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    let job = world.submit(retrying(1));
    world.turn();

    // A copy of the worker in a container on the same machine.
    world.pool.register(world.now, id, ConnectionId(50), facts(1, 2, 2), Vec::new()).unwrap();

    assert_eq!(started(&world.turn()), []);
    assert_eq!(world.state(job), Some(TaskState::Unknown));
}

#[test]
fn what_a_worker_carries_and_nobody_wants_is_killed() {
    let mut world = World::new();
    let (id, connection) = world.join("w1", 1);
    world.pool.handle_disconnected(connection);
    let stranger = Fence { nonce: JobNonce(5), ..Fence::default() };
    let carried = Carried {
        incarnation: Incarnation(1),
        living: vec![stranger],
        ended: Vec::new(),
        never_started: Vec::new(),
    };

    let told = world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), vec![carried]).unwrap();

    assert_eq!(told.kill, [stranger]);
}

#[test]
fn a_second_machine_with_the_same_key_is_refused_while_the_first_is_heard() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    let elsewhere = Facts { boot_id: "other".into(), ..facts(1, 9, 9) };

    let refused = world.pool.register(world.now, id, ConnectionId(50), elsewhere.clone(), Vec::new());
    assert_eq!(refused, Err(RegisterError::Elsewhere("w1".into())));

    world.pass(16);
    assert!(world.pool.register(world.now, id, ConnectionId(50), elsewhere, Vec::new()).is_ok());
}

#[test]
fn a_registration_that_arrives_late_is_refused_also_when_the_newer_connection_is_gone() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    world.pool.register(world.now, id, ConnectionId(51), facts(1, 2, 3), Vec::new()).unwrap();
    world.pool.handle_disconnected(ConnectionId(51));

    let late = world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), Vec::new());

    assert_eq!(late, Err(RegisterError::Outdated));
}

#[test]
fn cancel_ends_what_waits_at_once_and_what_runs_by_its_worker() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let array = Array::parse("1-5").unwrap();
    let job = world.submit(JobSpec { array: Some(array), ..JobSpec::new("sleep 9") });
    let fence = started(&world.turn())[0];

    let done = world.pool.cancel(world.now, &world.viewer(), job, &[], Cancel::Terminate).unwrap();
    let effects = world.turn();

    assert_eq!((done.cancelled, done.cancelling), (4, 1));
    let cancels = vec![(fence, Cancel::Terminate)];
    assert!(effects.contains(&Effect::Cancel { connection, attempts: cancels }));
    world.end(connection, fence, Outcome::Cancelled(Cancel::Terminate));
    world.turn();
    assert_eq!(world.state(job), None);
}

#[test]
fn somebody_elses_job_cannot_be_told_from_one_that_does_not_exist() {
    let mut world = World::new();
    let job = world.submit(JobSpec::new("true"));
    let bob = Viewer::Owner("bob".into());

    assert_eq!(
        world.pool.cancel(world.now, &bob, job, &[], Cancel::Kill),
        world.pool.cancel(world.now, &bob, JobId(999), &[], Cancel::Kill),
    );
    assert!(world.pool.info(&bob, job).is_none());
    assert!(world.pool.info(&Viewer::Admin("root".into()), job).is_some());
}

#[test]
fn why_counts_the_workers_that_meet_each_term() {
    let mut world = World::new();
    world.join("w1", 1);
    let constraint = Constraint::parse("os=linux && gpu=h100").unwrap();
    let job = world.submit(JobSpec { constraint, ..JobSpec::new("true") });
    world.turn();

    let why = world.pool.why(world.now, &world.viewer(), job, 0).unwrap();

    assert_eq!(why.text, "no worker can run it: os=linux && gpu=h100");
    let met: Vec<_> = why.terms.iter().map(|term| (term.text.as_str(), term.met)).collect();
    assert_eq!(met, [("os=linux", 1), ("gpu=h100", 0)]);
}

#[test]
fn a_spent_token_lets_in_the_key_that_spent_it_and_no_other() {
    let mut world = World::new();
    let token = world.pool.create_token(world.now, token_wish(), [7; 32]).unwrap();
    let enrol = |key: u8, role| EnrolWish {
        token,
        secret_hash: [7; 32],
        role,
        key: Fingerprint([key; 32]),
        name: Name::parse("n1").unwrap(),
        choice: NameChoice::Default,
    };

    assert!(matches!(world.pool.enrol(world.now, enrol(1, Role::Client)), Err(EnrolRefused::WrongRole(_))));
    assert_eq!(world.pool.enrol(world.now, enrol(1, Role::Worker)).unwrap().name, "n1");
    assert_eq!(world.pool.enrol(world.now, enrol(2, Role::Worker)), Err(EnrolRefused::Spent));
    assert_eq!(world.pool.enrol(world.now, enrol(1, Role::Worker)).unwrap().name, "n1");
}

#[test]
fn a_job_that_is_repeated_in_the_log_takes_the_place_of_what_replay_knows_of_it() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let id = world.submit(JobSpec::new("sleep 9"));
    world.turn();
    world.pass(16);
    world.pass(5);
    world.pool.heard(world.now, connection);
    world.turn();
    let state = world.pool.jobs[&id].state(world.now.at);
    assert_eq!(state.active[0].unknown, Duration::from_secs(5));

    let mut again = Pool::new(Timing::default(), Host::default());
    let records = world.log.iter().cloned().chain([Record::Job(Box::new(state.clone()))]);
    for (seq, record) in (1..).zip(records) {
        again.replay(world.now.at, seq, &record);
    }

    again.check();
    assert_eq!(again.jobs[&id].state(world.now.at), state);
}

#[test]
fn ids_go_on_counting_when_the_log_of_ended_jobs_is_gone() {
    let mut world = World::new();
    let job = world.submit(JobSpec::new("true"));
    world.pool.cancel(world.now, &world.viewer(), job, &[], Cancel::Kill).unwrap();
    world.turn();
    let mut kept_from = 0;
    for n in 0..9000 {
        // A worker that says something new of itself each time makes the log grow.
        world.join("w1", 1 + n % 2);
        let batch = world.pool.poll_batch(world.now).unwrap();
        kept_from = usize::try_from(batch.turn().keep_from).unwrap();
        world.log.extend(batch.turn().records.iter().cloned());
    }
    assert!(kept_from > 1000, "the log's start moves up: {kept_from}");

    let mut again = Pool::new(Timing::default(), Host::default());
    for (seq, record) in (1..).zip(&world.log).skip(kept_from - 1) {
        again.replay(world.now.at, seq, record);
    }

    assert_eq!(again.load().newest, job);
}

#[test]
fn replaying_the_log_gives_the_same_pool() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 3);
    let array = Array::parse("1-50").unwrap();
    let job = world.submit(JobSpec { array: Some(array), retries: 2, ..JobSpec::new("true") });
    for n in 0..20 {
        for fence in started(&world.turn()) {
            let outcome = if n % 3 == 0 { Outcome::SpawnFailed("x".into()) } else { Outcome::Exited(n) };
            world.end(connection, fence, outcome);
        }
    }
    world.turn();

    let mut again = Pool::new(Timing::default(), Host::default());
    for (n, record) in world.log.iter().enumerate() {
        again.replay(world.now.at, n as u64 + 1, record);
    }

    again.check();
    let (before, after) = (&world.pool.jobs[&job], &again.jobs[&job]);
    assert_eq!(before.state(world.now.at), after.state(world.now.at));
    assert_eq!(world.pool.counters, again.counters);
}

#[test]
fn a_repeated_job_that_the_log_still_has_from_its_start_is_not_counted_twice() {
    let mut world = World::new();
    world.join("w1", 1);
    let spec = JobSpec { lost_after: Some(Duration::from_secs(100)), ..JobSpec::new("true") };
    let job = world.submit(spec);
    world.turn();
    world.pass(16);
    world.pass(50);
    world.lengthen_the_log();
    // A store may keep more than it must.
    world.keep_from = 1;

    world.restart();

    world.pass(16);
    assert_eq!(world.state(job), Some(TaskState::Unknown));
    world.pass(50);
    assert_eq!(world.state(job), None, "the silence before the restart counts");
}

#[test]
fn an_id_is_not_given_out_again_when_its_job_has_left_the_log() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("true"));
    let fence = started(&world.turn())[0];
    world.end(connection, fence, Outcome::Exited(0));
    world.lengthen_the_log();

    world.restart();

    assert!(world.submit(JobSpec::new("true")) > job);
}

#[test]
fn a_cancelled_attempt_that_is_given_back_is_over() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("true"));
    let fence = started(&world.turn())[0];
    world.pool.cancel(world.now, &world.viewer(), job, &[], Cancel::Terminate).unwrap();

    world.pool.report(world.now, connection, vec![Report::TakenBack(fence)]);

    assert_eq!(started(&world.turn()), []);
    assert_eq!(world.state(job), None);
}

#[test]
fn what_is_on_its_way_to_a_worker_that_leaves_waits_again() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("true"));
    world.turn();

    world.pool.leave(world.now, connection);
    world.turn();

    assert_eq!(world.state(job), Some(TaskState::Queued));
}

#[test]
fn a_worker_that_leaves_says_nothing_of_what_its_copy_runs() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    let job = world.submit(retrying(1));
    world.turn();
    let copy = Facts { boot_id: "other".into(), ..facts(1, 9, 1) };
    world.pass(16);
    world.pool.register(world.now, id, ConnectionId(50), copy, Vec::new()).unwrap();

    world.pool.leave(world.now, ConnectionId(50));
    world.turn();

    assert_eq!(world.state(job), Some(TaskState::Unknown));
}

#[test]
fn after_a_restart_a_lease_counts_as_long_as_a_pool_that_goes_on_purpose_grants() {
    let mut world = World::new();
    world.join("w1", 1);
    let job = world.submit(retrying(1));
    world.turn();

    world.restart();
    world.pass(16);

    // 600 s on a worker's clock that is 5 % too slow.
    world.pass(631 - 16);
    assert_eq!(world.state(job), Some(TaskState::Unknown));
    world.pass(750 - 631);
    assert_eq!(world.state(job), Some(TaskState::Queued));
}

#[test]
fn a_worker_that_returns_after_a_restart_may_still_count_on_the_longer_lease() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    let job = world.submit(retrying(1));
    let fence = started(&world.turn())[0];
    world.restart();
    let carried = Carried {
        incarnation: Incarnation(1),
        living: vec![fence],
        ended: Vec::new(),
        never_started: Vec::new(),
    };
    world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), vec![carried]).unwrap();

    for _ in 0..2 {
        world.pass(100);
    }

    assert_eq!(world.state(job), Some(TaskState::Unknown));
}
