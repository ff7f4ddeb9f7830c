//! What becomes of an attempt whose worker is silent, or leaves.

use super::*;

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
fn a_return_ends_a_silence_and_the_next_one_counts_from_nothing() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let spec = JobSpec { lost_after: Some(Duration::from_secs(100)), ..JobSpec::new("sleep 9") };
    let job = world.submit(spec);
    world.turn();
    for _ in 0..3 {
        world.pass(16);
        world.pass(99);
        assert_eq!(world.state(job), Some(TaskState::Unknown));
        world.pool.heard(connection, world.now.at);
    }

    world.pass(16);
    world.pass(101);

    assert_eq!(world.state(job), None);
}

#[test]
fn silence_begins_with_the_last_byte_although_that_is_told_later() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("sleep 9"));
    world.turn();
    world.pass(9);
    let byte = world.now.at;
    world.pass(4);
    world.pool.heard(connection, byte);

    world.pass(10);
    assert_eq!(world.state(job), Some(TaskState::Starting));
    world.pass(2);

    assert_eq!(world.state(job), Some(TaskState::Unknown));
}

#[test]
fn a_byte_that_is_told_when_its_worker_is_silent_already_is_no_news() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec::new("sleep 9"));
    world.turn();
    let before = world.now.at;
    world.pass(5);
    world.pool.heard(connection, world.now.at);
    world.pass(16);
    assert_eq!(world.state(job), Some(TaskState::Unknown));

    world.pool.heard(connection, before);
    world.turn();

    assert_eq!(world.state(job), Some(TaskState::Unknown));
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
        world.pool.heartbeat(world.now, second_worker, None);
        assert_eq!(started(&world.pass(10)), []);
    }
    world.pool.heartbeat(world.now, second_worker, None);
    let again = started(&world.pass(6));

    assert_eq!(again.len(), 1);
    assert_eq!((again[0].task, again[0].attempt.0), (first.task, 2));
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
fn a_worker_without_space_gets_nothing_until_it_has_some_and_why_names_the_place() {
    let mut world = World::new();
    let (id, connection) = world.join("w1", 2);
    world.pool.heartbeat(world.now, connection, Some("/work (3 MiB free)".into()));
    let job = world.submit(JobSpec::new("true"));
    assert_eq!(started(&world.turn()), []);
    let why = world.pool.why(world.now, &world.viewer(), job, 0).unwrap();
    assert_eq!(
        why.text,
        "worker w1 has no space in /work (3 MiB free): it takes no more jobs until there is"
    );
    assert_eq!(world.pool.workers[&id].shown_state(), crate::core::view::WorkerState::Full);

    world.pool.heartbeat(world.now, connection, None);

    assert_eq!(started(&world.turn()).len(), 1);
}
