//! Looks how much room the disk has, so that what was accepted can always end: what is new is refused first, and at last
//! a reserve is let go.

use std::time::Duration;

use super::shared::Shared;
use crate::core::space::Space;
use crate::store::space::{Reserve, Room};

/// How often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Looks for as long as the pool runs.
pub(super) async fn watch(shared: &Shared) {
    let reserve = Reserve::new(&shared.info.state);
    // What was seen before is looked at again at once.
    let (mut known, mut well) = (None, true);
    loop {
        let room = Room::of(&shared.info.state);
        let kept = room.as_ref().map_or(Ok(()), |room| reserve.keep(*room));
        if let (Err(error), _) | (_, Err(error)) = (&room, &kept)
            && well
        {
            tracing::warn!(%error, "cannot see to it that the disk has room");
        }
        well = room.is_ok() && kept.is_ok();
        // As long as nobody can look, what was seen last holds.
        let space = room.map_or(known.unwrap_or_default(), space);
        if known != Some(space) {
            tell(known.unwrap_or_default(), space);
            known = Some(space);
            if shared.pool.update(move |pool, _| pool.set_space(space)).await.is_err() {
                return;
            }
        }
        if space != Space::Enough {
            shared.output.make_room();
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Says when it begins, and when it is over.
fn tell(before: Space, after: Space) {
    match (before, after) {
        (Space::Enough, Space::Low { free_bytes, .. }) => {
            tracing::warn!(free_bytes, "the disk is nearly full: submits are refused");
        }
        (Space::Low { .. }, Space::Enough) => tracing::info!("the disk has room again"),
        (Space::Enough, Space::Enough) | (Space::Low { .. }, Space::Low { .. }) => {}
    }
}

/// What a room leaves for what is new.
pub(super) fn space(room: Room) -> Space {
    match room.missing() {
        0 => Space::Enough,
        _ => Space::Low { free_bytes: room.free, needed_bytes: room.watermark() },
    }
}
