//! Every noun: written and read back it is equal; damaged on the way it is refused or read, and breaks nothing.
//!
//! What a message carries only in part is tested beside its `write`.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::core::id::Fence;
use crate::core::label::Labels;
use crate::core::membership::{Carried, Report, Start, StartOrder};
use crate::core::outcome::Cancel;
use crate::core::output::Chunk;
use crate::schema::{pool_capnp, record_capnp, types_capnp, worker_capnp};

/// A noun that is encoded as whole messages.
macro_rules! messages {
    ($($name:ident: $strategy:expr, $encode:expr, $decode:expr;)*) => {$(
        mod $name {
            use super::*;

            proptest! {
                #[test]
                fn arrive_as_they_were_sent(value in $strategy) {
                    let bytes = $encode(&value);

                    prop_assert_eq!($decode(&bytes).unwrap(), value);
                }

                #[test]
                fn break_no_reader_when_damaged(value in $strategy, damage in damage()) {
                    let _ = $decode(&damage.done_to($encode(&value)));
                }
            }
        }
    )*};
}

/// A noun that is a part of messages.
macro_rules! parts {
    ($($name:ident: $strategy:expr, $schema:ty, $write:expr, $read:expr;)*) => {
        messages! {$(
            $name: $strategy,
                |value| message::encode::<$schema>(|to| $write(value, to)),
                |bytes: &[u8]| message::decode::<$schema, _>(bytes, |from| $read(from));
        )*}
    };
}

messages! {
    records: arbitrary::record(), record::encode, record::decode;
    ended_tasks: arbitrary::task_ended(), record::encode_task, record::decode_task;
    ended_jobs: arbitrary::job_ended(), record::encode_job, record::decode_job;
    words_to_executors: prop::option::of(arbitrary::to_executor()),
        |word: &Option<_>| body(word.as_ref().map_or_else(executor::hello, executor::encode_to)),
        executor::decode_to;
    words_of_executors: arbitrary::from_executor(),
        |word| body(executor::encode_from(word)),
        executor::decode_from;
}

parts! {
    fences: arbitrary::fence(), types_capnp::fence::Owned,
        |fence: &Fence, to| fence::write(*fence, to), fence::read;
    lists_of_fences: arbitrary::fences(), worker_capnp::start::Owned, write_fences, read_fences;
    ranges: arbitrary::ranges(), record_capnp::cancel_wanted::Owned, write_ranges, read_ranges;
    labels: arbitrary::labels(), worker_capnp::facts::Owned, write_labels, read_labels;
    specs: arbitrary::job_spec(), types_capnp::job_spec::Owned, job::write, job::read;
    job_infos: arbitrary::job_info(), pool_capnp::job_info::Owned, job::write_info, job::read_info;
    filters: arbitrary::job_filter(), pool_capnp::job_filter::Owned, job::write_filter, job::read_filter;
    outcomes: arbitrary::outcome(), types_capnp::outcome::Owned, outcome::write, outcome::read;
    usages: arbitrary::usage(), types_capnp::usage::Owned,
        outcome::write_usage, |from| Ok(outcome::read_usage(from));
    chunks: arbitrary::chunk(), types_capnp::chunk::Owned, output::write, output::read;
    parts_of_output: arbitrary::parts(), worker_capnp::output::write_params::Owned, write_parts, read_parts;
    totals: arbitrary::totals(), types_capnp::output_totals::Owned, output::write_totals, output::read_totals;
    task_ends: arbitrary::task_end(), pool_capnp::task_end::Owned, task::write_end, task::read_end;
    task_infos: arbitrary::task_info(), pool_capnp::task_info::Owned, task::write_info, task::read_info;
    task_events: arbitrary::task_event(), pool_capnp::task_event::Owned, task::write_event, task::read_event;
    counts: arbitrary::counts(), pool_capnp::counts::Owned,
        task::write_counts, |from| Ok(task::read_counts(from));
    answers_to_why: arbitrary::why(), pool_capnp::why::Owned, why::write, why::read;
    statuses: arbitrary::status(), pool_capnp::pool_status::Owned, status::write, status::read;
    refusals: arbitrary::refusal(), types_capnp::refusal::Owned, refusal::write, refusal::read;
    hellos: arbitrary::hello(), types_capnp::hello::Owned, hello::write, hello::read;
    welcomes: arbitrary::welcome(), types_capnp::welcome::Owned, hello::write_welcome, hello::read_welcome;
    token_wishes: arbitrary::token_wish(), pool_capnp::token_wish::Owned, token::write_wish, token::read_wish;
    audit_entries: arbitrary::audit_entry(), record_capnp::audit_entry::Owned, audit::write, audit::read;
    client_infos: arbitrary::client_info(), pool_capnp::client_info::Owned, client::write_info, client::read_info;
    token_infos: arbitrary::token_info(), pool_capnp::token_info::Owned, token::write_info, token::read_info;
    facts: arbitrary::facts(), worker_capnp::facts::Owned, worker::write_facts, worker::read_facts;
    carried: arbitrary::carried(), worker_capnp::registrar::register_params::Owned, write_carried, read_carried;
    registrations: arbitrary::registered(), worker_capnp::registered::Owned,
        worker::write_registered, worker::read_registered;
    endings: arbitrary::attempt_end(), worker_capnp::ended::Owned, worker::write_ended, worker::read_ended;
    reports: arbitrary::reports(), worker_capnp::reports::report_params::Owned, write_reports, read_reports;
    cancels: arbitrary::cancels(), worker_capnp::worker::cancel_params::Owned, write_cancels, read_cancels;
    worker_infos: arbitrary::worker_info(), pool_capnp::worker_info::Owned,
        worker::write_info, worker::read_info;
}

