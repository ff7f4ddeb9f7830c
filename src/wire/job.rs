//! Jobs: the request, what is seen of one, and which are listed.

use std::sync::Arc;
use std::time::Duration;

use crate::core::id::{JobId, Name};
use crate::core::job::{Array, BadSpec, JobSpec, Variable};
use crate::core::label::Constraint;
use crate::core::limits;
use crate::core::time::WallTime;
use crate::core::view::{JobFilter, JobInfo, TaskState};
use crate::schema::pool_capnp::{job_filter, job_info};
use crate::schema::types_capnp::{job_spec, variable};

use super::{WireError, fence, task, text};

/// Bytes of a script that a list shows.
const SCRIPT_SHOWN_BYTES: usize = 256;
/// What the fields of a listed job take that have one size, its name, and the gaps between the others, in bytes.
const INFO_BYTES: usize = 512;
/// Arguments or variables of a job: so many, if they are empty, are all that the bound of their bytes allows.
const WORDS_MAX: usize = 64 << 10;

/// Writes a request.
pub fn write(spec: &JobSpec, mut to: job_spec::Builder<'_>) {
    to.set_script(&spec.script);
    write_words(&spec.args, to.reborrow().init_args(text::count(&spec.args)));
    to.set_name(spec.name.as_ref().map_or("", Name::as_str));
    to.set_where(spec.constraint.to_string());
    write_env(&spec.env, to.reborrow().init_env(text::count(&spec.env)));
    write_env(&spec.secrets, to.reborrow().init_secrets(text::count(&spec.secrets)));
    to.set_cwd(spec.cwd.as_deref().unwrap_or_default());
    to.set_timeout_ms(text::millis(spec.timeout));
    to.set_retries(spec.retries);
    to.set_priority(spec.priority);
    to.set_lost_after_ms(text::millis(spec.lost_after));
    if let Some(array) = &spec.array {
        fence::write_ranges(array.ranges(), to.reborrow().init_array(text::count(array.ranges())));
        to.set_at_once(array.at_once.unwrap_or(0));
    }
}

/// Reads a request that a client sends, and checks all of it.
pub fn read_entering(from: job_spec::Reader<'_>) -> Result<JobSpec, WireError> {
    let spec = read(from)?;
    spec.check_entering()?;
    Ok(spec)
}

/// Reads a request that was checked when it entered.
pub fn read(from: job_spec::Reader<'_>) -> Result<JobSpec, WireError> {
    let spec = JobSpec {
        script: read_script(from.get_script()?)?,
        args: read_words(from.get_args()?)?,
        name: read_name(from.get_name())?,
        constraint: Constraint::parse(&text::read(
            from.get_where(),
            "the constraint",
            limits::CONSTRAINT_BYTES_MAX,
        )?)?,
        env: read_env(from.get_env()?)?,
        secrets: read_env(from.get_secrets()?)?,
        cwd: read_cwd(from.get_cwd())?,
        timeout: text::duration(from.get_timeout_ms()),
        retries: from.get_retries(),
        priority: from.get_priority(),
        lost_after: text::duration(from.get_lost_after_ms()),
        array: read_array(from.get_array()?, from.get_at_once())?,
    };
    spec.check()?;
    Ok(spec)
}

/// Reads a script.
pub fn read_script(script: &[u8]) -> Result<Vec<u8>, WireError> {
    if script.len() > limits::SPEC_BYTES_MAX {
        return Err(BadSpec::TooBig(script.len()).into());
    }
    Ok(script.to_vec())
}

/// Writes words of bytes into a list of as many.
pub fn write_words(words: &[Vec<u8>], mut to: capnp::data_list::Builder<'_>) {
    for (n, word) in (0..).zip(words) {
        to.set(n, word);
    }
}

/// Reads words of bytes.
pub fn read_words(from: capnp::data_list::Reader<'_>) -> Result<Vec<Vec<u8>>, WireError> {
    text::check_len(from.len(), "the list of arguments", WORDS_MAX)?;
    from.iter().map(|word| text::read_bytes(word, "an argument", limits::SPEC_BYTES_MAX)).collect()
}

/// Writes variables into a list of as many.
pub fn write_env(env: &[Variable], mut to: capnp::struct_list::Builder<'_, variable::Owned>) {
    for (n, (name, value)) in (0..).zip(env) {
        let mut variable = to.reborrow().get(n);
        variable.set_name(name);
        variable.set_value(value);
    }
}

/// Reads variables.
pub fn read_env(from: capnp::struct_list::Reader<'_, variable::Owned>) -> Result<Vec<Variable>, WireError> {
    text::check_len(from.len(), "the list of variables", WORDS_MAX)?;
    let bytes = |bytes| text::read_bytes(bytes, "a variable", limits::SPEC_BYTES_MAX);
    from.iter().map(|variable| Ok((bytes(variable.get_name())?, bytes(variable.get_value())?))).collect()
}

