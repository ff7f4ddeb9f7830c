//! Looks through a pool's state, byte for byte, and changes nothing.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::segment::{self, Scrutiny};
use super::{StoreError, backup, sqlite, wal};
use crate::wire;

/// Problems that are told one by one.
const PROBLEMS_MAX: usize = 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Records in the log.
    pub entries: u64,
    /// Jobs that ended, in the history.
    pub jobs: u64,
    /// Tasks that ended, in the history.
    pub tasks: u64,
    /// Entries of the audit trail.
    pub audit: u64,
    /// Of whole output.
    pub output_bytes: u64,
    /// What is not as it should be; at most twenty of them.
    pub problems: Vec<String>,
}

/// Whether a pool serves the state at the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// One does: what it is just writing is in order.
    Served,
    /// None does: the write-ahead log lies still, and is looked at.
    Idle,
}

/// One part of a database.
type Step = fn(&Connection, &mut Checked) -> Result<(), StoreError>;

/// Looks through the state of a pool.
///
/// # Errors
/// When there is none, or it cannot be read at all.
pub fn check(state: &Path, used: Use) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    let path = state.join(sqlite::FILE);
    if used == Use::Idle
        && let Err(error) = wal::check(&path)
    {
        checked.problem(error.to_string());
        // SQLite would drop what follows the damage, and find the rest in order.
        return Ok(checked);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)?;
    connection.busy_timeout(sqlite::BUSY)?;
    // All of it as it was at one moment.
    connection.execute_batch("BEGIN")?;
    let steps: [Step; 4] = [pages, log, history, audit];
    for step in steps {
        if let Err(error) = step(&connection, &mut checked) {
            checked.problem(error.to_string());
        }
    }
    output(state, used, &mut checked)?;
    Ok(checked)
}

impl Checked {
    fn problem(&mut self, words: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(words);
        }
    }
}

fn pages(connection: &Connection, checked: &mut Checked) -> Result<(), StoreError> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({PROBLEMS_MAX})"))?;
    let found = statement.query_map([], |row| row.get::<_, String>(0))?;
    for words in found {
        let words = words?;
        if words != "ok" {
            checked.problem(format!("database: {words}"));
        }
    }
    Ok(())
}

fn log(connection: &Connection, checked: &mut Checked) -> Result<(), StoreError> {
    let mut bad = Vec::new();
    sqlite::load(connection, &mut |seq, bytes| {
        checked.entries += 1;
        if let Err(error) = wire::record::decode(bytes) {
            bad.push(format!("entry {seq} of the log is not understood: {error}"));
        }
        Ok(())
    })?;
    bad.into_iter().for_each(|words| checked.problem(words));
    Ok(())
}

fn history(connection: &Connection, checked: &mut Checked) -> Result<(), StoreError> {
    let mut jobs = connection.prepare("SELECT * FROM job ORDER BY id")?;
    let mut rows = jobs.query([])?;
    while let Some(row) = rows.next()? {
        checked.jobs += 1;
        match sqlite::job_of(row) {
            Err(error) => checked.problem(StoreError::from(error).to_string()),
            Ok(job) => {
                if let Err(error) = wire::record::decode_job(&job.body) {
                    checked.problem(format!("job {} of the history is not understood: {error}", job.id));
                }
            }
        }
    }
    let mut tasks = connection.prepare("SELECT * FROM task ORDER BY job, task")?;
    let mut rows = tasks.query([])?;
    while let Some(row) = rows.next()? {
        checked.tasks += 1;
        match sqlite::task_of(row) {
            Err(error) => checked.problem(StoreError::from(error).to_string()),
            Ok(task) => {
                if let Err(error) = wire::record::decode_task(&task.body) {
                    checked.problem(format!("task {} of the history is not understood: {error}", task.task));
                }
            }
        }
    }
    Ok(())
}

fn audit(connection: &Connection, checked: &mut Checked) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare("SELECT number, before, body, chain FROM audit ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut last: Option<(u64, [u8; 32])> = None;
    while let Some(row) = rows.next()? {
        checked.audit += 1;
        let number = row.get::<_, i64>(0)?.cast_unsigned();
        let (before, body, chain): ([u8; 32], Vec<u8>, [u8; 32]) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let follows = last.is_none_or(|(of, value)| of + 1 == number && value == before);
        if !follows || wire::audit::link(&before, number, &body) != chain {
            checked.problem(format!("the audit trail's chain breaks at {number}"));
        }
        last = Some((number, chain));
    }
    Ok(())
}

fn output(state: &Path, used: Use, checked: &mut Checked) -> Result<(), StoreError> {
    let segments = backup::segments(state)?;
    for (n, path) in segments.iter().enumerate() {
        let file = match File::open(path) {
            // Dropped for its age since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && used == Use::Served => continue,
            opened => opened?,
        };
        let whole = segment::scan(&file, Scrutiny::Bytes, |_, _| {})?;
        checked.output_bytes += whole;
        // The end of the newest may have been torn by a crash, or be under way: nobody was told that it is there.
        let is_newest = n + 1 == segments.len();
        if whole < file.metadata()?.len() && !is_newest {
            checked.problem(format!(
                "{} is damaged at byte {whole}: what follows in it is lost",
                path.display()
            ));
        }
    }
    Ok(())
}
