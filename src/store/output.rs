//! Output of attempts: appended to shared segments by one writer, read from any position by anybody, dropped a segment
//! at a time when there is too much of it.
//!
//! An attempt is known by its fence. Nothing here knows jobs, or which attempts are over.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use super::segment::{self, Header, Scrutiny};
use super::space::Room;
use crate::core::id::Fence;
use crate::core::limits;
use crate::core::output::Chunk;

/// Frames of one attempt that lie behind each other are known as one extent of about this size, in bytes.
const EXTENT_BYTES: u64 = 64 << 10;

/// The one who appends. What it wrote counts only after `sync`.
pub struct OutputWriter {
    directory: PathBuf,
    shared: Arc<RwLock<Index>>,
    current: u32,
    file: File,
    written: u64,
    /// What it may keep at most, however much room there is.
    limit: u64,
    /// So much more may be written before somebody looks how much room there is.
    unseen: u64,
    /// Attempts that were written to since the last sync.
    touched: BTreeMap<Fence, u64>,
    /// What became durable when a segment was finished, and was not told yet.
    untold: Vec<(Fence, u64)>,
}

/// Anybody who reads.
#[derive(Clone)]
pub struct OutputReader {
    shared: Arc<RwLock<Index>>,
}

/// What is kept.
#[derive(Debug, PartialEq, Eq)]
pub enum OutputRead {
    /// Bytes from the position that was asked for.
    Chunks(Vec<Chunk>),
    /// Nothing (yet) from there on.
    Nothing,
    /// Bytes from there on were dropped; what is kept begins here.
    Gone(u64),
}

#[derive(Default)]
struct Index {
    directory: PathBuf,
    attempts: BTreeMap<Fence, Kept>,
    /// Bytes of each segment's file.
    segments: BTreeMap<u32, u64>,
    bytes: u64,
    limit: u64,
}

#[derive(Default)]
struct Kept {
    extents: Vec<Extent>,
    /// Position after the last byte that was written.
    written: u64,
    /// Position after the last byte that survives a crash.
    durable: u64,
}

/// Frames of one attempt that lie behind each other in a segment.
#[derive(Clone, Copy, Debug)]
struct Extent {
    segment: u32,
    at: u64,
    bytes: u64,
    /// Position of the first byte of output.
    position: u64,
    /// And after the last.
    end: u64,
}

