//! The embedded store: one SQLite file. The log is one row a commit, hash-chained; the history one row an ended job or
//! task.
//!
//! WAL with synchronous=FULL: a commit is on the disk when `append` returns. On a network file system a rollback journal
//! takes the place of the WAL, and readers and the writer wait for each other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::{
    AuditRow, Commit, EachEntry, History, JobQuery, JobRow, Store, StoreError, TaskRow, medium, wal,
};
use crate::core::id::{Epoch, JobId, RequestId, TaskId};
use crate::core::limits;
use crate::core::time::WallTime;
use crate::core::view::TaskState;
use crate::wire;

/// So long one connection waits for another.
pub(super) const BUSY: Duration = Duration::from_secs(5);

/// The database's name in the state directory.
pub const FILE: &str = "queue.db";

/// Each step brings a database from the version of its index to the next.
const MIGRATIONS: [&str; 3] = [
    "
    CREATE TABLE epoch (only INTEGER PRIMARY KEY CHECK (only = 0), epoch INTEGER NOT NULL) STRICT;
    INSERT INTO epoch VALUES (0, 0);
    CREATE TABLE log (
        first_seq INTEGER PRIMARY KEY,
        count INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        entries BLOB NOT NULL,
        before BLOB NOT NULL,
        chain BLOB NOT NULL
    ) STRICT;
    CREATE TABLE job (
        id INTEGER PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT,
        request BLOB NOT NULL,
        submitted_ms INTEGER NOT NULL,
        ended_ms INTEGER NOT NULL,
        state TEXT NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX job_by_request ON job (owner, request);
    CREATE INDEX job_by_end ON job (ended_ms);
    CREATE TABLE task (
        job INTEGER NOT NULL,
        task INTEGER NOT NULL,
        state TEXT NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (job, task)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        before BLOB NOT NULL,
        body BLOB NOT NULL,
        chain BLOB NOT NULL
    ) STRICT;
",
    // A row of before has none.
    "
    ALTER TABLE job ADD COLUMN sum INTEGER;
    ALTER TABLE task ADD COLUMN sum INTEGER;
",
];

/// The writer.
pub struct SqliteStore {
    connection: Connection,
    epoch: Epoch,
    chain: [u8; 32],
    trimmed: u64,
}

/// A reader on a connection of its own.
pub struct SqliteHistory {
    connection: Connection,
}

impl SqliteStore {
    /// Opens the store of a state directory, or makes it. The directory's lock must be held.
    ///
    /// # Errors
    /// `Damaged` if the middle of its write-ahead log is, or a page; then nothing that it holds has been touched.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let remote = medium::remote(directory)?;
        if let Some(name) = remote {
            tracing::warn!(
                directory = %directory.display(),
                "the state lies on a network file system ({name}): slower, and locks may not hold"
            );
        }
        Self::open_with(directory, if remote.is_some() { "TRUNCATE" } else { "WAL" })
    }

    fn open_with(directory: &Path, journal: &str) -> Result<Self, StoreError> {
        let path = path(directory);
        wal::cut(&path)?;
        let connection = Connection::open(&path)?;
        connection.busy_timeout(BUSY)?;
        let _: String =
            connection.query_row(&format!("PRAGMA journal_mode = {journal}"), [], |row| row.get(0))?;
        connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;")?;
        make_private(&path)?;
        check_pages(&connection)?;
        migrate(&connection)?;
        Ok(Self { connection, epoch: Epoch(0), chain: [0; 32], trimmed: 0 })
    }

    /// A reader of the same database.
    ///
    /// # Errors
    /// When the database cannot be opened a second time.
    pub fn history(directory: &Path) -> Result<SqliteHistory, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path(directory), flags)?;
        connection.busy_timeout(BUSY)?;
        Ok(SqliteHistory { connection })
    }
}

impl Store for SqliteStore {
    fn acquire(&mut self) -> Result<Epoch, StoreError> {
        // The row is there before the statement has ended, and so before it is known whether it can be committed.
        let transaction = self.connection.transaction()?;
        let epoch: i64 =
            transaction
                .query_row("UPDATE epoch SET epoch = epoch + 1 RETURNING epoch", [], |row| row.get(0))?;
        transaction.commit()?;
        // SQLite syncs it, too, when it has made a write-ahead log, and does not mind when that fails.
        let directory = self.connection.path().and_then(|path| Path::new(path).parent());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        self.epoch = Epoch(u64::try_from(epoch).unwrap_or(0));
        Ok(self.epoch)
    }

