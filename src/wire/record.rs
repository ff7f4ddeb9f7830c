//! What a pool remembers, as it stands in its log and its history.

use std::sync::Arc;
use std::time::Duration;

use crate::core::id::{
    AttemptNumber, Epoch, Fingerprint, Incarnation, JobId, JobNonce, RequestId, TokenId, WorkerId,
};
use crate::core::limits;
use crate::core::record::{
    ActiveState, Assignment, ClientState, Counters, Drain, JobEnded, JobState, PutBack, Record, Spent,
    Submission, TaskEnded, TokenState, Validity, WorkerState,
};
use crate::core::time::WallTime;
use crate::schema::record_capnp as schema;

use super::{WireError, fence, job, label, message, outcome, task, text, token, worker};

/// Ranges of one job's tasks in one record.
const RANGES_MAX: usize = 1 << 22;
/// Tasks that one worker is given in one turn, or that one job has at workers.
const TASKS_MAX: usize = 1 << 22;
/// A short text, in bytes.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// A record as an entry of the log.
pub fn encode(record: &Record) -> Vec<u8> {
    message::encode::<schema::record::Owned>(|to| write(record, to))
}

/// A record from an entry of the log.
pub fn decode(bytes: &[u8]) -> Result<Record, WireError> {
    message::decode::<schema::record::Owned, _>(bytes, read)
}

/// An ended task as a row of the history.
pub fn encode_task(ended: &TaskEnded) -> Vec<u8> {
    message::encode::<schema::task_ended::Owned>(|to| write_task(ended, to))
}

/// An ended task from a row of the history.
pub fn decode_task(bytes: &[u8]) -> Result<TaskEnded, WireError> {
    message::decode::<schema::task_ended::Owned, _>(bytes, read_task)
}

/// An ended job as a row of the history.
pub fn encode_job(ended: &JobEnded) -> Vec<u8> {
    message::encode::<schema::job_ended::Owned>(|to| write_job(ended, to))
}

/// An ended job from a row of the history.
pub fn decode_job(bytes: &[u8]) -> Result<JobEnded, WireError> {
    message::decode::<schema::job_ended::Owned, _>(bytes, read_job)
}

/// Writes a record.
fn write(record: &Record, mut to: schema::record::Builder<'_>) {
    match record {
        Record::PoolStarted(epoch) => to.set_pool_started(epoch.0),
        Record::Counters(counters) => {
            let mut to = to.init_counters();
            to.set_job(counters.job.0);
            to.set_worker(counters.worker.0);
            to.set_token(counters.token.0);
        }
        Record::Submitted(submission) => write_submission(submission, to.init_submitted()),
        Record::Assigned(assignment) => write_assignment(assignment, to.init_assigned()),
        Record::Ended(ended) => write_task(ended, to.init_ended()),
        Record::PutBack { fence: whose, reason } => {
            let mut to = to.init_put_back();
            fence::write(*whose, to.reborrow().init_fence());
            match reason {
                PutBack::Retry(reason) => to.set_retry(text::reason(reason)),
                PutBack::WorkerLost(reason) => to.set_worker_lost(text::reason(reason)),
                PutBack::NeverStarted => to.set_never_started(()),
            }
        }
        Record::CancelWanted { job, ranges, how, at } => {
            let mut to = to.init_cancel_wanted();
            to.set_job(job.0);
            to.set_how(outcome::write_cancel(*how));
            to.set_at_ms(at.0);
            fence::write_ranges(ranges, to.init_ranges(text::count(ranges)));
        }
        Record::Job(state) => write_state(state, to.init_job()),
        Record::Worker(state) => write_worker(state, to.init_worker()),
        Record::Client(state) => write_client(state, to.init_client()),
        Record::ClientRenewed { before, client } => {
            let mut to = to.init_client_renewed();
            to.set_before(&before.0);
            write_client(client, to.init_client());
        }
        Record::Token(state) => write_token(state, to.init_token()),
        Record::TokenForgotten(id) => to.set_token_forgotten(id.0),
        Record::WorkerForgotten(id) => to.set_worker_forgotten(id.0),
    }
}

