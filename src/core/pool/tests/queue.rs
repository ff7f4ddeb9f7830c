//! Who waits, who starts, and who may know of it.

use super::*;

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
        viewer: Viewer::client(ANN, ANN, "10.0.0.1"),
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
    let bob = Viewer::client("bob", "bob", "10.0.0.2");

    assert_eq!(
        world.pool.cancel(world.now, &bob, job, &[], Cancel::Kill),
        world.pool.cancel(world.now, &bob, JobId(999), &[], Cancel::Kill),
    );
    assert!(world.pool.info(&bob, job).is_none());
    assert!(world.pool.info(&Viewer::admin("root"), job).is_some());
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
fn secrets_are_erased_when_their_job_has_ended_and_the_history_has_none() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    let secrets = vec![(b"KEY".to_vec(), b"sealed".to_vec())];
    let job = world.submit(JobSpec { secrets, ..JobSpec::new("true") });
    let effects = world.turn();
    let fence = started(&effects)[0];
    let id = world.pool.secrets()[0];
    assert!(matches!(effects[..], [Effect::Start { secrets: Some(of), .. }] if of == id));

    world.end(connection, fence, Outcome::Exited(0));
    let batch = world.pool.poll_batch(world.now).unwrap();

    let mut history = batch.turn().history.iter();
    let ended = history.find_map(|item| match item {
        HistoryItem::Job(ended) => Some(ended.clone()),
        HistoryItem::Task(_) | HistoryItem::Audit(_) => None,
    });
    assert_eq!(ended.unwrap().submission.spec.secrets, [(b"KEY".to_vec(), Vec::new())]);
    assert_eq!(batch.into_effects(), [Effect::EraseSecrets(id)]);
    assert_eq!((world.state(job), world.pool.secrets()), (None, Vec::new()));
}

#[test]
fn an_owner_has_no_more_tasks_than_it_may_and_others_are_none_the_worse() {
    let mut world = World::new();
    world.pool.tasks_per_owner = 2;
    world.submit(JobSpec::new("true"));
    world.submit(JobSpec::new("true"));
    let submit = |owner: &str| Submit {
        viewer: Viewer::client(owner, owner, "10.0.0.1"),
        request: RequestId([99; 16]),
        nonce: JobNonce(99),
        spec: Arc::new(JobSpec::new("true")),
    };

    let refused = world.pool.submit(world.now, submit(ANN));

    assert_eq!(refused, Err(SubmitError::QueueFull { live: 2, bound: 2 }));
    assert!(world.pool.submit(world.now, submit("bob")).is_ok());
}

#[test]
fn while_the_disk_is_nearly_full_nothing_new_is_accepted_and_what_was_is_known() {
    let mut world = World::new();
    let submit = |request: u8| Submit {
        viewer: Viewer::client(ANN, ANN, "10.0.0.1"),
        request: RequestId([request; 16]),
        nonce: JobNonce(99),
        spec: Arc::new(JobSpec::new("true")),
    };
    let known = world.pool.submit(world.now, submit(1)).unwrap();
    let low = Space::Low { free_bytes: 3 << 20, needed_bytes: 5 << 20 };

    world.pool.set_space(low);

    assert_eq!(world.pool.submit(world.now, submit(1)), Ok(known));
    let refused = world.pool.submit(world.now, submit(2)).unwrap_err();
    let words = "the pool's disk is nearly full: 3.0 MiB are free, 5.0 MiB have to be for new jobs";
    assert_eq!(refused.to_string(), words);
    world.pool.set_space(Space::Enough);
    assert!(world.pool.submit(world.now, submit(2)).is_ok());
}

#[test]
fn why_does_not_deny_a_worker_that_fits_and_is_silent_or_drained() {
    let mut world = World::new();
    let (_, connection) = world.join("w1", 1);
    world.join("w2", 1);
    let constraint = Constraint::parse("name=w1").unwrap();
    world.pool.drain_worker(world.now, &Viewer::admin("root"), "w1", None).unwrap();
    let job = world.submit(JobSpec { constraint, ..JobSpec::new("true") });
    world.turn();
    let why = |world: &World| {
        let why = world.pool.why(world.now, &world.viewer(), job, 0).unwrap();
        (why.text, why.terms.len())
    };
    let drained = "the workers that fit are drained (clusterctl workers resume w1)".to_owned();
    assert_eq!(why(&world), (drained, 0));

    world.pool.resume_worker(world.now, &Viewer::admin("root"), "w1").unwrap();
    world.pool.drain(connection);
    world.turn();
    assert_eq!(why(&world), ("worker w1, which fits, is about to leave".to_owned(), 0));
    world.pass(16);
    assert_eq!(why(&world), ("worker w1, which fits, is silent".to_owned(), 0));
    world.pool.leave(world.now, connection);
    world.turn();
    assert_eq!(why(&world), ("worker w1, which fits, is not connected".to_owned(), 0));
}
