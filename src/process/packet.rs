//! What executor and keeper say to each other: one packet of a SOCK_SEQPACKET socket each, with descriptors beside it.
//!
//! Both ends are always of the same build, so the encoding has no versions: little-endian numbers, and bytes with their
//! length in front. A launch too long for a packet goes in a file whose descriptor comes along.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::core::lifetime::EndReason;
use crate::core::outcome::Cancel;
use crate::core::time::Timestamp;

/// A packet longer than this gets EMSGSIZE from some kernels.
const PACKET_BYTES_MAX: usize = 64 << 10;
/// Write ends of stdout and stderr, and a file with what does not fit.
const DESCRIPTORS_MAX: usize = 3;

/// Stands for no duration, or no moment.
const NONE: u64 = u64::MAX;

/// What a keeper is told.
#[derive(Debug)]
pub(super) enum ToKeeper {
    /// Start this; the descriptors become its stdout and stderr.
    Run(Run),
    /// End what runs.
    End(Cancel),
    /// The lease of what runs ends then.
    Lease(Timestamp),
}

/// All that a keeper needs to start bash.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) arguments: Vec<Vec<u8>>,
    pub(super) environment: Vec<Vec<u8>>,
    pub(super) directory: Vec<u8>,
    pub(super) timeout: Option<Duration>,
    pub(super) lease_until: Option<Timestamp>,
    pub(super) outputs: Vec<OwnedFdEq>,
}

/// An owned descriptor that compares by its number.
#[derive(Debug)]
pub(super) struct OwnedFdEq(pub(super) OwnedFd);

impl PartialEq for OwnedFdEq {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_raw_fd() == other.0.as_raw_fd()
    }
}

impl Eq for OwnedFdEq {}

/// What a keeper says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FromKeeper {
    /// Bash runs.
    Started,
    /// Bash could not be started: which step, and the error number.
    SpawnFailed(SpawnStep, i32),
    /// Bash ended, and everything that it left is gone.
    Done(Done),
}

/// Which step of a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpawnStep {
    Clone,
    User,
    Directory,
    Execute,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// As `wait4` gave it.
    pub(super) status: i32,
    pub(super) reason: EndReason,
    pub(super) run_us: u64,
    pub(super) user_us: u64,
    pub(super) system_us: u64,
    pub(super) peak_kib: u64,
}

impl ToKeeper {
    pub(super) fn send(&self, socket: RawFd) -> nix::Result<()> {
        match self {
            ToKeeper::Run(run) => run.send(socket),
            ToKeeper::End(how) => send(socket, &[1, cancel_number(*how)], &[]),
            ToKeeper::Lease(until) => send(socket, &[&[2][..], &until.0.to_le_bytes()].concat(), &[]),
        }
    }

    /// Waits for a packet; `None` when the executor is gone.
    pub(super) fn receive(socket: RawFd) -> nix::Result<Option<Self>> {
        let mut buffer = [0; PACKET_BYTES_MAX];
        let (length, mut descriptors) = receive(socket, &mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        let long;
        let mut bytes = &buffer[..length];
        if bytes == [3] {
            long = descriptors.pop().ok_or(Errno::EBADMSG).and_then(from_file)?;
            bytes = &long;
        }
        let (kind, rest) = bytes.split_first().ok_or(Errno::EBADMSG)?;
        let mut rest = Fields(rest);
        Ok(Some(match kind {
            0 => ToKeeper::Run(Run::decode(&mut rest, descriptors).ok_or(Errno::EBADMSG)?),
            1 => ToKeeper::End(rest.byte().and_then(cancel_of).ok_or(Errno::EBADMSG)?),
            2 => ToKeeper::Lease(rest.long().map(Timestamp).ok_or(Errno::EBADMSG)?),
            _ => return Err(Errno::EBADMSG),
        }))
    }
}

impl Run {
    /// Sends it as `ToKeeper::Run`.
    pub(super) fn send(&self, socket: RawFd) -> nix::Result<()> {
        let mut bytes = vec![0];
        self.encode(&mut bytes);
        let mut descriptors: Vec<RawFd> = self.outputs.iter().map(|fd| fd.0.as_raw_fd()).collect();
        if bytes.len() <= PACKET_BYTES_MAX {
            return send(socket, &bytes, &descriptors);
        }
        let file =
            to_file(&bytes).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        descriptors.push(file.as_raw_fd());
        send(socket, &[3], &descriptors)
    }

    fn encode(&self, to: &mut Vec<u8>) {
        for list in [&self.arguments, &self.environment] {
            to.extend(u32::try_from(list.len()).expect("a spec is bounded").to_le_bytes());
            list.iter().for_each(|word| put_bytes(to, word));
        }
        put_bytes(to, &self.directory);
        put_duration(to, self.timeout);
        to.extend(self.lease_until.map_or(NONE, |until| until.0).to_le_bytes());
    }

    fn decode(from: &mut Fields<'_>, descriptors: Vec<OwnedFd>) -> Option<Self> {
        Some(Self {
            arguments: from.list()?,
            environment: from.list()?,
            directory: from.bytes()?.to_vec(),
            timeout: from.duration()?,
            lease_until: Some(from.long()?).filter(|until| *until != NONE).map(Timestamp),
            outputs: descriptors.into_iter().map(OwnedFdEq).collect(),
        })
    }
}

impl FromKeeper {
    pub(super) fn send(&self, socket: RawFd) -> nix::Result<()> {
        let mut bytes = Vec::with_capacity(64);
        match self {
            FromKeeper::Started => bytes.push(0),
            FromKeeper::SpawnFailed(step, errno) => {
                bytes.extend([1, *step as u8]);
                bytes.extend(errno.to_le_bytes());
            }
            FromKeeper::Done(done) => {
                bytes.push(2);
                bytes.extend(done.status.to_le_bytes());
                bytes.push(match done.reason {
                    EndReason::Own => 0,
                    EndReason::TimedOut => 1,
                    EndReason::LeaseOver => 2,
                    EndReason::Cancelled(how) => 3 + cancel_number(how),
                });
                for number in [done.run_us, done.user_us, done.system_us, done.peak_kib] {
                    bytes.extend(number.to_le_bytes());
                }
            }
        }
        send(socket, &bytes, &[])
    }

