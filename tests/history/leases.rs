//! P13: what may be retried runs no longer than its lease, counted from when that was sent which the pool answered last,
//! on a clock that may be wrong by a twentieth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clusterctl::core::id::{Fence, Incarnation, JobId};
use clusterctl::core::record::Record;
use clusterctl::core::time::Timestamp;

use super::workers::Workers;
use super::{Check, Findings, Happened, Promise};

/// The slowest clock that the promises speak of, for each second of the right time.
const SLOWEST_CLOCK: f64 = 0.95;
/// From the end of a lease until it was seen that nothing runs.
const SEEN_LATE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Leases {
    workers: Workers,
    /// Jobs whose attempts have leases.
    leased: BTreeSet<JobId>,
    /// When the leases of an executor are over by any clock.
    until: BTreeMap<Incarnation, Timestamp>,
    running: BTreeSet<Fence>,
}

impl Check for Leases {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Recorded(Record::Submitted(submission)) = event
            && submission.spec.retries > 0
        {
            self.leased.insert(submission.job);
        } else if let Happened::Leased { executor, sent, lease } = event {
            let over = *sent + lease.div_f64(SLOWEST_CLOCK);
            // What was granted before may last longer.
            let until = self.until.entry(*executor).or_insert(over);
            *until = over.max(*until);
        } else if let Happened::Started(fence) = event {
            self.look_at(*fence, "starts", found);
            self.running.insert(*fence);
        } else if let Happened::Ended { fence, .. } = event {
            if self.running.remove(fence) {
                self.look_at(*fence, "ends", found);
            }
        } else if let Happened::StillRuns { fence, .. } = event {
            self.look_at(*fence, "runs", found);
        }
        self.workers.see(found.now, event);
    }
}

impl Leases {
    fn look_at(&self, fence: Fence, what: &str, found: &mut Findings) {
        if !self.leased.contains(&fence.task.job) {
            return;
        }
        let Some(place) = self.workers.place(fence) else { return };
        let Some(until) = self.until.get(&place.executor) else { return };
        if found.now > *until + SEEN_LATE {
            let over = found.now.since(*until);
            found.broken(Promise::P13, format!("{fence} {what} {over:?} after its lease was over"));
        }
    }
}
