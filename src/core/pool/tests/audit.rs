//! What is written of who did what, and of who was let in.

use super::*;
use crate::core::limits;

fn refused(source: &str) -> Decision {
    Decision {
        what: AuditKind::NotConnected,
        who: String::new(),
        source: source.to_owned(),
        detail: String::new(),
    }
}

/// What the trail tells, without the times.
fn told(world: &World) -> Vec<(AuditKind, &str, &str, u32)> {
    let entries = world.trail.iter();
    entries.map(|entry| (entry.what, entry.who.as_str(), entry.about.as_str(), entry.count)).collect()
}

#[test]
fn what_callers_do_is_written_with_the_turn_that_does_it() {
    let mut world = World::new();
    let root = Viewer::admin("root");
    let token = world.pool.create_token(world.now, &root, token_wish(), [7; 32]).unwrap();
    world.pool.revoke_token(world.now, &root, token).unwrap();
    world.join("w1", 1);
    let job = world.submit(JobSpec::new("echo secret"));
    world.turn();
    world.pool.cancel(world.now, &world.viewer(), job, &[], Cancel::Kill).unwrap();
    world.pool.remove_worker(world.now, &root, "w1").unwrap();
    world.turn();

    let expected = [
        (AuditKind::TokenCreated, "root", "token 1", 1),
        (AuditKind::TokenRevoked, "root", "token 1", 1),
        (AuditKind::Submitted, ANN, "job 1", 1),
        (AuditKind::Cancelled, ANN, "job 1", 1),
        (AuditKind::WorkerRemoved, "root", "worker w1", 1),
    ];
    assert_eq!(told(&world), expected);
    let script = &world.trail[2].detail;
    assert_eq!(*script, format!("script {}", blake3::hash(b"echo secret").to_hex()));
}

#[test]
fn whoever_knocks_for_ever_is_counted_by_the_minute() {
    let mut world = World::new();
    for _ in 0..500 {
        world.pool.decided(world.now, refused("10.0.0.7"));
        world.turn();
    }
    assert_eq!(told(&world), [(AuditKind::NotConnected, "", "", 1)]);

    world.pass(60);
    world.pass(60);

    assert_eq!(told(&world)[1..], [(AuditKind::NotConnected, "", "", 499)]);
    assert_eq!(world.trail[1].source, "10.0.0.7");
}

#[test]
fn a_flood_from_everywhere_does_not_fill_the_trail() {
    let mut world = World::new();
    for n in 0..10_000 {
        world.pool.decided(world.now, refused(&format!("10.0.{}.{}", n / 256, n % 256)));
    }
    world.pass(60);

    let others = world.trail.last().unwrap();
    assert_eq!(world.trail.len(), limits::AUDIT_SOURCES_MAX + 2);
    assert_eq!((others.source.as_str(), others.count), ("others", 10_000 - 4096 - 1));
}

#[test]
fn a_key_that_is_let_in_or_not_by_a_token_is_written_without_the_secret() {
    let mut world = World::new();
    let root = Viewer::admin("root");
    let token = world.pool.create_token(world.now, &root, token_wish(), [7; 32]).unwrap();
    let wish = |secret: u8| EnrolWish {
        token,
        secret_hash: [secret; 32],
        role: Role::Worker,
        key: Fingerprint([1; 32]),
        name: Name::parse("n1").unwrap(),
        choice: NameChoice::Given,
        source: "10.0.0.3".into(),
    };

    assert!(world.pool.enrol(world.now, wish(8)).is_err());
    world.pool.enrol(world.now, wish(7)).unwrap();
    world.turn();

    let lines: Vec<_> = world.trail[1..].iter().map(|entry| (entry.what, entry.detail.as_str())).collect();
    let key = Fingerprint([1; 32]);
    let let_in = format!("token 1, worker, key {key}");
    assert_eq!(
        lines,
        [(AuditKind::NotEnrolled, "the pool refused this token"), (AuditKind::Enrolled, let_in.as_str())]
    );
}
