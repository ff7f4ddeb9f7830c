//! The first words between a pool and whoever has come.

use super::shared::Shared;
use crate::core::limits;
use crate::core::refusal::Refusal;
use crate::schema::types_capnp;
use crate::wire;

/// Whether a peer's version fits; otherwise which side has to be upgraded.
pub(super) fn check_hello(caller: &str, said: &wire::hello::Hello) -> Option<Refusal> {
    let ours = wire::hello::Hello::ours();
    let skew = wire::hello::Hello::skew(said, &ours)?;
    let older = match skew {
        wire::hello::Skew::UpgradeCaller => caller,
        wire::hello::Skew::UpgradePool => "pool",
    };
    let text = format!(
        "this {caller} speaks protocol {}.{}, the pool {}.{}",
        said.major, said.minor, ours.major, ours.minor
    );
    Some(Refusal::new("version-skew", text).hint(format!("upgrade the {older}")))
}

pub(super) fn welcome(shared: &Shared, you: &str, owner: &str, to: types_capnp::welcome::Builder<'_>) {
    let welcome = wire::hello::Welcome {
        hello: wire::hello::Hello::ours(),
        pool: shared.info.name.clone(),
        fingerprint: shared.keys.present(),
        boot_id: shared.info.boot_id.clone(),
        uid: shared.info.uid,
        you: you.to_owned(),
        owner: owner.to_owned(),
        open_calls: limits::OPEN_CALLS_MAX,
        successions: shared.keys.successions(),
    };
    wire::hello::write_welcome(&welcome, to);
}
