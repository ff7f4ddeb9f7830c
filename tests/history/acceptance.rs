//! P1 and P2: what was acknowledged is there, once, the log tells all of it, and an id is never given out again.

use std::collections::BTreeMap;

use clusterctl::core::id::{JobId, RequestId};
use clusterctl::core::record::{Record, Submission};

use super::{Check, Findings, Happened, Promise};

/// Who asked, as the client chose it.
type Request = (String, RequestId);

#[derive(Debug, Default)]
pub(super) struct Acceptance {
    recorded: BTreeMap<JobId, Submission>,
    jobs_of: BTreeMap<Request, JobId>,
    accepted: BTreeMap<Request, JobId>,
}

impl Check for Acceptance {
    fn see(&mut self, event: &Happened, found: &mut Findings) {
        if let Happened::Recorded(Record::Submitted(submission)) = event {
            self.recorded(submission, found);
        } else if let Happened::Accepted { owner, request, job } = event {
            self.accepted(owner, *request, *job, found);
        } else if let Happened::LogDiffers(text) = event {
            found.broken(Promise::P1, format!("pool and log are not alike: {text}"));
        } else if let Happened::Unknown { job } = event {
            found.broken(Promise::P1, format!("job {job} was acknowledged and is not known"));
        }
    }
}

impl Acceptance {
    fn recorded(&mut self, submission: &Submission, found: &mut Findings) {
        let id = submission.job;
        if let Some(other) = self.recorded.insert(id, submission.clone()) {
            let text =
                format!("job id {id} was given out twice: {:?} and {:?}", other.nonce, submission.nonce);
            found.broken(Promise::P1, text);
        }
        let request = (submission.owner.clone(), submission.request);
        if let Some(other) = self.jobs_of.insert(request, id) {
            found.broken(Promise::P2, format!("jobs {other} and {id} were made by one request"));
        }
    }

    fn accepted(&mut self, owner: &str, request: RequestId, job: JobId, found: &mut Findings) {
        let asked = (owner.to_owned(), request);
        if let Some(other) = self.accepted.insert(asked.clone(), job)
            && other != job
        {
            found.broken(Promise::P2, format!("one request was answered with jobs {other} and {job}"));
        }
        if self.jobs_of.get(&asked) != Some(&job) {
            found.broken(Promise::P1, format!("job {job} was acknowledged and is not durable"));
        }
    }
}
