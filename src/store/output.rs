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

use super::segment::{self, Frame};
use crate::core::id::Fence;
use crate::core::limits;
use crate::core::output::Chunk;

/// The one who appends. What it wrote counts only after `sync`.
pub struct OutputWriter {
    directory: PathBuf,
    shared: Arc<RwLock<Index>>,
    current: u32,
    written: u64,
    /// Attempts that were written to since the last sync.
    touched: BTreeMap<Fence, u64>,
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

/// Why output is not taken.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Bytes before these are missing: the sender has to begin at this position.
    #[error("output is missing from position {0} on")]
    Gap(u64),
    /// The operating system's own.
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[derive(Default)]
struct Index {
    attempts: BTreeMap<Fence, Kept>,
    segments: BTreeMap<u32, Segment>,
    bytes: u64,
    limit: u64,
}

struct Segment {
    file: Arc<File>,
    bytes: u64,
}

#[derive(Default)]
struct Kept {
    frames: Vec<(u32, Frame)>,
    /// Position after the last byte that was written.
    written: u64,
    /// Position after the last byte that survives a crash.
    durable: u64,
}

impl OutputWriter {
    /// Opens the directory, or makes it; a torn end is cut off.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(directory: &Path, limit: u64) -> io::Result<(Self, OutputReader)> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut index = Index { limit, ..Index::default() };
        let mut numbers: Vec<u32> = fs::read_dir(directory)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".out")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        for &number in &numbers {
            index.load(directory, number)?;
        }
        let current = numbers.last().map_or(1, |last| last + 1);
        let shared = Arc::new(RwLock::new(index));
        let mut writer =
            Self { directory: directory.to_owned(), shared, current, written: 0, touched: BTreeMap::new() };
        writer.begin_segment(current)?;
        let reader = OutputReader { shared: Arc::clone(&writer.shared) };
        Ok((writer, reader))
    }

    /// Appends chunks of one attempt, in order. Bytes that are there already are passed over.
    ///
    /// # Errors
    /// `Gap` if bytes before them are missing; nothing of the rest is taken then.
    pub fn append(&mut self, key: Fence, chunks: Vec<Chunk>) -> Result<(), OutputError> {
        for chunk in chunks {
            let written = self.end_position(key);
            if chunk.position > written {
                return Err(OutputError::Gap(written));
            }
            if let Some(chunk) = chunk.from_position(written) {
                self.append_one(key, &chunk)?;
            }
        }
        Ok(())
    }

    fn append_one(&mut self, key: Fence, chunk: &Chunk) -> Result<(), OutputError> {
        if self.written >= limits::OUTPUT_SEGMENT_BYTES {
            self.sync()?;
            self.begin_segment(self.current + 1)?;
        }
        let mut bytes = Vec::with_capacity(segment::HEADER_BYTES + chunk.bytes.len());
        segment::encode(key, chunk, &mut bytes);
        let mut index = self.shared.write().expect("nobody panics with the index");
        let segment = index.segments.get_mut(&self.current).expect("the current segment is known");
        segment.file.write_all_at(&bytes, self.written)?;
        segment.bytes += bytes.len() as u64;
        index.bytes += bytes.len() as u64;
        let length = u32::try_from(chunk.bytes.len()).expect("a chunk is bounded");
        let frame = Frame {
            at: self.written,
            position: chunk.position,
            offset: chunk.offset,
            stream: chunk.stream,
            length,
        };
        let kept = index.attempts.entry(key).or_default();
        kept.frames.push((self.current, frame));
        kept.written = frame.end();
        self.touched.insert(key, frame.end());
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes durable what was appended: the attempts with their durable ends. Then drops what is too much.
    ///
    /// # Errors
    /// When the disk fails: then nothing since the last sync may be relied on.
    pub fn sync(&mut self) -> io::Result<Vec<(Fence, u64)>> {
        if self.touched.is_empty() {
            return Ok(Vec::new());
        }
        let file = Arc::clone(&self.index().segments[&self.current].file);
        file.sync_data()?;
        let touched: Vec<(Fence, u64)> = std::mem::take(&mut self.touched).into_iter().collect();
        let mut index = self.shared.write().expect("nobody panics with the index");
        for (key, end) in &touched {
            if let Some(kept) = index.attempts.get_mut(key) {
                kept.durable = *end;
            }
        }
        index.drop_oldest(&self.directory, self.current)?;
        Ok(touched)
    }

    /// The position after the last byte of an attempt that was written.
    pub fn end_position(&self, key: Fence) -> u64 {
        self.index().attempts.get(&key).map_or(0, |kept| kept.written)
    }

    fn begin_segment(&mut self, number: u32) -> io::Result<()> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path(&self.directory, number))?;
        File::open(&self.directory)?.sync_all()?;
        let segment = Segment { file: Arc::new(file), bytes: 0 };
        self.shared.write().expect("nobody panics with the index").segments.insert(number, segment);
        self.current = number;
        self.written = 0;
        Ok(())
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.shared.read().expect("nobody panics with the index")
    }
}

