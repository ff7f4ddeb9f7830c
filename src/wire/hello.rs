//! The first words of a connection: versions, bounds, and who the pool is.

use crate::core::id::Fingerprint;
use crate::core::limits;
use crate::core::succession::Succession;
use crate::schema::types_capnp::{hello, welcome};

use super::{WireError, succession, text};

/// Peers of different major versions refuse each other.
pub const PROTOCOL_MAJOR: u16 = 1;
/// A peer of the last minor version works.
pub const PROTOCOL_MINOR: u16 = 0;
/// A short text of either side, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// What either side says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Must be equal.
    pub major: u16,
    /// May differ by one.
    pub minor: u16,
    /// The program's version, for people.
    pub build: String,
}

impl Hello {
    /// What this program says.
    pub fn ours() -> Self {
        Self { major: PROTOCOL_MAJOR, minor: PROTOCOL_MINOR, build: crate::build().to_owned() }
    }

    /// Which side has to be upgraded, seen from the one that was called (`them` called `us`).
    pub fn skew(them: &Hello, us: &Hello) -> Option<Skew> {
        match (them.major, them.minor).cmp(&(us.major, us.minor)) {
            _ if them.major == us.major && them.minor.abs_diff(us.minor) <= 1 => None,
            std::cmp::Ordering::Less => Some(Skew::UpgradeCaller),
            _ => Some(Skew::UpgradePool),
        }
    }
}

/// Which side is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// The client or worker.
    UpgradeCaller,
    /// The pool.
    UpgradePool,
}

/// What the pool says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Its version.
    pub hello: Hello,
    /// Its name.
    pub pool: String,
    /// Its key.
    pub fingerprint: Fingerprint,
    /// Of its machine.
    pub boot_id: String,
    /// Of its process.
    pub uid: u32,
    /// The name by which it knows the peer.
    pub you: String,
    /// The owner of what the peer submits.
    pub owner: String,
    /// How many calls it lets a peer have open on one connection.
    pub open_calls: u32,
    /// What its former keys say of the present one.
    pub successions: Vec<Succession>,
}

/// Writes a hello.
pub fn write(said: &Hello, mut to: hello::Builder<'_>) {
    to.set_major(said.major);
    to.set_minor(said.minor);
    to.set_build(&said.build);
}

/// Reads a hello.
pub fn read(from: hello::Reader<'_>) -> Result<Hello, WireError> {
    Ok(Hello {
        major: from.get_major(),
        minor: from.get_minor(),
        build: text::read(from.get_build(), "a version", TEXT_BYTES_MAX)?,
    })
}

/// Writes a welcome, with the bounds that hold for one connection.
pub fn write_welcome(welcome: &Welcome, mut to: welcome::Builder<'_>) {
    write(&welcome.hello, to.reborrow().init_hello());
    let mut bounds = to.reborrow().init_bounds();
    bounds.set_frame_bytes(u32::try_from(limits::FRAME_BYTES_MAX).expect("a frame is far below 4 GiB"));
    bounds.set_open_calls(welcome.open_calls);
    bounds.set_exports(limits::EXPORTS_MAX);
    let number = |bound: usize| u32::try_from(bound).expect("a bound is far below 4 Gi");
    bounds.set_open_calls_bytes(number(limits::OPEN_CALLS_BYTES_MAX));
    bounds.set_unread_bytes(number(limits::BACKLOG_BYTES_MAX));
    bounds.set_calls_in_a_row(number(limits::CALLS_IN_A_ROW_MAX));
    bounds.set_answer_steps(limits::PIPELINE_STEPS_MAX);
    to.set_pool(&welcome.pool);
    to.set_pool_fingerprint(&welcome.fingerprint.0);
    to.set_boot_id(&welcome.boot_id);
    to.set_uid(welcome.uid);
    to.set_you(&welcome.you);
    to.set_owner(&welcome.owner);
    succession::write_all(&welcome.successions, to.init_successions(text::count(&welcome.successions)));
}

/// Reads a welcome.
pub fn read_welcome(from: welcome::Reader<'_>) -> Result<Welcome, WireError> {
    Ok(Welcome {
        hello: read(from.get_hello()?)?,
        pool: text::read(from.get_pool(), "a name", TEXT_BYTES_MAX)?,
        fingerprint: Fingerprint(text::read_array(from.get_pool_fingerprint(), "a fingerprint")?),
        boot_id: text::read(from.get_boot_id(), "a boot id", TEXT_BYTES_MAX)?,
        uid: from.get_uid(),
        you: text::read(from.get_you(), "a name", limits::OWNER_BYTES_MAX)?,
        owner: text::read(from.get_owner(), "the owner", limits::OWNER_BYTES_MAX)?,
        open_calls: from.get_bounds()?.get_open_calls(),
        successions: succession::read_all(from.get_successions()?)?,
    })
}
