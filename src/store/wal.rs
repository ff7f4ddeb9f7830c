//! Looks at SQLite's write-ahead log before SQLite does.
//!
//! SQLite takes the first frame whose checksum does not fit for the end of the log, and a header whose checksum does not
//! for no log at all. That is right after a crash and wrong after damage: everything behind a flipped bit would silently
//! be dropped. Each commit was synced before the next one began, so only the last can be torn, in any order of its parts;
//! whatever is whole behind the commit that has a bad frame shows that this was whole once.
//! Format: <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::StoreError;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Of our databases: SQLite's own default.
const PAGE_BYTES: usize = 4096;

/// What a log turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is behind its last commit.
    Whole,
    /// So many bytes are; what is behind them was never acknowledged.
    Torn(usize),
    /// This frame is bad, counted from 1; 0 is the header.
    Damaged(usize),
}

/// Refuses a database whose write-ahead log is damaged in the middle. No log at all, or a torn end, is in order.
pub(super) fn check(database: &Path) -> Result<(), StoreError> {
    read(database).map(|_| ())
}

/// The same, and cuts a torn end: the next commits go over it, and what is left of it behind them would look whole.
pub(super) fn cut(database: &Path) -> Result<(), StoreError> {
    if let State::Torn(end) = read(database)? {
        let file = OpenOptions::new().write(true).open(path(database))?;
        file.set_len(end as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

fn path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

fn read(database: &Path) -> Result<State, StoreError> {
    let path = path(database);
    let log = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::Whole),
        other => other?,
    };
    let state = examine(&log);
    let State::Damaged(frame) = state else { return Ok(state) };
    let what = if frame == 0 { "the header".to_owned() } else { format!("frame {frame}") };
    Err(StoreError::Damaged(format!(
        "{what} of {} is bad, and valid commits follow it; restore a backup",
        path.display()
    )))
}

/// A log's frames, and what they have to fit.
struct Log<'a> {
    big_end: bool,
    salts: &'a [u8],
    frames: Vec<&'a [u8]>,
}

type Sum = (u32, u32);

fn examine(bytes: &[u8]) -> State {
    let Some(header) = bytes.get(..HEADER_BYTES) else { return State::Whole };
    let big_end = word(header, 0) == 0x377f_0683;
    let (page, sum) = (word(header, 8) as usize, (word(header, 24), word(header, 28)));
    let is_magic = big_end || word(header, 0) == 0x377f_0682;
    let frames = |page| bytes[HEADER_BYTES..].chunks_exact(FRAME_HEADER_BYTES + page).collect::<Vec<_>>();
    if !is_magic || page == 0 || checksum((0, 0), &header[..24], big_end) != sum {
        // It was synced before any frame was written.
        let frames = frames(PAGE_BYTES);
        let is_log = |big_end| {
            let of = |frame: &'_ [u8]| frame[8..16].to_vec();
            frames.windows(2).any(|pair| {
                let log = Log { big_end, salts: &of(pair[0]), frames: Vec::new() };
                log.follows(sum_of(pair[0]), pair[1])
            })
        };
        return if is_log(false) || is_log(true) { State::Damaged(0) } else { State::Whole };
    }
    Log { big_end, salts: &header[16..24], frames: frames(page) }.examine(sum)
}

impl Log<'_> {
    fn examine(&self, mut sum: Sum) -> State {
        let (mut good, mut committed) = (0, 0);
        for frame in &self.frames {
            if !self.follows(sum, frame) {
                break;
            }
            sum = sum_of(frame);
            good += 1;
            committed = if is_commit(frame) { good } else { committed };
        }
        let rest = &self.frames[good..];
        // Sums begin with the salts of their log: this one has all that belongs to it but these.
        let lost_its_salts = |frame: &&[u8]| self.sum(sum, frame) == sum_of(frame);
        // The end of the commit that the bad frame belongs to.
        let end = rest.iter().position(|frame| is_commit(frame) && self.has_salts(frame));
        let end = end.unwrap_or(rest.len());
        let is_damaged = rest.first().is_some_and(lost_its_salts)
            || (end + 1..rest.len()).any(|n| {
                // If the bad frame's own checksum is what is bad, the next one fits what it should be.
                let before = rest[n - 1];
                self.follows(sum_of(before), rest[n])
                    || n == 1 && self.follows(self.sum(sum, before), rest[n])
            });
        if is_damaged {
            return State::Damaged(good + 1);
        }
        // What an earlier log has left there is none of ours.
        if self.frames[committed..].iter().any(|frame| self.has_salts(frame)) {
            let frame_bytes = self.frames.first().map_or(0, |frame| frame.len());
            return State::Torn(HEADER_BYTES + committed * frame_bytes);
        }
        State::Whole
    }

    fn has_salts(&self, frame: &[u8]) -> bool {
        frame[8..16] == *self.salts
    }

    /// Whether a frame fits the sum of what is before it.
    fn follows(&self, before: Sum, frame: &[u8]) -> bool {
        self.has_salts(frame) && self.sum(before, frame) == sum_of(frame)
    }

    fn sum(&self, before: Sum, frame: &[u8]) -> Sum {
        checksum(checksum(before, &frame[..8], self.big_end), &frame[FRAME_HEADER_BYTES..], self.big_end)
    }
}