impl OutputWriter {
    /// Opens the directory, or makes it; a torn end is cut off. On a full disk the oldest output makes room.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(directory: &Path, limit: u64) -> io::Result<(Self, OutputReader)> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut index = Index { directory: directory.to_owned(), limit, ..Index::default() };
        let numbers = segments(directory)?;
        for &number in &numbers {
            index.load(number, Some(&number) == numbers.last())?;
        }
        let current = numbers.last().map_or(1, |last| last + 1);
        let room = Room::of(directory)?;
        // Who opens a pool has to write before any output comes.
        if room.is_short() {
            index.limit = index.bytes.saturating_sub(room.missing());
            index.drop_oldest(current)?;
            index.limit = limit;
        }
        let file = begin_segment(directory, current)?;
        index.segments.insert(current, 0);
        let shared = Arc::new(RwLock::new(index));
        let reader = OutputReader { shared: Arc::clone(&shared) };
        let directory = directory.to_owned();
        let (touched, untold) = (BTreeMap::new(), Vec::new());
        let writer = Self { directory, shared, current, file, written: 0, limit, unseen: 0, touched, untold };
        Ok((writer, reader))
    }

    /// Appends chunks of one attempt, in order. Bytes that are there already are passed over. What is missing before them
    /// was dropped or damaged here after its worker was told that it is durable, and is gone: whoever reads is told.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn append(&mut self, key: Fence, chunks: Vec<Chunk>) -> io::Result<()> {
        for chunk in chunks {
            let written = self.index().attempts.get(&key).map(|kept| kept.written);
            if let Some(written) = written.filter(|written| chunk.position > *written) {
                tracing::warn!(attempt = %key, from = written, to = chunk.position, "kept output has a hole");
            }
            if chunk.end() > limits::OUTPUT_PER_ATTEMPT_BYTES_MAX {
                // Its worker should have known: no more is kept.
                continue;
            }
            let wanted = written.map_or(chunk.position, |written| written.max(chunk.position));
            if let Some(chunk) = chunk.from_position(wanted) {
                self.append_one(key, &chunk)?;
            }
        }
        Ok(())
    }

    fn append_one(&mut self, key: Fence, chunk: &Chunk) -> io::Result<()> {
        if self.written >= limits::OUTPUT_SEGMENT_BYTES {
            self.next_segment()?;
        }
        let frame = segment::encode(key, chunk);
        if self.unseen < frame.len() as u64 {
            self.look_for_room()?;
        }
        self.unseen = self.unseen.saturating_sub(frame.len() as u64);
        self.file.write_all_at(&frame, self.written)?;
        let extent = Extent {
            segment: self.current,
            at: self.written,
            bytes: frame.len() as u64,
            position: chunk.position,
            end: chunk.end(),
        };
        self.shared.write().expect("nobody panics with the index").add(key, extent);
        self.touched.insert(key, chunk.end());
        self.written += extent.bytes;
        Ok(())
    }

    fn next_segment(&mut self) -> io::Result<()> {
        let durable = self.sync()?;
        self.untold.extend(durable);
        self.current += 1;
        self.file = begin_segment(&self.directory, self.current)?;
        self.written = 0;
        Ok(())
    }

    /// Where the disk is nearly full, old output makes room for new, and both leave it to what has to be remembered.
    fn look_for_room(&mut self) -> io::Result<()> {
        self.make_room_for(Room::of(&self.directory)?.missing())
    }

    fn make_room_for(&mut self, missing: u64) -> io::Result<()> {
        let limit = self.limit.min(match missing {
            0 => u64::MAX,
            _ => self.index().bytes.saturating_sub(missing),
        });
        self.shared.write().expect("nobody panics with the index").limit = limit;
        self.unseen = limits::DISK_LOOK_BYTES;
        if missing > 0 {
            self.unseen = limits::OUTPUT_CHUNK_BYTES_MAX as u64;
            // Only what is finished can go.
            if self.written > 0 {
                self.next_segment()?;
            }
        }
        Ok(())
    }

    /// Where the disk is nearly full, old output makes room, although none is appended. If all of it is not enough, it
    /// stays.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn make_room(&mut self) -> io::Result<()> {
        let missing = Room::of(&self.directory)?.missing();
        if missing > self.index().bytes {
            return Ok(());
        }
        self.make_room_for(missing)?;
        self.shared.write().expect("nobody panics with the index").drop_oldest(self.current)
    }

    /// Makes durable what was appended: the attempts with their durable ends. Then drops what is too much.
    ///
    /// # Errors
    /// When the disk fails: then nothing since the last sync may be relied on.
    pub fn sync(&mut self) -> io::Result<Vec<(Fence, u64)>> {
        let mut durable = std::mem::take(&mut self.untold);
        if self.touched.is_empty() {
            return Ok(durable);
        }
        self.file.sync_data()?;
        let mut index = self.shared.write().expect("nobody panics with the index");
        for (key, end) in std::mem::take(&mut self.touched) {
            if let Some(kept) = index.attempts.get_mut(&key) {
                kept.durable = end;
            }
            durable.push((key, end));
        }
        index.drop_oldest(self.current)?;
        Ok(durable)
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.shared.read().expect("nobody panics with the index")
    }
}

/// A new file, whose name survives a crash.
fn begin_segment(directory: &Path, number: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path(directory, number))?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

