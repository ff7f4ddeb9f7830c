//! Workers that come once are forgotten when they have gone for long, and hold nothing.

use super::*;

fn ephemeral(dial: u64) -> Facts {
    Facts { tenure: Tenure::Ephemeral, ..facts(1, 1, dial) }
}

fn key(n: u8) -> Fingerprint {
    Fingerprint([n; 32])
}

/// An ephemeral worker that joins by a token.
fn join(world: &mut World) -> ConnectionId {
    let token = world.pool.create_token(world.now, &world.viewer(), token_wish(), [0; 32]).unwrap();
    let wish = EnrolWish {
        token,
        secret_hash: [0; 32],
        role: Role::Worker,
        key: key(1),
        name: Name::parse("w1").unwrap(),
        choice: NameChoice::Default,
        source: String::new(),
    };
    world.pool.enrol(world.now, wish).unwrap();
    let connection = ConnectionId(7);
    world.pool.register(world.now, WorkerId(1), connection, ephemeral(1), Vec::new()).unwrap();
    world.turn();
    connection
}

fn is_known(world: &World) -> bool {
    world.pool.identities().any(|(known, _)| known == key(1))
}

/// Seconds before it is forgotten.
const ALMOST: u64 = 599;

#[test]
fn ten_minutes_after_it_left_nothing_is_known_of_it_and_its_key_is_not_let_in() {
    let mut world = World::new();
    let connection = join(&mut world);
    world.pool.leave(world.now, connection);

    world.pass(ALMOST);
    assert!(is_known(&world), "not yet");
    let effects = world.pass(2);

    assert!(!is_known(&world) && !world.pool.has_worker("w1"));
    assert!(effects.contains(&Effect::Expel(key(1))), "{effects:?}");
    let again = world.pool.register(world.now, WorkerId(1), ConnectionId(8), ephemeral(2), Vec::new());
    assert_eq!(again, Err(RegisterError::Unknown));
}

#[test]
fn one_that_went_without_a_word_is_forgotten_and_one_that_comes_again_in_time_is_not() {
    let mut world = World::new();
    let connection = join(&mut world);
    world.pool.handle_disconnected(connection);
    world.pass(ALMOST - 2);
    let connection = ConnectionId(8);
    world.pool.register(world.now, WorkerId(1), connection, ephemeral(2), Vec::new()).unwrap();
    world.pool.handle_disconnected(connection);
    world.pass(ALMOST);
    assert!(is_known(&world), "counted from when it was heard last");
    world.pass(4);

    assert!(!is_known(&world));
}

#[test]
fn one_whose_link_is_only_silent_is_forgotten_and_its_connection_cut() {
    let mut world = World::new();
    let connection = join(&mut world);

    world.pass(16);
    world.pass(ALMOST - 16);
    assert!(is_known(&world), "not yet");
    let effects = world.pass(2);

    assert!(!is_known(&world));
    assert!(effects.contains(&Effect::Cut(connection)), "{effects:?}");
}

#[test]
fn what_it_may_still_run_is_not_given_up_for_that() {
    let mut world = World::new();
    let connection = join(&mut world);
    let job = world.submit(JobSpec::new("true"));
    let fence = started(&world.turn())[0];
    world.pool.handle_disconnected(connection);

    world.pass(ALMOST * 3);
    assert!(is_known(&world));
    world.pool.register(world.now, WorkerId(1), ConnectionId(8), ephemeral(2), Vec::new()).unwrap();
    world.end(ConnectionId(8), fence, Outcome::Exited(0));
    world.turn();
    assert_eq!(world.state(job), None, "it has ended");
    world.pool.handle_disconnected(ConnectionId(8));
    world.pass(ALMOST + 2);

    assert!(!is_known(&world), "it holds nothing now");
}

#[test]
fn one_that_never_comes_back_is_forgotten_when_what_it_had_is_lost() {
    let mut world = World::new();
    let connection = join(&mut world);
    world.submit(JobSpec::new("true"));
    world.turn();
    world.pool.handle_disconnected(connection);
    world.pass(ALMOST + 2);

    world.pass(24 * 3600);
    world.pass(ALMOST + 2);

    assert!(!is_known(&world));
}

#[test]
fn one_that_a_person_removed_is_remembered_so_that_its_key_is_never_let_in_again() {
    let mut world = World::new();
    let connection = join(&mut world);
    world.pool.handle_disconnected(connection);
    world.pool.remove_worker(world.now, &world.viewer(), "w1").unwrap();

    world.pass(ALMOST * 2);

    let again = world.pool.register(world.now, WorkerId(1), ConnectionId(8), ephemeral(2), Vec::new());
    assert_eq!(again, Err(RegisterError::Unknown));
    assert!(world.pool.worker_keys.contains_key(&key(1)));
}

#[test]
fn a_pool_that_starts_anew_forgets_who_does_not_come_and_a_lasting_worker_never() {
    let mut world = World::new();
    join(&mut world);
    world.join("lasting", 1);
    world.turn();
    world.restart();

    world.pass(ALMOST + 2);

    assert!(!world.pool.has_worker("w1"));
    assert!(world.pool.has_worker("lasting"));
    world.restart();
    assert!(!world.pool.has_worker("w1"), "and that is remembered");
}
