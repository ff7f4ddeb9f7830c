//! Clients as an admin sees them.

use super::{WireError, text};
use crate::core::id::Fingerprint;
use crate::core::limits;
use crate::core::time::WallTime;
use crate::core::view::ClientInfo;
use crate::schema::pool_capnp::client_info;

/// Writes what is seen of a client.
pub fn write_info(info: &ClientInfo, mut to: client_info::Builder<'_>) {
    to.set_name(&info.name);
    to.set_owner(&info.owner);
    to.set_fingerprint(&info.key.0);
    to.set_joined_ms(info.joined.0);
    to.set_connections(info.connections);
    to.set_revoked(info.revoked);
}

/// Reads what is seen of a client.
pub fn read_info(from: client_info::Reader<'_>) -> Result<ClientInfo, WireError> {
    Ok(ClientInfo {
        name: text::read(from.get_name(), "a name", limits::NAME_BYTES_MAX)?,
        owner: text::read(from.get_owner(), "the owner", limits::OWNER_BYTES_MAX)?,
        key: Fingerprint(text::read_array(from.get_fingerprint(), "a fingerprint")?),
        joined: WallTime(from.get_joined_ms()),
        connections: from.get_connections(),
        revoked: from.get_revoked(),
    })
}