impl OutputReader {
    /// Durable bytes from a position on, about `bytes_max` of them.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn read(&self, key: Fence, from: u64, bytes_max: usize) -> io::Result<OutputRead> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut next = from;
        while next - from < bytes_max as u64 {
            let (extent, directory) = {
                let index = self.index();
                let Some(kept) = index.attempts.get(&key) else { break };
                let after = kept.extents.partition_point(|extent| extent.end <= next);
                let Some(extent) = kept.extents.get(after).filter(|extent| extent.position < kept.durable)
                else {
                    break;
                };
                if extent.position > next {
                    // Whoever reads is told of a hole before anything behind it.
                    if chunks.is_empty() {
                        return Ok(OutputRead::Gone(extent.position));
                    }
                    break;
                }
                // An extent still grows while it is read; what is durable of it does not change.
                (Extent { end: extent.end.min(kept.durable), ..*extent }, index.directory.clone())
            };
            let file = match File::open(path(&directory, extent.segment)) {
                // Dropped since: the next look tells.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let part = (extent.at, extent.bytes);
            let read = match segment::read(&file, part, key, next) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(segment = extent.segment, at = extent.at, "kept output is damaged");
                    if chunks.is_empty() {
                        return Ok(OutputRead::Gone(extent.end));
                    }
                    break;
                }
                read => read?,
            };
            chunks.extend(read.into_iter().filter(|chunk| chunk.end() <= extent.end));
            match chunks.last() {
                Some(last) if last.end() > next => next = last.end(),
                _ => break,
            }
        }
        Ok(if chunks.is_empty() { OutputRead::Nothing } else { OutputRead::Chunks(chunks) })
    }

    /// The position after the last byte of an attempt that survives a crash.
    pub fn durable_end(&self, key: Fence) -> u64 {
        self.index().attempts.get(&key).map_or(0, |kept| kept.durable)
    }

    /// Whether anything is kept of an attempt.
    pub fn has(&self, key: Fence) -> bool {
        self.index().attempts.contains_key(&key)
    }

    /// Bytes that are kept, and at most.
    pub fn usage(&self) -> (u64, u64) {
        let index = self.index();
        (index.bytes, index.limit)
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.shared.read().expect("nobody panics with the index")
    }
}

impl OutputReader {
    /// Of a directory that is only looked at, whoever writes to it: of what is whole there now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let mut index = Index { directory: directory.to_owned(), ..Index::default() };
        for number in segments(directory)? {
            match File::open(path(directory, number)) {
                // Dropped for its age since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => {
                    index.look(number, &file?, Scrutiny::Headers)?;
                }
            }
        }
        index.all_is_durable();
        Ok(Self { shared: Arc::new(RwLock::new(index)) })
    }
}

impl Index {
    /// Learns of the frames of a segment. Only the newest can have been torn by a crash; what is wrong in another one was
    /// damaged, and is left alone.
    fn load(&mut self, number: u32, is_newest: bool) -> io::Result<()> {
        let path = path(&self.directory, number);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let scrutiny = if is_newest { Scrutiny::Bytes } else { Scrutiny::Headers };
        let end = self.look(number, &file, scrutiny)?;
        let length = file.metadata()?.len();
        if end == 0 {
            return fs::remove_file(path);
        }
        if is_newest {
            file.set_len(end)?;
            // The page cache may be all that has it: nobody may be told that it is durable before.
            file.sync_data()?;
        } else if end < length {
            tracing::error!(segment = %path.display(), at = end, "kept output is damaged: what follows is lost");
        }
        self.all_is_durable();
        Ok(())
    }

    /// Learns of the whole frames of a segment; answers with where they end.
    fn look(&mut self, number: u32, file: &File, scrutiny: Scrutiny) -> io::Result<u64> {
        segment::scan(file, scrutiny, |at, header: Header| {
            let (position, end, bytes) = (header.position, header.end(), header.file_bytes());
            self.add(header.key, Extent { segment: number, at, bytes, position, end });
        })
    }

