//! Lines of jobs and tasks in one stream, each with an id in front: `42│`, `42.7│`.

use std::collections::BTreeMap;

use super::out;
use crate::core::id::JobId;
use crate::core::output::{Chunk, Stream};

/// What is kept of a line that has not ended, in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Whether tasks are told from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tasks {
    /// A plain job's only one: `42│`.
    One,
    /// An array's: `42.7│`.
    Many,
}

/// Puts a task's id in front of each of its lines.
#[derive(Debug)]
pub struct Tagger {
    job: JobId,
    tasks: Tasks,
    /// What has no end of line yet.
    open: BTreeMap<(u32, Stream), Vec<u8>>,
}

impl Tagger {
    /// For the tasks of one job.
    pub fn new(job: JobId, tasks: Tasks) -> Self {
        Self { job, tasks, open: BTreeMap::new() }
    }

    fn tag(&self, task: u32) -> String {
        match self.tasks {
            Tasks::One => format!("{}│", self.job),
            Tasks::Many => format!("{}.{task}│", self.job),
        }
    }

    /// Writes the lines that a chunk completes.
    ///
    /// # Errors
    /// When nobody reads our output any longer.
    pub fn write(&mut self, task: u32, chunk: &Chunk) -> std::io::Result<()> {
        let tag = self.tag(task);
        let open = self.open.entry((task, chunk.stream)).or_default();
        open.extend(&chunk.bytes);
        let end = open.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        // A line without an end is broken where it gets too long to be kept.
        let end = if open.len() - end > LINE_BYTES_MAX { open.len() } else { end };
        let rest = open.split_off(end);
        let whole = std::mem::replace(open, rest);
        if whole.is_empty() { Ok(()) } else { out::write(chunk.stream, &tagged(&tag, &whole)) }
    }

    /// Writes what has no end of line.
    ///
    /// # Errors
    /// When nobody reads our output any longer.
    pub fn flush(&mut self) -> std::io::Result<()> {
        for ((task, stream), open) in std::mem::take(&mut self.open) {
            if !open.is_empty() {
                out::write(stream, &tagged(&self.tag(task), &open))?;
            }
        }
        Ok(())
    }
}

fn tagged(tag: &str, lines: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(lines.len() * 2);
    for line in lines.strip_suffix(b"\n").unwrap_or(lines).split(|byte| *byte == b'\n') {
        text.extend(tag.as_bytes());
        text.extend(line);
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_its_tasks_id_also_the_last_one() {
        let text = tagged(&Tagger::new(JobId(4), Tasks::Many).tag(2), b"a\n\nb");

        assert_eq!(String::from_utf8(text).unwrap(), "4.2│a\n4.2│\n4.2│b\n");
    }
}
