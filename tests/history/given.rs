//! P9 and P10: the bytes that a follower is given are what the script wrote, in order, each once, through any number of
//! lost connections; and all of them, when it has been told that a task ended.

use std::collections::{BTreeMap, BTreeSet};

use clusterctl::core::id::{Fence, JobId, TaskId};
use clusterctl::core::outcome::Outcome;
use clusterctl::core::output::Stream;

use super::{Check, Findings, Follow, Happened, Observer, Promise, Written};

#[derive(Debug, Default)]
pub(super) struct Given {
    given: BTreeMap<(Observer, TaskId, u32), Written>,
    written: BTreeMap<(TaskId, u32), Written>,
    /// Who is given output at all.
    listeners: BTreeSet<(Observer, JobId)>,
    /// Those that were told to one of them to have ended by themselves.
    told: Vec<(Observer, TaskId, u32)>,
}

impl Check for Given {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Given { observer, task, attempt, chunk } = event {
            let streams = self.given.entry((*observer, *task, *attempt)).or_default();
            let stream = &mut streams[usize::from(chunk.stream == Stream::Stderr)];
            if chunk.offset != stream.len() as u64 {
                let text = format!(
                    "{observer:?} had {} bytes of {:?} of {task}#{attempt}, and is given what begins at {}",
                    stream.len(),
                    chunk.stream,
                    chunk.offset
                );
                found.broken(Promise::P10, text);
            }
            stream.extend_from_slice(&chunk.bytes);
        } else if let Happened::Ended { fence, written, .. } | Happened::StillRuns { fence, written } = event
        {
            let Fence { task, attempt, .. } = fence;
            self.written.insert((*task, attempt.0), written.clone());
        } else if let Happened::Followed { observer, job, what: Follow::Begins { gives_output, .. } } = event
        {
            if *gives_output {
                self.listeners.insert((*observer, *job));
            }
        } else if let Happened::Followed { observer, job, what: Follow::Ended { index, attempt, outcome } } =
            event
            && self.listeners.contains(&(*observer, *job))
            && matches!(outcome, Outcome::Exited(_) | Outcome::Signaled(_) | Outcome::TimedOut)
        {
            self.told.push((*observer, TaskId { job: *job, index: *index }, *attempt));
        }
    }

    fn end(&mut self, found: &mut Findings) {
        let nothing = Written::default();
        for ((observer, task, attempt), given) in &self.given {
            let written = self.written.get(&(*task, *attempt)).unwrap_or(&nothing);
            if given.iter().zip(written).any(|(given, written)| !written.starts_with(given)) {
                let text = format!("{observer:?} is given other bytes of {task}#{attempt} than it wrote");
                found.broken(Promise::P9, text);
            }
        }
        for key @ (observer, task, attempt) in &self.told {
            let given = self.given.get(key).unwrap_or(&nothing);
            let written = self.written.get(&(*task, *attempt)).unwrap_or(&nothing);
            if given != written {
                let (had, wrote) = (given.each_ref().map(Vec::len), written.each_ref().map(Vec::len));
                let text = format!(
                    "{observer:?} is told that {task}#{attempt} has ended, which wrote {wrote:?} bytes, and was given {had:?}"
                );
                found.broken(Promise::P9, text);
            }
        }
    }
}
