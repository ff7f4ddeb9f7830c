//! The pool as a whole.

use crate::core::id::{Fingerprint, JobId};
use crate::core::space::Space;
use crate::core::time::WallTime;
use crate::core::view::PoolStatus;
use crate::schema::pool_capnp::{Disk, pool_status};

use super::{WireError, text};

/// A path or an address, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// Writes a status.
pub fn write(status: &PoolStatus, mut to: pool_status::Builder<'_>) {
    to.set_name(&status.name);
    to.set_pid(status.pid);
    to.set_state(&status.state);
    to.set_listening(status.listening.as_deref().unwrap_or(""));
    to.set_since_ms(status.since.0);
    to.set_workers(status.workers);
    to.set_silent(status.silent);
    to.set_slots(status.slots);
    to.set_used(status.used);
    to.set_queued(status.queued);
    to.set_running(status.running);
    to.set_unknown(status.unknown);
    to.set_build(&status.build);
    to.set_output_bytes(status.output_bytes);
    to.set_output_limit_bytes(status.output_limit_bytes);
    let disk = match status.space {
        None => Disk::Unknown,
        Some(Space::Enough) => Disk::Enough,
        Some(Space::Low { free_bytes, needed_bytes }) => {
            to.set_disk_free_bytes(free_bytes);
            to.set_disk_needed_bytes(needed_bytes);
            Disk::Low
        }
    };
    to.set_disk(disk);
    to.set_fingerprint(&status.fingerprint.0);
    to.set_newest(status.newest.0);
}

/// Reads a status.
pub fn read(from: pool_status::Reader<'_>) -> Result<PoolStatus, WireError> {
    Ok(PoolStatus {
        name: text::read(from.get_name(), "a name", TEXT_BYTES_MAX)?,
        pid: from.get_pid(),
        state: text::read(from.get_state(), "a path", TEXT_BYTES_MAX)?,
        listening: text::read_optional(from.get_listening(), "an address", TEXT_BYTES_MAX)?,
        since: WallTime(from.get_since_ms()),
        workers: from.get_workers(),
        silent: from.get_silent(),
        slots: from.get_slots(),
        used: from.get_used(),
        queued: from.get_queued(),
        running: from.get_running(),
        unknown: from.get_unknown(),
        build: text::read(from.get_build(), "a version", TEXT_BYTES_MAX)?,
        output_bytes: from.get_output_bytes(),
        output_limit_bytes: from.get_output_limit_bytes(),
        space: match from.get_disk()? {
            Disk::Unknown => None,
            Disk::Enough => Some(Space::Enough),
            Disk::Low => Some(Space::Low {
                free_bytes: from.get_disk_free_bytes(),
                needed_bytes: from.get_disk_needed_bytes(),
            }),
        },
        fingerprint: Fingerprint(text::read_array(from.get_fingerprint(), "a fingerprint")?),
        newest: JobId(from.get_newest()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message;

    #[test]
    fn a_pool_that_does_not_tell_of_its_disk_is_not_taken_for_one_that_has_room() {
        let bytes = message::encode::<pool_status::Owned>(|mut to| to.set_fingerprint(&[0; 32]));

        let status = message::decode::<pool_status::Owned, _>(&bytes, read).unwrap();
        assert_eq!(status.space, None);
    }
}