/// A directory, where an empty one stands for none.
pub fn read_cwd(from: capnp::Result<capnp::data::Reader<'_>>) -> Result<Option<Vec<u8>>, WireError> {
    let cwd = text::read_bytes(from, "the directory", limits::PATH_BYTES_MAX)?;
    Ok(Some(cwd).filter(|cwd| !cwd.is_empty()))
}

fn read_name(from: capnp::Result<capnp::text::Reader<'_>>) -> Result<Option<Name>, WireError> {
    let name = text::read_optional(from, "the name", limits::NAME_BYTES_MAX)?;
    Ok(name.map(|name| Name::parse(&name)).transpose()?)
}

fn read_array(
    ranges: capnp::struct_list::Reader<'_, crate::schema::types_capnp::range::Owned>,
    at_once: u32,
) -> Result<Option<Array>, WireError> {
    if ranges.is_empty() {
        return Ok(None);
    }
    let ranges = fence::read_ranges(ranges, limits::ARRAY_RANGES_MAX)?;
    let array = Array::new(ranges, (at_once > 0).then_some(at_once)).map_err(WireError::Invalid)?;
    Ok(Some(array))
}

/// Writes what is seen of a job. Of its script only the beginning goes along.
pub fn write_info(info: &JobInfo, mut to: job_info::Builder<'_>) {
    let spec = &info.spec;
    to.set_id(info.id.0);
    to.set_owner(&info.owner);
    to.set_name(spec.name.as_ref().map_or("", Name::as_str));
    to.set_state(task::write_state(info.counts.state()));
    to.set_script(&spec.script[..spec.script.len().min(SCRIPT_SHOWN_BYTES)]);
    to.set_where(spec.constraint.to_string());
    to.set_priority(spec.priority);
    to.set_retries(spec.retries);
    to.set_timeout_ms(text::millis(spec.timeout));
    to.set_submitted_ms(info.submitted.0);
    to.set_started_ms(info.started.map_or(0, |at| at.0));
    to.set_ended_ms(info.ended.map_or(0, |at| at.0));
    to.set_queued_us(info.queued.map_or(0, |queued| text::micros(queued).max(1)));
    if let Some(array) = &spec.array {
        fence::write_ranges(array.ranges(), to.reborrow().init_array(text::count(array.ranges())));
    }
    task::write_counts(&info.counts, to.reborrow().init_counts());
    if let Some(task) = &info.task {
        task::write_info(task, to.reborrow().init_task());
    }
    fence::write_ranges(&info.failed, to.init_failed(text::count(&info.failed)));
}

/// Writes what is seen of jobs into a list of as many.
pub fn write_infos(infos: &[JobInfo], mut to: capnp::struct_list::Builder<'_, job_info::Owned>) {
    for (n, info) in (0..).zip(infos) {
        write_info(info, to.reborrow().get(n));
    }
}

/// How many of these jobs one page has room for.
pub fn fitting(infos: &[JobInfo]) -> usize {
    text::fitting(infos.iter().map(info_bytes))
}

/// What is seen of a job takes so many bytes in a message, or less.
fn info_bytes(info: &JobInfo) -> usize {
    let spec = &info.spec;
    let texts =
        info.owner.len() + spec.constraint.to_string().len() + spec.script.len().min(SCRIPT_SHOWN_BYTES);
    let ranges = info.failed.len() + spec.array.as_ref().map_or(0, |array| array.ranges().len());
    INFO_BYTES + texts + ranges * size_of::<(u32, u32)>() + info.task.as_ref().map_or(0, task::info_bytes)
}

/// Reads what is seen of a job; its spec holds what went along.
pub fn read_info(from: job_info::Reader<'_>) -> Result<JobInfo, WireError> {
    let mut spec = JobSpec::new(text::read_bytes(from.get_script(), "the script", SCRIPT_SHOWN_BYTES)?);
    spec.name = read_name(from.get_name())?;
    spec.constraint =
        Constraint::parse(&text::read(from.get_where(), "the constraint", limits::CONSTRAINT_BYTES_MAX)?)?;
    spec.priority = from.get_priority();
    spec.retries = from.get_retries();
    spec.timeout = text::duration(from.get_timeout_ms());
    spec.array = read_array(from.get_array()?, 0)?;
    let queued_us = from.get_queued_us();
    Ok(JobInfo {
        id: JobId(from.get_id()),
        owner: text::read(from.get_owner(), "the owner", limits::OWNER_BYTES_MAX)?,
        spec: Arc::new(spec),
        submitted: WallTime(from.get_submitted_ms()),
        started: task::moment(from.get_started_ms()),
        ended: task::moment(from.get_ended_ms()),
        queued: (queued_us > 0).then(|| Duration::from_micros(queued_us)),
        counts: task::read_counts(from.get_counts()?),
        task: from.has_task().then(|| task::read_info(from.get_task()?)).transpose()?,
        failed: fence::read_ranges(from.get_failed()?, limits::PAGE_MAX)?,
    })
}

