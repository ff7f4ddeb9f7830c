//! The journal of starts: what an executor received, and what it began to start, for the one that comes after it.
//!
//! No fsync: after a power cut it tells nothing, which the boot id in its first line shows. It tells nothing either where
//! it was copied to, since whoever wrote it may live: device and inode of its directory are in that line, too. It is
//! written anew, with what still counts, when it has grown long.
//!
//! ```text
//!   executor 7f3a… 5e1c…-boot-id 2049:131 /tmp/clusterctl-1000/worker-Xy12
//!   received 42.0#1@00ab…
//!   starting 42.0#1@00ab…
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::core::id::{Fence, Incarnation};

use super::workspace;

const PRESENT: &str = "journal";
const PAST: &str = "journal-";
/// A journal is written anew when it has grown to this, in bytes.
const LONG_BYTES: u64 = 1 << 20;

/// An executor's journal.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    header: String,
    bytes: u64,
    /// When it is worth writing anew.
    long: u64,
}

/// What an earlier executor left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalOf {
    /// Which executor.
    pub incarnation: Incarnation,
    /// Of the boot that it ran in: of another boot it tells nothing.
    pub boot_id: String,
    /// The directory that it was written in, by device and inode.
    pub place: String,
    /// Below which its workspaces were, if that is a place for workspaces at all.
    pub workspaces: Option<PathBuf>,
    /// What it received and never began to start.
    pub never_started: BTreeSet<Fence>,
    /// What it began to start.
    pub started: BTreeSet<Fence>,
}

impl Journal {
    /// Begins a journal; that of the executor before is kept under another name until it is forgotten.
    pub(super) fn begin(
        directory: &Path,
        incarnation: Incarnation,
        boot_id: &str,
        workspaces: &Path,
    ) -> io::Result<Self> {
        let path = directory.join(PRESENT);
        if let Some(past) = read_there(&path)? {
            fs::rename(&path, directory.join(format!("{PAST}{:016x}", past.incarnation.0)))?;
        }
        let place = place_of(directory)?;
        let header = format!("executor {:016x} {boot_id} {place} {}\n", incarnation.0, workspaces.display());
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        let mut journal = Self { file, path, header, bytes: 0, long: LONG_BYTES };
        journal.write(&journal.header.clone())?;
        Ok(journal)
    }

    pub(super) fn received(&mut self, fence: Fence) -> io::Result<()> {
        self.write(&format!("received {fence}\n"))
    }

    /// Before bash runs.
    pub(super) fn starting(&mut self, fence: Fence) -> io::Result<()> {
        self.write(&format!("starting {fence}\n"))
    }

    pub(super) fn is_long(&self) -> bool {
        self.bytes > self.long
    }

    /// Writes it anew with these attempts, each with whether it was begun.
    pub(super) fn shorten(&mut self, kept: impl Iterator<Item = (Fence, bool)>) -> io::Result<()> {
        let mut text = self.header.clone();
        for (fence, begun) in kept {
            text += &format!("received {fence}\n");
            if begun {
                text += &format!("starting {fence}\n");
            }
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        self.file = file.persist(&self.path)?;
        self.bytes = text.len() as u64;
        self.long = LONG_BYTES.max(2 * self.bytes);
        Ok(())
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        self.bytes += line.len() as u64;
        self.file.write_all(line.as_bytes())
    }
}

/// What earlier executors in this directory left and nobody has forgotten. One that came here with a copy of their
/// directory is none of ours.
///
/// # Errors
/// When the directory or a journal cannot be read.
pub fn read_journals(directory: &Path) -> io::Result<Vec<JournalOf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PAST) {
            journals.extend(read_there(&entry.path())?);
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

/// The journal at a path, if it was written there.
fn read_there(path: &Path) -> io::Result<Option<JournalOf>> {
    let place = place_of(path.parent().unwrap_or(Path::new(".")))?;
    Ok(read(path)?.filter(|journal| journal.place == place))
}

/// A directory as the kernel knows it: a copy is another one.
fn place_of(directory: &Path) -> io::Result<String> {
    let metadata = fs::metadata(directory)?;
    Ok(format!("{}:{}", metadata.dev(), metadata.ino()))
}

fn read(path: &Path) -> io::Result<Option<JournalOf>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // What follows the last end of line was torn by a full disk, and tells nothing.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(&bytes[..0], |end| &bytes[..end]);
    let text = String::from_utf8_lossy(whole);
    let mut lines = text.lines();
    let Some(mut journal) = lines.next().and_then(parse_header) else { return Ok(None) };
    for line in lines {
        match line.split_once(' ').map(|(word, fence)| (word, Fence::parse(fence))) {
            Some(("received", Some(fence))) => {
                journal.never_started.insert(fence);
            }
            Some(("starting", Some(fence))) => {
                journal.never_started.remove(&fence);
                journal.started.insert(fence);
            }
            _ => {}
        }
    }
    Ok(Some(journal))
}

