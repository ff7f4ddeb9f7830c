//! The output's own loop: gathers what has arrived, writes it, makes it durable with one sync, answers.
//!
//! Output bytes do not go round the pool's loop; this is theirs. It knows neither jobs nor workers.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::output::{OutputReader, OutputWriter};
use crate::core::id::Fence;
use crate::core::output::Chunk;

/// Appends that wait; more make their senders wait, and so their workers.
const QUEUE_MAX: usize = 1024;
/// Bytes of them, in KiB: what a slow disk lets pile up.
const QUEUE_KIB_MAX: usize = 64 << 10;
/// Appends that one sync covers.
const BATCH_MAX: usize = 512;

/// What the loop is asked for.
enum Wanted {
    Append(Append),
    /// The disk is nearly full, and perhaps nothing is appended.
    Room,
}

struct Append {
    key: Fence,
    chunks: Vec<Chunk>,
    answer: oneshot::Sender<()>,
    /// Its share of what may wait.
    _share: OwnedSemaphorePermit,
}

/// The loop, to be run on a thread of its own.
pub struct OutputLoop {
    writer: OutputWriter,
    wanted: mpsc::Receiver<Wanted>,
    watched: Watched,
}

/// What others have of the loop.
#[derive(Clone)]
pub struct OutputHandle {
    wanted: mpsc::Sender<Wanted>,
    room: Arc<Semaphore>,
    reader: OutputReader,
    watched: Watched,
}

type Watched = Arc<Mutex<BTreeMap<Fence, watch::Sender<u64>>>>;

/// The durable end of an attempt's output, as it moves.
pub struct Changes {
    key: Fence,
    end: watch::Receiver<u64>,
    watched: Watched,
}

/// The loop and its handle.
pub fn output_loop(writer: OutputWriter, reader: OutputReader) -> (OutputLoop, OutputHandle) {
    let (sender, wanted) = mpsc::channel(QUEUE_MAX);
    let room = Arc::new(Semaphore::new(QUEUE_KIB_MAX));
    let watched = Watched::default();
    let handle = OutputHandle { wanted: sender, room, reader, watched: Arc::clone(&watched) };
    (OutputLoop { writer, wanted, watched }, handle)
}

impl OutputLoop {
    /// Runs until nobody has a handle any longer.
    ///
    /// # Errors
    /// When the disk fails: what was not answered by then is not durable.
    pub async fn run(mut self) -> io::Result<()> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.wanted.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let mut answers = Vec::with_capacity(batch.len());
            for wanted in batch.drain(..) {
                match wanted {
                    Wanted::Append(Append { key, chunks, answer, _share }) => {
                        self.writer.append(key, chunks)?;
                        answers.push(answer);
                    }
                    Wanted::Room => self.writer.make_room()?,
                }
            }
            let durable = self.writer.sync()?;
            for answer in answers {
                // Whoever asked may have hung up.
                let _ = answer.send(());
            }
            let watched = self.watched.lock().expect("nobody panics with the watched");
            for (key, end) in durable {
                if let Some(sender) = watched.get(&key) {
                    forward(sender, end);
                }
            }
        }
        Ok(())
    }
}

/// Two look at the same time: the later end counts.
fn forward(sender: &watch::Sender<u64>, end: u64) {
    sender.send_if_modified(|known| {
        let moves = end > *known;
        *known = end.max(*known);
        moves
    });
}

impl OutputHandle {
    /// Appends output of an attempt; returns when it is durable.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn append(&self, key: Fence, chunks: Vec<Chunk>) -> io::Result<()> {
        let gone = || io::Error::other("the output's loop has ended");
        let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
        let share = u32::try_from(bytes.div_ceil(1024).clamp(1, QUEUE_KIB_MAX)).expect("a clamped number");
        let share = Arc::clone(&self.room).acquire_many_owned(share).await.map_err(|_| gone())?;
        let (answer, answered) = oneshot::channel();
        self.wanted
            .send(Wanted::Append(Append { key, chunks, answer, _share: share }))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }

    /// Old output makes room where the disk is nearly full. Whoever asks looks again, and does not wait.
    pub fn make_room(&self) {
        // If much waits to be appended, that looks for room as well.
        let _ = self.wanted.try_send(Wanted::Room);
    }

    /// Whoever reads.
    pub fn reader(&self) -> &OutputReader {
        &self.reader
    }

    /// The durable end of an attempt's output, as it moves.
    pub fn subscribe(&self, key: Fence) -> Changes {
        let mut watched = self.watched.lock().expect("nobody panics with the watched");
        let sender = watched.entry(key).or_insert_with(|| watch::channel(0).0);
        let end = sender.subscribe();
        // Whatever became durable before we were in the list; afterwards the loop tells.
        forward(sender, self.reader.durable_end(key));
        Changes { key, end, watched: Arc::clone(&self.watched) }
    }

    /// Waits until an attempt's output is durable up to a position. What was dropped for its age, all of it, was durable
    /// before: its worker has been told so, and sends it no more. Cancel-safe.
    pub async fn durable_to(&self, key: Fence, position: u64) {
        if self.reader.durable_end(key) >= position || !self.reader.has(key) {
            return;
        }
        // The sender goes only with the loop; then whoever waits is ended with everything else.
        let _ = self.subscribe(key).end.wait_for(|end| *end >= position).await;
    }
}

impl Changes {
    /// What is there already counts as a change.
    pub fn mark_changed(&mut self) {
        self.end.mark_changed();
    }

    /// Waits until the end has moved. Cancel-safe.
    pub async fn changed(&mut self) {
        // The sender goes only with the loop, and then everything ends.
        let _ = self.end.changed().await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let mut watched = self.watched.lock().expect("nobody panics with the watched");
        if watched.get(&self.key).is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::output::Stream;

    #[tokio::test]
    async fn nobody_waits_for_what_was_dropped_for_its_age() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, reader) = OutputWriter::open(directory.path(), 0).unwrap();
        let (output, handle) = output_loop(writer, reader);
        let running = tokio::spawn(output.run());
        let (old, new) =
            (Fence::default(), Fence { nonce: crate::core::id::JobNonce(1), ..Fence::default() });
        let piece = |position: u64| {
            let bytes = vec![7; 60_000];
            vec![Chunk { position, stream: Stream::Stdout, offset: position, bytes }]
        };
        handle.append(old, piece(0)).await.unwrap();
        let mut position = 0;
        while handle.reader().has(old) {
            handle.append(new, piece(position)).await.unwrap();
            position += 60_000;
        }

        handle.durable_to(old, 60_000).await;

        drop(handle);
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_follower_is_told_of_what_became_durable() {
        let directory = tempfile::tempdir().unwrap();
        let (writer, reader) = OutputWriter::open(directory.path(), 1 << 30).unwrap();
        let (output, handle) = output_loop(writer, reader);
        let running = tokio::spawn(output.run());
        let key = Fence::default();
        let follower = handle.clone();
        let waiting = tokio::spawn(async move { follower.durable_to(key, 3).await });

        let chunk = Chunk { position: 0, stream: Stream::Stdout, offset: 0, bytes: b"abc".to_vec() };
        handle.append(key, vec![chunk]).await.unwrap();

        waiting.await.unwrap();
        assert!(handle.watched.lock().unwrap().is_empty(), "nobody watches any longer");
        drop(handle);
        running.await.unwrap().unwrap();
    }
}
