//! A pool that begins again with what the log still has.

use super::*;

#[test]
fn a_job_that_is_repeated_in_the_log_takes_the_place_of_what_replay_knows_of_it() {
    let mut world = World::new();
    world.join("w1", 1);
    let id = world.submit(JobSpec::new("sleep 9"));
    world.turn();
    world.pass(16);
    world.pass(5);
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
fn a_return_after_a_restart_ends_a_silence_that_began_before_it() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 1);
    let spec = JobSpec { lost_after: Some(Duration::from_secs(100)), ..JobSpec::new("true") };
    let job = world.submit(spec);
    let fence = started(&world.turn())[0];
    world.pass(16);
    world.pass(50);
    world.lengthen_the_log();
    world.restart();
    let carried = Carried { living: vec![fence], ..nothing_carried() };
    world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), vec![carried]).unwrap();
    world.turn();

    world.pass(16);
    world.pass(60);

    assert_eq!(world.state(job), Some(TaskState::Unknown));
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
    let carried = Carried { living: vec![fence], ..nothing_carried() };
    world.pool.register(world.now, id, ConnectionId(50), facts(1, 1, 2), vec![carried]).unwrap();

    for _ in 0..2 {
        world.pass(100);
    }

    assert_eq!(world.state(job), Some(TaskState::Unknown));
}
