//! What happens in a cluster of real processes, told to the judges that the simulation has (`tests/history`): scripts keep
//! a ledger, the pool's log is copied as it grows, and what clients are told is written down.

mod follower;
mod ledger;
mod log;
mod planted;
mod shown;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use clusterctl::core::id::{Fence, JobId, RequestId, TaskId};
use clusterctl::core::output::Stream;
use clusterctl::core::range::RangeSet;
use clusterctl::core::record::{Record, Submission};
use clusterctl::core::time::{Timestamp, WallTime};
use serde_json::Value;

use crate::cluster::{Cluster, Home, Site};
use crate::history::{Happened, History, Observer, Violation, Written};

use follower::Follower;
use ledger::{Ledger, What};
use log::Log;

/// Tells which submit a job came from, so that two jobs of one are seen for what they are.
const SUBMIT: &str = "SUBMIT";
/// All that a test asks, it asks one after the other.
const OBSERVER: Observer = Observer(1);

/// Somebody who sees all that happens in a cluster.
pub struct Witness {
    client: Home,
    ledger: Ledger,
    log: Log,
    /// Records and what clients were told, as they were seen, one after the other.
    seen: Vec<(WallTime, Happened)>,
    submissions: BTreeMap<JobId, Submission>,
    submits: u64,
    followers: BTreeMap<JobId, Follower>,
    /// How many of these have seen a job's end.
    followed: usize,
}

impl Witness {
    /// Of a cluster to which nobody has submitted anything; asks as this client.
    pub fn new(cluster: &Cluster, client: Home) -> Self {
        Self::at(&cluster.site, &cluster.operator, client)
    }

    /// Of the pool `lab` of this operator.
    pub fn at(site: &Site, operator: &Home, client: Home) -> Self {
        Self {
            client,
            ledger: Ledger::new(site.path().join("ledger")),
            log: Log::new(operator.state().join("lab/queue.db")),
            seen: Vec::new(),
            submissions: BTreeMap::new(),
            submits: 0,
            followers: BTreeMap::new(),
            followed: 0,
        }
    }

    /// A script that keeps the ledger: it prints by `out` and `err`, and ends by `end CODE`.
    pub fn script(&self, body: &str) -> String {
        self.ledger.script(body)
    }

    /// The value of `--env` for the next submit.
    pub fn next_submit(&mut self) -> String {
        self.submits += 1;
        format!("{SUBMIT}={}", self.submits)
    }

    /// The attempts that began so far.
    pub fn starts(&self) -> Vec<Fence> {
        let lines = self.ledger.lines().into_iter();
        lines.filter(|line| matches!(line.what, What::Start { .. })).map(|line| line.fence).collect()
    }

    /// What an attempt has printed by `out` so far.
    pub fn written_out(&self, fence: Fence) -> String {
        String::from_utf8(self.ledger.written(fence)[0].clone()).unwrap()
    }

    /// The client was told of a job that is its own.
    pub fn acknowledged(&mut self, id: &str) {
        let job = JobId(id.parse().expect("a job's id"));
        self.look_at_the_log();
        let event = match self.submissions.get(&job) {
            Some(submission) => {
                Happened::Accepted { owner: submission.owner.clone(), request: submission.request, job }
            }
            None => Happened::Unknown { job },
        };
        self.see(event);
    }

    /// Somebody follows an acknowledged job until it is over.
    pub fn follow(&mut self, id: &str) {
        let job = JobId(id.parse().expect("a job's id"));
        let follower = Follower::start(&self.client, self.ledger.directory(), job);
        self.followers.insert(job, follower);
    }

    /// The client looks at a job: what it is told, and must hold for ever if the job is over.
    pub fn look(&mut self, id: &str) -> Value {
        let shown = self.client.job(id);
        self.look_at_the_log();
        let job = JobId(shown["id"].as_u64().expect("a job's id"));
        if shown["tasks"].is_object() {
            self.see(Happened::JobSeen { observer: OBSERVER, job, counts: shown::counts(&shown) });
        } else {
            let index = u32::try_from(shown["task"].as_u64().unwrap_or(0)).unwrap();
            let sight = shown::sight(TaskId { job, index }, &shown);
            self.see(Happened::TaskSeen { observer: OBSERVER, sight });
        }
        shown
    }

    /// What became durable since the last look.
    pub fn look_at_the_log(&mut self) {
        for mut record in self.log.news() {
            let at = log::decided(&record).unwrap_or_else(|| self.last());
            match &mut record {
                Record::PoolStarted(_) => self.seen.push((at, Happened::PoolStarted)),
                Record::Submitted(submission) => {
                    if let Some(number) = number_of(submission) {
                        submission.request = RequestId(u128::from(number).to_le_bytes());
                    }
                    self.submissions.insert(submission.job, submission.clone());
                }
                _ => {}
            }
            self.seen.push((at, Happened::Recorded(record)));
        }
    }

