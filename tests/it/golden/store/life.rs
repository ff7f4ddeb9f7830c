//! How the golden state was written: what is left of an earlier life, and then a short one in which everything happens.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clusterctl::core::access::{Role, TokenWish};
use clusterctl::core::attempt::AttemptEnd;
use clusterctl::core::id::{
    AttemptNumber, ConnectionId, Epoch, Fence, Fingerprint, Incarnation, JobId, JobNonce, Name, RequestId,
    TokenId, WorkerId,
};
use clusterctl::core::job::{Array, JobSpec};
use clusterctl::core::label::{Constraint, Labels};
use clusterctl::core::membership::{Facts, Report, SubmitterTrust, Tenure};
use clusterctl::core::outcome::{Cancel, Outcome, Usage};
use clusterctl::core::output::{Chunk, OutputTotals, Stream};
use clusterctl::core::pool::{Effect, EnrolWish, NameChoice, Pool, Submit, Viewer};
use clusterctl::core::record::{
    ActiveState, Drain, JobState, Record, Spent, Submission, TokenState, Validity, WorkerState,
};
use clusterctl::core::time::{Now, Timestamp, WallTime};
use clusterctl::core::view::Counts;
use clusterctl::store::output::OutputWriter;
use clusterctl::store::sqlite::SqliteStore;
use clusterctl::store::{self, Commit, Store};
use clusterctl::wire;

use super::super::fence;
use super::{NEW_YEAR, SECOND_MS, WRITTEN, replayed, running_fence};

const DAY_MS: i64 = 24 * 3600 * SECOND_MS;

/// Writes the durable part of a state directory.
pub(super) fn write(directory: &Path) {
    let mut store = SqliteStore::open(directory).unwrap();
    let epoch = store.acquire().unwrap();
    let entries = earlier_life().iter().map(wire::record::encode).collect();
    store.append(&Commit { epoch, first_seq: 5001, entries, keep_from: 5001, ..Commit::default() }).unwrap();
    drop(store);

    let (mut store, pool) = replayed(directory);
    let epoch = store.acquire().unwrap();
    let mut life = Life { pool, store, epoch, now: Now { at: Timestamp(0), wall: WallTime(NEW_YEAR) } };
    life.pool.start(life.now, epoch);
    life.turn();
    life.keys_come_and_go();
    life.workers_join();
    life.jobs_end();
    life.jobs_live();

    let (mut writer, _) = OutputWriter::open(&directory.join("output"), 1 << 30).unwrap();
    let mut at = Chunk { position: 0, stream: Stream::Stdout, offset: 0, bytes: Vec::new() };
    for (stream, bytes) in WRITTEN {
        at = Chunk { position: at.end(), stream, offset: 0, bytes: bytes.to_vec() };
        writer.append(running_fence(), vec![at.clone()]).unwrap();
    }
    writer.sync().unwrap();
}

/// Whole states, as they are repeated so that the log before them may go.
fn earlier_life() -> Vec<Record> {
    let worker = WorkerState {
        id: WorkerId(4),
        name: "old-1".into(),
        key: Some(Fingerprint([4; 32])),
        bound: Labels::from([("zone".into(), "b".into())]),
        joined: WallTime(NEW_YEAR - 9 * DAY_MS),
        validity: Validity::Standing,
        facts: Some(Facts { labels: Labels::from([("gpu".into(), "a100".into())]), ..facts(4, 2) }),
        drain: Some(Drain { deadline: Some(Duration::from_secs(60)) }),
    };
    let spec = JobSpec {
        name: Some(Name::parse("sweep").unwrap()),
        array: Some(Array::parse("1-8,20").unwrap()),
        constraint: Constraint::parse("zone=b").unwrap(),
        retries: 3,
        ..JobSpec::new("train \"$CLUSTERCTL_TASK\"")
    };
    let active = |index, cancel| ActiveState {
        index,
        attempt: AttemptNumber(index),
        spent: Spent { attempts: index - 1, workers: 0 },
        worker: WorkerId(4),
        incarnation: Incarnation(4),
        at: WallTime(NEW_YEAR - DAY_MS),
        cancel,
        unknown: Duration::from_millis(7500),
    };
    let job = JobState {
        submission: Submission {
            job: JobId(70),
            nonce: JobNonce(0x1046),
            owner: "bob".into(),
            request: RequestId([70; 16]),
            spec: Arc::new(spec),
            at: WallTime(NEW_YEAR - 2 * DAY_MS),
        },
        waiting: vec![(3, 4), (20, 20)],
        active: vec![active(1, None), active(2, Some(Cancel::Terminate))],
        tried: vec![(20, AttemptNumber(2), Spent { attempts: 1, workers: 1 })],
        over: Counts([0, 0, 0, 0, 1, 2, 0, 1]),
        failed: vec![(5, 6), (8, 8)],
        started: Some(WallTime(NEW_YEAR - 2 * DAY_MS)),
    };
    let token = TokenState {
        id: TokenId(9),
        role: Role::Client,
        secret_hash: [9; 32],
        name: None,
        owner: None,
        labels: Labels::new(),
        uses_left: None,
        expires: WallTime(NEW_YEAR - 3 * DAY_MS),
        validity: Validity::Standing,
        admitted: Vec::new(),
    };
    let once = WorkerState { id: WorkerId(3), name: "once".into(), key: None, drain: None, ..worker.clone() };
    vec![
        Record::Worker(once),
        Record::WorkerForgotten(WorkerId(3)),
        Record::Worker(worker),
        Record::Job(Box::new(job)),
        Record::Token(token),
    ]
}

