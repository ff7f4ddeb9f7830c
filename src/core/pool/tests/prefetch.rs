//! What is handed to a worker beyond its slots, and comes back.

use super::*;

/// A worker of one slot with the first task of an array.
fn world_of(array: &str, script: &str) -> (World, ConnectionId, JobId, Fence) {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let job = world.submit(JobSpec { array: Some(Array::parse(array).unwrap()), ..JobSpec::new(script) });
    let first = started(&world.turn())[0];
    (world, connection, job, first)
}

/// The same, when that has ended after so long.
fn world_after(took: Duration) -> (World, ConnectionId, JobId) {
    let (mut world, connection, job, first) = world_of("1-50", "true");
    ends_after(&mut world, connection, first, took);
    (world, connection, job)
}

fn ends_after(world: &mut World, connection: ConnectionId, fence: Fence, took: Duration) {
    let usage = Usage { run: took, ..Usage::default() };
    let end = AttemptEnd { usage, ..ending(fence, Outcome::Exited(0)) };
    world.pool.report(world.now, connection, vec![Report::Ended(end)]);
}

fn wanted_back(effects: &[Effect]) -> Vec<Fence> {
    let attempts = effects.iter().filter_map(|effect| match effect {
        Effect::TakeBack { attempts, .. } => Some(attempts.clone()),
        _ => None,
    });
    attempts.flatten().collect()
}

/// A worker of one slot that runs the first of what it was given.
fn world_that_waits() -> (World, ConnectionId, JobId, Vec<Fence>) {
    let (mut world, connection, job) = world_after(Duration::from_millis(50));
    let given = started(&world.turn());
    world.pool.report(world.now, connection, vec![Report::Started(given[0])]);
    (world, connection, job, given)
}

#[test]
fn of_a_job_with_quick_tasks_a_worker_gets_what_its_slots_do_in_a_fifth_of_a_second() {
    let (mut world, _, _) = world_after(Duration::from_millis(50));

    assert_eq!(started(&world.turn()).len(), 1 + 4);
}

#[test]
fn of_a_job_with_slow_tasks_a_worker_gets_what_it_has_slots_for() {
    let (mut world, _, _) = world_after(Duration::from_millis(300));

    assert_eq!(started(&world.turn()).len(), 1);
}

#[test]
fn a_job_that_could_not_be_started_is_not_taken_for_quick() {
    let (mut world, connection, _, first) = world_of("1-50", "true");
    let end = AttemptEnd::not_started(first, "no bash");

    world.pool.report(world.now, connection, vec![Report::Ended(end)]);

    assert_eq!(started(&world.turn()).len(), 1);
}

#[test]
fn a_job_with_a_long_script_is_not_copied_to_where_it_waits() {
    let script = "#".repeat(limits::PREFETCH_SPEC_BYTES_MAX + 1);
    let (mut world, connection, _, first) = world_of("1-50", &script);

    ends_after(&mut world, connection, first, Duration::from_millis(1));

    assert_eq!(started(&world.turn()).len(), 1);
}

#[test]
fn what_waits_for_a_second_is_asked_back_and_what_runs_is_not() {
    let (mut world, _, _, given) = world_that_waits();

    assert_eq!(wanted_back(&world.pass(1)), given[1..]);
}

#[test]
fn what_was_given_back_waits_again_and_runs_where_there_is_a_slot() {
    let (mut world, connection, _, given) = world_that_waits();
    world.pass(1);
    world.join("w2", 1);

    let back = given[1..].iter().map(|&fence| Report::TakenBack(fence)).collect();
    world.pool.report(world.now, connection, back);

    let again = started(&world.turn());
    assert_eq!(again.iter().map(|fence| fence.task).collect::<Vec<_>>(), [given[1].task]);
    assert_eq!(again[0].attempt.0, 2);
}

#[test]
fn what_was_asked_back_and_has_started_goes_on() {
    let (mut world, connection, job, given) = world_that_waits();
    world.pass(1);
    world.pool.report(world.now, connection, vec![Report::Started(given[1])]);

    world.end(connection, given[1], Outcome::Exited(0));

    world.turn();
    assert_eq!(world.pool.info(&world.viewer(), job).unwrap().counts.of(TaskState::Done), 2);
}

#[test]
fn until_the_worker_says_that_it_gave_it_back_a_task_goes_nowhere_else() {
    let (mut world, _, _, _) = world_that_waits();
    world.pass(1);
    world.join("w2", 1);

    let elsewhere = started(&world.pass(5));

    assert!(elsewhere.iter().all(|fence| fence.attempt.0 == 1), "{elsewhere:?}");
}

#[test]
fn behind_what_has_become_slow_no_more_is_handed() {
    let (mut world, connection, _, given) = world_that_waits();
    world.pass(1);
    let back = given[1..].iter().map(|&fence| Report::TakenBack(fence)).collect();
    world.pool.report(world.now, connection, back);

    assert_eq!(started(&world.turn()), []);
}

#[test]
fn a_drained_worker_is_asked_for_what_it_has_not_started() {
    let (mut world, _, _, given) = world_that_waits();

    world.pool.drain_worker(world.now, &Viewer::admin("root"), "w1", None).unwrap();

    assert_eq!(wanted_back(&world.turn()), given[1..]);
}

#[test]
fn a_job_none_of_whose_tasks_has_ended_is_not_taken_for_quick_when_one_is_asked_back() {
    let (mut world, connection, _, first) = world_of("1-50", "true");
    let admin = Viewer::admin("root");
    world.pool.drain_worker(world.now, &admin, "w1", None).unwrap();
    assert_eq!(wanted_back(&world.turn()), [first]);
    world.pool.report(world.now, connection, vec![Report::TakenBack(first)]);
    world.turn();

    world.pool.resume_worker(world.now, &admin, "w1").unwrap();

    assert_eq!(started(&world.turn()).len(), 1);
}

#[test]
fn a_worker_without_space_is_asked_for_what_it_has_not_started() {
    let (mut world, connection, _, given) = world_that_waits();

    world.pool.heartbeat(world.now, connection, Some("/work (0 MiB free)".into()));

    assert_eq!(wanted_back(&world.turn()), given[1..]);
}

#[test]
fn a_worker_that_comes_back_with_fewer_slots_is_asked_for_what_waits_there() {
    let mut world = World::new();
    let (id, connection) = world.join("w1", 4);
    world.submit(JobSpec { array: Some(Array::parse("1-4").unwrap()), ..JobSpec::new("true") });
    let given = started(&world.turn());
    world.pool.handle_disconnected(connection);
    let carried = Carried { living: given.clone(), ..nothing_carried() };
    let again = ConnectionId(70);
    world.pool.register(world.now, id, again, facts(1, 1, 9), vec![carried]).unwrap();
    world.pool.report(world.now, again, vec![Report::Started(given[0])]);

    assert_eq!(wanted_back(&world.pass(1)), given[1..]);
}

#[test]
fn a_silent_worker_is_asked_for_nothing() {
    let (mut world, _, _, _) = world_that_waits();
    world.now.at = world.now.at + Duration::from_secs(15);
    world.pool.handle_timeout(world.now);
    world.turn();

    assert_eq!(wanted_back(&world.pass(60)), []);
}

#[test]
fn an_array_that_runs_few_at_a_time_is_handed_no_more_than_that() {
    let (mut world, connection, _, first) = world_of("1-50%3", "true");

    ends_after(&mut world, connection, first, Duration::from_millis(1));

    assert_eq!(started(&world.turn()).len(), 3);
}