/// Reads a record.
fn read(from: schema::record::Reader<'_>) -> Result<Record, WireError> {
    use schema::record::Which;
    Ok(match from.which()? {
        Which::PoolStarted(epoch) => Record::PoolStarted(Epoch(epoch)),
        Which::Counters(from) => {
            let from = from?;
            Record::Counters(Counters {
                job: JobId(from.get_job()),
                worker: WorkerId(from.get_worker()),
                token: TokenId(from.get_token()),
            })
        }
        Which::Submitted(from) => Record::Submitted(read_submission(from?)?),
        Which::Assigned(from) => Record::Assigned(read_assignment(from?)?),
        Which::Ended(from) => Record::Ended(read_task(from?)?),
        Which::PutBack(from) => {
            let from = from?;
            Record::PutBack {
                fence: fence::read(from.get_fence()?)?,
                reason: match from.which()? {
                    schema::put_back::Retry(reason) => PutBack::Retry(text::read_reason(reason)?),
                    schema::put_back::WorkerLost(reason) => PutBack::WorkerLost(text::read_reason(reason)?),
                    schema::put_back::NeverStarted(()) => PutBack::NeverStarted,
                },
            }
        }
        Which::CancelWanted(from) => {
            let from = from?;
            Record::CancelWanted {
                job: JobId(from.get_job()),
                ranges: fence::read_ranges(from.get_ranges()?, RANGES_MAX)?,
                how: outcome::read_cancel(from.get_how()?),
                at: WallTime(from.get_at_ms()),
            }
        }
        Which::Job(from) => Record::Job(Box::new(read_state(from?)?)),
        Which::Worker(from) => Record::Worker(read_worker(from?)?),
        Which::Client(from) => Record::Client(read_client(from?)?),
        Which::ClientRenewed(from) => {
            let from = from?;
            Record::ClientRenewed {
                before: Fingerprint(text::read_array(from.get_before(), "a fingerprint")?),
                client: read_client(from.get_client()?)?,
            }
        }
        Which::Token(from) => Record::Token(read_token(from?)?),
        Which::TokenForgotten(id) => Record::TokenForgotten(TokenId(id)),
        Which::WorkerForgotten(id) => Record::WorkerForgotten(WorkerId(id)),
    })
}

fn write_submission(submission: &Submission, mut to: schema::submission::Builder<'_>) {
    to.set_job(submission.job.0);
    to.set_nonce(submission.nonce.0);
    to.set_owner(&submission.owner);
    to.set_request(&submission.request.0);
    to.set_at_ms(submission.at.0);
    job::write(&submission.spec, to.init_spec());
}

fn read_submission(from: schema::submission::Reader<'_>) -> Result<Submission, WireError> {
    Ok(Submission {
        job: JobId(from.get_job()),
        nonce: JobNonce(from.get_nonce()),
        owner: text::read(from.get_owner(), "the owner", TEXT_BYTES_MAX)?,
        request: RequestId(text::read_array(from.get_request(), "a request id")?),
        spec: Arc::new(job::read(from.get_spec()?)?),
        at: WallTime(from.get_at_ms()),
    })
}

fn write_assignment(assignment: &Assignment, mut to: schema::assignment::Builder<'_>) {
    to.set_job(assignment.job.0);
    to.set_worker(assignment.worker.0);
    to.set_incarnation(assignment.incarnation.0);
    to.set_at_ms(assignment.at.0);
    let mut tasks = to.init_tasks(text::count(&assignment.tasks));
    for (n, (index, attempt)) in (0..).zip(&assignment.tasks) {
        let mut given = tasks.reborrow().get(n);
        given.set_index(*index);
        given.set_attempt(attempt.0);
    }
}

fn read_assignment(from: schema::assignment::Reader<'_>) -> Result<Assignment, WireError> {
    let tasks = from.get_tasks()?;
    text::check_len(tasks.len(), "the list of tasks", TASKS_MAX)?;
    Ok(Assignment {
        job: JobId(from.get_job()),
        worker: WorkerId(from.get_worker()),
        incarnation: Incarnation(from.get_incarnation()),
        tasks: tasks.iter().map(|given| (given.get_index(), AttemptNumber(given.get_attempt()))).collect(),
        at: WallTime(from.get_at_ms()),
    })
}

fn write_task(ended: &TaskEnded, mut to: schema::task_ended::Builder<'_>) {
    to.set_worker(&ended.worker);
    to.set_started_ms(ended.started.0);
    to.set_ended_ms(ended.ended.0);
    worker::write_ended(&ended.end, to.init_end());
}

fn read_task(from: schema::task_ended::Reader<'_>) -> Result<TaskEnded, WireError> {
    Ok(TaskEnded {
        end: Arc::new(worker::read_ended(from.get_end()?)?),
        worker: text::read(from.get_worker(), "a worker's name", TEXT_BYTES_MAX)?,
        started: WallTime(from.get_started_ms()),
        ended: WallTime(from.get_ended_ms()),
    })
}

