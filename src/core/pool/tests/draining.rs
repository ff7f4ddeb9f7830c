//! Workers that a person takes out of service.

use super::*;

fn drain(world: &mut World, deadline_s: Option<u64>) -> u64 {
    let deadline = deadline_s.map(Duration::from_secs);
    world.pool.drain_worker(world.now, &Viewer::admin("root"), "w1", deadline).unwrap()
}

fn cancels(effects: &[Effect]) -> Vec<(Fence, Cancel)> {
    let attempts = effects.iter().filter_map(|effect| match effect {
        Effect::Cancel { attempts, .. } => Some(attempts.clone()),
        _ => None,
    });
    attempts.flatten().collect()
}

/// A worker of that many slots comes back to a pool that was started again.
fn comes_back(world: &mut World, id: WorkerId, living: Vec<Fence>) -> Vec<Effect> {
    let carried = Carried { living, ..nothing_carried() };
    world.pool.register(world.now, id, ConnectionId(70), facts(2, 1, 9), vec![carried]).unwrap();
    world.turn()
}

#[test]
fn a_drained_worker_keeps_what_it_has_and_gets_nothing_until_it_is_resumed_also_over_a_restart() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 2);
    world.submit(JobSpec::new("true"));
    let has = started(&world.turn());

    assert_eq!(drain(&mut world, None), 1);
    let job = world.submit(JobSpec::new("true"));
    assert_eq!(started(&world.turn()), []);
    let why = world.pool.why(world.now, &world.viewer(), job, 0).unwrap();
    assert_eq!(why.text, "the workers that fit are drained (clusterctl workers resume w1)");
    world.lengthen_the_log();
    world.restart();
    assert_eq!(started(&comes_back(&mut world, id, has)), []);
    assert_eq!(world.pool.workers[&id].shown_state(), crate::core::view::WorkerState::Draining);

    world.pool.resume_worker(world.now, &Viewer::admin("root"), "w1").unwrap();
    assert_eq!(started(&world.turn())[0].task.job, job);
    assert_eq!(world.pool.workers[&id].shown_state(), crate::core::view::WorkerState::Ready);
}

#[test]
fn when_the_deadline_is_over_what_is_left_is_ended_and_runs_elsewhere_if_it_may() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 2);
    let (never, again) = (world.submit(JobSpec::new("true")), world.submit(retrying(1)));
    let has = started(&world.turn());
    drain(&mut world, Some(60));
    assert_eq!(cancels(&world.pass(59)), []);

    let mut ended = cancels(&world.pass(1));
    ended.sort();

    assert_eq!(ended, has.iter().map(|fence| (*fence, Cancel::Terminate)).collect::<Vec<_>>());
    for &fence in &has {
        world.end(connection, fence, Outcome::Cancelled(Cancel::Terminate));
    }
    world.turn();
    assert_eq!((world.state(never), world.state(again)), (None, Some(TaskState::Queued)));
    let outcomes: Vec<Outcome> = world
        .log
        .iter()
        .filter_map(|record| match record {
            Record::Ended(ended) => Some(ended.end.outcome.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, [Outcome::Lost("its worker was drained".into())]);
}

#[test]
fn a_deadline_restarts_in_full_with_the_pool_and_is_kept_for_a_worker_that_was_away() {
    let mut world = World::new();
    let (id, _) = world.join("w1", 2);
    world.submit(JobSpec::new("true"));
    let has = started(&world.turn());
    drain(&mut world, Some(20));
    world.pass(15);
    world.restart();

    assert_eq!(cancels(&world.pass(19)), []);
    world.pass(1);
    assert_eq!(cancels(&comes_back(&mut world, id, has.clone())), [(has[0], Cancel::Terminate)]);
}

#[test]
fn a_worker_that_is_resumed_in_time_is_not_disturbed() {
    let mut world = World::new();
    world.join("w1", 1);
    world.submit(JobSpec::new("true"));
    world.turn();
    drain(&mut world, Some(60));
    world.pool.resume_worker(world.now, &Viewer::admin("root"), "w1").unwrap();

    assert_eq!(cancels(&world.pass(61)), []);
    let unknown = world.pool.drain_worker(world.now, &Viewer::admin("root"), "w9", None);
    assert_eq!(unknown, Err(RemoveError::Unknown));
}