impl OutputReader {
    /// Durable bytes from a position on, about `bytes_max` of them.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn read(&self, key: Fence, from: u64, bytes_max: usize) -> io::Result<OutputRead> {
        let (frames, files) = {
            let index = self.shared.read().expect("nobody panics with the index");
            let Some(kept) = index.attempts.get(&key) else { return Ok(OutputRead::Nothing) };
            if let Some((_, first)) = kept.frames.first()
                && first.position > from
            {
                return Ok(OutputRead::Gone(first.position));
            }
            if kept.frames.is_empty() && from < kept.durable {
                return Ok(OutputRead::Gone(kept.durable));
            }
            let start = kept.frames.partition_point(|(_, frame)| frame.end() <= from);
            let mut frames = Vec::new();
            let mut bytes = 0;
            for &(number, frame) in &kept.frames[start..] {
                if bytes >= bytes_max || frame.end() > kept.durable {
                    break;
                }
                bytes += frame.length as usize;
                frames.push((number, frame));
            }
            let files: BTreeMap<u32, Arc<File>> = frames
                .iter()
                .map(|(number, _)| (*number, Arc::clone(&index.segments[number].file)))
                .collect();
            (frames, files)
        };
        let chunks = frames.iter().map(|(number, frame)| frame.read(&files[number], key));
        let mut chunks = chunks.collect::<io::Result<Vec<Chunk>>>()?;
        if let Some(first) = chunks.first_mut() {
            *first = first.clone().from_position(from).expect("the first frame ends after the position");
        }
        Ok(if chunks.is_empty() { OutputRead::Nothing } else { OutputRead::Chunks(chunks) })
    }

    /// The position after the last byte of an attempt that survives a crash.
    pub fn durable_end(&self, key: Fence) -> u64 {
        let index = self.shared.read().expect("nobody panics with the index");
        index.attempts.get(&key).map_or(0, |kept| kept.durable)
    }

    /// Bytes that are kept, and at most.
    pub fn usage(&self) -> (u64, u64) {
        let index = self.shared.read().expect("nobody panics with the index");
        (index.bytes, index.limit)
    }
}

impl Index {
    fn load(&mut self, directory: &Path, number: u32) -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path(directory, number))?;
        let (frames, end) = segment::scan(&file)?;
        if frames.is_empty() {
            return fs::remove_file(path(directory, number));
        }
        file.set_len(end)?;
        for (key, frame) in frames {
            let kept = self.attempts.entry(key).or_default();
            kept.written = kept.written.max(frame.end());
            kept.durable = kept.written;
            kept.frames.push((number, frame));
        }
        self.bytes += end;
        self.segments.insert(number, Segment { file: Arc::new(file), bytes: end });
        Ok(())
    }

    /// Drops whole segments, oldest first, until the limit holds; never the current one.
    fn drop_oldest(&mut self, directory: &Path, current: u32) -> io::Result<()> {
        while self.bytes > self.limit
            && let Some((&number, _)) = self.segments.first_key_value()
            && number != current
        {
            fs::remove_file(path(directory, number))?;
            let segment = self.segments.remove(&number).expect("the segment was just found");
            self.bytes -= segment.bytes;
            for kept in self.attempts.values_mut() {
                kept.frames.retain(|(other, _)| *other != number);
            }
        }
        Ok(())
    }
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
    fn a_gap_is_refused_with_the_position_that_is_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let (mut writer, _) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        writer.append(key(1), vec![chunk(0, b"abc")]).unwrap();

        let gap = writer.append(key(1), vec![chunk(4, b"x")]);

        assert!(matches!(gap, Err(OutputError::Gap(3))));
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
        assert_eq!(writer.end_position(key(1)), 3);
        writer.append(key(1), vec![chunk(3, b"def")]).unwrap();
        writer.sync().unwrap();

        assert_eq!(all(&reader, key(1), 0), b"abcdef");
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