    fn load(&mut self, entry: &mut EachEntry<'_>) -> Result<u64, StoreError> {
        let next;
        (next, self.chain) = load(&self.connection, entry)?;
        Ok(next)
    }

    fn append(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        let owner: i64 =
            transaction.prepare_cached("SELECT epoch FROM epoch")?.query_row([], |row| row.get(0))?;
        let owner = Epoch(u64::try_from(owner).unwrap_or(0));
        if owner != commit.epoch {
            return Err(StoreError::Superseded(owner));
        }
        let mut chain = self.chain;
        if !commit.entries.is_empty() {
            let entries = join(&commit.entries);
            chain = link(&self.chain, commit.first_seq, &entries);
            transaction.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
                params![
                    commit.first_seq.cast_signed(),
                    i64::try_from(commit.entries.len()).unwrap_or(i64::MAX),
                    commit.epoch.0.cast_signed(),
                    entries,
                    self.chain,
                    chain,
                ],
            )?;
        }
        for row in &commit.tasks {
            transaction.prepare_cached("INSERT OR REPLACE INTO task VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(
                params![
                    row.task.job.0.cast_signed(),
                    row.task.index,
                    row.state.as_str(),
                    row.body,
                    task_sum(row)
                ],
            )?;
        }
        for row in &commit.jobs {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO job VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
                .execute(params![
                    row.id.0.cast_signed(),
                    row.owner,
                    row.name,
                    row.request.0,
                    row.submitted.0,
                    row.ended.0,
                    row.state.as_str(),
                    row.body,
                    job_sum(row),
                ])?;
        }
        append_audit(&transaction, &commit.audit)?;
        if commit.keep_from > self.trimmed {
            // A row goes when all of its entries may: those of the row that holds `keep_from` stay.
            transaction
                .prepare_cached(
                    "DELETE FROM log WHERE first_seq < (SELECT max(first_seq) FROM log WHERE first_seq <= ?1)",
                )?
                .execute([commit.keep_from.cast_signed()])?;
        }
        transaction.commit()?;
        self.trimmed = commit.keep_from;
        self.chain = chain;
        Ok(())
    }
}

impl History for SqliteHistory {
    fn job(&mut self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT * FROM job WHERE id = ?1")?;
        Ok(statement.query_row([id.0.cast_signed()], job_of).optional()?)
    }

    fn jobs(&mut self, query: &JobQuery, limit: usize) -> Result<(Vec<JobRow>, u64), StoreError> {
        let states: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
        let states = if states.is_empty() { None } else { Some(format!(",{},", states.join(","))) };
        let filter = "FROM job WHERE (?1 IS NULL OR owner = ?1) AND (?2 IS NULL OR id < ?2) \
             AND (?3 IS NULL OR instr(?3, ',' || state || ',') > 0) AND (?4 IS NULL OR name = ?4) \
             AND (?5 IS NULL OR submitted_ms >= ?5) AND (?6 IS NULL OR ended_ms >= ?6)";
        let parameters = params![
            query.owner,
            query.before.map(|id| i64::try_from(id.0).unwrap_or(i64::MAX)),
            states,
            query.name,
            query.submitted_since.map(|at| at.0),
            query.ended_since.map(|at| at.0),
        ];
        let count: i64 = self
            .connection
            .prepare_cached(&format!("SELECT count(*) {filter}"))?
            .query_row(parameters, |row| row.get(0))?;
        let mut statement =
            self.connection.prepare_cached(&format!("SELECT * {filter} ORDER BY id DESC LIMIT {limit}"))?;
        let rows = statement.query_map(parameters, job_of)?.collect::<Result<Vec<_>, _>>()?;
        let older = u64::try_from(count).unwrap_or(0).saturating_sub(rows.len() as u64);
        Ok((rows, older))
    }