/// A pool that lives.
struct Life {
    pool: Pool,
    store: SqliteStore,
    epoch: Epoch,
    now: Now,
}

impl Life {
    /// Ends a turn a second later, and gives back the attempts that it started.
    fn turn(&mut self) -> Vec<Fence> {
        self.now.at = self.now.at + Duration::from_secs(1);
        self.now.wall.0 += SECOND_MS;
        let Some(batch) = self.pool.poll_batch(self.now) else { return Vec::new() };
        self.pool.check();
        let effects = store::commit(&mut self.store, self.epoch, batch).unwrap();
        let started = |effect: Effect| match effect {
            Effect::Start { fences, .. } => fences,
            _ => Vec::new(),
        };
        effects.into_iter().flat_map(started).collect()
    }

    fn submit(&mut self, spec: JobSpec) -> JobId {
        spec.check().unwrap();
        let id = self.pool.load().newest.0 + 1;
        let request = RequestId([u8::try_from(id).unwrap(); 16]);
        let submit = Submit {
            viewer: Viewer::client("ann", "ann", "10.0.0.1"),
            request,
            nonce: fence(id, 0, 0).nonce,
            spec: Arc::new(spec),
        };
        self.pool.submit(self.now, submit).unwrap()
    }

    fn report(&mut self, connection: u64, report: Report) -> Vec<Fence> {
        self.pool.report(self.now, ConnectionId(connection), vec![report]);
        self.turn()
    }

    fn token(&mut self, wish: TokenWish) -> TokenId {
        let id = self.pool.create_token(self.now, &Viewer::admin("root"), wish, [1; 32]).unwrap();
        self.turn();
        id
    }

    fn enrol(&mut self, token: TokenId, role: Role, key: u8, name: &str) {
        let wish = EnrolWish {
            token,
            secret_hash: [1; 32],
            role,
            key: Fingerprint([key; 32]),
            name: Name::parse(name).unwrap(),
            choice: NameChoice::Default,
            source: "10.0.0.1".into(),
        };
        self.pool.enrol(self.now, wish).unwrap();
        self.turn();
    }

    fn keys_come_and_go(&mut self) {
        let wish = TokenWish {
            role: Role::Worker,
            name: None,
            owner: None,
            labels: Labels::from([("zone".into(), "a".into())]),
            uses: Some(2),
            ttl: Duration::from_secs(3600),
        };
        // The first forgets the one of the earlier life, whose time has been over for days.
        let workers = self.token(wish.clone());
        self.enrol(workers, Role::Worker, 5, "node-1");
        let name = |name| Some(Name::parse(name).unwrap());
        let ann =
            TokenWish { role: Role::Client, name: name("ann"), labels: Labels::new(), uses: Some(1), ..wish };
        let script = TokenWish { name: name("script"), owner: name("ann"), uses: None, ..ann.clone() };
        let revoked = TokenWish { name: None, owner: None, ..script.clone() };
        let (ann, script, revoked) = (self.token(ann), self.token(script), self.token(revoked));
        self.enrol(ann, Role::Client, 6, "x");
        self.enrol(script, Role::Client, 7, "x");
        let (before, after) = (Fingerprint([7; 32]), Fingerprint([8; 32]));
        self.pool.renew_key(self.now, ConnectionId(9), (before, after), "10.0.0.1".into()).unwrap();
        self.pool.revoke_token(self.now, &Viewer::admin("root"), revoked).unwrap();
        self.turn();
    }

    /// One that is let in by a key, one of the pool's machine, and one that is removed again.
    fn workers_join(&mut self) {
        for name in ["local", "gone"] {
            self.pool.local_worker(self.now, &Name::parse(name).unwrap(), NameChoice::Given).unwrap();
        }
        for id in [5, 6, 7] {
            let facts = facts(id, 1);
            self.pool.register(self.now, WorkerId(id), ConnectionId(id), facts, Vec::new()).unwrap();
        }
        self.turn();
    }

