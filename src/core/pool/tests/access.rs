//! Who is let in, as what, and for how long.

use super::*;

fn enrol(token: TokenId, key: u8, role: Role, name: &str) -> EnrolWish {
    EnrolWish {
        token,
        secret_hash: [7; 32],
        role,
        key: Fingerprint([key; 32]),
        name: Name::parse(name).unwrap(),
        choice: NameChoice::Default,
        source: "10.0.0.1".into(),
    }
}

fn client_token(world: &mut World) -> TokenId {
    let wish = TokenWish { role: Role::Client, uses: None, ..token_wish() };
    world.pool.create_token(world.now, &Viewer::admin("root"), wish, [7; 32]).unwrap()
}

#[test]
fn a_spent_token_lets_in_the_key_that_spent_it_and_no_other() {
    let mut world = World::new();
    let token = world.pool.create_token(world.now, &Viewer::admin("root"), token_wish(), [7; 32]).unwrap();
    let enrol = |key: u8, role| EnrolWish {
        token,
        secret_hash: [7; 32],
        role,
        key: Fingerprint([key; 32]),
        name: Name::parse("n1").unwrap(),
        choice: NameChoice::Default,
        source: "10.0.0.1".into(),
    };

    assert!(matches!(world.pool.enrol(world.now, enrol(1, Role::Client)), Err(EnrolRefused::WrongRole(_))));
    assert_eq!(world.pool.enrol(world.now, enrol(1, Role::Worker)).unwrap().name, "n1");
    assert_eq!(world.pool.enrol(world.now, enrol(2, Role::Worker)), Err(EnrolRefused::Spent));
    assert_eq!(world.pool.enrol(world.now, enrol(1, Role::Worker)).unwrap().name, "n1");
}

#[test]
fn a_revoked_client_is_let_in_by_no_token_and_leaves_its_name_to_nobody() {
    let mut world = World::new();
    let token = client_token(&mut world);
    let ann = Fingerprint([1; 32]);
    world.pool.enrol(world.now, enrol(token, 1, Role::Client, "ann")).unwrap();
    world.turn();

    world.pool.revoke_client(world.now, &Viewer::admin("root"), "ann").unwrap();
    assert_eq!(world.turn(), [Effect::Expel(ann)]);
    world.restart();

    assert_eq!(world.pool.identities().count(), 0);
    let again = world.pool.enrol(world.now, enrol(token, 1, Role::Client, "ann"));
    assert_eq!(again, Err(EnrolRefused::Invalid));
    assert_eq!(world.pool.enrol(world.now, enrol(token, 2, Role::Client, "ann")).unwrap().name, "ann-2");
    assert_eq!(world.pool.revoke_client(world.now, &Viewer::admin("root"), "ann"), Err(UnknownClient));
}

#[test]
fn a_revoked_clients_jobs_go_on() {
    let mut world = World::new();
    world.join("w1", 1);
    let token = client_token(&mut world);
    world.pool.enrol(world.now, enrol(token, 1, Role::Client, ANN)).unwrap();
    let job = world.submit(JobSpec::new("true"));
    world.turn();

    world.pool.revoke_client(world.now, &Viewer::admin("root"), ANN).unwrap();
    world.turn();

    assert_eq!(world.state(job), Some(TaskState::Starting));
}

#[test]
fn a_key_is_a_workers_or_a_clients_and_never_both() {
    let mut world = World::new();
    let wish = TokenWish { uses: None, ..token_wish() };
    let (of_worker, of_client) = (
        world.pool.create_token(world.now, &Viewer::admin("root"), wish, [7; 32]).unwrap(),
        client_token(&mut world),
    );
    world.pool.enrol(world.now, enrol(of_client, 1, Role::Client, "ann")).unwrap();
    world.pool.enrol(world.now, enrol(of_worker, 2, Role::Worker, "w1")).unwrap();

    let refused = Err(EnrolRefused::Invalid);
    assert_eq!(world.pool.enrol(world.now, enrol(of_worker, 1, Role::Worker, "w2")), refused);
    assert_eq!(world.pool.enrol(world.now, enrol(of_client, 2, Role::Client, "bob")), refused);
}

