//! A copy of a pool's log, made while the pool writes it.

use std::path::PathBuf;

use clusterctl::core::id::Fence;
use clusterctl::core::record::Record;
use clusterctl::core::time::WallTime;
use clusterctl::wire;
use rusqlite::{Connection, OpenFlags};

/// A log, read up to some entry. It must be read more often than the pool drops its beginning.
pub struct Log {
    database: PathBuf,
    next: i64,
}

impl Log {
    pub fn new(database: PathBuf) -> Self {
        Self { database, next: 1 }
    }

    /// What became durable since it was read last.
    pub fn news(&mut self) -> Vec<Record> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.database, flags).unwrap();
        connection.busy_timeout(crate::cluster::DEADLINE).unwrap();
        let mut statement = connection
            .prepare("SELECT first_seq, entries FROM log WHERE first_seq >= ?1 ORDER BY first_seq")
            .unwrap();
        let rows = statement.query_map([self.next], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let mut records = Vec::new();
        for row in rows {
            let (first, entries): (i64, Vec<u8>) = row.unwrap();
            assert_eq!(first, self.next, "the log was read too late, or has a gap");
            let entries = split(&entries);
            self.next += i64::try_from(entries.len()).unwrap();
            records.extend(entries.into_iter().map(|entry| wire::record::decode(entry).unwrap()));
        }
        records
    }
}

/// Entries of a row, each with its length before it.
fn split(mut row: &[u8]) -> Vec<&[u8]> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = row.split_first_chunk::<4>() {
        let (entry, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        entries.push(entry);
        row = rest;
    }
    entries
}

/// When it was decided, if the record tells.
pub fn decided(record: &Record) -> Option<WallTime> {
    match record {
        Record::Submitted(submission) => Some(submission.at),
        Record::Assigned(assignment) => Some(assignment.at),
        Record::Ended(ended) => Some(ended.ended),
        Record::CancelWanted { at, .. } => Some(*at),
        _ => None,
    }
}

/// The attempt that it ends.
pub fn ends(record: &Record) -> Option<Fence> {
    match record {
        Record::Ended(ended) => Some(ended.end.fence),
        Record::PutBack { fence, .. } => Some(*fence),
        _ => None,
    }
}