    /// The next packet, if one is there; `Err(EAGAIN)` if none is, `None` when the keeper is gone.
    pub(super) fn receive(socket: RawFd) -> nix::Result<Option<Self>> {
        let mut buffer = [0; 64];
        let (length, _) = receive(socket, &mut buffer)?;
        if length == 0 {
            return Ok(None);
        }
        Self::decode(&buffer[..length]).ok_or(Errno::EBADMSG).map(Some)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let mut rest = Fields(rest);
        Some(match kind {
            0 => FromKeeper::Started,
            1 => {
                let step = match rest.byte()? {
                    0 => SpawnStep::Clone,
                    1 => SpawnStep::User,
                    2 => SpawnStep::Directory,
                    3 => SpawnStep::Execute,
                    _ => return None,
                };
                FromKeeper::SpawnFailed(step, rest.int()?)
            }
            2 => FromKeeper::Done(Done {
                status: rest.int()?,
                reason: match rest.byte()? {
                    0 => EndReason::Own,
                    1 => EndReason::TimedOut,
                    2 => EndReason::LeaseOver,
                    n => EndReason::Cancelled(cancel_of(n.checked_sub(3)?)?),
                },
                run_us: rest.long()?,
                user_us: rest.long()?,
                system_us: rest.long()?,
                peak_kib: rest.long()?,
            }),
            _ => return None,
        })
    }
}

fn cancel_number(how: Cancel) -> u8 {
    match how {
        Cancel::Interrupt => 0,
        Cancel::Terminate => 1,
        Cancel::Kill => 2,
    }
}

fn cancel_of(number: u8) -> Option<Cancel> {
    [Cancel::Interrupt, Cancel::Terminate, Cancel::Kill].get(usize::from(number)).copied()
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(u32::try_from(bytes.len()).expect("a spec is bounded").to_le_bytes());
    to.extend(bytes);
}

/// In nanoseconds.
fn put_duration(to: &mut Vec<u8>, duration: Option<Duration>) {
    let nanos = duration.map_or(NONE, |duration| u64::try_from(duration.as_nanos()).unwrap_or(NONE - 1));
    to.extend(nanos.to_le_bytes());
}

/// What is left of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn int(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?) as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn list(&mut self) -> Option<Vec<Vec<u8>>> {
        let count = u32::from_le_bytes(self.array()?);
        (0..count).map(|_| self.bytes().map(<[u8]>::to_vec)).collect()
    }

    fn duration(&mut self) -> Option<Option<Duration>> {
        self.long().map(|nanos| (nanos != NONE).then(|| Duration::from_nanos(nanos)))
    }
}

fn send(socket: RawFd, bytes: &[u8], descriptors: &[RawFd]) -> nix::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let parts = [std::io::IoSlice::new(bytes)];
    sendmsg::<()>(socket, &parts, control, MsgFlags::MSG_NOSIGNAL, None).map(|_| ())
}

fn receive(socket: RawFd, buffer: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut parts = [std::io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = part {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
            descriptors.extend(rights.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, descriptors))
}

fn to_file(bytes: &[u8]) -> std::io::Result<std::fs::File> {
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let mut file = std::fs::File::from(nix::sys::memfd::memfd_create(c"launch", flags)?);
    file.write_all(bytes)?;
    Ok(file)
}

fn from_file(descriptor: OwnedFd) -> nix::Result<Vec<u8>> {
    let mut file = std::fs::File::from(descriptor);
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn a_launch_of_any_length_arrives_as_it_was_sent() {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        for length in [0, 100, 900_000] {
            let run = |outputs| Run {
                arguments: vec![b"bash".to_vec(), vec![b'x'; length]],
                environment: vec![b"A=b".to_vec()],
                directory: b"/tmp".to_vec(),
                timeout: Some(Duration::from_millis(5)),
                lease_until: Some(Timestamp(7)),
                outputs,
            };
            let output = OwnedFdEq(std::fs::File::open("/dev/null").unwrap().into());

            ToKeeper::Run(run(vec![output])).send(a.as_raw_fd()).unwrap();

            let Some(ToKeeper::Run(mut got)) = ToKeeper::receive(b.as_raw_fd()).unwrap() else { panic!() };
            assert_eq!(got.outputs.len(), 1);
            got.outputs.clear();
            assert_eq!(got, run(Vec::new()));
        }
    }

    #[test]
    fn every_word_of_a_keeper_is_understood() {
        let done =
            Done { status: 9, reason: EndReason::Cancelled(Cancel::Kill), run_us: 1, ..Done::default() };
        let words =
            [FromKeeper::Started, FromKeeper::SpawnFailed(SpawnStep::Execute, 2), FromKeeper::Done(done)];
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        for word in words {
            word.send(a.as_raw_fd()).unwrap();
            assert_eq!(FromKeeper::receive(b.as_raw_fd()).unwrap(), Some(word));
        }
        drop(a);
        assert_eq!(FromKeeper::receive(b.as_raw_fd()).unwrap(), None);
    }
}
