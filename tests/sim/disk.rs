//! The pool's disk: the log behind the program's own store trait, the history beside it, and the output of attempts.
//!
//! It can be planted to lie, in three ways that real disks and real mistakes have.

use std::collections::{BTreeMap, BTreeSet};

use clusterctl::core::id::{Epoch, Fence, JobId, RequestId, TaskId};
use clusterctl::core::output::{Chunk, Stream};
use clusterctl::core::record::{JobEnded, PutBack, Record, TaskEnded};
use clusterctl::store::memory::MemoryStore;
use clusterctl::store::{Commit, EachEntry, Store, StoreError};
use clusterctl::wire;

use crate::history::Written;
use crate::random::Random;

/// How a disk keeps its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honesty {
    Honest,
    /// Says that the last commit is durable, and forgets it in a crash.
    ForgetsTheLastCommit,
    /// Keeps everything but cancels.
    ForgetsCancels,
    /// Keeps of each lost worker that an attempt was lost.
    ForgetsLostWorkers,
}

/// All that survives a pool process.
#[derive(Debug)]
pub struct Disk {
    store: MemoryStore,
    honesty: Honesty,
    held_back: Option<Commit>,
    /// Numbers of the first entries of commits.
    rows: BTreeSet<u64>,
    pub history: Rows,
    pub output: Output,
}

/// The history.
#[derive(Debug, Default)]
pub struct Rows {
    pub jobs: BTreeMap<JobId, JobEnded>,
    pub tasks: BTreeMap<TaskId, TaskEnded>,
    pub by_request: BTreeMap<(String, RequestId), JobId>,
}

impl Disk {
    pub fn new(honesty: Honesty) -> Self {
        Self {
            store: MemoryStore::default(),
            honesty,
            held_back: None,
            rows: BTreeSet::new(),
            history: Rows::default(),
            output: Output::default(),
        }
    }

    /// The process is gone.
    pub fn crash(&mut self, random: &mut Random) {
        self.held_back = None;
        self.output.crash(random);
    }

    /// Everything that can be shown of every attempt's output, stream by stream: what is in the output store, and behind
    /// it what rides in the record of the end.
    pub fn kept(&self) -> BTreeMap<Fence, Written> {
        let stored = |(fence, kept): (&Fence, &Kept)| (*fence, kept.chunks.clone());
        let mut chunks: BTreeMap<Fence, Vec<Chunk>> = self.output.0.iter().map(stored).collect();
        for ended in self.history.tasks.values() {
            let there = chunks.entry(ended.end.fence).or_default();
            for chunk in &ended.end.tail {
                let end = there.last().map_or(0, Chunk::end);
                there.extend(chunk.clone().from_position(end));
            }
        }
        chunks.iter().map(|(fence, chunks)| (*fence, written(chunks))).collect()
    }

    /// Keeps the entries of a commit together, as a database does that has one row for them.
    fn write(&mut self, commit: &Commit) -> Result<(), StoreError> {
        if !commit.entries.is_empty() {
            self.rows.insert(commit.first_seq);
        }
        let keep_from = self.rows.range(..=commit.keep_from).next_back().copied().unwrap_or(1);
        self.store.append(&Commit { keep_from, ..commit.clone() })?;
        for row in &commit.jobs {
            let ended = wire::record::decode_job(&row.body).expect("a row is read as it was written");
            self.history.by_request.insert((row.owner.clone(), row.request), row.id);
            self.history.jobs.insert(row.id, ended);
        }
        for row in &commit.tasks {
            let ended = wire::record::decode_task(&row.body).expect("a row is read as it was written");
            self.history.tasks.insert(row.task, ended);
        }
        Ok(())
    }
}

impl Store for Disk {
    fn acquire(&mut self) -> Result<Epoch, StoreError> {
        if let Some(commit) = self.held_back.take() {
            self.write(&commit)?;
        }
        self.store.acquire()
    }

    fn load(&mut self, entry: &mut EachEntry<'_>) -> Result<u64, StoreError> {
        self.store.load(entry)
    }

    fn append(&mut self, commit: &Commit) -> Result<(), StoreError> {
        match self.honesty {
            Honesty::Honest => self.write(commit),
            Honesty::ForgetsTheLastCommit => match self.held_back.replace(commit.clone()) {
                Some(before) => self.write(&before),
                None => Ok(()),
            },
            Honesty::ForgetsCancels => self.write(&changed(commit, |record| {
                matches!(record, Record::CancelWanted { .. }).then_some(Record::PoolStarted(commit.epoch))
            })),
            Honesty::ForgetsLostWorkers => self.write(&changed(commit, |record| match record {
                Record::PutBack { fence, reason: PutBack::WorkerLost(reason) } => {
                    Some(Record::PutBack { fence, reason: PutBack::Retry(reason) })
                }
                _ => None,
            })),
        }
    }
}

/// The same commit with other records instead of some.
fn changed(commit: &Commit, change: impl Fn(Record) -> Option<Record>) -> Commit {
    let mut commit = commit.clone();
    for entry in &mut commit.entries {
        if let Some(other) = wire::record::decode(entry).ok().and_then(&change) {
            *entry = wire::record::encode(&other);
        }
    }
    commit
}

/// Output of attempts, as the program's own output store keeps it.
#[derive(Debug, Default)]
pub struct Output(BTreeMap<Fence, Kept>);

#[derive(Debug, Default)]
struct Kept {
    chunks: Vec<Chunk>,
    durable: u64,
}

/// Bytes before the ones that came are missing.
#[derive(Debug)]
pub struct Gap;

impl Output {
    /// Appends chunks of one attempt, and says where they end; bytes that are there already are passed over. They
    /// survive a crash only after `sync`.
    pub fn append(&mut self, fence: Fence, chunks: Vec<Chunk>) -> Result<u64, Gap> {
        let kept = self.0.entry(fence).or_default();
        for chunk in chunks {
            let end = kept.end();
            if chunk.position > end {
                return Err(Gap);
            }
            kept.chunks.extend(chunk.from_position(end));
        }
        Ok(kept.end())
    }

    /// What was written of an attempt before a position is durable.
    pub fn sync(&mut self, fence: Fence, end: u64) {
        let kept = self.0.entry(fence).or_default();
        kept.durable = kept.durable.max(end);
    }

    /// The position after the last byte that survives a crash.
    pub fn durable_end(&self, fence: Fence) -> u64 {
        self.0.get(&fence).map_or(0, |kept| kept.durable)
    }

    /// What was not synced is lost, or some of the last of it.
    fn crash(&mut self, random: &mut Random) {
        for kept in self.0.values_mut() {
            while kept.chunks.last().is_some_and(|last| last.position >= kept.durable) && random.chance(700) {
                kept.chunks.pop();
            }
            kept.durable = kept.end();
        }
    }
}

/// The bytes of each stream in chunks that follow on each other.
pub fn written(chunks: &[Chunk]) -> Written {
    let mut written = Written::default();
    for chunk in chunks {
        let stream = &mut written[if chunk.stream == Stream::Stdout { 0 } else { 1 }];
        assert_eq!(stream.len() as u64, chunk.offset, "an offset counts the bytes of its stream");
        stream.extend(&chunk.bytes);
    }
    written
}

impl Kept {
    fn end(&self) -> u64 {
        self.chunks.last().map_or(0, Chunk::end)
    }
}