/// What a frame says is the sum of all up to it.
fn sum_of(frame: &[u8]) -> Sum {
    (word(frame, 16), word(frame, 20))
}

/// The last frame of a commit says how large the database is then.
fn is_commit(frame: &[u8]) -> bool {
    word(frame, 4) != 0
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

/// SQLite's own running checksum over pairs of words.
fn checksum(before: Sum, bytes: &[u8], big_end: bool) -> Sum {
    let (mut a, mut b) = before;
    for pair in bytes.chunks_exact(8) {
        let [first, second] = [&pair[..4], &pair[4..]].map(|four| {
            let four: [u8; 4] = four.try_into().expect("half of eight bytes");
            if big_end { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
        });
        a = a.wrapping_add(first).wrapping_add(b);
        b = b.wrapping_add(second).wrapping_add(a);
    }
    (a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database with ten commits in its log, as a killed process leaves it.
    fn killed() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let live = directory.path().join("live.db");
        let connection = rusqlite::Connection::open(&live).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n);").unwrap();
        for n in 0..10 {
            connection.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
        }
        let database = directory.path().join("killed.db");
        fs::copy(&live, &database).unwrap();
        fs::copy(directory.path().join("live.db-wal"), wal_of(&database)).unwrap();
        (directory, database)
    }

    fn wal_of(database: &Path) -> PathBuf {
        database.with_extension("db-wal")
    }

    fn flip(database: &Path, at: impl Fn(usize) -> usize) {
        let mut bytes = fs::read(wal_of(database)).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        fs::write(wal_of(database), bytes).unwrap();
    }

    #[test]
    fn a_log_as_it_was_left_is_in_order() {
        let (_directory, database) = killed();

        assert!(check(&database).is_ok());
    }

    #[test]
    fn a_flipped_bit_in_the_middle_is_damage() {
        let (_directory, database) = killed();

        flip(&database, |length| length / 2);

        assert!(matches!(check(&database), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn a_flipped_bit_of_the_header_or_of_a_frames_salts_is_damage() {
        for at in [0, 9, 17, 30, HEADER_BYTES + 9] {
            let (_directory, database) = killed();

            flip(&database, |_| at);

            assert!(matches!(check(&database), Err(StoreError::Damaged(_))), "{at}");
        }
        let (_directory, database) = killed();
        flip(&database, |length| length - PAGE_BYTES - FRAME_HEADER_BYTES + 9);
        assert!(matches!(check(&database), Err(StoreError::Damaged(_))), "the last frame's");
    }

    #[test]
    fn a_last_commit_whose_parts_got_to_the_disk_in_another_order_is_cut() {
        let (directory, database) = killed();
        let whole = fs::metadata(wal_of(&database)).unwrap().len();
        let live = rusqlite::Connection::open(&database).unwrap();
        live.execute("INSERT INTO t VALUES (zeroblob(30000))", []).unwrap();
        let torn = directory.path().join("torn.db");
        fs::copy(&database, &torn).unwrap();
        fs::copy(wal_of(&database), wal_of(&torn)).unwrap();
        let before = usize::try_from(whole).unwrap();
        flip(&torn, |_| before + 100);

        cut(&torn).unwrap();

        assert_eq!(fs::metadata(wal_of(&torn)).unwrap().len(), whole);
        let connection = rusqlite::Connection::open(&torn).unwrap();
        let count: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 10);
    }

    #[test]
    fn a_torn_end_is_in_order() {
        let (_directory, database) = killed();

        flip(&database, |length| length - 10);
        assert!(check(&database).is_ok());

        let bytes = fs::read(wal_of(&database)).unwrap();
        fs::write(wal_of(&database), &bytes[..bytes.len() - 100]).unwrap();
        assert!(check(&database).is_ok());
    }
}
