//! Looks through a pool's state, byte for byte, and changes nothing.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::output::{self, OutputRead, OutputReader};
use super::segment::{self, Scrutiny};
use super::{StoreError, backup, sqlite, wal};
use crate::core::attempt::AttemptEnd;
use crate::core::output::{Chunk, Stream};
use crate::wire;

/// Problems that are told one by one.
const PROBLEMS_MAX: usize = 20;

/// Output that is read at once.
const READ_BYTES: usize = 1 << 20;

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
    /// Tasks of the history whose output is all there, and has the hashes that their workers told.
    pub verified: u64,
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
    segments(state, used, &mut checked)?;
    written(&connection, state, &mut checked)?;
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

fn segments(state: &Path, used: Use, checked: &mut Checked) -> Result<(), StoreError> {
    let segments = output::files(&state.join(backup::OUTPUT))?;
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

/// Whether output is what its workers said that was written, where all of it is kept.
fn written(connection: &Connection, state: &Path, checked: &mut Checked) -> Result<(), StoreError> {
    let reader = OutputReader::of(&state.join(backup::OUTPUT))?;
    let mut tasks = connection.prepare("SELECT * FROM task ORDER BY job, task")?;
    let mut rows = tasks.query([])?;
    while let Some(row) = rows.next()? {
        // What is not understood was told before.
        let Ok(task) = sqlite::task_of(row) else { continue };
        let Ok(ended) = wire::record::decode_task(&task.body) else { continue };
        match hashes(&reader, &ended.end)? {
            None => {}
            Some(found) if found == [ended.end.totals.stdout_hash, ended.end.totals.stderr_hash] => {
                checked.verified += 1;
            }
            Some(_) => {
                checked.problem(format!("the output of task {} is not what its worker wrote", task.task));
            }
        }
    }
    Ok(())
}

/// Of the output of an attempt that has ended, as it is kept; none if not all of it is, or nothing was written.
fn hashes(reader: &OutputReader, end: &AttemptEnd) -> Result<Option<[[u8; 32]; 2]>, StoreError> {
    let mut hashed = Hashed::default();
    while let OutputRead::Chunks(chunks) = reader.read(end.fence, hashed.position, READ_BYTES)? {
        chunks.iter().for_each(|chunk| hashed.take(chunk));
    }
    for chunk in &end.tail {
        if let Some(rest) = chunk.clone().from_position(hashed.position) {
            hashed.take(&rest);
        }
    }
    let is_all = hashed.position > 0 && hashed.position == end.totals.end();
    Ok(is_all.then(|| hashed.streams.map(|hasher| *hasher.finalize().as_bytes())))
}

/// Output up to a position.
#[derive(Default)]
struct Hashed {
    streams: [blake3::Hasher; 2],
    position: u64,
}

impl Hashed {
    fn take(&mut self, chunk: &Chunk) {
        self.streams[usize::from(chunk.stream == Stream::Stderr)].update(&chunk.bytes);
        self.position = chunk.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::id::Fence;
    use crate::core::outcome::{Outcome, Usage};
    use crate::core::output::OutputTotals;
    use crate::core::record::TaskEnded;
    use crate::core::time::WallTime;
    use crate::core::view::TaskState;
    use crate::store::output::OutputWriter;
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Commit, Store, TaskRow};

    fn chunk(position: u64, stream: Stream, offset: u64, bytes: &[u8]) -> Chunk {
        Chunk { position, stream, offset, bytes: bytes.to_vec() }
    }

    /// A state with a task that wrote `out` and `err`, of which this is kept, the rest with its end.
    fn state_with(kept: Vec<Chunk>, tail: Vec<Chunk>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let totals = OutputTotals {
            stdout_bytes: 3,
            stderr_bytes: 3,
            stdout_hash: *blake3::hash(b"out").as_bytes(),
            stderr_hash: *blake3::hash(b"err").as_bytes(),
            dropped_bytes: 0,
        };
        let fence = Fence::default();
        let end = AttemptEnd { fence, outcome: Outcome::Exited(0), usage: Usage::default(), totals, tail };
        let (started, ended) = (WallTime(1), WallTime(2));
        let ended = TaskEnded { end: Arc::new(end), worker: "w1".to_owned(), started, ended };
        let row =
            TaskRow { task: fence.task, state: TaskState::Done, body: wire::record::encode_task(&ended) };
        let mut store = SqliteStore::open(directory.path()).unwrap();
        let epoch = store.acquire().unwrap();
        store.append(&Commit { epoch, first_seq: 1, tasks: vec![row], ..Commit::default() }).unwrap();
        let (mut writer, _) = OutputWriter::open(&directory.path().join(backup::OUTPUT), 1 << 20).unwrap();
        writer.append(fence, kept).unwrap();
        writer.sync().unwrap();
        directory
    }

    fn checked(state: &tempfile::TempDir) -> Checked {
        check(state.path(), Use::Idle).unwrap()
    }

    #[test]
    fn output_is_compared_with_what_its_worker_wrote() {
        let stdout = chunk(0, Stream::Stdout, 0, b"out");
        let whole = vec![stdout.clone(), chunk(3, Stream::Stderr, 0, b"err")];
        let swapped = vec![chunk(0, Stream::Stderr, 0, b"err"), chunk(3, Stream::Stdout, 0, b"out")];
        let changed = vec![stdout.clone(), chunk(3, Stream::Stderr, 0, b"eRr")];
        let torn = vec![stdout.clone()];

        for (kept, tail, verified, problems) in [
            (whole, vec![], 1, 0),
            (swapped, vec![], 1, 0),
            (torn.clone(), vec![chunk(3, Stream::Stderr, 0, b"err")], 1, 0),
            (torn, vec![], 0, 0),
            (changed, vec![], 0, 1),
            (vec![stdout], vec![chunk(3, Stream::Stdout, 3, b"err")], 0, 1),
        ] {
            let found = checked(&state_with(kept.clone(), tail));

            assert_eq!((found.verified, found.problems.len()), (verified, problems), "{kept:?} {found:?}");
        }
    }
}