    fn tasks(
        &mut self,
        job: JobId,
        (after, limit): (Option<u32>, usize),
        state: Option<TaskState>,
    ) -> Result<Vec<TaskRow>, StoreError> {
        let sql = "SELECT * FROM task WHERE job = ?1 AND task > ?2 AND (?4 IS NULL OR state = ?4) \
             ORDER BY task LIMIT ?3";
        let mut statement = self.connection.prepare_cached(sql)?;
        let after = after.map_or(-1, i64::from);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let state = state.map(TaskState::as_str);
        let rows = statement.query_map(params![job.0.cast_signed(), after, limit, state], task_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn audit(&mut self, after: u64, limit: usize) -> Result<(Vec<AuditRow>, u64), StoreError> {
        let newest: Option<i64> =
            self.connection.query_row("SELECT max(number) FROM audit", [], |row| row.get(0))?;
        let mut statement = self.connection.prepare_cached(
            "SELECT number, before, body, chain FROM audit WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?;
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![after, limit], |row| {
            let number: i64 = row.get(0)?;
            let number = number.cast_unsigned();
            Ok(AuditRow { number, before: row.get(1)?, body: row.get(2)?, chain: row.get(3)? })
        })?;
        Ok((rows.collect::<Result<_, _>>()?, newest.unwrap_or(0).cast_unsigned()))
    }

    fn by_request(&mut self, owner: &str, request: RequestId) -> Result<Option<JobRow>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT * FROM job WHERE owner = ?1 AND request = ?2")?;
        Ok(statement.query_row(params![owner, request.0], job_of).optional()?)
    }
}

/// All entries of the log, in order; answers with the number of the next, and the chain's value.
pub(super) fn load(
    connection: &Connection,
    entry: &mut EachEntry<'_>,
) -> Result<(u64, [u8; 32]), StoreError> {
    let mut statement =
        connection.prepare("SELECT first_seq, count, entries, before, chain FROM log ORDER BY first_seq")?;
    let mut rows = statement.query([])?;
    let mut chain: Option<[u8; 32]> = None;
    let mut next = None;
    while let Some(row) = rows.next()? {
        let (first, count): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (entries, before, after): (Vec<u8>, [u8; 32], [u8; 32]) = (row.get(2)?, row.get(3)?, row.get(4)?);
        let (first, count) = (u64::try_from(first).unwrap_or(0), u64::try_from(count).unwrap_or(0));
        let unbroken = chain.is_none_or(|chain| chain == before) && next.is_none_or(|next| next == first);
        if !unbroken || link(&before, first, &entries) != after {
            return Err(StoreError::Damaged(format!("the log's chain breaks at entry {first}")));
        }
        for (seq, bytes) in (first..).zip(split(&entries, count)?) {
            entry(seq, bytes)?;
        }
        chain = Some(after);
        next = Some(first + count);
    }
    Ok((next.unwrap_or(1), chain.unwrap_or([0; 32])))
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

fn make_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// SQLite searches in pages without a doubt: where a bit of one has changed, what is there may not be found.
fn check_pages(connection: &Connection) -> Result<(), StoreError> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    // It may say in which database on a line of its own.
    let words = found.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(StoreError::Damaged(format!("{words}; restore a backup")))
}

fn migrate(connection: &Connection) -> Result<(), StoreError> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let done = usize::try_from(version).ok().filter(|done| *done <= MIGRATIONS.len());
    let done = done.ok_or(StoreError::TooNew(version))?;
    for (n, step) in MIGRATIONS.iter().enumerate().skip(done) {
        connection.execute_batch(&format!("BEGIN; {step} PRAGMA user_version = {}; COMMIT;", n + 1))?;
    }
    Ok(())
}

/// Chains entries to the newest one, and drops the oldest beyond the bound.
fn append_audit(transaction: &Transaction<'_>, entries: &[Vec<u8>]) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let newest: Option<(i64, [u8; 32])> = transaction
        .prepare_cached("SELECT number, chain FROM audit ORDER BY number DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (mut number, mut before) =
        newest.map_or((0, [0; 32]), |(number, chain)| (number.cast_unsigned(), chain));
    for body in entries {
        number += 1;
        let chain = wire::audit::link(&before, number, body);
        transaction.prepare_cached("INSERT INTO audit VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            number.cast_signed(),
            before,
            body,
            chain
        ])?;
        before = chain;
    }
    transaction
        .prepare_cached("DELETE FROM audit WHERE number <= ?1")?
        .execute([number.saturating_sub(limits::AUDIT_ENTRIES_MAX).cast_signed()])?;
    Ok(())
}