    fn jobs_end(&mut self) {
        let on = |name: &str| Constraint::parse(&format!("name={name}")).unwrap();
        self.submit(JobSpec {
            args: vec![b"a b".to_vec(), b"\xfe".to_vec()],
            env: vec![(b"LANG".to_vec(), b"C".to_vec())],
            cwd: Some(b"/srv".to_vec()),
            timeout: Some(Duration::from_secs(60)),
            name: Some(Name::parse("hello").unwrap()),
            constraint: on("node-1"),
            ..JobSpec::new("echo \"$1\"")
        });
        let plain = self.turn()[0];
        self.report(5, Report::Started(plain));
        self.report(5, Report::Ended(end(plain, Outcome::Exited(0), b"a b\n")));

        let array = Some(Array::parse("1-4%1").unwrap());
        self.submit(JobSpec { array, retries: 1, constraint: on("local"), ..JobSpec::new("exit 3") });
        let mut next = self.turn();
        let outcomes = [
            Outcome::SpawnFailed("cannot make a process".into()),
            Outcome::Exited(0),
            Outcome::Exited(3),
            Outcome::Signaled(9),
            Outcome::TimedOut,
        ];
        for outcome in outcomes {
            next = self.report(6, Report::Ended(end(next[0], outcome, b"")));
        }

        self.submit(JobSpec { constraint: on("nobody"), priority: -5, ..JobSpec::new("never") });
        self.turn();
        self.cancel(73);

        self.submit(JobSpec { constraint: on("node-1"), ..JobSpec::new("sleep 1d") });
        let cancelled = self.turn()[0];
        self.cancel(74);
        self.report(5, Report::Ended(end(cancelled, Outcome::Cancelled(Cancel::Terminate), b"")));

        self.submit(JobSpec { constraint: on("gone"), ..JobSpec::new("sleep 2d") });
        self.turn();
        self.pool.remove_worker(self.now, &Viewer::admin("root"), "gone").unwrap();
        self.turn();
    }

    /// One runs after it was taken back once; one has a task at a worker, and waits for the rest.
    fn jobs_live(&mut self) {
        let node = Constraint::parse("zone=a && (gpu || !spot)").unwrap();
        self.submit(JobSpec { constraint: node, ..JobSpec::new("train") });
        let first = self.turn()[0];
        let again = self.report(5, Report::TakenBack(first));
        assert_eq!(again, [running_fence()]);
        self.report(5, Report::Started(again[0]));

        let lost_after = Some(Duration::from_secs(3600));
        let (array, constraint) =
            (Some(Array::parse("10-19%4").unwrap()), Constraint::parse("name=local").unwrap());
        self.submit(JobSpec { array, constraint, lost_after, priority: 7, ..JobSpec::new("render") });
        self.turn();
        self.pool
            .cancel(
                self.now,
                &Viewer::client("ann", "ann", "10.0.0.1"),
                JobId(77),
                &[(10, 10), (18, 99)],
                Cancel::Interrupt,
            )
            .unwrap();
        self.turn();
    }

    fn cancel(&mut self, job: u64) {
        let ann = Viewer::client("ann", "ann", "10.0.0.1");
        self.pool.cancel(self.now, &ann, JobId(job), &[], Cancel::Terminate).unwrap();
        self.turn();
    }
}

fn facts(id: u64, slots: u32) -> Facts {
    Facts {
        boot_id: format!("boot-{id}"),
        incarnation: Incarnation(id),
        dial: 1,
        slots,
        labels: Labels::from([("os".into(), "linux".into())]),
        memory_bytes: 64 << 30,
        uid: 1001,
        trust: SubmitterTrust::OwnerOnly,
        tenure: Tenure::Lasting,
        user: "jobs".into(),
        pid: 4321,
    }
}

fn end(fence: Fence, outcome: Outcome, out: &[u8]) -> AttemptEnd {
    let chunk = Chunk { position: 0, stream: Stream::Stdout, offset: 0, bytes: out.to_vec() };
    AttemptEnd {
        fence,
        outcome,
        usage: Usage {
            run: Duration::from_micros(1500),
            cpu_user: Duration::from_micros(700),
            cpu_system: Duration::from_micros(300),
            peak_memory_bytes: 3 << 20,
        },
        totals: OutputTotals {
            stdout_bytes: out.len() as u64,
            stderr_bytes: 0,
            stdout_hash: *blake3::hash(out).as_bytes(),
            stderr_hash: *blake3::hash(b"").as_bytes(),
            dropped_bytes: 0,
        },
        tail: if out.is_empty() { Vec::new() } else { vec![chunk] },
    }
}