    fn all_is_durable(&mut self) {
        self.attempts.values_mut().for_each(|kept| kept.durable = kept.written);
    }

    /// Learns of a frame; behind another one of the same attempt it becomes part of that extent.
    fn add(&mut self, key: Fence, frame: Extent) {
        self.bytes += frame.bytes;
        *self.segments.entry(frame.segment).or_default() += frame.bytes;
        let kept = self.attempts.entry(key).or_default();
        kept.written = frame.end;
        match kept.extents.last_mut() {
            Some(last)
                if last.segment == frame.segment
                    && last.at + last.bytes == frame.at
                    && last.end == frame.position
                    && last.bytes < EXTENT_BYTES =>
            {
                last.bytes += frame.bytes;
                last.end = frame.end;
            }
            _ => kept.extents.push(frame),
        }
    }

    /// Drops whole segments, oldest first, until the limit holds; never the current one.
    fn drop_oldest(&mut self, current: u32) -> io::Result<()> {
        let mut dropped = None;
        while self.bytes > self.limit
            && let Some((&number, &bytes)) = self.segments.first_key_value()
            && number != current
        {
            fs::remove_file(path(&self.directory, number))?;
            self.segments.remove(&number);
            self.bytes -= bytes;
            dropped = Some(number);
        }
        if let Some(newest) = dropped {
            self.attempts.retain(|_, kept| {
                kept.extents.retain(|extent| extent.segment > newest);
                !kept.extents.is_empty()
            });
        }
        Ok(())
    }
}

/// The files of kept output, the oldest first.
pub(super) fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(segments(directory)?.into_iter().map(|number| path(directory, number)).collect())
}

