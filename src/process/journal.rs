//! The journal of starts: what an executor received, and what it began to start, for the one that comes after it.
//!
//! No fsync: a power cut changes the boot id, and then everything that was given to this worker may have run.
//!
//! ```text
//!   executor 7f3a… /tmp/clusterctl-1000/worker-Xy12
//!   received 42.0#1@00ab…
//!   starting 42.0#1@00ab…
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::core::id::{AttemptNumber, Fence, Incarnation, JobId, JobNonce, TaskId};

const PRESENT: &str = "journal";
const PAST: &str = "journal-";

/// An executor's journal.
pub(super) struct Journal(File);

/// What an earlier executor left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalOf {
    /// Which executor.
    pub incarnation: Incarnation,
    /// Below which its workspaces were.
    pub workspaces: PathBuf,
    /// What it received and never began to start.
    pub never_started: BTreeSet<Fence>,
    /// What it began to start.
    pub started: BTreeSet<Fence>,
}

impl Journal {
    /// Begins a journal; that of the executor before is kept under another name until it is forgotten.
    pub(super) fn begin(directory: &Path, incarnation: Incarnation, workspaces: &Path) -> io::Result<Self> {
        let path = directory.join(PRESENT);
        if let Some(past) = read(&path)? {
            fs::rename(&path, directory.join(format!("{PAST}{:016x}", past.incarnation.0)))?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let mut journal = Self(file);
        journal.write(&format!("executor {:016x} {}", incarnation.0, workspaces.display()))?;
        Ok(journal)
    }

    pub(super) fn received(&mut self, fence: Fence) -> io::Result<()> {
        self.write(&format!("received {fence}"))
    }

    /// Before bash runs.
    pub(super) fn starting(&mut self, fence: Fence) -> io::Result<()> {
        self.write(&format!("starting {fence}"))
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        self.0.write_all(format!("{line}\n").as_bytes())
    }
}

/// What earlier executors in this directory left and nobody has forgotten.
///
/// # Errors
/// When the directory or a journal cannot be read.
pub fn read_journals(directory: &Path) -> io::Result<Vec<JournalOf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PAST) {
            journals.extend(read(&entry.path())?);
        }
    }
    Ok(journals)
}

/// The pool has decided about all that these journals tell.
///
/// # Errors
/// When a journal cannot be removed.
pub fn forget_journals(directory: &Path, journals: &[JournalOf]) -> io::Result<()> {
    for journal in journals {
        fs::remove_file(directory.join(format!("{PAST}{:016x}", journal.incarnation.0)))?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Option<JournalOf>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut lines = BufReader::new(file).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.splitn(3, ' ').skip(1);
    let incarnation = words.next().and_then(|word| u64::from_str_radix(word, 16).ok());
    let Some(incarnation) = incarnation else { return Ok(None) };
    let workspaces = words.next().map(PathBuf::from).unwrap_or_default();
    let mut journal = JournalOf { incarnation: Incarnation(incarnation), workspaces, ..JournalOf::default() };
    for line in lines {
        // A line that was torn by a full disk tells nothing: what it would have told is then taken for started.
        match line?.split_once(' ').map(|(word, fence)| (word.to_owned(), parse_fence(fence))) {
            Some((word, Some(fence))) if word == "received" => {
                journal.never_started.insert(fence);
            }
            Some((word, Some(fence))) if word == "starting" => {
                journal.never_started.remove(&fence);
                journal.started.insert(fence);
            }
            _ => {}
        }
    }
    Ok(Some(journal))
}

/// Reads a fence as it is displayed.
fn parse_fence(text: &str) -> Option<Fence> {
    let (task, rest) = text.split_once('#')?;
    let (job, index) = task.split_once('.')?;
    let (attempt, nonce) = rest.split_once('@')?;
    Some(Fence {
        nonce: JobNonce(u64::from_str_radix(nonce, 16).ok()?),
        task: TaskId { job: JobId(job.parse().ok()?), index: index.parse().ok()? },
        attempt: AttemptNumber(attempt.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_executor_learns_what_was_never_started() {
        let directory = tempfile::tempdir().unwrap();
        let fence = |job| Fence {
            nonce: JobNonce(0xabc),
            task: TaskId { job: JobId(job), index: 7 },
            attempt: AttemptNumber(2),
        };
        let mut journal = Journal::begin(directory.path(), Incarnation(1), Path::new("/w s")).unwrap();
        journal.received(fence(1)).unwrap();
        journal.received(fence(2)).unwrap();
        journal.starting(fence(1)).unwrap();

        Journal::begin(directory.path(), Incarnation(2), Path::new("/w2")).unwrap();

        let journals = read_journals(directory.path()).unwrap();
        assert_eq!(journals[0].never_started, BTreeSet::from([fence(2)]));
        assert_eq!(journals[0].started, BTreeSet::from([fence(1)]));
        assert_eq!(journals[0].workspaces, Path::new("/w s"));
        forget_journals(directory.path(), &journals).unwrap();
        assert_eq!(read_journals(directory.path()).unwrap(), []);
    }
}