fn write_state(state: &JobState, mut to: schema::job_state::Builder<'_>) {
    write_submission(&state.submission, to.reborrow().init_submission());
    fence::write_ranges(&state.waiting, to.reborrow().init_waiting(text::count(&state.waiting)));
    let mut active = to.reborrow().init_active(text::count(&state.active));
    for (n, task) in (0..).zip(&state.active) {
        write_active(task, active.reborrow().get(n));
    }
    let mut tried = to.reborrow().init_tried(text::count(&state.tried));
    for (n, (index, last, spent)) in (0..).zip(&state.tried) {
        let mut one = tried.reborrow().get(n);
        one.set_index(*index);
        one.set_last(last.0);
        one.set_used(spent.attempts);
        one.set_workers(spent.workers);
    }
    task::write_counts(&state.over, to.reborrow().init_over());
    to.set_started_ms(state.started.map_or(0, |at| at.0));
    fence::write_ranges(&state.failed, to.init_failed(text::count(&state.failed)));
}

fn read_state(from: schema::job_state::Reader<'_>) -> Result<JobState, WireError> {
    let active = from.get_active()?;
    let tried = from.get_tried()?;
    text::check_len(active.len(), "the list of tasks", TASKS_MAX)?;
    text::check_len(tried.len(), "the list of tasks", TASKS_MAX)?;
    Ok(JobState {
        submission: read_submission(from.get_submission()?)?,
        waiting: fence::read_ranges(from.get_waiting()?, RANGES_MAX)?,
        active: active.iter().map(read_active).collect::<Result<_, WireError>>()?,
        tried: tried
            .iter()
            .map(|one| {
                let spent = Spent { attempts: one.get_used(), workers: one.get_workers() };
                (one.get_index(), AttemptNumber(one.get_last()), spent)
            })
            .collect(),
        over: task::read_counts(from.get_over()?),
        failed: fence::read_ranges(from.get_failed()?, RANGES_MAX)?,
        started: task::moment(from.get_started_ms()),
    })
}

fn write_active(active: &ActiveState, mut to: schema::active::Builder<'_>) {
    to.set_index(active.index);
    to.set_attempt(active.attempt.0);
    to.set_used(active.spent.attempts);
    to.set_workers(active.spent.workers);
    to.set_worker(active.worker.0);
    to.set_incarnation(active.incarnation.0);
    to.set_at_ms(active.at.0);
    to.set_unknown_ms(u64::try_from(active.unknown.as_millis()).unwrap_or(u64::MAX));
    match active.cancel {
        None => to.set_wanted(()),
        Some(how) => to.set_cancelled(outcome::write_cancel(how)),
    }
}

fn read_active(from: schema::active::Reader<'_>) -> Result<ActiveState, WireError> {
    Ok(ActiveState {
        index: from.get_index(),
        attempt: AttemptNumber(from.get_attempt()),
        spent: Spent { attempts: from.get_used(), workers: from.get_workers() },
        worker: WorkerId(from.get_worker()),
        incarnation: Incarnation(from.get_incarnation()),
        at: WallTime(from.get_at_ms()),
        cancel: match from.which()? {
            schema::active::Wanted(()) => None,
            schema::active::Cancelled(how) => Some(outcome::read_cancel(how?)),
        },
        unknown: Duration::from_millis(from.get_unknown_ms()),
    })
}

fn write_worker(state: &WorkerState, mut to: schema::worker_state::Builder<'_>) {
    to.set_id(state.id.0);
    to.set_name(&state.name);
    to.set_key(state.key.as_ref().map_or(&[][..], |key| &key.0[..]));
    label::write(&state.bound, to.reborrow().init_bound(count(&state.bound)));
    to.set_joined_ms(state.joined.0);
    to.set_revoked(state.validity == Validity::Revoked);
    if let Some(drain) = state.drain {
        to.set_drained(true);
        // 0 stands for no deadline, and a millisecond is as good as at once.
        to.set_drained_for_ms(drain.deadline.map_or(0, |after| text::millis(Some(after)).max(1)));
    }
    if let Some(facts) = &state.facts {
        worker::write_facts(facts, to.init_facts());
    }
}

fn read_worker(from: schema::worker_state::Reader<'_>) -> Result<WorkerState, WireError> {
    Ok(WorkerState {
        id: WorkerId(from.get_id()),
        name: text::read(from.get_name(), "a name", TEXT_BYTES_MAX)?,
        key: match from.get_key()? {
            [] => None,
            key => Some(read_key(key)?),
        },
        bound: label::read(from.get_bound()?)?,
        joined: WallTime(from.get_joined_ms()),
        validity: validity(from.get_revoked()),
        facts: from.has_facts().then(|| worker::read_facts(from.get_facts()?)).transpose()?,
        drain: from.get_drained().then(|| Drain { deadline: text::duration(from.get_drained_for_ms()) }),
    })
}

