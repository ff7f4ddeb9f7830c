//! What goes up to the pool: output and reports, gathered and sent as few calls as their size allows; heartbeats beside
//! them, on an object of their own.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::core::id::Fence;
use crate::core::limits;
use crate::core::membership::Report;
use crate::core::output::Chunk;
use crate::core::time::{Clock, Timestamp};
use crate::net::gate::GateState;
use crate::schema::worker_capnp::{heartbeat, output, registration, reports};
use crate::wire;

/// What came of a call.
#[derive(Debug)]
pub(super) enum Answer {
    /// Output is durable up to these positions.
    Durable(Vec<(Fence, u64)>),
    /// These endings need not be kept.
    Forget(Vec<Fence>),
    /// A heartbeat that was sent then was answered with this lease.
    Lease(Timestamp, Duration),
    /// The pool gives nothing new.
    Drained,
    /// A call failed: the link is of no more use.
    Failed(capnp::Error),
}

/// The objects of a registration, and the calls on them that are under way.
pub(super) struct Uplink {
    registration: registration::Client,
    reports: reports::Client,
    output: output::Client,
    heartbeat: heartbeat::Client,
    state: GateState,
    clock: Clock,
    /// Not sent yet, since many calls are open.
    chunks: VecDeque<(Fence, Chunk)>,
    waiting: VecDeque<Report>,
    calls: JoinSet<Answer>,
    /// When reports that are not urgent are sent.
    reports_due: Option<Instant>,
    /// Sent and not answered.
    beats: usize,
}

/// Whether somebody waits for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    Now,
    /// A few milliseconds later, with others, is soon enough.
    Soon,
}

/// Reports that are not urgent are held back for so long for more to come with them: each call costs pool and worker
/// more than what it tells.
const REPORT_AFTER: Duration = Duration::from_millis(5);

/// A pool that does not answer to a farewell is left without it.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

impl Uplink {
    pub(super) fn new(
        registration: registration::Client,
        reports: reports::Client,
        output: output::Client,
        heartbeat: heartbeat::Client,
        state: GateState,
        clock: Clock,
    ) -> Self {
        let (chunks, waiting, calls) = Default::default();
        let reports_due = None;
        Self {
            registration,
            reports,
            output,
            heartbeat,
            state,
            clock,
            chunks,
            waiting,
            calls,
            reports_due,
            beats: 0,
        }
    }

    /// Sends output, and reports: as much as the pool accepts at a time; the rest goes when it has answered.
    pub(super) fn send(&mut self, chunks: Vec<(Fence, Chunk)>, reports: Vec<Report>, haste: Haste) {
        self.chunks.extend(chunks);
        self.waiting.extend(reports);
        let now = Instant::now();
        let due = match haste {
            Haste::Now => now,
            Haste::Soon => *self.reports_due.get_or_insert(now + REPORT_AFTER),
        };
        while due <= now && !self.waiting.is_empty() && self.state.may_call() {
            self.send_reports();
        }
        self.reports_due = (!self.waiting.is_empty()).then_some(due);
        while !self.chunks.is_empty() && self.state.may_call() {
            self.send_chunks();
        }
    }

    fn send_chunks(&mut self) {
        let mut parts: Vec<(Fence, Vec<Chunk>)> = Vec::new();
        let mut bytes = 0;
        while let Some((fence, chunk)) = self.chunks.pop_front() {
            if bytes + chunk.bytes.len() > limits::BATCH_BYTES_MAX && bytes > 0 {
                self.chunks.push_front((fence, chunk));
                break;
            }
            bytes += chunk.bytes.len();
            match parts.iter_mut().find(|(other, _)| *other == fence) {
                Some((_, chunks)) => chunks.push(chunk),
                None => parts.push((fence, vec![chunk])),
            }
        }
        let mut request = self.output.write_request();
        wire::output::write_parts(&parts, request.get().init_parts(wire::text::count(&parts)));
        let end = |(fence, chunks): &(Fence, Vec<Chunk>)| Some((*fence, chunks.last()?.end()));
        let durable = parts.iter().filter_map(end).collect();
        let writing = request.send().promise;
        self.calls.spawn_local(async move {
            match writing.await {
                Ok(_) => Answer::Durable(durable),
                Err(error) => Answer::Failed(error),
            }
        });
    }

    fn send_reports(&mut self) {
        let count = self.waiting.len().min(limits::REPORTS_PER_CALL_MAX);
        let reports: Vec<Report> = self.waiting.drain(..count).collect();
        let mut request = self.reports.report_request();
        wire::worker::write_reports(&reports, request.get().init_reports(wire::text::count(&reports)));
        let reporting = request.send().promise;
        self.calls.spawn_local(async move {
            let forget = async {
                let answer = reporting.await?;
                Ok::<_, capnp::Error>(wire::fence::read_list(answer.get()?.get_forget()?)?)
            };
            forget.await.map_or_else(Answer::Failed, Answer::Forget)
        });
    }

    /// When reports that were held back are to be sent, if there are any.
    pub(super) fn due(&self) -> Option<Instant> {
        self.reports_due.filter(|_| self.state.may_call())
    }

    /// Sends a heartbeat.
    pub(super) fn beat(&mut self, held: usize, full: Option<&str>) {
        let mut request = self.heartbeat.beat_request();
        request.get().set_held(u32::try_from(held).unwrap_or(u32::MAX));
        request.get().set_full(full.unwrap_or_default());
        let sent = (self.clock)().at;
        self.beats += 1;
        self.calls.spawn_local(async move {
            let lease = async {
                let answer = request.send().promise.await?;
                Ok::<_, capnp::Error>(Duration::from_millis(answer.get()?.get_lease_ms()))
            };
            lease.await.map_or_else(Answer::Failed, |lease| Answer::Lease(sent, lease))
        });
    }

    /// Tells the pool that nothing new is wanted.
    pub(super) fn drain(&mut self) {
        let request = self.registration.drain_request();
        self.calls.spawn_local(async move {
            request.send().promise.await.map_or_else(Answer::Failed, |_| Answer::Drained)
        });
    }

    /// How many heartbeats have no answer yet.
    pub(super) fn unanswered_beats(&self) -> usize {
        self.beats
    }

    /// Says farewell.
    pub(super) async fn leave(self) {
        let leave = self.registration.leave_request().send().promise;
        let _ = tokio::time::timeout(LEAVE_WITHIN, leave).await;
    }

    /// The next answer; never, if no call is under way. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Answer {
        match self.calls.join_next().await {
            Some(Ok(answer)) => {
                if let Answer::Lease(..) = answer {
                    self.beats -= 1;
                }
                answer
            }
            Some(Err(error)) => Answer::Failed(capnp::Error::failed(error.to_string())),
            None => std::future::pending().await,
        }
    }
}
