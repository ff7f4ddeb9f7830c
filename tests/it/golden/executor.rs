//! One frame of every kind of the executor's protocol, in both directions: an agent meets executors that are days old.

use std::collections::HashSet;
use std::fs;
use std::mem::discriminant;
use std::sync::LazyLock;
use std::time::Duration;

use clusterctl::core::attempt::{AttemptEnd, FromExecutor, Held, Launch, ToExecutor};
use clusterctl::core::id::Incarnation;
use clusterctl::core::outcome::{Cancel, Outcome, Usage};
use clusterctl::core::output::{Chunk, OutputTotals, Stream};
use clusterctl::core::time::Timestamp;
use clusterctl::schema::executor_capnp::{from_executor, to_executor};
use clusterctl::wire::executor::{decode_from, decode_to, encode_from, encode_to, hello, next_frame};

use super::{fence, fixture, members_of_union, writing};

/// What an agent says; `None` is its hello.
fn words_to() -> Vec<Option<ToExecutor>> {
    let launch = Launch {
        fence: fence(42, 7, 1),
        dial: 3,
        script: b"echo \"$1\" \xff\n".to_vec(),
        args: vec![b"a b".to_vec(), Vec::new()],
        env: vec![(b"LEVEL".to_vec(), b"11".to_vec()), (b"EMPTY".to_vec(), Vec::new())],
        cwd: Some(b"/srv/data".to_vec()),
        timeout: Some(Duration::from_secs(90)),
        lease_until: Some(Timestamp(60_000_000_000)),
        worker: "node-1".into(),
    };
    let plain = Launch {
        fence: fence(43, 0, 2),
        args: Vec::new(),
        env: Vec::new(),
        cwd: None,
        timeout: None,
        lease_until: None,
        ..launch.clone()
    };
    let words = [
        ToExecutor::Start(launch),
        ToExecutor::Start(plain),
        ToExecutor::End { fence: fence(42, 7, 1), how: Cancel::Interrupt },
        ToExecutor::End { fence: fence(42, 7, 1), how: Cancel::Terminate },
        ToExecutor::End { fence: fence(42, 7, 1), how: Cancel::Kill },
        ToExecutor::Lease(Timestamp(59_500_000_000)),
        ToExecutor::Acknowledged { fence: fence(42, 7, 1), position: 65_536 },
        ToExecutor::SendFrom { fence: fence(42, 7, 1), position: 1 << 40 },
        ToExecutor::Pause,
        ToExecutor::Unpause,
        ToExecutor::Forget(fence(43, 0, 2)),
        ToExecutor::Dial(4),
        ToExecutor::ExitWhenEmpty,
        ToExecutor::StopAll,
        ToExecutor::Starts { slots: 8, until: Timestamp(74_500_000_000) },
        ToExecutor::TakeBack(fence(42, 7, 1)),
    ];
    std::iter::once(None).chain(words.into_iter().map(Some)).collect()
}

/// What an executor says.
fn words_from() -> Vec<FromExecutor> {
    let outcomes = [
        Outcome::Exited(3),
        Outcome::Signaled(11),
        Outcome::TimedOut,
        Outcome::Cancelled(Cancel::Terminate),
        Outcome::Lost("its lease ran out".into()),
        Outcome::SpawnFailed("cannot run /bin/bash: no such file".into()),
        Outcome::Quarantined,
    ];
    let ended = outcomes.into_iter().zip(1..).map(|(outcome, n)| Held::Ended(end(n, outcome)));
    let held = [Held::Waiting(fence(50, 0, 1)), Held::Running(fence(51, 1, 2))].into_iter().chain(ended);
    let chunk = |stream, bytes: &[u8]| Chunk { position: 100, stream, offset: 40, bytes: bytes.to_vec() };
    vec![
        FromExecutor::Welcome {
            incarnation: Incarnation(0x1122_3344_5566_7788),
            held: held.collect(),
            dial: 4,
        },
        FromExecutor::Started(fence(42, 7, 1)),
        FromExecutor::Output { fence: fence(42, 7, 1), chunk: chunk(Stream::Stdout, b"out\n") },
        FromExecutor::Output { fence: fence(42, 7, 1), chunk: chunk(Stream::Stderr, b"\0\xff") },
        FromExecutor::Ended(end(42, Outcome::Exited(0))),
        FromExecutor::Refused(fence(43, 0, 2)),
    ]
}

fn end(job: u64, outcome: Outcome) -> AttemptEnd {
    AttemptEnd {
        fence: fence(job, 0, 1),
        outcome,
        usage: Usage {
            run: Duration::from_micros(1_500_001),
            cpu_user: Duration::from_micros(20),
            cpu_system: Duration::from_micros(3),
            peak_memory_bytes: 5 << 20,
        },
        totals: OutputTotals {
            stdout_bytes: 4,
            stderr_bytes: 2,
            stdout_hash: [0xaa; 32],
            stderr_hash: [0xbb; 32],
            dropped_bytes: 1,
        },
        tail: vec![
            Chunk { position: 0, stream: Stream::Stdout, offset: 0, bytes: b"out\n".to_vec() },
            Chunk { position: 4, stream: Stream::Stderr, offset: 0, bytes: b"no".to_vec() },
        ],
    }
}

/// The frames as this version makes them.
fn frames() -> Vec<u8> {
    let to = words_to().into_iter().map(|word| word.as_ref().map_or_else(hello, encode_to));
    let from = words_from().into_iter().map(|word| encode_from(&word));
    to.chain(from).flatten().collect()
}

/// The frames as they were written once.
static GOLDEN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = fixture("executor-v1.frames");
    if writing() {
        fs::write(&path, frames()).unwrap();
    }
    fs::read(path).unwrap()
});

#[test]
fn the_encoder_gives_the_golden_frames() {
    assert!(frames() == *GOLDEN, "an executor that is days old got other bytes: see tests/it/golden.rs");
}

#[test]
fn golden_frames_are_read() {
    let mut bodies = Vec::new();
    let mut rest = &GOLDEN[..];
    while let Some((body, length)) = next_frame(rest).unwrap() {
        bodies.push(body);
        rest = &rest[length..];
    }
    assert_eq!(rest, b"");

    let (to, from) = bodies.split_at(words_to().len());

    assert_eq!(to.iter().map(|body| decode_to(body).unwrap()).collect::<Vec<_>>(), words_to());
    assert_eq!(from.iter().map(|body| decode_from(body).unwrap()).collect::<Vec<_>>(), words_from());
}

#[test]
fn every_kind_of_word_is_among_the_golden() {
    let to: HashSet<_> = words_to().iter().map(|word| word.as_ref().map(discriminant)).collect();
    let from: HashSet<_> = words_from().iter().map(discriminant).collect();

    assert_eq!(to.len(), members_of_union::<to_executor::Owned>());
    assert_eq!(from.len(), members_of_union::<from_executor::Owned>());
}
