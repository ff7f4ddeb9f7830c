//! A state directory's durable part: the log with every kind of record, the history of ended jobs, a segment of output.

mod life;

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::mem::discriminant;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use clusterctl::core::id::{Epoch, Fence, JobId, JobNonce, Name, RequestId};
use clusterctl::core::job::{Array, JobSpec};
use clusterctl::core::outcome::Usage;
use clusterctl::core::output::{OutputTotals, Stream};
use clusterctl::core::pool::{Host, Pool, Submit, Viewer, info_of_ended_task};
use clusterctl::core::time::{Now, Timestamp, WallTime};
use clusterctl::core::timing::Timing;
use clusterctl::core::view::{JobFilter, JobInfo, TaskInfo, TaskState};
use clusterctl::schema::record_capnp::record;
use clusterctl::store::output::{OutputRead, OutputWriter};
use clusterctl::store::sqlite::SqliteStore;
use clusterctl::store::{self, History, JobQuery, Store};
use clusterctl::wire;

use super::{fence, fixture, members_of_union, writing};

const FILES: [&str; 2] = ["queue.db", "output/0000000001.out"];
/// 2026-01-01, in milliseconds.
const NEW_YEAR: i64 = 1_767_225_600_000;
const SECOND_MS: i64 = 1000;
/// What the attempt that runs has written so far.
const WRITTEN: [(Stream, &[u8]); 2] = [(Stream::Stdout, b"epoch 1\n"), (Stream::Stderr, b"loss \xff\n")];

/// The files in the fixtures, written anew if that is asked for.
static WRITTEN_ANEW: LazyLock<()> = LazyLock::new(|| {
    if writing() {
        copy(today().path(), &fixture("store-v1"));
    }
});

/// A copy of the golden state, for a pool of today.
fn golden() -> tempfile::TempDir {
    LazyLock::force(&WRITTEN_ANEW);
    let directory = tempfile::tempdir().unwrap();
    copy(&fixture("store-v1"), directory.path());
    directory
}