fn parse_header(line: &str) -> Option<JournalOf> {
    let mut words = line.splitn(5, ' ').skip(1);
    let incarnation = Incarnation(u64::from_str_radix(words.next()?, 16).ok()?);
    let boot_id = words.next()?.to_owned();
    let place = words.next()?.to_owned();
    let workspaces = words.next().map(PathBuf::from).filter(|path| workspace::is_root(path));
    Some(JournalOf { incarnation, boot_id, place, workspaces, ..JournalOf::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::{AttemptNumber, JobId, JobNonce, TaskId};

    fn fence(job: u64) -> Fence {
        Fence {
            nonce: JobNonce(0xabc),
            task: TaskId { job: JobId(job), index: 7 },
            attempt: AttemptNumber(2),
        }
    }

    fn begin(directory: &Path, incarnation: u64) -> Journal {
        let root = Path::new("/w s/clusterctl-7/worker-x");
        Journal::begin(directory, Incarnation(incarnation), "boot", root).unwrap()
    }

    #[test]
    fn the_next_executor_learns_what_was_never_started() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = begin(directory.path(), 1);
        journal.received(fence(1)).unwrap();
        journal.received(fence(2)).unwrap();
        journal.starting(fence(2)).unwrap();
        drop(journal);

        let _next = begin(directory.path(), 2);

        let past = read_journals(directory.path()).unwrap();
        let expected = JournalOf {
            incarnation: Incarnation(1),
            boot_id: "boot".into(),
            place: place_of(directory.path()).unwrap(),
            workspaces: Some("/w s/clusterctl-7/worker-x".into()),
            never_started: [fence(1)].into(),
            started: [fence(2)].into(),
        };
        assert_eq!(past, [expected]);
        forget_journals(directory.path(), &past).unwrap();
        assert_eq!(read_journals(directory.path()).unwrap(), []);
    }

    #[test]
    fn a_copy_of_a_directory_proves_nothing_of_the_executor_that_it_is_a_copy_of() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = begin(directory.path(), 1);
        journal.received(fence(1)).unwrap();
        let copy = tempfile::tempdir().unwrap();
        fs::copy(directory.path().join(PRESENT), copy.path().join(PRESENT)).unwrap();
        fs::copy(directory.path().join(PRESENT), copy.path().join("journal-0000000000000007")).unwrap();

        let _other = begin(copy.path(), 2);

        assert_eq!(read_journals(copy.path()).unwrap(), []);
    }

    #[test]
    fn a_journal_that_was_shortened_tells_what_still_counts() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = begin(directory.path(), 1);
        for job in 0..20_000 {
            journal.received(fence(job)).unwrap();
            journal.starting(fence(job)).unwrap();
        }
        assert!(journal.is_long());

        journal.shorten([(fence(3), true), (fence(4), false)].into_iter()).unwrap();
        journal.received(fence(30_000)).unwrap();

        assert!(!journal.is_long());
        let told = read(&directory.path().join(PRESENT)).unwrap().unwrap();
        assert_eq!((told.started, told.never_started), ([fence(3)].into(), [fence(4), fence(30_000)].into()));
    }

    #[test]
    fn a_torn_or_damaged_line_tells_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = begin(directory.path(), 1);
        journal.received(fence(1)).unwrap();
        journal.file.write_all(b"\xff\xfe nonsense\nstarting 1.7#2@00000000").unwrap();

        let told = read(&directory.path().join(PRESENT)).unwrap().unwrap();

        assert_eq!((told.started, told.never_started), (BTreeSet::new(), [fence(1)].into()));
    }

    #[test]
    fn a_header_cannot_name_any_directory_for_removal() {
        for path in ["/", "/home", "/tmp/worker-x", "/clusterctl-7/../worker-x/"] {
            assert_eq!(
                parse_header(&format!("executor 1 boot 1:2 {path}")).unwrap().workspaces,
                None,
                "{path}"
            );
        }
    }
}