fn write_client(state: &ClientState, mut to: schema::client_state::Builder<'_>) {
    to.set_key(&state.key.0);
    to.set_name(&state.name);
    to.set_owner(&state.owner);
    to.set_joined_ms(state.joined.0);
    to.set_revoked(state.validity == Validity::Revoked);
}

fn read_client(from: schema::client_state::Reader<'_>) -> Result<ClientState, WireError> {
    Ok(ClientState {
        key: read_key(from.get_key()?)?,
        name: text::read(from.get_name(), "a name", TEXT_BYTES_MAX)?,
        owner: text::read(from.get_owner(), "an owner", TEXT_BYTES_MAX)?,
        joined: WallTime(from.get_joined_ms()),
        validity: validity(from.get_revoked()),
    })
}

fn write_token(state: &TokenState, mut to: schema::token_state::Builder<'_>) {
    to.set_id(state.id.0);
    to.set_role(token::write_role(state.role));
    to.set_secret_hash(&state.secret_hash);
    to.set_name(state.name.as_deref().unwrap_or(""));
    to.set_owner(state.owner.as_deref().unwrap_or(""));
    label::write(&state.labels, to.reborrow().init_labels(count(&state.labels)));
    to.set_bounded(state.uses_left.is_some());
    to.set_uses_left(state.uses_left.unwrap_or(0));
    to.set_expires_ms(state.expires.0);
    to.set_revoked(state.validity == Validity::Revoked);
    let mut admitted = to.init_admitted(text::count(&state.admitted));
    for (n, key) in (0..).zip(&state.admitted) {
        admitted.set(n, &key.0);
    }
}

fn read_token(from: schema::token_state::Reader<'_>) -> Result<TokenState, WireError> {
    let admitted = from.get_admitted()?;
    text::check_len(admitted.len(), "the list of keys", limits::TOKEN_USES_MAX as usize)?;
    Ok(TokenState {
        id: TokenId(from.get_id()),
        role: token::read_role(from.get_role()?),
        secret_hash: text::read_array(from.get_secret_hash(), "a hash")?,
        name: text::read_optional(from.get_name(), "a name", TEXT_BYTES_MAX)?,
        owner: text::read_optional(from.get_owner(), "an owner", TEXT_BYTES_MAX)?,
        labels: label::read(from.get_labels()?)?,
        uses_left: from.get_bounded().then(|| from.get_uses_left()),
        expires: WallTime(from.get_expires_ms()),
        validity: validity(from.get_revoked()),
        admitted: admitted.iter().map(|key| read_key(key?)).collect::<Result<_, WireError>>()?,
    })
}

fn write_job(ended: &JobEnded, mut to: schema::job_ended::Builder<'_>) {
    write_submission(&ended.submission, to.reborrow().init_submission());
    task::write_counts(&ended.counts, to.reborrow().init_counts());
    to.set_started_ms(ended.started.map_or(0, |at| at.0));
    to.set_ended_ms(ended.ended.0);
    fence::write_ranges(&ended.failed, to.init_failed(text::count(&ended.failed)));
}

fn read_job(from: schema::job_ended::Reader<'_>) -> Result<JobEnded, WireError> {
    Ok(JobEnded {
        submission: read_submission(from.get_submission()?)?,
        counts: task::read_counts(from.get_counts()?),
        failed: fence::read_ranges(from.get_failed()?, RANGES_MAX)?,
        started: task::moment(from.get_started_ms()),
        ended: WallTime(from.get_ended_ms()),
    })
}

fn read_key(key: &[u8]) -> Result<Fingerprint, WireError> {
    Ok(Fingerprint(text::read_array(Ok(key), "a fingerprint")?))
}

fn validity(revoked: bool) -> Validity {
    if revoked { Validity::Revoked } else { Validity::Standing }
}

fn count(labels: &crate::core::label::Labels) -> u32 {
    u32::try_from(labels.len()).expect("labels are bounded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Fence;

    #[test]
    fn a_record_with_a_reason_of_any_length_is_read_again() {
        let record =
            |length| Record::PutBack { fence: Fence::default(), reason: PutBack::Retry("x".repeat(length)) };

        let read = decode(&encode(&record(100_000))).unwrap();

        assert_eq!(read, record(limits::REASON_BYTES_MAX));
    }
}
