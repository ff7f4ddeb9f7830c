//! Looks at SQLite's write-ahead log before SQLite does.
//!
//! SQLite takes the first frame whose checksum does not fit for the end of the log, which is right after a crash and
//! wrong after damage: everything behind a flipped bit would silently be dropped. A bad frame with a valid commit
//! behind it is damage. Format: <https://www.sqlite.org/fileformat2.html#walformat>.

use std::fs;
use std::path::Path;

use super::StoreError;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// Refuses a database whose write-ahead log is damaged in the middle. No log at all, or a torn end, is in order.
pub(super) fn check(database: &Path) -> Result<(), StoreError> {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    let log = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    match first_damage(&log) {
        None => Ok(()),
        Some(frame) => Err(StoreError::Damaged(format!(
            "frame {frame} of {} is bad, and valid commits follow it; restore a backup",
            Path::new(&path).display()
        ))),
    }
}

/// The number of the first bad frame that has a valid commit of the same log behind it.
fn first_damage(log: &[u8]) -> Option<usize> {
    let header = log.get(..HEADER_BYTES)?;
    let big_end = match word(header, 0) {
        0x377f_0683 => true,
        0x377f_0682 => false,
        _ => return None,
    };
    let page = word(header, 8) as usize;
    if page == 0 || checksum((0, 0), &header[..24], big_end) != (word(header, 24), word(header, 28)) {
        return None;
    }
    let frames: Vec<&[u8]> = log[HEADER_BYTES..].chunks_exact(FRAME_HEADER_BYTES + page).collect();
    let same_salts = |frame: &[u8]| frame[8..16] == header[16..24];
    let sum_of = |frame: &[u8]| (word(frame, 16), word(frame, 20));
    let next_sum = |before, frame: &[u8]| {
        checksum(checksum(before, &frame[..8], big_end), &frame[FRAME_HEADER_BYTES..], big_end)
    };
    let mut sum = (word(header, 24), word(header, 28));
    for (n, frame) in frames.iter().enumerate() {
        let good = same_salts(frame) && next_sum(sum, frame) == sum_of(frame);
        if good {
            sum = sum_of(frame);
            continue;
        }
        // Behind the bad frame the running sum is known only from what each frame says of itself.
        let pairs = frames[n..].windows(2);
        let commit_follows = pairs.into_iter().any(|pair| {
            let (before, frame) = (pair[0], pair[1]);
            let is_commit = word(frame, 4) != 0;
            is_commit
                && same_salts(before)
                && same_salts(frame)
                && next_sum(sum_of(before), frame) == sum_of(frame)
        });
        return commit_follows.then_some(n + 1);
    }
    None
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

/// SQLite's own running checksum over pairs of words.
fn checksum(before: (u32, u32), bytes: &[u8], big_end: bool) -> (u32, u32) {
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
    fn killed() -> (tempfile::TempDir, std::path::PathBuf) {
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

    fn wal_of(database: &Path) -> std::path::PathBuf {
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
    fn a_torn_end_is_in_order() {
        let (_directory, database) = killed();

        flip(&database, |length| length - 10);
        assert!(check(&database).is_ok());

        let bytes = fs::read(wal_of(&database)).unwrap();
        fs::write(wal_of(&database), &bytes[..bytes.len() - 100]).unwrap();
        assert!(check(&database).is_ok());
    }
}
