//! The agent's end of the line to an executor: found, or started, and then spoken to without waiting.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::core::attempt::{FromExecutor, ToExecutor};
use crate::wire::executor as wire;

use super::executor::{ExecutorOptions, LOG, short_path};

/// Bytes read from an executor at a time.
const READ_BYTES: usize = 256 << 10;

/// What is said when the line is closed is read by then, unless the executor reads nothing any more.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A line to an executor.
pub struct ExecutorLine {
    /// Bounded by what the agent's own bounds let through: placements of free slots, and an answer to each thing that
    /// the executor said.
    words: mpsc::UnboundedSender<ToExecutor>,
    writer: AbortOnDropHandle<()>,
    stream: Box<dyn AsyncRead + Unpin>,
    inbox: Vec<u8>,
    taken: usize,
}

impl ExecutorLine {
    /// A line over a stream; what is said first is how the agent speaks.
    pub fn over(read: impl AsyncRead + Unpin + 'static, write: impl AsyncWrite + Unpin + 'static) -> Self {
        let (words, mut said) = mpsc::unbounded_channel::<ToExecutor>();
        let mut write = write;
        let writer = AbortOnDropHandle::new(tokio::task::spawn_local(async move {
            let mut bytes = wire::hello();
            loop {
                if write.write_all(&bytes).await.is_err() {
                    return;
                }
                // It ends with the line.
                let Some(word) = said.recv().await else { return };
                bytes = wire::encode_to(&word);
                while let Ok(word) = said.try_recv() {
                    bytes.extend(wire::encode_to(&word));
                }
            }
        }));
        Self { words, writer, stream: Box::new(read), inbox: Vec::new(), taken: 0 }
    }

    /// Says something, in order and without waiting; to an executor that is gone, nothing.
    pub fn send(&self, word: ToExecutor) {
        // That it is gone is heard.
        let _ = self.words.send(word);
    }

    /// Closes the line when all that was said has been sent.
    pub async fn close(self) {
        let Self { words, writer, .. } = self;
        drop(words);
        let _ = tokio::time::timeout(CLOSE_WITHIN, writer).await;
    }

    /// The next thing that it says; `None` when it is gone or speaks nonsense. Cancel-safe.
    pub async fn recv(&mut self) -> Option<FromExecutor> {
        loop {
            match wire::next_frame(&self.inbox[self.taken..]) {
                Ok(Some((body, length))) => {
                    let word = wire::decode_from(body);
                    self.taken += length;
                    return word
                        .inspect_err(|error| tracing::error!(%error, "the executor speaks nonsense"))
                        .ok();
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, "the executor speaks nonsense");
                    return None;
                }
            }
            self.inbox.drain(..self.taken);
            self.taken = 0;
            self.inbox.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.inbox).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The next thing that it has said already.
    pub fn try_next(&mut self) -> Option<FromExecutor> {
        let (body, length) = wire::next_frame(&self.inbox[self.taken..]).ok()??;
        let word = wire::decode_from(body).ok()?;
        self.taken += length;
        Some(word)
    }
}

/// Connects to the executor that has this directory, or starts one. None: somebody ended it before it answered.
///
/// # Errors
/// When none runs and none can be started; the error has the last line of its log.
pub async fn connect_or_start(options: &ExecutorOptions) -> anyhow::Result<Option<ExecutorLine>> {
    super::workspace::private_directory(&options.directory)
        .with_context(|| format!("cannot use {}", options.directory.display()))?;
    let stream = match connect(&options.directory).await {
        Ok(stream) => {
            options.check_user()?;
            stream
        }
        Err(_) => {
            start(options).await?;
            let Ok(stream) = connect(&options.directory).await else { return Ok(None) };
            stream
        }
    };
    let (read, write) = stream.into_split();
    Ok(Some(ExecutorLine::over(read, write)))
}

async fn connect(directory: &Path) -> io::Result<UnixStream> {
    let handle = std::fs::File::open(directory)?;
    UnixStream::connect(short_path(&handle)).await
}

/// Starts one, and waits until it listens or has ended.
async fn start(options: &ExecutorOptions) -> anyhow::Result<()> {
    let log_path = options.directory.join(LOG);
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path)?;
    let logged = usize::try_from(log.metadata()?.len())?;
    let mut process = tokio::process::Command::new("/proc/self/exe")
        .arg0("clusterctl")
        .arg("executor")
        // It outlives us, and every job could read what is in its environment.
        .env_remove("CLUSTERCTL_TOKEN")
        .arg("--directory")
        .arg(&options.directory)
        .arg("--work-directory")
        .arg(&options.work_directory)
        .args(options.run_as.iter().flat_map(|user| ["--run-as", &user.name]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the executor")?;
    let mut said = String::new();
    if let Some(stdout) = &mut process.stdout {
        stdout.read_to_string(&mut said).await?;
    }
    if said.starts_with("ready") {
        return Ok(());
    }
    if process.wait().await?.signal().is_some() {
        return Ok(());
    }
    let log = std::fs::read(&log_path).unwrap_or_default();
    let log = String::from_utf8_lossy(log.get(logged..).unwrap_or_default());
    let last = log.lines().rev().find_map(|line| line.strip_prefix("error: "));
    anyhow::bail!("the executor did not start: {}", last.unwrap_or("it left no word"))
}
