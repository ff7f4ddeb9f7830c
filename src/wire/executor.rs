//! What agent and executor say to each other, as frames: four bytes of length, little end first, then one message.

use capnp::traits::Owned;

use crate::core::attempt::{FromExecutor, Held, Launch, ToExecutor};
use crate::core::id::{Fence, Incarnation};
use crate::core::limits;
use crate::core::time::Timestamp;
use crate::schema::executor_capnp::{from_executor, held, launch, to_executor};
use crate::schema::worker_capnp::position;

use super::{WireError, fence, job, message, outcome, output, text, worker};

/// The version of `schema/executor.capnp` that this program speaks.
pub const VERSION: u16 = 1;
/// A frame, in bytes: a whole spec, or a welcome that lists what 4,096 slots hold.
pub const FRAME_BYTES_MAX: usize = 32 << 20;

/// The first message of an agent.
pub fn hello() -> Vec<u8> {
    frame::<to_executor::Owned>(|mut to| to.set_hello(VERSION))
}

/// A message to an executor as a frame.
pub fn encode_to(word: &ToExecutor) -> Vec<u8> {
    frame::<to_executor::Owned>(|to| write_to(word, to))
}

/// A message of an executor as a frame.
pub fn encode_from(word: &FromExecutor) -> Vec<u8> {
    frame::<from_executor::Owned>(|to| write_from(word, to))
}

/// A frame's body as a message to an executor; `None` for a hello. Whatever version that names, the welcome says which
/// one is spoken: the agent is the newer side, as a rule, and knows the older versions.
pub fn decode_to(body: &[u8]) -> Result<Option<ToExecutor>, WireError> {
    message::decode::<to_executor::Owned, _>(body, read_to)
}

/// A frame's body as a message of an executor.
pub fn decode_from(body: &[u8]) -> Result<FromExecutor, WireError> {
    message::decode::<from_executor::Owned, _>(body, read_from)
}

/// Takes a whole frame from the front of what was read: its body, and how much of `read` it took.
pub fn next_frame(read: &[u8]) -> Result<Option<(&[u8], usize)>, WireError> {
    let Some((length, rest)) = read.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(WireError::TooLong { what: "a frame", bound: FRAME_BYTES_MAX });
    }
    Ok(rest.get(..length).map(|body| (body, 4 + length)))
}