#[test]
fn clients_are_listed_by_name_a_page_at_a_time() {
    let mut world = World::new();
    let token = client_token(&mut world);
    for (key, name) in [(1, "cid"), (2, "ann"), (3, "bob")] {
        world.pool.enrol(world.now, enrol(token, key, Role::Client, name)).unwrap();
    }
    world.pool.revoke_client(world.now, &Viewer::admin("root"), "bob").unwrap();

    let names = |page: &ClientPage| {
        page.clients.iter().map(|client| (client.name.clone(), client.revoked)).collect::<Vec<_>>()
    };
    let first = world.pool.client_page("", 2);
    let rest = world.pool.client_page("bob", 2);

    assert_eq!((names(&first), first.more), (vec![("ann".into(), false), ("bob".into(), true)], true));
    assert_eq!((names(&rest), rest.more), (vec![("cid".into(), false)], false));
}

#[test]
fn nobody_is_told_which_jobs_of_others_a_worker_runs() {
    let mut world = World::new();
    world.join("w1", 1);
    let job = world.submit(JobSpec::new("true"));
    world.turn();
    let held = |viewer: Viewer| world.pool.worker_page(world.now, &viewer, "", 9).workers[0].tasks.clone();

    assert_eq!(held(Viewer::client("bob", "bob", "10.0.0.2")), []);
    assert_eq!(held(world.viewer()), [TaskId { job, index: 0 }]);
    assert_eq!(held(Viewer::admin("root")).len(), 1);
}

#[test]
fn a_new_key_stands_for_what_the_old_one_did_also_after_a_restart() {
    let mut world = World::new();
    let token = client_token(&mut world);
    world.pool.enrol(world.now, enrol(token, 1, Role::Client, "ann")).unwrap();
    let worker = world.pool.create_token(world.now, &Viewer::admin("root"), token_wish(), [7; 32]).unwrap();
    world.pool.enrol(world.now, enrol(worker, 2, Role::Worker, "n1")).unwrap();
    world.turn();
    let before: Vec<_> = world.pool.identities().map(|(_, identity)| identity).collect();

    for (old, new) in [(1, 3), (2, 4)] {
        let (before, after) = (Fingerprint([old; 32]), Fingerprint([new; 32]));
        world.pool.renew_key(world.now, ConnectionId(9), (before, after), "10.0.0.1".into()).unwrap();
        let effects = world.turn();
        assert!(
            matches!(effects[..], [Effect::Renew { before: old, after: new, .. }] if (old, new) == (before, after))
        );
    }
    world.restart();

    let (keys, after): (Vec<_>, Vec<_>) = world.pool.identities().unzip();
    assert_eq!(after, before);
    assert_eq!(keys, [Fingerprint([4; 32]), Fingerprint([3; 32])]);
    assert_eq!(world.pool.client_page("", 10).clients.len(), 1);
}

#[test]
fn a_key_takes_the_place_of_one_that_is_let_in_and_of_no_other() {
    let mut world = World::new();
    let token = client_token(&mut world);
    for (key, name) in [(1, "ann"), (2, "bob")] {
        world.pool.enrol(world.now, enrol(token, key, Role::Client, name)).unwrap();
    }
    world.pool.revoke_client(world.now, &Viewer::admin("root"), "bob").unwrap();
    let mut renew = |old: u8, new: u8| {
        world.pool.renew_key(
            world.now,
            ConnectionId(9),
            (Fingerprint([old; 32]), Fingerprint([new; 32])),
            "10.0.0.1".into(),
        )
    };

    assert_eq!(renew(1, 2), Err(RenewalRefused::InUse));
    assert_eq!(renew(2, 3), Err(RenewalRefused::Unknown));
    assert_eq!(renew(9, 3), Err(RenewalRefused::Unknown));
    assert_eq!(renew(1, 3), Ok(()));
    assert_eq!(renew(1, 4), Err(RenewalRefused::Unknown));
}

#[test]
fn a_worker_that_is_connected_is_the_only_one_to_replace_its_key() {
    let mut world = World::new();
    let token = world.pool.create_token(world.now, &Viewer::admin("root"), token_wish(), [7; 32]).unwrap();
    world.pool.enrol(world.now, enrol(token, 1, Role::Worker, "n1")).unwrap();
    let id = world.pool.worker_names["n1"];
    world.pool.register(world.now, id, ConnectionId(1), facts(1, 1, 1), Vec::new()).unwrap();
    let keys = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let mut renew =
        |connection: u64| world.pool.renew_key(world.now, ConnectionId(connection), keys, "10.0.0.9".into());

    assert_eq!(renew(2), Err(RenewalRefused::Elsewhere("n1".into())));
    assert_eq!(renew(1), Ok(()));
    world.turn();
    assert!(
        world.trail.iter().any(|entry| entry.what == AuditKind::NotConnected && entry.source == "10.0.0.9")
    );
}