/// The same life, written by this version.
fn today() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    life::write(directory.path());
    directory
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("output")).unwrap();
    for file in FILES {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

fn new_pool() -> Pool {
    let host = Host { boot_id: "pool-boot".into(), uid: 1000, owner: "root".into() };
    Pool::new(Timing::default(), host)
}

/// The attempt of job 76 that runs.
fn running_fence() -> Fence {
    fence(76, 0, 2)
}

fn replayed(directory: &Path) -> (SqliteStore, Pool) {
    let mut store = SqliteStore::open(directory).unwrap();
    let mut pool = new_pool();
    store::replay(&mut store, &mut pool, Timestamp(0)).unwrap();
    (store, pool)
}

#[test]
fn the_golden_state_is_seen_as_it_was_written() {
    let directory = golden();

    let (_store, pool) = replayed(directory.path());

    pool.check();
    insta::assert_snapshot!(seen(&pool, directory.path()), @r#"
    live 70 of bob: 3 queued, 2 starting, 1 done, 2 failed, 1 lost, failed [(5, 6), (8, 8)], submitted -172800s, started -172800s, ended never
      script train \"$CLUSTERCTL_TASK\"; name sweep; where zone=b; retries 3; array 1-8,20
      1#1 starting at old-1
      2#2 starting at old-1, cancel wanted
      3#0 queued at no worker
      4#0 queued at no worker
      20#2 queued at no worker
    live 76 of ann: 1 starting, failed [], submitted +26s, started +27s, ended never
      script train; where zone=a && (gpu || !spot)
      0#2 starting at node-1
    live 77 of ann: 7 queued, 1 starting, 2 cancelled, failed [(18, 19)], submitted +29s, started +30s, ended never
      script render; where name=local; priority 7; lost after 3600s; array 10-19%4
      10#1 starting at local, cancel wanted
      11#0 queued at no worker
      12#0 queued at no worker
      13#0 queued at no worker
      14#0 queued at no worker
      15#0 queued at no worker
      16#0 queued at no worker
      17#0 queued at no worker
    ended 71 of ann: 1 done, failed [], submitted +10s, started +11s, ended +12s
      script echo \"$1\"; args a b|\xfe; env LANG=C; cwd /srv; name hello; where name=node-1; timeout 60s
      0#1 done at node-1, Exited(0) after 1.5ms, 700µs + 300µs, 3145728 bytes; output 4 + 0 (0) tail ["a b\\n"]
    ended 72 of ann: 1 done, 3 failed, failed [(2, 4)], submitted +13s, started +14s, ended +18s
      script exit 3; where name=local; retries 1; array 1-4%1
      1#2 done at local, Exited(0) after 1.5ms, 700µs + 300µs, 3145728 bytes; output 0 + 0 (0) tail []
      2#1 failed at local, Exited(3) after 1.5ms, 700µs + 300µs, 3145728 bytes; output 0 + 0 (0) tail []
      3#1 failed at local, Signaled(9) after 1.5ms, 700µs + 300µs, 3145728 bytes; output 0 + 0 (0) tail []
      4#1 failed at local, TimedOut after 1.5ms, 700µs + 300µs, 3145728 bytes; output 0 + 0 (0) tail []
    ended 73 of ann: 1 cancelled, failed [(0, 0)], submitted +19s, started never, ended +20s
      script never; where name=nobody; priority -5
    ended 74 of ann: 1 cancelled, failed [(0, 0)], submitted +21s, started +22s, ended +23s
      script sleep 1d; where name=node-1
      0#1 cancelled at node-1, Cancelled(Terminate) after 1.5ms, 700µs + 300µs, 3145728 bytes; output 0 + 0 (0) tail []
    ended 75 of ann: 1 lost, failed [(0, 0)], submitted +24s, started +25s, ended +25s
      script sleep 2d; where name=gone
      0#1 lost at gone, Lost("its worker was removed") after 0ns, 0ns + 0ns, 0 bytes; output 0 + 0 (0) tail []
    worker local away 1 slots, 1 used, 68719476736 bytes, joined +9s, no key, name=local os=linux
    worker node-1 away 1 slots, 1 used, 68719476736 bytes, joined +2s, sha256:0505…0505, name=node-1 os=linux zone=a
    worker old-1 away 2 slots, 2 used, 68719476736 bytes, joined -777600s, sha256:0404…0404, gpu=a100 name=old-1 zone=b
    key sha256:0404…0404 Worker(WorkerId(4), "old-1")
    key sha256:0505…0505 Worker(WorkerId(5), "node-1")
    key sha256:0606…0606 Client { name: "ann", owner: "ann" }
    key sha256:0808…0808 Client { name: "script", owner: "ann" }
    TokenInfo { id: TokenId(10), role: Worker, name: None, uses_left: Some(1), expires: WallTime(1767229201000), state: Valid }
    TokenInfo { id: TokenId(11), role: Client, name: Some("ann"), uses_left: Some(0), expires: WallTime(1767229203000), state: Spent }
    TokenInfo { id: TokenId(12), role: Client, name: Some("script"), uses_left: None, expires: WallTime(1767229204000), state: Valid }
    TokenInfo { id: TokenId(13), role: Client, name: None, uses_left: None, expires: WallTime(1767229205000), state: Revoked }
    Load { workers: 0, silent: 0, slots: 0, used: 0, queued: 10, running: 4, unknown: 0, newest: JobId(77) }
    "#);
}

#[test]
fn a_pool_goes_on_from_the_golden_state() {
    let directory = golden();
    let (mut store, mut pool) = replayed(directory.path());
    let newest = pool.load().newest;
    let epoch = store.acquire().unwrap();
    let now = Now { at: Timestamp(0), wall: WallTime(NEW_YEAR) };
    pool.start(now, epoch);
    let submit = Submit {
        viewer: Viewer::client("ann", "ann", "10.0.0.1"),
        request: RequestId([99; 16]),
        nonce: JobNonce(99),
        spec: Arc::new(JobSpec::new("true")),
    };

    let id = pool.submit(now, submit).unwrap();
    store::commit(&mut store, epoch, pool.poll_batch(now).unwrap()).unwrap();
    drop(store);

    assert_eq!((id, epoch), (JobId(newest.0 + 1), Epoch(3)));
    let (_store, again) = replayed(directory.path());
    again.check();
    assert_eq!(again.load().newest, id);
}

#[test]
fn every_kind_of_record_is_in_the_golden_log_and_in_one_of_today() {
    for directory in [golden(), today()] {
        let mut kinds = HashSet::new();

        let mut store = SqliteStore::open(directory.path()).unwrap();
        let each = &mut |_, bytes: &[u8]| {
            kinds.insert(discriminant(&wire::record::decode(bytes).unwrap()));
            Ok(())
        };
        store.load(each).unwrap();

        assert_eq!(kinds.len(), members_of_union::<record::Owned>());
    }
}

#[test]
fn golden_output_is_read() {
    let directory = golden();

    let (_, reader) = OutputWriter::open(&directory.path().join("output"), 1 << 30).unwrap();

    let OutputRead::Chunks(chunks) = reader.read(running_fence(), 0, 1000).unwrap() else { panic!() };
    let written: Vec<_> = chunks.iter().map(|chunk| (chunk.stream, &chunk.bytes[..])).collect();
    assert_eq!(written, WRITTEN);
}

/// All that a pool shows, and its history.
fn seen(pool: &Pool, directory: &Path) -> String {
    let now = Now { at: Timestamp(0), wall: WallTime(NEW_YEAR + 60 * SECOND_MS) };
    let mut text = String::new();
    let admin = Viewer::admin("root");
    for info in pool.list(&admin, &JobFilter::default(), None, 100).jobs.iter().rev() {
        writeln!(text, "live {}", job_line(info)).unwrap();
        for task in pool.live_tasks(&admin, info.id, (None, 100), None).unwrap() {
            writeln!(text, "  {}", task_line(&task)).unwrap();
        }
    }
    let mut history = SqliteStore::history(directory).unwrap();
    for row in history.jobs(&JobQuery::default(), 100).unwrap().0.iter().rev() {
        let ended = wire::record::decode_job(&row.body).unwrap();
        assert_eq!((row.id, &row.owner), (ended.submission.job, &ended.submission.owner));
        assert_eq!((row.state, row.request), (ended.counts.state(), ended.submission.request));
        writeln!(text, "ended {}", job_line(&Pool::info_of_ended(&ended))).unwrap();
        for task in history.tasks(row.id, (None, 100), None).unwrap() {
            let ended = wire::record::decode_task(&task.body).unwrap();
            assert_eq!((task.task, task.state), (ended.end.fence.task, TaskState::of(&ended.end.outcome)));
            let tail: Vec<_> =
                ended.end.tail.iter().map(|chunk| chunk.bytes.escape_ascii().to_string()).collect();
            writeln!(text, "  {} tail {tail:?}", task_line(&info_of_ended_task(&ended))).unwrap();
        }
    }
    for worker in pool.worker_page(now, &Viewer::admin("root"), "", 100).workers {
        let key = worker.fingerprint.map_or("no key".into(), |key| format!("{key:.4}"));
        let labels: Vec<_> = worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        writeln!(
            text,
            "worker {} {} {} slots, {} used, {} bytes, joined {}, {key}, {}",
            worker.name,
            worker.state.as_str(),
            worker.slots,
            worker.used,
            worker.memory_bytes,
            since_new_year(worker.joined),
            labels.join(" "),
        )
        .unwrap();
    }
    for (key, identity) in pool.identities() {
        writeln!(text, "key {key:.4} {identity:?}").unwrap();
    }
    for token in pool.tokens(now) {
        writeln!(text, "{token:?}").unwrap();
    }
    write!(text, "{:?}", pool.load()).unwrap();
    text
}

fn job_line(info: &JobInfo) -> String {
    let counts = TaskState::ALL.into_iter().filter(|state| info.counts.of(*state) > 0);
    let counts: Vec<String> =
        counts.map(|state| format!("{} {}", info.counts.of(state), state.as_str())).collect();
    format!(
        "{} of {}: {}, failed {:?}, submitted {}, started {}, ended {}\n  {}",
        info.id,
        info.owner,
        counts.join(", "),
        info.failed,
        since_new_year(info.submitted),
        info.started.map_or("never".into(), since_new_year),
        info.ended.map_or("never".into(), since_new_year),
        spec_line(&info.spec),
    )
}

fn spec_line(spec: &JobSpec) -> String {
    let shown = |bytes: &Vec<u8>| bytes.escape_ascii().to_string();
    let args: Vec<String> = spec.args.iter().map(shown).collect();
    let env: Vec<String> = spec.env.iter().map(|(name, value)| shown(name) + "=" + &shown(value)).collect();
    let fields = [
        ("script", Some(shown(&spec.script))),
        ("args", (!args.is_empty()).then(|| args.join("|"))),
        ("env", (!env.is_empty()).then(|| env.join("|"))),
        ("cwd", spec.cwd.as_ref().map(shown)),
        ("name", spec.name.as_ref().map(Name::to_string)),
        ("where", (!spec.constraint.is_any()).then(|| spec.constraint.to_string())),
        ("timeout", spec.timeout.map(|timeout| format!("{timeout:?}"))),
        ("retries", (spec.retries > 0).then(|| spec.retries.to_string())),
        ("priority", (spec.priority != 0).then(|| spec.priority.to_string())),
        ("lost after", spec.lost_after.map(|after| format!("{after:?}"))),
        ("array", spec.array.as_ref().map(Array::to_string)),
    ];
    let fields = fields.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    fields.collect::<Vec<_>>().join("; ")
}

fn task_line(task: &TaskInfo) -> String {
    let end = task.end.as_ref().map(|end| {
        let Usage { run, cpu_user, cpu_system, peak_memory_bytes } = end.usage;
        let OutputTotals { stdout_bytes, stderr_bytes, dropped_bytes, .. } = end.totals;
        format!(
            ", {:?} after {run:?}, {cpu_user:?} + {cpu_system:?}, {peak_memory_bytes} bytes; \
             output {stdout_bytes} + {stderr_bytes} ({dropped_bytes})",
            end.outcome
        )
    });
    format!(
        "{}#{} {} at {}{}{}",
        task.index,
        task.attempt,
        task.state.as_str(),
        task.worker.as_deref().unwrap_or("no worker"),
        if task.cancelling { ", cancel wanted" } else { "" },
        end.unwrap_or_default(),
    )
}

fn since_new_year(at: WallTime) -> String {
    format!("{:+}s", (at.0 - NEW_YEAR) / SECOND_MS)
}