/// The chain after a row: what was before, the number of its first entry, and its entries.
fn link(before: &[u8; 32], first_seq: u64, entries: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(&first_seq.to_le_bytes());
    hasher.update(entries);
    *hasher.finalize().as_bytes()
}

/// Entries with their lengths in front (four bytes, little end first).
fn join(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(entries.iter().map(|entry| entry.len() + 4).sum());
    for entry in entries {
        joined.extend(u32::try_from(entry.len()).expect("an entry is bounded").to_le_bytes());
        joined.extend(entry);
    }
    joined
}

fn split(mut joined: &[u8], count: u64) -> Result<Vec<&[u8]>, StoreError> {
    let damaged = || StoreError::Damaged("a row of the log has another length than it says".to_owned());
    let mut entries = Vec::new();
    while !joined.is_empty() {
        let (length, rest) = joined.split_first_chunk::<4>().ok_or_else(damaged)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (entry, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        entries.push(entry);
        joined = rest;
    }
    if entries.len() as u64 == count { Ok(entries) } else { Err(damaged()) }
}

pub(super) fn job_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<JobRow> {
    let job = JobRow {
        id: JobId(row.get::<_, i64>(0)?.cast_unsigned()),
        owner: row.get(1)?,
        name: row.get(2)?,
        request: RequestId(row.get(3)?),
        submitted: WallTime(row.get(4)?),
        ended: WallTime(row.get(5)?),
        state: state_of(row, 6)?,
        body: row.get(7)?,
    };
    compare((row, 8), job_sum(&job), || format!("job {}", job.id))?;
    Ok(job)
}

pub(super) fn task_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<TaskRow> {
    let id = TaskId { job: JobId(row.get::<_, i64>(0)?.cast_unsigned()), index: row.get(1)? };
    let task = TaskRow { task: id, state: state_of(row, 2)?, body: row.get(3)? };
    compare((row, 4), task_sum(&task), || format!("task {id}"))?;
    Ok(task)
}

/// SQLite's pages have no checksums, and what has ended stands in no log any longer.
fn job_sum(row: &JobRow) -> u32 {
    sum(&[
        &row.id.0.to_le_bytes(),
        row.owner.as_bytes(),
        row.name.as_deref().unwrap_or_default().as_bytes(),
        &row.request.0,
        &row.submitted.0.to_le_bytes(),
        &row.ended.0.to_le_bytes(),
        row.state.as_str().as_bytes(),
        &row.body,
    ])
}

fn task_sum(row: &TaskRow) -> u32 {
    let TaskId { job, index } = row.task;
    sum(&[&job.0.to_le_bytes(), &index.to_le_bytes(), row.state.as_str().as_bytes(), &row.body])
}

/// Of columns with their lengths in front.
fn sum(columns: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    for column in columns {
        crc.update(&(column.len() as u64).to_le_bytes());
        crc.update(column);
    }
    crc.finalize()
}

fn compare(
    (row, column): (&rusqlite::Row<'_>, usize),
    due: u32,
    what: impl Fn() -> String,
) -> rusqlite::Result<()> {
    let kept: Option<u32> = match row.get(column) {
        // A database of before, which is only looked at.
        Err(rusqlite::Error::InvalidColumnIndex(_)) => None,
        kept => kept?,
    };
    if kept.is_none_or(|kept| kept == due) {
        return Ok(());
    }
    let words = format!("{} of the history is not as it was written; restore a backup", what());
    Err(rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Integer, words.into()))
}

fn state_of(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<TaskState> {
    let word: String = row.get(column)?;
    let state = TaskState::ALL.into_iter().find(|state| state.as_str() == word);
    state.ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            "no state of a task".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(epoch: Epoch, first_seq: u64, entries: &[&str]) -> Commit {
        let entries = entries.iter().map(|entry| entry.as_bytes().to_vec()).collect();
        Commit { epoch, first_seq, entries, ..Commit::default() }
    }

    fn load(store: &mut SqliteStore) -> (Vec<(u64, String)>, u64) {
        let mut entries = Vec::new();
        let next = store.load(&mut |seq, bytes| {
            entries.push((seq, String::from_utf8_lossy(bytes).into_owned()));
            Ok(())
        });
        (entries, next.unwrap())
    }

    fn job(id: u64, owner: &str, state: TaskState) -> JobRow {
        JobRow {
            id: JobId(id),
            owner: owner.into(),
            name: None,
            request: RequestId([u8::try_from(id).unwrap(); 16]),
            submitted: WallTime(1),
            ended: WallTime(id.cast_signed()),
            state,
            body: vec![7],
        }
    }

    #[test]
    fn entries_come_back_in_order_after_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(directory.path()).unwrap();
        let epoch = store.acquire().unwrap();
        store.append(&commit(epoch, 1, &["a", "b"])).unwrap();
        store.append(&commit(epoch, 3, &["c"])).unwrap();
        let copy = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(directory.path()).unwrap().flatten() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }

        let mut again = SqliteStore::open(copy.path()).unwrap();

        let (entries, next) = load(&mut again);
        assert_eq!(entries, [(1, "a".into()), (2, "b".into()), (3, "c".into())]);
        assert_eq!(next, 4);
    }

    #[test]
    fn a_database_goes_on_when_it_moves_to_where_no_write_ahead_log_is_possible() {
        let directory = tempfile::tempdir().unwrap();
        let mut local = SqliteStore::open_with(directory.path(), "WAL").unwrap();
        let epoch = local.acquire().unwrap();
        local.append(&commit(epoch, 1, &["a"])).unwrap();
        drop(local);

        let mut remote = SqliteStore::open_with(directory.path(), "TRUNCATE").unwrap();
        let mut history = SqliteStore::history(directory.path()).unwrap();
        let epoch = remote.acquire().unwrap();
        let jobs = vec![job(1, "ann", TaskState::Done)];
        load(&mut remote);
        remote.append(&Commit { jobs, ..commit(epoch, 2, &["b"]) }).unwrap();

        assert!(!directory.path().join("queue.db-wal").exists());
        assert!(history.job(JobId(1)).unwrap().is_some());
        assert_eq!(load(&mut remote).0, [(1, "a".into()), (2, "b".into())]);
    }

    #[test]
    fn an_earlier_epoch_cannot_append() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = SqliteStore::open(directory.path()).unwrap();
        let old = first.acquire().unwrap();
        let mut second = SqliteStore::open(directory.path()).unwrap();
        let new = second.acquire().unwrap();

        assert!(matches!(first.append(&commit(old, 1, &["a"])), Err(StoreError::Superseded(e)) if e == new));
        assert!(second.append(&commit(new, 1, &["a"])).is_ok());
    }

    #[test]
    fn a_changed_byte_in_the_log_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(directory.path()).unwrap();
        let epoch = store.acquire().unwrap();
        store.append(&commit(epoch, 1, &["a"])).unwrap();
        store.append(&commit(epoch, 2, &["b"])).unwrap();

        store.connection.execute("UPDATE log SET entries = x'0100000078' WHERE first_seq = 1", []).unwrap();

        let damaged = store.load(&mut |_, _| Ok(()));
        assert!(matches!(damaged, Err(StoreError::Damaged(_))));
    }

    #[test]
    fn a_changed_page_that_would_hide_a_row_and_a_changed_header_are_damage() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(directory.path()).unwrap();
        let epoch = store.acquire().unwrap();
        store.append(&commit(epoch, 1, &["a"])).unwrap();
        store.append(&commit(epoch, 2, &["b"])).unwrap();
        let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'log'";
        let root: u32 = store.connection.query_row(root, [], |row| row.get(0)).unwrap();
        drop(store);
        let path = path(directory.path());
        let whole = std::fs::read(&path).unwrap();
        let rows = (root as usize - 1) * 4096 + 4;
        assert_eq!(whole[rows], 2);
        for (at, byte) in [(rows, 1), (0, b's')] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            std::fs::write(&path, bytes).unwrap();

            let damaged = SqliteStore::open(directory.path()).err();

            assert!(matches!(damaged, Some(StoreError::Damaged(_))), "{damaged:?}");
        }
    }

    #[test]
    fn trimming_keeps_the_row_that_holds_what_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(directory.path()).unwrap();
        let epoch = store.acquire().unwrap();
        store.append(&commit(epoch, 1, &["a"])).unwrap();
        store.append(&commit(epoch, 2, &["b", "c"])).unwrap();

        store.append(&Commit { keep_from: 3, ..commit(epoch, 4, &["d"]) }).unwrap();

        assert_eq!(load(&mut store).0.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [2, 3, 4]);
    }

    #[test]
    fn a_row_of_the_history_that_was_changed_is_refused_and_one_without_a_sum_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(directory.path()).unwrap();
        let epoch = store.acquire().unwrap();
        let jobs = vec![job(1, "ann", TaskState::Done), job(2, "ann", TaskState::Done)];
        store.append(&Commit { jobs, ..commit(epoch, 1, &["a"]) }).unwrap();
        let mut history = SqliteStore::history(directory.path()).unwrap();

        store.connection.execute("UPDATE job SET body = x'06' WHERE id = 1", []).unwrap();
        store.connection.execute("UPDATE job SET sum = NULL WHERE id = 2", []).unwrap();

        let words = history.job(JobId(1)).unwrap_err().to_string();
        assert!(words.contains("job 1 of the history is not as it was written"), "{words}");
        assert_eq!(history.job(JobId(2)).unwrap(), Some(job(2, "ann", TaskState::Done)));
    }

    #[test]
    fn the_history_is_searched_and_paged() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqliteStore::open(directory.path()).unwrap();
        let epoch = store.acquire().unwrap();
        let jobs = (1..=9).map(|n| {
            let owner = if n % 2 == 0 { "ann" } else { "bob" };
            job(n, owner, if n > 6 { TaskState::Failed } else { TaskState::Done })
        });
        let tasks = (0..5)
            .map(|n| TaskRow {
                task: TaskId { job: JobId(3), index: n * 2 },
                state: TaskState::Done,
                body: vec![u8::try_from(n).unwrap()],
            })
            .collect();
        store.append(&Commit { jobs: jobs.collect(), tasks, ..commit(epoch, 1, &["a"]) }).unwrap();
        let mut history = SqliteStore::history(directory.path()).unwrap();
        let ids = |query: JobQuery, limit| {
            let (rows, older) = SqliteStore::history(directory.path()).unwrap().jobs(&query, limit).unwrap();
            (rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), older)
        };

        assert_eq!(ids(JobQuery::default(), 3), (vec![9, 8, 7], 6));
        let query = JobQuery { owner: Some("ann".into()), before: Some(JobId(8)), ..JobQuery::default() };
        assert_eq!(ids(query, 9), (vec![6, 4, 2], 0));
        let query = JobQuery {
            states: vec![TaskState::Failed],
            ended_since: Some(WallTime(8)),
            ..JobQuery::default()
        };
        assert_eq!(ids(query, 9), (vec![9, 8], 0));
        assert_eq!(history.by_request("ann", RequestId([4; 16])).unwrap().unwrap().id, JobId(4));
        assert_eq!(history.by_request("bob", RequestId([4; 16])).unwrap(), None);
        let tasks = history.tasks(JobId(3), (Some(2), 2), None).unwrap();
        assert_eq!(tasks.iter().map(|row| row.task.index).collect::<Vec<_>>(), [4, 6]);
    }

    #[test]
    fn the_audit_trail_is_a_chain_that_goes_on_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        for n in 0..3_u8 {
            let mut store = SqliteStore::open(directory.path()).unwrap();
            let epoch = store.acquire().unwrap();
            load(&mut store);
            let audit = vec![vec![n, 1], vec![n, 2]];
            store.append(&Commit { audit, ..commit(epoch, 1 + u64::from(n), &["a"]) }).unwrap();
        }

        let (rows, newest) = SqliteStore::history(directory.path()).unwrap().audit(0, 100).unwrap();

        assert_eq!((rows.len(), newest), (6, 6));
        let mut before = [0; 32];
        for (row, number) in rows.iter().zip(1..) {
            assert_eq!((row.number, row.before), (number, before));
            assert_eq!(row.chain, wire::audit::link(&before, number, &row.body));
            before = row.chain;
        }
        let (rows, _) = SqliteStore::history(directory.path()).unwrap().audit(4, 1).unwrap();
        assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [5]);
    }
}
