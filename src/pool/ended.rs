//! What the history tells of jobs and tasks that have ended.

use super::shared::Local;
use crate::core::id::JobId;
use crate::core::pool::{Pool, Viewer, info_of_ended_task};
use crate::core::record::JobEnded;
use crate::core::view::{JobInfo, TaskInfo, TaskState};
use crate::wire;

impl Local {
    /// A job that has ended, for somebody who may see it.
    pub(super) fn ended_job(&self, viewer: &Viewer, id: JobId) -> Result<Option<JobEnded>, capnp::Error> {
        let row = self.history(|history| history.job(id))?;
        let ended = row.map(|row| wire::record::decode_job(&row.body)).transpose()?;
        Ok(ended.filter(|ended| viewer.sees(&ended.submission.owner)))
    }

    /// The same as people see it.
    pub(super) fn info_of_ended(&self, ended: &JobEnded) -> Result<JobInfo, capnp::Error> {
        let mut info = Pool::info_of_ended(ended);
        self.add_task(&mut info)?;
        Ok(info)
    }

    /// What is kept of an ended plain job's task, or of the first failed one of an array.
    pub(super) fn add_task(&self, info: &mut JobInfo) -> Result<(), capnp::Error> {
        let index = match (&info.spec.array, info.failed.first()) {
            (None, _) => 0,
            (Some(_), Some(&(first, _))) => first,
            (Some(_), None) => return Ok(()),
        };
        let cancelled = || info.spec.array.is_none().then(|| never_started(0));
        info.task = self.ended_task(info.id, index)?.or_else(cancelled);
        Ok(())
    }

    /// An ended task that had an attempt.
    fn ended_task(&self, job: JobId, index: u32) -> Result<Option<TaskInfo>, capnp::Error> {
        let rows = self.history(|history| history.tasks(job, (index.checked_sub(1), 1), None))?;
        let row = rows.into_iter().find(|row| row.task.index == index);
        let ended = row.map(|row| wire::record::decode_task(&row.body)).transpose()?;
        Ok(ended.map(|ended| info_of_ended_task(&ended)))
    }
}

/// A task that was cancelled while it waited.
pub(super) fn never_started(index: u32) -> TaskInfo {
    TaskInfo {
        index,
        state: TaskState::Cancelled,
        attempt: 0,
        worker: None,
        started: None,
        ended: None,
        end: None,
        cancelling: false,
    }
}