/// The segments that there are, the oldest first.
fn segments(directory: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".out")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}.out"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::id::{AttemptNumber, JobNonce};
    use crate::core::output::Stream;

    fn key(n: u32) -> Fence {
        Fence { nonce: JobNonce(1), attempt: AttemptNumber(n), ..Fence::default() }
    }

    fn chunk(position: u64, bytes: &[u8]) -> Chunk {
        Chunk { position, stream: Stream::Stdout, offset: position, bytes: bytes.to_vec() }
    }

    fn all(reader: &OutputReader, key: Fence, mut from: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let OutputRead::Chunks(chunks) = reader.read(key, from, 1000).unwrap() {
            for chunk in chunks {
                assert_eq!(chunk.position, from);
                from = chunk.end();
                bytes.extend(chunk.bytes);
            }
        }
        bytes
    }

    #[test]
    fn what_was_not_synced_is_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        writer.append(key(1), vec![chunk(0, b"abc")]).unwrap();
        assert_eq!(reader.read(key(1), 0, 100).unwrap(), OutputRead::Nothing);

        writer.sync().unwrap();

        assert_eq!(all(&reader, key(1), 1), b"bc");
    }

    #[test]
    fn what_its_worker_has_no_more_is_a_hole_that_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        writer.append(key(1), vec![chunk(0, b"abc")]).unwrap();

        writer.append(key(1), vec![chunk(5, b"fg")]).unwrap();
        writer.sync().unwrap();

        assert_eq!(reader.read(key(1), 0, 100).unwrap(), OutputRead::Chunks(vec![chunk(0, b"abc")]));
        assert_eq!(reader.read(key(1), 3, 100).unwrap(), OutputRead::Gone(5));
        assert_eq!(all(&reader, key(1), 5), b"fg");
    }

    #[test]
    fn a_torn_end_is_cut_and_what_is_before_it_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, _) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        writer.append(key(1), vec![chunk(0, b"abc"), chunk(3, b"def")]).unwrap();
        writer.sync().unwrap();
        drop(writer);
        let segment = path(directory.path(), 1);
        let length = fs::metadata(&segment).unwrap().len();
        OpenOptions::new().write(true).open(&segment).unwrap().set_len(length - 1).unwrap();

        let (mut writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        assert_eq!(writer.index().attempts[&key(1)].written, 3);
        writer.append(key(1), vec![chunk(3, b"def")]).unwrap();
        writer.sync().unwrap();

        assert_eq!(all(&reader, key(1), 0), b"abcdef");
    }

    #[test]
    fn damage_in_a_finished_segment_is_told_and_hides_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, _) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        for n in 0..3_u64 {
            writer.append(key(1), vec![chunk(n * 3, b"abc")]).unwrap();
            writer.sync().unwrap();
            // Each time it is opened a new segment begins.
            drop(writer);
            (writer, _) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        }
        drop(writer);
        let mut bytes = fs::read(path(directory.path(), 2)).unwrap();
        bytes[0] ^= 1;
        fs::write(path(directory.path(), 2), &bytes).unwrap();

        let (_writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();

        assert_eq!(reader.read(key(1), 0, 100).unwrap(), OutputRead::Chunks(vec![chunk(0, b"abc")]));
        assert_eq!(reader.read(key(1), 3, 100).unwrap(), OutputRead::Gone(6));
        assert_eq!(all(&reader, key(1), 6), b"abc");
    }

    #[test]
    fn what_is_known_of_many_small_frames_stays_small() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        for n in 0..10_000 {
            writer.append(key(1), vec![chunk(n, b"x")]).unwrap();
        }
        writer.sync().unwrap();

        assert!(reader.index().attempts[&key(1)].extents.len() < 20);
        assert_eq!(all(&reader, key(1), 9_990), b"xxxxxxxxxx");
    }

    #[test]
    fn an_attempt_of_which_everything_was_dropped_goes_on_where_its_worker_is() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();

        writer.append(key(1), vec![chunk(500, b"abc")]).unwrap();
        writer.sync().unwrap();

        assert_eq!(reader.read(key(1), 0, 100).unwrap(), OutputRead::Gone(500));
        assert_eq!(all(&reader, key(1), 500), b"abc");
    }

    #[test]
    fn beyond_the_limit_the_oldest_is_gone_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, reader) = OutputWriter::open(directory.path(), 20 << 20).unwrap();
        let block = vec![7; 64 << 10];
        for n in 0..640_u64 {
            writer.append(key(1), vec![chunk(n * block.len() as u64, &block)]).unwrap();
            writer.sync().unwrap();
        }

        let OutputRead::Gone(from) = reader.read(key(1), 0, 100).unwrap() else { panic!() };

        assert!(from > 0 && reader.usage().0 <= 20 << 20);
        assert_eq!(all(&reader, key(1), from).len() as u64, 640 * block.len() as u64 - from);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn output_is_exact_whatever_is_sent_again_and_wherever_it_is_reopened(
            steps in prop::collection::vec((0u32..3, 0u8..8, 1usize..300, 0u64..50), 1..60)
        ) {
            let directory = tempfile::tempdir().unwrap();
            let (mut writer, mut reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
            let mut model: BTreeMap<Fence, Vec<u8>> = BTreeMap::new();
            for (n, what, length, back) in steps {
                let written = model.entry(key(n)).or_default();
                if what == 7 {
                    drop(writer);
                    (writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
                    continue;
                }
                // Some of it was sent before.
                let from = (written.len() as u64).saturating_sub(back);
                let start = usize::try_from(from).unwrap();
                let mut bytes = written[start..].to_vec();
                bytes.extend(std::iter::repeat_n(what, length));
                writer.append(key(n), vec![chunk(from, &bytes)]).unwrap();
                written.truncate(start);
                written.extend(bytes);
                writer.sync().unwrap();
            }
            for (key, bytes) in &model {
                for from in [0, bytes.len() / 2, bytes.len()] {
                    prop_assert_eq!(&all(&reader, *key, from as u64), &bytes[from..]);
                }
            }
        }
    }
}
