//! Who may call what: every method of the schema for every role, made certain against a real pool.
//!
//! A method without a row and a row without a method fail. A method that a role cannot hold a capability for must be
//! `unimplemented` at every capability that it does hold; every other one must be reached. What is refused, and what is
//! for the caller's own alone, is tried on a job of another owner and on an attempt of another worker.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use capnp::ErrorKind;
use capnp::any_pointer;
use capnp::capability::Client;
use capnp::message::ReaderOptions;
use capnp::schema_capnp::{code_generator_request, node};
use clusterctl::core::attempt::AttemptEnd;
use clusterctl::core::id::{AttemptNumber, Fence, Incarnation, JobId, JobNonce, TaskId};
use clusterctl::core::membership::{Carried, Report};
use clusterctl::core::outcome::{Outcome, Usage};
use clusterctl::core::output::{Chunk, OutputTotals, Stream};
use clusterctl::net::tls::{ALPN_ENROL, ALPN_WORK};
use clusterctl::schema::types_capnp::refusal;
use clusterctl::wire;
use serde_json::json;

use crate::cluster::{Cluster, wait_for, wait_until};
use crate::roles::{self, Held, Idle, Member, Submitter};

use self::May::{No, Own, Refused, Yes};

/// What comes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    /// The role has no capability for it.
    No,
    /// On what is somebody else's it answers as on what does not exist.
    Refused,
    /// It tells and changes what is the caller's own, and nothing else.
    Own,
    /// It does what it says.
    Yes,
}

/// The columns: a stranger without a key that is known; a worker, of attempts that are at another; a client, of jobs of
/// another owner; the client whose jobs they are; the pool's own user by the socket, who may also be a worker there.
const ROLES: [&str; 5] = ["stranger", "worker", "other", "owner", "admin"];

#[rustfmt::skip]
const MATRIX: &[(&str, [May; 5])] = &[
    ("ClientDoor.hello",    [No, No,  Yes,     Yes, Yes]),
    ("Pool.submit",         [No, No,  Own,     Yes, Yes]),
    ("Pool.job",            [No, No,  Refused, Yes, Yes]),
    ("Pool.jobs",           [No, No,  Own,     Yes, Yes]),
    ("Pool.wait",           [No, No,  Refused, Yes, Yes]),
    ("Pool.workers",        [No, No,  Yes,     Yes, Yes]),
    ("Pool.status",         [No, No,  Yes,     Yes, Yes]),
    ("Pool.cancel",         [No, No,  Refused, Yes, Yes]),
    // By the socket there is no key to renew, and that is the answer.
    ("Pool.renewKey",       [No, No,  Own,     Own, Yes]),
    ("Job.info",            [No, No,  Refused, Yes, Yes]),
    ("Job.spec",            [No, No,  Refused, Yes, Yes]),
    ("Job.tasks",           [No, No,  Refused, Yes, Yes]),
    ("Job.why",             [No, No,  Refused, Yes, Yes]),
    ("Job.cancel",          [No, No,  Refused, Yes, Yes]),
    ("Job.abandon",         [No, No,  Refused, Yes, Yes]),
    ("Job.retry",           [No, No,  Refused, Yes, Yes]),
    ("Job.follow",          [No, No,  Refused, Yes, Yes]),
    // A client offers it to the pool, which offers it to nobody.
    ("Sink.write",          [No, No,  No,      No,  No]),
    ("Sink.event",          [No, No,  No,      No,  No]),
    ("Sink.gone",           [No, No,  No,      No,  No]),
    ("Sink.done",           [No, No,  No,      No,  No]),
    ("Sink.failed",         [No, No,  No,      No,  No]),
    ("Admin.createToken",   [No, No,  No,      No,  Yes]),
    ("Admin.tokens",        [No, No,  No,      No,  Yes]),
    ("Admin.revokeToken",   [No, No,  No,      No,  Yes]),
    ("Admin.localWorker",   [No, No,  No,      No,  Yes]),
    ("Admin.removeWorker",  [No, No,  No,      No,  Yes]),
    ("Admin.stop",          [No, No,  No,      No,  Yes]),
    ("Admin.clients",       [No, No,  No,      No,  Yes]),
    ("Admin.revokeClient",  [No, No,  No,      No,  Yes]),
    ("Admin.audit",         [No, No,  No,      No,  Yes]),
    ("Admin.drainWorker",   [No, No,  No,      No,  Yes]),
    ("Admin.resumeWorker",  [No, No,  No,      No,  Yes]),
    ("Admin.renewPoolKey",  [No, No,  No,      No,  Yes]),
    ("WorkerDoor.hello",    [No, Yes, No,      No,  No]),
    ("Registrar.register",  [No, Own, No,      No,  Own]),
    ("Registrar.renewKey",  [No, Own, No,      No,  Own]),
    ("Heartbeat.beat",      [No, Own, No,      No,  Own]),
    ("Reports.report",      [No, Own, No,      No,  Own]),
    ("Output.write",        [No, Own, No,      No,  Own]),
    // The last word comes last where they are tried one after the other.
    ("Registration.drain",  [No, Own, No,      No,  Own]),
    ("Registration.leave",  [No, Own, No,      No,  Own]),
    // A worker offers it to the pool, which offers it to nobody.
    ("Worker.start",        [No, No,  No,      No,  No]),
    ("Worker.cancel",       [No, No,  No,      No,  No]),
    ("Worker.leaving",      [No, No,  No,      No,  No]),
    ("Worker.takeBack",     [No, No,  No,      No,  No]),
    ("Worker.renewed",      [No, No,  No,      No,  No]),
];

