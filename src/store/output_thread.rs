//! The output's own loop: gathers what has arrived, writes it, makes it durable with one sync, answers.
//!
//! Output bytes do not go round the pool's loop; this is theirs. It knows neither jobs nor workers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};

use super::output::{OutputError, OutputReader, OutputWriter};
use crate::core::id::Fence;
use crate::core::output::Chunk;

/// Appends that wait; more make their senders wait, and so their workers.
const QUEUE_MAX: usize = 1024;
/// Appends that one sync covers.
const BATCH_MAX: usize = 512;

struct Append {
    key: Fence,
    chunks: Vec<Chunk>,
    answer: oneshot::Sender<Result<(), OutputError>>,
}

/// The loop, to be run on a thread of its own.
pub struct OutputLoop {
    writer: OutputWriter,
    appends: mpsc::Receiver<Append>,
    watched: Watched,
}

/// What others have of the loop.
#[derive(Clone)]
pub struct OutputHandle {
    appends: mpsc::Sender<Append>,
    reader: OutputReader,
    watched: Watched,
}

type Watched = Arc<Mutex<BTreeMap<Fence, watch::Sender<u64>>>>;

/// The loop and its handle.
pub fn output_loop(writer: OutputWriter, reader: OutputReader) -> (OutputLoop, OutputHandle) {
    let (sender, appends) = mpsc::channel(QUEUE_MAX);
    let watched = Watched::default();
    let handle = OutputHandle { appends: sender, reader, watched: Arc::clone(&watched) };
    (OutputLoop { writer, appends, watched }, handle)
}

impl OutputLoop {
    /// Runs until nobody has a handle any longer.
    ///
    /// # Errors
    /// When the disk fails: what was not answered by then is not durable.
    pub async fn run(mut self) -> Result<(), OutputError> {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.appends.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let mut answers = Vec::with_capacity(batch.len());
            for append in batch.drain(..) {
                match self.writer.append(append.key, append.chunks) {
                    Err(OutputError::Io(error)) => return Err(OutputError::Io(error)),
                    result => answers.push((append.answer, result)),
                }
            }
            let durable = self.writer.sync()?;
            for (answer, result) in answers {
                // Whoever asked may have hung up.
                let _ = answer.send(result);
            }
            self.tell(&durable);
        }
        Ok(())
    }

    fn tell(&self, durable: &[(Fence, u64)]) {
        let mut watched = self.watched.lock().expect("nobody panics with the watched");
        for (key, end) in durable {
            if let Some(sender) = watched.get(key) {
                sender.send_replace(*end);
                if sender.is_closed() {
                    watched.remove(key);
                }
            }
        }
    }
}

impl OutputHandle {
    /// Appends output of an attempt; returns when it is durable.
    ///
    /// # Errors
    /// `Gap` if bytes before it are missing; an I/O error when the loop has ended.
    pub async fn append(&self, key: Fence, chunks: Vec<Chunk>) -> Result<(), OutputError> {
        let (answer, answered) = oneshot::channel();
        let gone = || OutputError::Io(std::io::Error::other("the output's loop has ended"));
        self.appends.send(Append { key, chunks, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// Whoever reads.
    pub fn reader(&self) -> &OutputReader {
        &self.reader
    }

    /// The durable end of an attempt's output, as it moves.
    pub fn subscribe(&self, key: Fence) -> watch::Receiver<u64> {
        let mut watched = self.watched.lock().expect("nobody panics with the watched");
        watched.retain(|_, sender| !sender.is_closed());
        let receiver = match watched.get(&key) {
            Some(sender) => sender.subscribe(),
            None => {
                let (sender, receiver) = watch::channel(self.reader.durable_end(key));
                watched.insert(key, sender);
                receiver
            }
        };
        drop(watched);
        // What became durable between the look and the entry in the list.
        let end = self.reader.durable_end(key);
        if *receiver.borrow() < end
            && let Some(sender) = self.watched.lock().expect("nobody panics with the watched").get(&key)
        {
            sender.send_replace(end);
        }
        receiver
    }

    /// Waits until an attempt's output is durable up to a position. Cancel-safe.
    pub async fn durable_to(&self, key: Fence, position: u64) {
        if self.reader.durable_end(key) >= position {
            return;
        }
        let mut end = self.subscribe(key);
        // The sender goes only with the loop; then whoever waits is ended with everything else.
        let _ = end.wait_for(|end| *end >= position).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::output::Stream;

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
        drop(handle);
        running.await.unwrap().unwrap();
    }
}
