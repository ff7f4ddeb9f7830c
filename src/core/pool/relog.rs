//! Keeps the log short without a pause: each turn repeats a few of the things whose last full record is oldest, so that
//! the log's start can move up.
//!
//! It knows only numbers of records and names of things, not what they are.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::id::{Fingerprint, JobId, TokenId, WorkerId};
use crate::core::record::Record;
use crate::core::time::{Now, Timestamp};

use super::Pool;

/// How many things a turn repeats at most.
const PER_TURN: usize = 8;
/// The log may be this much longer than twice the number of things.
const SLACK: u64 = 4096;

/// Something that has a full record in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Counters,
    Job(JobId),
    Worker(WorkerId),
    Client(Fingerprint),
    Token(TokenId),
}

/// Where each thing's last full record stands.
#[derive(Debug, Default)]
pub(super) struct Relog {
    by_item: BTreeMap<Item, u64>,
    by_seq: BTreeSet<(u64, Item)>,
    /// Number of the record that is being carried out.
    current: u64,
    /// Number of the first record of the present turn.
    first: u64,
}

impl Relog {
    /// The record with this number is carried out next, in replay.
    pub(super) fn expect_next(&mut self, seq: u64) {
        self.current = seq;
        self.first = seq + 1;
    }

    /// A full record of this thing is being carried out.
    pub(super) fn logged(&mut self, item: Item) {
        if let Some(old) = self.by_item.insert(item, self.current) {
            self.by_seq.remove(&(old, item));
        }
        self.by_seq.insert((self.current, item));
    }

    /// A thing is gone.
    pub(super) fn forget(&mut self, item: Item) {
        if let Some(old) = self.by_item.remove(&item) {
            self.by_seq.remove(&(old, item));
        }
    }

    /// The record that will stand at this place of the present turn is carried out next.
    pub(super) fn at(&mut self, place: usize) {
        self.first = self.first.max(1);
        self.current = self.first + place as u64;
    }

    /// Ends a turn of so many records: the number of the first, and of the oldest that is still needed.
    pub(super) fn end_turn(&mut self, records: usize) -> (u64, u64) {
        let first = self.first.max(1);
        self.first = first + records as u64;
        (first, self.by_seq.first().map_or(self.first, |&(seq, _)| seq))
    }

    /// The things that are worth repeating now.
    fn overdue(&self, records: usize) -> Vec<Item> {
        let next = self.first + records as u64;
        let long = 2 * self.by_item.len() as u64 + SLACK;
        self.by_seq
            .iter()
            .take(PER_TURN)
            .filter(|(seq, _)| next - seq > long)
            .map(|&(_, item)| item)
            .collect()
    }
}

impl Pool {
    /// Repeats what is overdue.
    pub(super) fn relog(&mut self, now: Now) {
        for item in self.relog.overdue(self.turn.len()) {
            if let Some(record) = self.full_record(now.at, item) {
                self.record(now, record);
            }
        }
    }

    /// All that the log has to tell, as the records by which it would be told anew.
    pub fn remembered(&self, now: Timestamp) -> Vec<Record> {
        self.relog.by_item.keys().filter_map(|&item| self.full_record(now, item)).collect()
    }

    fn full_record(&self, now: Timestamp, item: Item) -> Option<Record> {
        Some(match item {
            Item::Counters => Record::Counters(self.counters),
            Item::Job(id) => Record::Job(Box::new(self.jobs.get(&id)?.state(now))),
            Item::Worker(id) => Record::Worker(self.workers.get(&id)?.state.clone()),
            Item::Client(key) => Record::Client(self.clients.get(&key)?.clone()),
            Item::Token(id) => Record::Token(self.tokens.get(&id)?.clone()),
        })
    }
}
