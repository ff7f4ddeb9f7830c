//! Looks how much room the disk has, so that what was accepted can always end: what is new is refused first, and at last
//! a reserve is let go.

use std::time::Duration;

use super::shared::Shared;
use crate::core::pool::Space;
use crate::store::space::{Reserve, Room};

/// How often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Looks for as long as the pool runs.
pub(super) async fn watch(shared: &Shared) {
    let reserve = Reserve::new(&shared.info.state);
    let mut before = Space::Enough;
    loop {
        match Room::of(&shared.info.state) {
            Ok(room) => {
                if let Err(error) = reserve.keep(room) {
                    tracing::warn!(%error, "no reserve can be kept");
                }
                let space = space(room);
                if std::mem::discriminant(&space) != std::mem::discriminant(&before) {
                    match space {
                        Space::Enough => tracing::info!("the disk has room again"),
                        Space::Low { free_bytes, .. } => {
                            tracing::warn!(free_bytes, "the disk is nearly full: submits are refused");
                        }
                    }
                }
                before = space;
                if shared.pool.update(move |pool, _| pool.set_space(space)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot see how much room the disk has"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn space(room: Room) -> Space {
    match room.missing() {
        0 => Space::Enough,
        _ => Space::Low { free_bytes: room.free, needed_bytes: room.watermark() },
    }
}
