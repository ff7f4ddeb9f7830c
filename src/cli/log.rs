//! Logging: to standard error, which in the background is a file that stays small.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// A background process's log is begun anew when it has grown to this, in bytes; the one before is kept.
const BYTES_MAX: u64 = 4 << 20;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Human,
    /// One JSON document a line.
    Json,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LogTo {
    /// Standard error, whoever reads it.
    Stderr,
    /// Standard error, which is this file.
    File(PathBuf),
}

/// Starts logging; `CLUSTERCTL_LOG` goes over the default level.
pub(super) fn start(format: LogFormat, default: &str, to: LogTo) {
    // A variable that is empty says nothing.
    let wished = std::env::var("CLUSTERCTL_LOG").ok().filter(|text| !text.is_empty());
    let filter = wished
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(format!("{default},rustyline=warn")));
    let writer = Writer(Mutex::new(Bounded::new(to)));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    // A second start in one process (pool serve --repl) keeps the first one's log.
    let _ = match format {
        LogFormat::Human => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

struct Writer(Mutex<Bounded>);

/// Standard error, and how much has gone to the file that it is.
struct Bounded {
    path: Option<PathBuf>,
    bytes: u64,
}

impl Bounded {
    fn new(to: LogTo) -> Self {
        match to {
            LogTo::Stderr => Self { path: None, bytes: 0 },
            LogTo::File(path) => {
                let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                Self { path: Some(path), bytes }
            }
        }
    }

    /// Makes another file our standard error.
    fn begin_anew(&mut self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        std::fs::rename(path, path.with_extension("old"))?;
        let file = open(path)?;
        nix::unistd::dup2_stderr(&file)?;
        self.bytes = 0;
        Ok(())
    }
}

impl Write for &Writer {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut log = self.0.lock().expect("nobody panics with the log");
        if log.path.is_some() && log.bytes + line.len() as u64 > BYTES_MAX {
            // A log that cannot be begun anew goes on as it is.
            let _ = log.begin_anew();
        }
        log.bytes += line.len() as u64;
        // What has no room, or no reader, is not said. Told of it, the subscriber would tell standard error, and panic.
        let _ = std::io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = &'a Writer;

    fn make_writer(&'a self) -> &'a Writer {
        self
    }
}

/// A log file, of this user alone.
pub(super) fn open(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
