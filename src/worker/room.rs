//! Whether there is room for the output and the workspaces of more jobs. What runs goes on without: its output waits.

use std::path::{Path, PathBuf};

use crate::core::limits;
use crate::store::space::Room;

/// The first of these places that has no room for more, as people read it; told where it differs from what was so before.
pub(super) fn look(places: &[PathBuf], before: Option<&str>) -> Option<String> {
    // One that cannot be asked shows what is wrong when it is used.
    let full = places.iter().find_map(|place| describe(place, Room::of(place).ok()?));
    match (before, &full) {
        (None, Some(place)) => tracing::warn!("no space in {place}: takes no more jobs until there is"),
        (Some(place), None) => tracing::info!("there is space again, where there was none: {place}"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    full
}

fn describe(place: &Path, room: Room) -> Option<String> {
    let is_full = room.free < room.share(limits::WORKER_DISK_FREE_BYTES);
    let mut name = place.display().to_string();
    name.truncate(name.floor_char_boundary(limits::PATH_SHOWN_BYTES_MAX / 2));
    is_full.then(|| format!("{name} ({} MiB free)", room.free >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_twentieth_of_a_small_disk_is_to_stay_free_and_64_mib_of_a_large_one() {
        let work = Path::new("/work");
        let describe = |place, free, total| describe(place, Room { free, total });
        assert_eq!(describe(work, 3 * MIB, 100 * MIB).as_deref(), Some("/work (3 MiB free)"));
        assert_eq!(describe(work, 6 * MIB, 100 * MIB), None);
        assert_eq!(describe(work, 63 * MIB, 1 << 50).as_deref(), Some("/work (63 MiB free)"));
        assert_eq!(describe(work, 64 * MIB, 1 << 50), None);
    }

    #[test]
    fn the_name_of_a_place_is_bounded() {
        let long = PathBuf::from("/é".repeat(400));

        assert!(
            describe(&long, Room { free: 0, total: 1 << 40 }).unwrap().len() < limits::PATH_SHOWN_BYTES_MAX
        );
    }
}
