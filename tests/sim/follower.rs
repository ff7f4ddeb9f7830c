//! Followers: the pool's side of following a job, as `pool::follow` does it; of output it sends none here.

use clusterctl::core::id::JobId;
use clusterctl::core::pool::{JobEvent, Viewer, WatchError, WatchStart, WatcherId};
use clusterctl::core::range::RangeSet;
use clusterctl::core::view::TaskState;

use crate::client::ClientId;
use crate::history::{Follow, Happened, Observer, TaskSight};
use crate::plan::Plant;
use crate::pool_process::PoolProcess;
use crate::world::{Event, World};

/// Somebody who follows a job.
pub struct Follower {
    client: ClientId,
    observer: Observer,
    stage: Stage,
}

enum Stage {
    /// Where it begins is not durable yet; this happened since.
    Begins(Vec<JobEvent>),
    Follows,
}

impl PoolProcess {
    /// From now on the pool keeps events for a follower. A client that asks to follow again has lost the line by which
    /// it followed.
    pub fn follower_comes(
        &mut self,
        client: ClientId,
        viewer: &Viewer,
        observer: Observer,
        job: JobId,
    ) -> Result<WatchStart, WatchError> {
        let before = self.followers.iter().find(|(_, follower)| follower.observer == observer);
        if let Some(watcher) = before.map(|(watcher, _)| *watcher) {
            self.followers.remove(&watcher);
            self.pool.unwatch(watcher);
        }
        let start = self.pool.watch(viewer, job)?;
        let follower = Follower { client, observer, stage: Stage::Begins(Vec::new()) };
        self.followers.insert(start.watcher, follower);
        Ok(start)
    }
}

impl World {
    /// Where a follower begins is durable: it is shown that, and then what has happened since.
    pub fn follower_begins(&mut self, observer: Observer, job: JobId, start: WatchStart) {
        let Some(process) = &mut self.pool else { return };
        let Some(follower) = process.followers.get_mut(&start.watcher) else { return };
        let Stage::Begins(events) = std::mem::replace(&mut follower.stage, Stage::Follows) else { return };
        let all = start.info.spec.array.as_ref();
        let all = all.map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()));
        self.show_over(observer, job, &start.over);
        let active = start.active.iter().map(|task| (task.index, task.attempt)).collect();
        let what = Follow::Begins { all, over: start.over, active, gives_output: false };
        self.happened(Happened::Followed { observer, job, what });
        for task in &start.active {
            self.show_task(observer, job, task);
        }
        for event in events {
            self.follower_is_told(start.watcher, job, event);
        }
    }

    /// Shows tasks that are over: those with a row had an attempt, the others were cancelled before.
    fn show_over(&mut self, observer: Observer, job: JobId, over: &RangeSet) {
        let rows = self.rows_of(job);
        for index in over.iter() {
            match rows.iter().find(|row| row.index == index) {
                Some(row) => self.show_task(observer, job, row),
                None => {
                    let task = clusterctl::core::id::TaskId { job, index };
                    let sight = TaskSight { task, attempt: 0, state: TaskState::Cancelled, outcome: None };
                    self.happened(Happened::TaskSeen { observer, sight });
                }
            }
        }
    }

    /// What there was to follow has ended before.
    pub fn show_ended_to_follower(&mut self, client: ClientId, observer: Observer, job: JobId) {
        self.client(client).follows.remove(&observer);
        let Some(ended) = self.disk.history.jobs.get(&job) else {
            return self.happened(Happened::Unknown { job });
        };
        let counts = ended.counts;
        let array = ended.submission.spec.array.as_ref();
        let all = array.map_or(RangeSet::of(&[(0, 0)]), |array| RangeSet::of(array.ranges()));
        self.show_over(observer, job, &all);
        let what = Follow::Begins { all: all.clone(), over: all, active: Vec::new(), gives_output: false };
        self.happened(Happened::Followed { observer, job, what });
        self.happened(Happened::Followed { observer, job, what: Follow::Over(counts) });
    }

    /// Something happened to a job that somebody follows.
    pub fn follower_is_told(&mut self, watcher: WatcherId, job: JobId, event: JobEvent) {
        if self.plan.plant == Plant::FollowerLosesEvents && self.random.chance(100) {
            return;
        }
        let Some(process) = &mut self.pool else { return };
        let Some(follower) = process.followers.get_mut(&watcher) else { return };
        if let Stage::Begins(events) = &mut follower.stage {
            return events.push(event);
        }
        let (client, observer) = (follower.client, follower.observer);
        let what = match event {
            JobEvent::Task(event) => Follow::Task(event),
            JobEvent::Ended(ended) => Follow::Ended {
                index: ended.end.fence.task.index,
                attempt: ended.end.fence.attempt.0,
                outcome: ended.end.outcome.clone(),
            },
            JobEvent::Cancelled(ranges, _) => Follow::Cancelled(ranges),
            JobEvent::Over(info) => {
                process.followers.remove(&watcher);
                self.client(client).follows.remove(&observer);
                Follow::Over(info.counts)
            }
        };
        self.happened(Happened::Followed { observer, job, what });
    }

    /// A follower does not keep up: it loses its place, and begins again.
    pub fn follower_is_slow(&mut self) {
        let Some(process) = &mut self.pool else { return };
        let watchers: Vec<WatcherId> = process.followers.keys().copied().collect();
        if watchers.is_empty() {
            return;
        }
        let watcher = self.random.pick(&watchers);
        let follower = process.followers.remove(&watcher).expect("the follower was just found");
        self.decide(move |pool, _| {
            pool.unwatch(watcher);
            crate::answer::Answer::Nothing
        });
        self.follower_is_gone(&follower);
    }

    /// Whoever followed has to ask again.
    pub fn follower_is_gone(&mut self, follower: &Follower) {
        let wait = self.random.millis(0, 5000);
        let Follower { client, observer, .. } = *follower;
        self.after(wait, Event::FollowsAgain(client, observer));
    }
}