fn frame<S: Owned>(write: impl FnOnce(S::Builder<'_>)) -> Vec<u8> {
    let body = message::encode::<S>(write);
    let length = u32::try_from(body.len()).expect("a frame is bounded");
    [&length.to_le_bytes()[..], &body].concat()
}

fn write_to(word: &ToExecutor, mut to: to_executor::Builder<'_>) {
    match word {
        ToExecutor::Start(start) => write_launch(start, to.init_start()),
        ToExecutor::End { fence: whom, how } => {
            let mut end = to.init_end();
            end.set_how(outcome::write_cancel(*how));
            fence::write(*whom, end.init_fence());
        }
        ToExecutor::Lease(until) => to.set_lease_until(until.0),
        ToExecutor::Starts { slots, until } => {
            let mut starts = to.init_starts();
            starts.set_slots(*slots);
            starts.set_until(until.0);
        }
        ToExecutor::TakeBack(whom) => fence::write(*whom, to.init_take_back()),
        ToExecutor::Acknowledged { fence, position } => {
            write_position(*fence, *position, to.init_acknowledged())
        }
        ToExecutor::SendFrom { fence, position } => write_position(*fence, *position, to.init_send_from()),
        ToExecutor::Pause => to.set_pause(()),
        ToExecutor::Unpause => to.set_unpause(()),
        ToExecutor::Forget(whom) => fence::write(*whom, to.init_forget()),
        ToExecutor::Dial(dial) => to.set_dial(*dial),
        ToExecutor::ExitWhenEmpty => to.set_exit_when_empty(()),
        ToExecutor::StopAll => to.set_stop_all(()),
    }
}

fn read_to(from: to_executor::Reader<'_>) -> Result<Option<ToExecutor>, WireError> {
    Ok(Some(match from.which()? {
        to_executor::Hello(_) => return Ok(None),
        to_executor::Start(start) => ToExecutor::Start(read_launch(start?)?),
        to_executor::End(end) => {
            let end = end?;
            let how = outcome::read_cancel(end.get_how()?);
            ToExecutor::End { fence: fence::read(end.get_fence()?)?, how }
        }
        to_executor::LeaseUntil(until) => ToExecutor::Lease(Timestamp(until)),
        to_executor::Starts(starts) => {
            let starts = starts?;
            ToExecutor::Starts { slots: starts.get_slots(), until: Timestamp(starts.get_until()) }
        }
        to_executor::TakeBack(whom) => ToExecutor::TakeBack(fence::read(whom?)?),
        to_executor::Acknowledged(at) => {
            let (fence, position) = read_position(at?)?;
            ToExecutor::Acknowledged { fence, position }
        }
        to_executor::SendFrom(at) => {
            let (fence, position) = read_position(at?)?;
            ToExecutor::SendFrom { fence, position }
        }
        to_executor::Pause(()) => ToExecutor::Pause,
        to_executor::Unpause(()) => ToExecutor::Unpause,
        to_executor::Forget(whom) => ToExecutor::Forget(fence::read(whom?)?),
        to_executor::Dial(dial) => ToExecutor::Dial(dial),
        to_executor::ExitWhenEmpty(()) => ToExecutor::ExitWhenEmpty,
        to_executor::StopAll(()) => ToExecutor::StopAll,
    }))
}

fn write_launch(start: &Launch, mut to: launch::Builder<'_>) {
    fence::write(start.fence, to.reborrow().init_fence());
    to.set_dial(start.dial);
    to.set_script(&start.script);
    job::write_words(&start.args, to.reborrow().init_args(text::count(&start.args)));
    job::write_env(&start.env, to.reborrow().init_env(text::count(&start.env)));
    to.set_cwd(start.cwd.as_deref().unwrap_or_default());
    to.set_timeout_ms(text::millis(start.timeout));
    to.set_lease_until(start.lease_until.map_or(0, |until| until.0));
    to.set_worker(&start.worker);
}

fn read_launch(from: launch::Reader<'_>) -> Result<Launch, WireError> {
    Ok(Launch {
        fence: fence::read(from.get_fence()?)?,
        dial: from.get_dial(),
        script: job::read_script(from.get_script()?)?,
        args: job::read_words(from.get_args()?)?,
        env: job::read_env(from.get_env()?)?,
        cwd: job::read_cwd(from.get_cwd())?,
        timeout: text::duration(from.get_timeout_ms()),
        lease_until: Some(from.get_lease_until()).filter(|until| *until != 0).map(Timestamp),
        worker: text::read(from.get_worker(), "a name", limits::NAME_BYTES_MAX)?,
    })
}

fn write_position(whose: Fence, at: u64, mut to: position::Builder<'_>) {
    to.set_position(at);
    fence::write(whose, to.init_fence());
}

fn read_position(from: position::Reader<'_>) -> Result<(Fence, u64), WireError> {
    Ok((fence::read(from.get_fence()?)?, from.get_position()))
}

fn write_from(word: &FromExecutor, to: from_executor::Builder<'_>) {
    match word {
        FromExecutor::Welcome { incarnation, held, dial } => {
            let mut welcome = to.init_welcome();
            welcome.set_version(VERSION);
            welcome.set_incarnation(incarnation.0);
            welcome.set_dial(*dial);
            let mut list = welcome.init_held(text::count(held));
            for (n, one) in (0..).zip(held) {
                write_held(one, list.reborrow().get(n));
            }
        }
        FromExecutor::Started(whom) => fence::write(*whom, to.init_started()),
        FromExecutor::Output { fence: whose, chunk } => {
            let mut out = to.init_output();
            fence::write(*whose, out.reborrow().init_fence());
            output::write(chunk, out.init_chunk());
        }
        FromExecutor::Ended(end) => worker::write_ended(end, to.init_ended()),
        FromExecutor::Refused(whom) => fence::write(*whom, to.init_refused()),
    }
}

fn read_from(from: from_executor::Reader<'_>) -> Result<FromExecutor, WireError> {
    Ok(match from.which()? {
        from_executor::Welcome(welcome) => {
            let welcome = welcome?;
            if welcome.get_version() != VERSION {
                return Err(WireError::Invalid("the executor speaks another version"));
            }
            let held = welcome.get_held()?;
            text::check_len(held.len(), "the list of attempts", fence::FENCES_MAX)?;
            FromExecutor::Welcome {
                incarnation: Incarnation(welcome.get_incarnation()),
                held: held.iter().map(read_held).collect::<Result<_, WireError>>()?,
                dial: welcome.get_dial(),
            }
        }
        from_executor::Started(whom) => FromExecutor::Started(fence::read(whom?)?),
        from_executor::Output(out) => {
            let out = out?;
            FromExecutor::Output {
                fence: fence::read(out.get_fence()?)?,
                chunk: output::read(out.get_chunk()?)?,
            }
        }
        from_executor::Ended(end) => FromExecutor::Ended(worker::read_ended(end?)?),
        from_executor::Refused(whom) => FromExecutor::Refused(fence::read(whom?)?),
    })
}

fn write_held(one: &Held, to: held::Builder<'_>) {
    match one {
        Held::Waiting(whom) => fence::write(*whom, to.init_waiting()),
        Held::Running(whom) => fence::write(*whom, to.init_running()),
        Held::Ended(end) => worker::write_ended(end, to.init_ended()),
    }
}

fn read_held(from: held::Reader<'_>) -> Result<Held, WireError> {
    Ok(match from.which()? {
        held::Waiting(whom) => Held::Waiting(fence::read(whom?)?),
        held::Running(whom) => Held::Running(fence::read(whom?)?),
        held::Ended(end) => Held::Ended(worker::read_ended(end?)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(frame: &[u8]) -> &[u8] {
        next_frame(frame).unwrap().expect("it is whole").0
    }

    #[test]
    fn a_hello_of_a_later_agent_is_understood() {
        let hello = frame::<to_executor::Owned>(|mut to| to.set_hello(VERSION + 1));

        assert_eq!(decode_to(body(&hello)).unwrap(), None);
    }

    #[test]
    fn a_welcome_of_another_version_is_refused() {
        let welcome = frame::<from_executor::Owned>(|to| to.init_welcome().set_version(VERSION + 1));

        assert!(matches!(decode_from(body(&welcome)), Err(WireError::Invalid(_))));
    }

    #[test]
    fn a_frame_is_taken_when_it_is_whole_and_not_before() {
        let frame = encode_to(&ToExecutor::Dial(7));
        for cut in 0..frame.len() {
            assert!(next_frame(&frame[..cut]).unwrap().is_none(), "{cut}");
        }
        let mut two = frame.clone();
        two.extend(encode_to(&ToExecutor::Pause));

        let (first, length) = next_frame(&two).unwrap().unwrap();

        assert_eq!(decode_to(first).unwrap(), Some(ToExecutor::Dial(7)));
        assert_eq!(decode_to(body(&two[length..])).unwrap(), Some(ToExecutor::Pause));
        assert!(next_frame(&u32::MAX.to_le_bytes()).is_err());
    }
}