    /// Panics with what was broken, if anything was, now that nothing happens any more.
    #[track_caller]
    pub fn assert_all_held(mut self, words: &str) {
        let began = self.followers.len();
        let broken: Vec<String> = self.violations().iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "{words}: {} breaches\n{}", broken.len(), broken.join("\n"));
        // Some came to a closed door.
        assert!(self.followed * 2 >= began, "{words}: {} of {began} followers saw an end", self.followed);
    }

    /// Where a promise was broken, now that nothing happens any more.
    pub fn violations(&mut self) -> Vec<Violation> {
        self.look_at_the_log();
        let last = self.last();
        let kept = self.kept();
        self.hear_the_followers();
        let mut told = Merged::new(self.ledger.events(&kept));
        for (at, event) in &self.seen {
            told.before(*at, event);
            told.add(*at, event.clone());
        }
        told.rest();
        kept.into_iter().for_each(|(fence, kept)| told.add(last, Happened::Kept { fence, kept }));
        told.history.violations()
    }

    /// What those were told who followed a job.
    fn hear_the_followers(&mut self) {
        for (job, follower) in std::mem::take(&mut self.followers) {
            let spec = &self.submissions[&job].spec;
            let all =
                spec.array.as_ref().map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()));
            let Some(events) = follower.finish(&all) else { continue };
            self.followed += 1;
            events.into_iter().for_each(|event| self.see(event));
        }
    }

    /// What the pool has of the output of every attempt that began.
    fn kept(&self) -> BTreeMap<Fence, Written> {
        let mut kept: BTreeMap<Fence, Written> =
            self.starts().into_iter().map(|fence| (fence, Written::default())).collect();
        let jobs: BTreeSet<JobId> = kept.keys().map(|fence| fence.task.job).collect();
        for job in jobs {
            let all = self.client.run(["logs", &job.to_string(), "--output", "ndjson"]).ok();
            add(&mut kept, job, &all);
        }
        kept
    }

    fn see(&mut self, event: Happened) {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        self.seen.push((WallTime(i64::try_from(now.as_millis()).unwrap()), event));
    }

    fn last(&self) -> WallTime {
        self.seen.last().map_or(WallTime(0), |(at, _)| *at)
    }
}

/// Puts what scripts tell between what was seen elsewhere. All are on one machine, so on one clock.
struct Merged {
    history: History,
    scripts: VecDeque<(WallTime, Fence, Happened)>,
}

impl Merged {
    fn new(scripts: Vec<(WallTime, Fence, Happened)>) -> Self {
        Self { history: History::default(), scripts: scripts.into() }
    }

    /// Adds what scripts told before this. Within a millisecond an attempt's own word comes before its recorded end, and
    /// after anything else.
    fn before(&mut self, at: WallTime, event: &Happened) {
        let ends = if let Happened::Recorded(record) = event { log::ends(record) } else { None };
        let (mut now, mut later) = (Vec::new(), VecDeque::new());
        for line in self.scripts.drain(..) {
            match line.0 < at || (line.0 == at && ends == Some(line.1)) {
                true => now.push(line),
                false => later.push_back(line),
            }
        }
        self.scripts = later;
        now.into_iter().for_each(|(at, _, event)| self.add(at, event));
    }

    fn rest(&mut self) {
        for (at, _, event) in std::mem::take(&mut self.scripts) {
            self.add(at, event);
        }
    }

    fn add(&mut self, at: WallTime, event: Happened) {
        self.history.add(Timestamp(u64::try_from(at.0).unwrap() * 1_000_000), event);
    }
}

/// Which submit of the test made a job.
fn number_of(submission: &Submission) -> Option<u64> {
    let (_, number) = submission.spec.env.iter().find(|(name, _)| name == SUBMIT.as_bytes())?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Adds what `logs` told, line by line, each with its place.
fn add(kept: &mut BTreeMap<Fence, Written>, job: JobId, lines: &str) {
    for line in lines.lines() {
        let line = serde_json::from_str(line).unwrap();
        let Some((index, attempt, chunk)) = shown::output(&line) else { continue };
        let of = |fence: &Fence| fence.task == TaskId { job, index } && fence.attempt.0 == attempt;
        let (_, written) = kept.iter_mut().find(|(fence, _)| of(fence)).expect("output of what began");
        let stream = &mut written[usize::from(chunk.stream == Stream::Stderr)];
        assert_eq!(chunk.offset, stream.len() as u64, "output comes in order: {line}");
        stream.extend_from_slice(&chunk.bytes);
    }
}