mod starts {
    use super::*;

    proptest! {
        #[test]
        fn carry_what_running_needs(starts in arbitrary::starts()) {
            let orders = decode_starts(&encode_starts(&starts)).unwrap();

            prop_assert_eq!(orders, starts.iter().map(order_of).collect::<Vec<_>>());
        }

        #[test]
        fn break_no_reader_when_damaged(starts in arbitrary::starts(), damage in damage()) {
            let _ = decode_starts(&damage.done_to(encode_starts(&starts)));
        }
    }

    fn encode_starts(starts: &[Start]) -> Vec<u8> {
        message::encode::<worker_capnp::worker::start_params::Owned>(|to| {
            worker::write_starts(starts, to.init_jobs(text::count(starts)));
        })
    }

    fn decode_starts(bytes: &[u8]) -> Result<Vec<StartOrder>, WireError> {
        message::decode::<worker_capnp::worker::start_params::Owned, _>(bytes, |from| {
            worker::read_starts(from.get_jobs()?)
        })
    }

    fn order_of(start: &Start) -> StartOrder {
        let spec = (*start.spec).clone();
        StartOrder {
            job: start.job,
            script: spec.script,
            args: spec.args,
            env: spec.env,
            cwd: spec.cwd,
            timeout: spec.timeout,
            fences: start.fences.clone(),
            lease: start.lease,
        }
    }
}

// Lists go in the messages that have them.

fn write_fences(fences: &[Fence], to: worker_capnp::start::Builder<'_>) {
    fence::write_list(fences, to.init_fences(text::count(fences)));
}

fn read_fences(from: worker_capnp::start::Reader<'_>) -> Result<Vec<Fence>, WireError> {
    fence::read_list(from.get_fences()?)
}

fn write_ranges(ranges: &[(u32, u32)], to: record_capnp::cancel_wanted::Builder<'_>) {
    fence::write_ranges(ranges, to.init_ranges(text::count(ranges)));
}

fn read_ranges(from: record_capnp::cancel_wanted::Reader<'_>) -> Result<Vec<(u32, u32)>, WireError> {
    fence::read_ranges(from.get_ranges()?, 100)
}

fn write_labels(labels: &Labels, to: worker_capnp::facts::Builder<'_>) {
    label::write(labels, to.init_labels(u32::try_from(labels.len()).unwrap()));
}

fn read_labels(from: worker_capnp::facts::Reader<'_>) -> Result<Labels, WireError> {
    label::read(from.get_labels()?)
}

fn write_parts(parts: &[(Fence, Vec<Chunk>)], to: worker_capnp::output::write_params::Builder<'_>) {
    output::write_parts(parts, to.init_parts(text::count(parts)));
}

fn read_parts(
    from: worker_capnp::output::write_params::Reader<'_>,
) -> Result<Vec<(Fence, Vec<Chunk>)>, WireError> {
    output::read_parts(from.get_parts()?)
}

fn write_carried(carried: &[Carried], to: worker_capnp::registrar::register_params::Builder<'_>) {
    worker::write_carried(carried, to.init_carried(text::count(carried)));
}

fn read_carried(
    from: worker_capnp::registrar::register_params::Reader<'_>,
) -> Result<Vec<Carried>, WireError> {
    worker::read_carried(from.get_carried()?)
}

fn write_reports(reports: &[Report], to: worker_capnp::reports::report_params::Builder<'_>) {
    worker::write_reports(reports, to.init_reports(text::count(reports)));
}

fn read_reports(from: worker_capnp::reports::report_params::Reader<'_>) -> Result<Vec<Report>, WireError> {
    worker::read_reports(from.get_reports()?)
}

fn write_cancels(cancels: &[(Fence, Cancel)], to: worker_capnp::worker::cancel_params::Builder<'_>) {
    worker::write_cancels(cancels, to.init_cancels(text::count(cancels)));
}

fn read_cancels(
    from: worker_capnp::worker::cancel_params::Reader<'_>,
) -> Result<Vec<(Fence, Cancel)>, WireError> {
    worker::read_cancels(from.get_cancels()?)
}

/// A frame without its length.
fn body(frame: Vec<u8>) -> Vec<u8> {
    let (body, length) = executor::next_frame(&frame).unwrap().unwrap();
    assert_eq!(length, frame.len());
    body.to_vec()
}

/// What happens to a message on its way.
#[derive(Clone, Debug)]
enum Damage {
    /// Some of its bytes are other ones.
    Changed(Vec<(Index, u8)>),
    /// Its end is missing.
    Cut(Index),
    /// Its header fits, and nothing else is of it.
    Replaced(Vec<[u8; 8]>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        8 => prop::collection::vec((any::<Index>(), 1..=u8::MAX), 1..8).prop_map(Damage::Changed),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => prop::collection::vec(any::<[u8; 8]>(), 0..64).prop_map(Damage::Replaced),
    ]
}

impl Damage {
    fn done_to(&self, mut message: Vec<u8>) -> Vec<u8> {
        match self {
            Damage::Changed(changes) => {
                for (at, change) in changes {
                    let at = at.index(message.len());
                    message[at] ^= change;
                }
            }
            Damage::Cut(at) => message.truncate(at.index(message.len())),
            Damage::Replaced(words) => {
                let length = u32::try_from(words.len()).unwrap();
                message = [&[0; 4], &length.to_le_bytes()[..], words.as_flattened()].concat();
            }
        }
        message
    }
}
