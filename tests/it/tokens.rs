//! Tokens that do not let in: what each is told, and by which exit code.

use clusterctl::core::id::Fingerprint;
use clusterctl::net::token::Token;

use crate::cluster::{Cluster, Done, join_command, wait_until};

/// A token that the pool has never seen: with another secret, and a checksum that fits.
fn forged(token: &str) -> String {
    let token: Token = token.parse().unwrap();
    let mut fingerprint = [0; 32];
    fingerprint[..16].copy_from_slice(&token.pool);
    Token::new(token.role, &Fingerprint(fingerprint), token.id, [7; 16]).to_string()
}

#[test]
fn each_refusal_of_a_token_has_its_own_sentence_for_clients_and_workers() {
    let cluster = Cluster::start();
    let create = |role: &str, more: &[&str]| {
        let mut command = cluster.operator.command(["token", "create", role, "-q"]);
        Done::from(command.args(more).output().unwrap()).ok().trim().to_owned()
    };
    let add = |name: &str, token: &str| {
        let home = cluster.site.home(&format!("client-{name}"));
        home.run(["context", "add", "lab", &cluster.address, "--as", name, "--token", token])
    };
    let join = |name: &str, token: &str| {
        let home = cluster.site.home(&format!("worker-{name}"));
        let mut command = join_command(&home, &cluster.address, name, &["--token", token]);
        Done::from(command.output().unwrap())
    };
    let ask = |role: &str, name: &str, token: &str| match role {
        "--client" => add(name, token),
        _ => join(name, token),
    };
    let spend = |role: &str, token: &str| match role {
        "--client" => drop(add("first", token).ok()),
        _ => {
            let home = cluster.site.home("worker-first");
            let worker = crate::cluster::join(&home, &cluster.address, "first", &["--token", token]);
            cluster.wait_for_worker("first", "ready");
            worker.kill();
        }
    };
    for (role, other) in [("--client", "--worker"), ("--worker", "--client")] {
        let (mistyped, revoked, expired) =
            (create(role, &[]), create(role, &[]), create(role, &["--ttl", "10ms"]));
        let mistyped = format!("{}{}", &mistyped[..20], &mistyped[21..]);
        let id = |token: &str| token.parse::<Token>().unwrap().id.to_string();
        cluster.operator.run(["token", "revoke", &id(&revoked)]).ok();
        wait_until("its time is over", || {
            let listed = cluster.operator.run(["token", "list"]).ok();
            listed.lines().any(|line| line.starts_with(&id(&expired)) && line.contains("expired"))
        });
        let spent = create(role, &[]);
        spend(role, &spent);
        let word = |role: &str| role.trim_start_matches("--").to_owned();
        let expected = [
            (mistyped, "this token is mistyped or cut off".to_owned(), "auth-token-invalid"),
            (
                "hunter2".to_owned(),
                "this is no token: a token begins with CCT1-".to_owned(),
                "auth-token-invalid",
            ),
            (forged(&create(role, &[])), "the pool refused this token".to_owned(), "auth-token-invalid"),
            (revoked, "this token was revoked".to_owned(), "auth-token-revoked"),
            (spent, "this token has been used".to_owned(), "auth-token-spent"),
            (expired, "this token expired 0 seconds ago".to_owned(), "auth-token-expired"),
            (
                create(other, &[]),
                format!("this token is for a {}; a {} needs one made with {role}", word(other), word(role)),
                "auth-token-wrong-role",
            ),
        ];
        for (n, (token, sentence, code)) in expected.into_iter().enumerate() {
            let refused = ask(role, &format!("late-{n}"), &token);
            let said = refused.stderr.lines().next().unwrap_or_default().to_owned();
            // How long ago it was depends on how busy the machine is.
            let same = if code == "auth-token-expired" {
                said.starts_with("error: this token expired ") && said.ends_with(" ago")
            } else {
                said == format!("error: {sentence}")
            };
            assert!(same, "{role}: {refused:?}");
            assert!(refused.stderr.contains(&format!("\n  code: {code}\n")), "{role}: {refused:?}");
            assert_eq!(refused.code, 5, "{role}: {refused:?}");
        }
    }
}
