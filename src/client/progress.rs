//! The progress of an array: a line that moves on a terminal, a plain line now and then elsewhere.
//!
//! It counts what it is told; it knows no job.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::render;
use crate::core::id::JobId;
use crate::say::say;

/// Without a terminal a line is said at most this often, and only when a tenth more has ended.
const LINE_AFTER: Duration = Duration::from_secs(10);

/// How far an array is.
pub struct Progress {
    id: JobId,
    total: u64,
    over: u64,
    failed: u64,
    running: u64,
    began: Instant,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant, over: u64 },
}

impl Progress {
    /// Of so many tasks.
    pub fn new(id: JobId, total: u64) -> Self {
        let shown = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix}  {bar:25} {pos}/{len}  {msg}");
            let bar = ProgressBar::new(total).with_prefix(id.to_string());
            Shown::Bar(style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style)))
        } else {
            Shown::Lines { last: Instant::now(), over: 0 }
        };
        Self { id, total, over: 0, failed: 0, running: 0, began: Instant::now(), shown }
    }

    /// A task runs.
    pub fn started(&mut self) {
        self.running += 1;
        self.show();
    }

    /// A task ended.
    pub fn ended(&mut self, success: bool) {
        self.over += 1;
        self.failed += u64::from(!success);
        self.running = self.running.saturating_sub(1);
        self.show();
    }

    /// Does something that writes to the terminal, with the moving line out of the way.
    pub fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(write),
            Shown::Lines { .. } => write(),
        }
    }

    /// Takes the moving line away.
    pub fn clear(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self) {
        let text = self.text(self.began.elapsed());
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_message(text);
                bar.set_position(self.over);
            }
            Shown::Lines { last, over } => {
                if last.elapsed() >= LINE_AFTER && (self.over - *over) * 10 >= self.total {
                    say!("{}  {}/{}  {text}", self.id, self.over, self.total);
                    (*last, *over) = (Instant::now(), self.over);
                }
            }
        }
    }

    /// `3 failed  16 running  38/s  eta 2.6s`
    fn text(&self, elapsed: Duration) -> String {
        let mut parts = Vec::new();
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        if self.running > 0 {
            parts.push(format!("{} running", self.running));
        }
        let rate = self.over as f64 / elapsed.as_secs_f64().max(0.001);
        if self.over > 0 {
            let digits = usize::from(rate < 10.0);
            parts.push(format!("{rate:.digits$}/s"));
            let left = (self.total - self.over.min(self.total)) as f64 / rate;
            parts.push(format!("eta {}", render::duration(Duration::from_secs_f64(left.min(1e9)))));
        }
        parts.join("  ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_failures_rate_and_what_is_left() {
        let mut progress = Progress::new(JobId(13), 200);
        (0..17).for_each(|_| progress.started());
        progress.ended(false);
        progress.over = 100;

        assert_eq!(progress.text(Duration::from_secs(4)), "1 failed  16 running  25/s  eta 4.0s");
    }
}