/// What a role may with a method.
fn may(method: &str, role: &str) -> May {
    let column = ROLES.iter().position(|known| *known == role).unwrap();
    MATRIX.iter().find(|(name, _)| *name == method).unwrap().1[column]
}

/// A method, as the wire names it.
struct Method {
    interface: String,
    name: String,
    interface_id: u64,
    number: u16,
}

/// Every method of the compiled schemas; and of each interface which interfaces' methods it has.
fn schema() -> (Vec<Method>, BTreeMap<String, BTreeSet<u64>>) {
    let (mut methods, mut interfaces) = (Vec::new(), BTreeMap::new());
    for file in ["executor", "pool", "record", "types", "worker"] {
        let path = format!("{}/schema/compiled/{file}.request", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(path).unwrap();
        let message = capnp::serialize::read_message(&bytes[..], ReaderOptions::new()).unwrap();
        let request: code_generator_request::Reader<'_> = message.get_root().unwrap();
        for node in request.get_nodes().unwrap() {
            let display_name = node.get_display_name().unwrap().to_str().unwrap();
            let Some(interface) = display_name.strip_prefix(&format!("{file}.capnp:")) else { continue };
            let Ok(node::Interface(reader)) = node.which() else { continue };
            let supers = reader.get_superclasses().unwrap().iter().map(|one| one.get_id());
            let ids: BTreeSet<u64> = supers.chain([node.get_id()]).collect();
            assert!(interfaces.insert(interface.to_owned(), ids).is_none(), "two are called {interface}");
            for (number, method) in (0..).zip(reader.get_methods().unwrap()) {
                methods.push(Method {
                    interface: interface.to_owned(),
                    name: format!("{interface}.{}", method.get_name().unwrap().to_str().unwrap()),
                    interface_id: node.get_id(),
                    number,
                });
            }
        }
    }
    (methods, interfaces)
}

fn in_a_local_set(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Calls a method at a capability, whatever that is, with no parameters.
async fn call(at: &Client, method: &Method) -> Result<(), capnp::Error> {
    let request =
        at.new_call::<any_pointer::Owned, any_pointer::Owned>(method.interface_id, method.number, None);
    request.send().promise.await.map(drop)
}

#[test]
fn every_method_has_a_row_and_every_row_a_method() {
    let methods: BTreeSet<String> = schema().0.into_iter().map(|method| method.name).collect();
    let rows: BTreeSet<String> = MATRIX.iter().map(|(name, _)| (*name).to_owned()).collect();

    assert_eq!(methods, rows);
    assert_eq!(rows.len(), MATRIX.len(), "a method has two rows");
}

#[test]
fn each_role_reaches_what_the_matrix_says_and_nothing_else() {
    let cluster = Cluster::start();
    let (mut methods, interfaces) = schema();
    // It ends the pool.
    methods.sort_by_key(|method| method.name == "Admin.stop");
    in_a_local_set(async {
        let (door, registrar) = roles::worker(&cluster, "w2").await;
        let member = Member::register(registrar, &[]).await;
        let worker = [vec![door], member.holds()].concat();
        let other = Submitter::client(&cluster, "bob").await;
        let owner = Submitter::client(&cluster, "ann").await;
        let admin = Submitter::admin(&cluster).await;
        let local = Member::register(admin.local_worker("near").await, &[]).await;
        let holds = [
            ("worker", worker),
            ("other", other.holds().await),
            ("owner", owner.holds().await),
            ("admin", [admin.holds().await, local.holds()].concat()),
        ];

        for (role, held) in &holds {
            for method in &methods {
                let expected = may(&method.name, role);
                let reached = reach(&interfaces, held, method).await;
                assert_eq!(reached, expected != No, "{} by the {role}: {expected:?}", method.name);
            }
        }
    });
}

/// Whether one of these capabilities has a method: only one that was given as such may.
async fn reach(interfaces: &BTreeMap<String, BTreeSet<u64>>, held: &[Held], method: &Method) -> bool {
    let mut reached = false;
    for (interface, client) in held {
        let has_it = interfaces[*interface].contains(&method.interface_id);
        match call(client, method).await {
            Err(error) if error.kind == ErrorKind::Unimplemented => assert!(!has_it, "{}", method.name),
            // Without parameters most have nothing to do.
            Ok(()) | Err(capnp::Error { kind: ErrorKind::Failed, .. }) if has_it => reached = true,
            answer => panic!("{} at a {interface}: {answer:?}", method.name),
        }
    }
    reached
}

#[test]
fn a_stranger_is_answered_by_nothing() {
    let cluster = Cluster::start();
    in_a_local_set(async {
        for protocol in [ALPN_WORK, ALPN_ENROL] {
            let offered = roles::stranger(&cluster, protocol).await;
            for method in schema().0 {
                assert_eq!(may(&method.name, "stranger"), No);
                let refused = call(&offered, &method).await.unwrap_err();
                let cut = [ErrorKind::Disconnected, ErrorKind::PrematureEndOfFile].contains(&refused.kind);
                assert!(cut || refused.extra.contains("AccessDenied"), "{}: {refused:?}", method.name);
            }
        }
    });
}

/// What a client is told about a job, with its number left out.
async fn told(pool: &Submitter, method: &Method, id: u64) -> String {
    let pool = &pool.pool;
    let mut request = pool.job_request();
    request.get().set_id(id);
    let job = request.send();
    let text = match method.name.as_str() {
        "Pool.job" => {
            let answer = job.promise.await.unwrap();
            let answer = answer.get().unwrap();
            format!("{} {}", answer.has_handle(), words(answer.get_refused().unwrap()))
        }
        "Pool.cancel" => {
            let mut request = pool.cancel_request();
            request.get().init_ids(1).set(0, id);
            let answer = request.send().promise.await.unwrap();
            let result = answer.get().unwrap().get_results().unwrap().get(0);
            let counts = result.get_cancelled() + result.get_cancelling();
            format!("{counts} {}", words(result.get_refused().unwrap()))
        }
        "Pool.wait" => {
            let mut request = pool.wait_request();
            request.get().init_ids(1).set(0, id);
            let answer = request.send().promise.await.unwrap();
            let answer = answer.get().unwrap();
            format!(
                "{} ended, {} unknown",
                answer.get_ended().unwrap().len(),
                answer.get_unknown().unwrap().len()
            )
        }
        _ if method.interface == "Job" => {
            // The call is on its way before the pool has said whether there is such a job.
            let handle = job.pipeline.get_handle();
            let answer = if method.name == "Job.follow" {
                let mut request = handle.follow_request();
                request.get().set_sink(capnp_rpc::new_client(Idle));
                request.send().promise.await.map(drop)
            } else {
                call(&handle.client, method).await
            };
            match answer {
                // Which of the two it is is a matter of what came first, the call or the answer before it.
                Err(error)
                    if error.extra.contains("null capability pointer")
                        || error.extra.contains("returned no capabilities") =>
                {
                    "there is nothing to call".to_owned()
                }
                answer => format!("{answer:?}"),
            }
        }
        name => panic!("{name} is tried on nobody's job: say here how"),
    };
    text.replace(&format!("job {id} "), "job N ")
}

fn words(refused: refusal::Reader<'_>) -> String {
    format!("{:?}", wire::refusal::read(refused))
}

#[test]
fn somebody_elses_job_answers_like_one_that_does_not_exist() {
    const UNKNOWN: u64 = 1000;
    let cluster = Cluster::start();
    in_a_local_set(async {
        let ann = Submitter::client(&cluster, "ann").await;
        let bob = Submitter::client(&cluster, "bob").await;
        let admin = Submitter::admin(&cluster).await;
        let (id, job) = ann.submit(1, "nowhere", "true").await;
        let methods = schema().0;
        let refused: Vec<&Method> =
            methods.iter().filter(|method| may(&method.name, "other") == Refused).collect();

        for method in &refused {
            assert_eq!(told(&bob, method, id).await, told(&bob, method, UNKNOWN).await, "{}", method.name);
        }
        for method in methods.iter().filter(|method| may(&method.name, "other") == Own) {
            match method.name.as_str() {
                "Pool.submit" => {
                    let (again, other) =
                        (ann.submit(1, "nowhere", "true").await, bob.submit(1, "nowhere", "true").await);
                    assert_eq!((again.0, other.0), (id, id + 1), "a request is its owner's");
                }
                "Pool.jobs" => {
                    let mut request = bob.pool.jobs_request();
                    request.get().init_filter().set_all(true);
                    let answer = request.send().promise.await.unwrap();
                    let jobs = answer.get().unwrap().get_jobs().unwrap();
                    let owners: Vec<&str> =
                        jobs.iter().map(|job| job.get_owner().unwrap().to_str().unwrap()).collect();
                    assert_eq!(owners, ["bob"]);
                }
                "Pool.renewKey" => {
                    let of_ann = bob.renew_key(ann.key.unwrap()).await;
                    assert_eq!(of_ann.unwrap().code, "bad-request");
                    let by_the_socket = admin.renew_key(ann.key.unwrap()).await;
                    assert_eq!(by_the_socket.unwrap().code, "no-key");
                }
                name => panic!("{name} is tried by nobody: say here how"),
            }
        }

        let answer = job.info_request().send().promise.await.unwrap();
        assert_eq!(answer.get().unwrap().get_info().unwrap().get_counts().unwrap().get_queued(), 1);
        // For those who see it, it is another answer than for what does not exist; also when it has ended.
        job.cancel_request().send().promise.await.unwrap();
        for method in refused {
            for (role, viewer) in [("owner", &ann), ("admin", &admin)] {
                assert_eq!(may(&method.name, role), Yes);
                assert_ne!(
                    told(viewer, method, id).await,
                    told(viewer, method, UNKNOWN).await,
                    "{}",
                    method.name
                );
            }
        }
    });
}

/// Says of an attempt that is at another worker all that can be said by one method.
async fn lie(method: &str, member: &Member, fence: Fence) {
    let told = member.told();
    match method {
        // It was said with the registration that it lives there, has ended there, and was never started there.
        "Registrar.register" => {
            let fences = |list: capnp::struct_list::Reader<'_, _>| wire::fence::read_list(list).unwrap();
            assert_eq!(fences(told.get_kill().unwrap()), [fence]);
            assert_eq!(fences(told.get_forget().unwrap()), [fence]);
            assert_eq!(told.get_positions().unwrap().len(), 0);
        }
        // Nothing in it says whose key is meant: it is the caller's, and the new one has not signed for that.
        "Registrar.renewKey" => {
            let mut request = member.registrar.renew_key_request();
            request.get().set_key(&[4; 91]);
            let answer = request.send().promise.await.unwrap();
            assert!(answer.get().unwrap().has_refused());
        }
        "Reports.report" => {
            let forged = Chunk { position: 0, stream: Stream::Stdout, offset: 0, bytes: b"forged".to_vec() };
            let end = AttemptEnd {
                fence,
                outcome: Outcome::Exited(0),
                usage: Usage::default(),
                totals: OutputTotals { stdout_bytes: 6, ..OutputTotals::default() },
                tail: vec![forged],
            };
            let sent = AttemptEnd { tail: Vec::new(), ..end.clone() };
            let lies =
                [Report::Started(fence), Report::TakenBack(fence), Report::Ended(end), Report::Ended(sent)];
            let mut request = told.get_reports().unwrap().report_request();
            wire::worker::write_reports(&lies, request.get().init_reports(4));
            request.send().promise.await.unwrap();
        }
        "Output.write" => {
            let forged = Chunk { position: 6, stream: Stream::Stdout, offset: 6, bytes: b"forged".to_vec() };
            let mut request = told.get_output().unwrap().write_request();
            wire::output::write_parts(&[(fence, vec![forged])], request.get().init_parts(1));
            request.send().promise.await.unwrap();
        }
        "Heartbeat.beat" => {
            let mut request = told.get_heartbeat().unwrap().beat_request();
            request.get().set_held(1);
            request.send().promise.await.unwrap();
        }
        "Registration.drain" => {
            told.get_registration().unwrap().drain_request().send().promise.await.unwrap();
        }
        "Registration.leave" => {
            told.get_registration().unwrap().leave_request().send().promise.await.unwrap();
        }
        name => panic!("{name} is tried on nobody's attempt: say here how"),
    }
}

/// An attempt as it names itself: `42.0#1@00ab…`.
fn fence_of(said: &str) -> Fence {
    let (job, rest) = said.trim().split_once(".0#").unwrap();
    let (attempt, nonce) = rest.split_once('@').unwrap();
    Fence {
        task: TaskId { job: JobId(job.parse().unwrap()), index: 0 },
        attempt: AttemptNumber(attempt.parse().unwrap()),
        nonce: JobNonce(u64::from_str_radix(nonce, 16).unwrap()),
    }
}

#[test]
fn a_worker_can_say_nothing_of_an_attempt_at_another() {
    let mut cluster = Cluster::start();
    cluster.join("w1", &[]);
    let (said, gate) = (cluster.site.path().join("fence"), cluster.site.path().join("gate"));
    let script = format!(
        "echo begun; echo $CLUSTERCTL_FENCE > {}; while [ ! -e {} ]; do sleep 0.01; done; echo done; exit 3",
        said.display(),
        gate.display()
    );
    let id = cluster.operator.run(["submit", "--on", "w1", &script]).ok();
    let id = id.trim();
    let whole = |text: String| text.ends_with('\n').then_some(text);
    let fence = fence_of(&wait_for("it has begun", || std::fs::read_to_string(&said).ok().and_then(whole)));
    wait_until("its output is there", || cluster.operator.run(["logs", id]).stdout == "begun\n");
    in_a_local_set(async {
        let (_door, registrar) = roles::worker(&cluster, "w2").await;
        let admin = Submitter::admin(&cluster).await;
        let lives = Carried {
            incarnation: Incarnation(1),
            living: vec![fence],
            ended: Vec::new(),
            never_started: Vec::new(),
        };
        let ended = Carried {
            incarnation: Incarnation(2),
            living: Vec::new(),
            ended: vec![fence],
            never_started: vec![fence],
        };
        for (role, registrar) in [("worker", registrar), ("admin", admin.local_worker("near").await)] {
            let member = Member::register(registrar, &[lives.clone(), ended.clone()]).await;
            for (method, _) in MATRIX.iter().filter(|(method, _)| may(method, role) == Own) {
                lie(method, &member, fence).await;

                let job = cluster.operator.job(id);
                let is = [&job["state"], &job["worker"], &job["attempt"]];
                assert_eq!(is, [&json!("running"), &json!("w1"), &json!(1)], "{method}");
                assert_eq!(cluster.operator.run(["logs", id]).stdout, "begun\n", "{method}");
                cluster.wait_for_worker("w1", "ready");
            }
        }
    });

    std::fs::write(gate, "").unwrap();

    cluster.operator.wait_for_state(id, "failed");
    assert_eq!(cluster.operator.run(["logs", id]).stdout, "begun\ndone\n");
    assert_eq!(cluster.operator.run(["wait", id]).code, 3);
}