/// Writes which jobs are listed.
pub fn write_filter(filter: &JobFilter, mut to: job_filter::Builder<'_>) {
    to.set_all(filter.all);
    let mut states = to.reborrow().init_states(text::count(&filter.states));
    for (n, &state) in (0..).zip(&filter.states) {
        states.set(n, task::write_state(state));
    }
    to.set_name(filter.name.as_deref().unwrap_or(""));
    to.set_since_ms(filter.since.map_or(0, |since| since.0));
}

/// Reads which jobs are listed.
pub fn read_filter(from: job_filter::Reader<'_>) -> Result<JobFilter, WireError> {
    let states = from.get_states()?;
    text::check_len(states.len(), "the list of states", TaskState::ALL.len())?;
    Ok(JobFilter {
        all: from.get_all(),
        states: states.iter().map(|state| Ok(task::read_state(state?))).collect::<Result<_, WireError>>()?,
        name: text::read_optional(from.get_name(), "the name", limits::NAME_BYTES_MAX)?,
        since: task::moment(from.get_since_ms()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::view::Counts;
    use crate::schema::pool_capnp::pool::jobs_results;
    use crate::wire::message;

    fn through_a_message(info: &JobInfo) -> JobInfo {
        let bytes = message::encode::<job_info::Owned>(|to| write_info(info, to));
        message::decode::<job_info::Owned, _>(&bytes, read_info).unwrap()
    }

    fn job(owner: &str, spec: JobSpec) -> JobInfo {
        JobInfo {
            id: JobId(1),
            owner: owner.to_owned(),
            spec: Arc::new(spec),
            submitted: WallTime(1),
            started: None,
            ended: None,
            queued: None,
            counts: Counts::default(),
            task: None,
            failed: Vec::new(),
        }
    }

    #[test]
    fn an_owner_may_be_called_as_users_of_machines_are() {
        let owner = format!("{}@example.org", "ann.".repeat(40));

        assert_eq!(through_a_message(&job(&owner, JobSpec::new("true"))).owner, owner);
    }

    proptest::proptest! {
        #[test]
        fn a_listed_job_takes_no_more_than_is_counted_for_it(info in crate::wire::arbitrary::job_info()) {
            let bytes = message::encode::<job_info::Owned>(|to| write_info(&info, to)).len();

            proptest::prop_assert!(bytes <= info_bytes(&info), "{bytes}");
        }
    }

    #[test]
    fn a_page_of_the_largest_jobs_is_less_than_a_frame() {
        let ranges: Vec<(u32, u32)> = (0..1000).map(|n| (2 * n, 2 * n)).collect();
        let array = Some(Array::new(ranges.clone(), None).unwrap());
        let spec = JobSpec { array, ..JobSpec::new(vec![b':'; 1000]) };
        let jobs = vec![JobInfo { failed: ranges, ..job("ann", spec) }; limits::PAGE_MAX];
        let page = &jobs[..fitting(&jobs)];

        let bytes = message::encode::<jobs_results::Owned>(|to| {
            write_infos(page, to.init_jobs(text::count(page)));
        });

        assert!((limits::PAGE_BYTES_MAX / 2..limits::FRAME_BYTES_MAX / 2 + 1024).contains(&bytes.len()));
    }

    #[test]
    fn of_a_job_a_list_has_the_beginning_of_its_script_and_not_what_only_running_needs() {
        let spec = JobSpec {
            args: vec![b"a".to_vec()],
            env: vec![(b"b".to_vec(), b"c".to_vec())],
            cwd: Some(b"/d".to_vec()),
            timeout: Some(Duration::from_secs(1)),
            lost_after: Some(Duration::from_secs(2)),
            array: Some(Array::parse("1-9%2").unwrap()),
            ..JobSpec::new(vec![b'x'; 1000])
        };

        let shown = through_a_message(&job("ann", spec)).spec;

        let array = Some(Array::parse("1-9").unwrap());
        assert_eq!(
            *shown,
            JobSpec {
                array,
                timeout: Some(Duration::from_secs(1)),
                ..JobSpec::new(vec![b'x'; SCRIPT_SHOWN_BYTES])
            }
        );
    }
}
