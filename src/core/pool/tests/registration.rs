//! What a worker that comes, or comes again, proves of the attempts it was given.

use super::*;

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
    let carried = Carried { never_started, ..nothing_carried() };

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
    let carried = Carried { ended: vec![first], ..nothing_carried() };

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
    let carried = Carried { living: vec![fence], ..nothing_carried() };
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
    let carried = Carried { never_started: never_started.to_vec(), ..nothing_carried() };
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
    world.pool.heartbeat(world.now, connection, None);
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
    let (id, connection) = world.join("w1", 1);
    let job = world.submit(retrying(1));
    world.turn();
    world.pool.handle_disconnected(connection);

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
    let carried = Carried { living: vec![stranger], ..nothing_carried() };

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
fn a_copy_of_a_workers_directory_is_refused_on_the_same_machine_while_the_first_is_heard() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    let register = |world: &mut World, dial, carried| {
        world.pool.register(world.now, id, ConnectionId(50), facts(1, 9, dial), carried)
    };

    assert_eq!(register(&mut world, 2, Vec::new()), Err(RegisterError::Copied("w1".into())));

    // The executor that comes after the first in its own directory has its journal.
    let carried = nothing_carried();
    assert!(register(&mut world, 3, vec![carried]).is_ok());
}

#[test]
fn a_registration_that_arrives_late_is_refused_also_when_the_newer_connection_is_gone() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    world.pool.register(world.now, id, ConnectionId(51), facts(1, 1, 3), Vec::new()).unwrap();
    world.pool.handle_disconnected(ConnectionId(51));

    let late = world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), Vec::new());

    assert_eq!(late, Err(RegisterError::Outdated));
}

/// The executor of worker `w1` dies with what it has, and another one begins; with what that is given.
fn executor_dies(world: &mut World, id: WorkerId, incarnation: u64) -> Vec<Effect> {
    let dial = incarnation;
    let carried = Carried { incarnation: Incarnation(incarnation - 1), ..nothing_carried() };
    let connection = ConnectionId(50 + incarnation);
    world.pool.register(world.now, id, connection, facts(1, incarnation, dial), vec![carried]).unwrap();
    world.turn()
}

#[test]
fn a_task_that_has_taken_its_worker_down_three_times_is_given_to_no_other() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    let job = world.submit(retrying(10));
    assert_eq!(started(&world.turn()).len(), 1);
    // An attempt that fails by itself is none of them.
    let fence = world.pool.fences_at(id)[0];
    world.end(ConnectionId(id.0), fence, Outcome::Lost("the process that kept it was killed".into()));
    assert_eq!(started(&world.turn())[0].attempt.0, 2);

    assert_eq!(started(&executor_dies(&mut world, id, 2))[0].attempt.0, 3);
    // What a restart has to know of it is remembered.
    world.lengthen_the_log();
    world.restart();
    assert_eq!(started(&executor_dies(&mut world, id, 3))[0].attempt.0, 4);
    executor_dies(&mut world, id, 4);

    assert_eq!(world.state(job), None);
    let ended = world.log.iter().rev().find_map(|record| match record {
        Record::Ended(ended) => Some(ended.end.outcome.clone()),
        _ => None,
    });
    assert_eq!(ended, Some(Outcome::Quarantined));
}

#[test]
fn jobs_that_run_on_the_pools_machine_as_its_user_or_as_root_can_read_its_state_and_no_others() {
    let host = Host { boot_id: "boot".into(), uid: 1000, owner: "ann".into() };
    let mut world = World::new();
    world.pool = Pool::new(Timing::default(), host);
    world.pool.start(world.now, Epoch(1));
    for (n, (boot_id, uid)) in (1..).zip([("boot", 1000), ("boot", 0), ("boot", 65_534), ("other", 1000)]) {
        let (id, connection) = world.join(&format!("w{n}"), 1);
        world.pool.handle_disconnected(connection);
        let said = Facts { boot_id: boot_id.into(), uid, ..facts(1, 1, 2) };
        world.pool.register(world.now, id, ConnectionId(50 + n), said, Vec::new()).unwrap();
    }

    let page = world.pool.worker_page(world.now, &Viewer::admin("ann"), "", 9);

    let shown: Vec<Sharing> = page.workers.iter().map(|worker| worker.sharing).collect();
    assert_eq!(shown, [Sharing::User, Sharing::Root, Sharing::Apart, Sharing::Apart]);
}
