//! Entries of the audit trail, and the chain that they make.

use super::{WireError, message, text};
use crate::core::audit::{AuditEntry, AuditKind};
use crate::core::limits::AUDIT_TEXT_BYTES_MAX as BYTES_MAX;
use crate::core::time::WallTime;
use crate::schema::record_capnp::{self, audit_entry};

/// An entry as a row of the trail.
pub fn encode(entry: &AuditEntry) -> Vec<u8> {
    message::encode::<audit_entry::Owned>(|to| write(entry, to))
}

/// An entry from a row of the trail.
pub fn decode(bytes: &[u8]) -> Result<AuditEntry, WireError> {
    message::decode::<audit_entry::Owned, _>(bytes, read)
}

/// The chain's value with a row.
pub fn link(before: &[u8; 32], number: u64, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(&number.to_le_bytes());
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

/// Writes an entry; texts that are too long are cut.
pub fn write(entry: &AuditEntry, mut to: audit_entry::Builder<'_>) {
    to.set_at_ms(entry.at.0);
    to.set_what(write_kind(entry.what));
    to.set_who(text::cut(&entry.who, BYTES_MAX));
    to.set_source(text::cut(&entry.source, BYTES_MAX));
    to.set_about(text::cut(&entry.about, BYTES_MAX));
    to.set_detail(text::cut(&entry.detail, BYTES_MAX));
    to.set_count(entry.count);
}

/// Reads an entry.
pub fn read(from: audit_entry::Reader<'_>) -> Result<AuditEntry, WireError> {
    Ok(AuditEntry {
        at: WallTime(from.get_at_ms()),
        what: read_kind(from.get_what()?),
        who: text::read(from.get_who(), "a name", BYTES_MAX)?,
        source: text::read(from.get_source(), "a source", BYTES_MAX)?,
        about: text::read(from.get_about(), "a subject", BYTES_MAX)?,
        detail: text::read(from.get_detail(), "a detail", BYTES_MAX)?,
        count: from.get_count(),
    })
}

fn write_kind(kind: AuditKind) -> record_capnp::AuditKind {
    match kind {
        AuditKind::Enrolled => record_capnp::AuditKind::Enrolled,
        AuditKind::NotEnrolled => record_capnp::AuditKind::NotEnrolled,
        AuditKind::Connected => record_capnp::AuditKind::Connected,
        AuditKind::NotConnected => record_capnp::AuditKind::NotConnected,
        AuditKind::TokenCreated => record_capnp::AuditKind::TokenCreated,
        AuditKind::TokenRevoked => record_capnp::AuditKind::TokenRevoked,
        AuditKind::Submitted => record_capnp::AuditKind::Submitted,
        AuditKind::Cancelled => record_capnp::AuditKind::Cancelled,
        AuditKind::Abandoned => record_capnp::AuditKind::Abandoned,
        AuditKind::WorkerRemoved => record_capnp::AuditKind::WorkerRemoved,
        AuditKind::ClientRevoked => record_capnp::AuditKind::ClientRevoked,
        AuditKind::WorkerDrained => record_capnp::AuditKind::WorkerDrained,
        AuditKind::WorkerResumed => record_capnp::AuditKind::WorkerResumed,
        AuditKind::KeyRenewed => record_capnp::AuditKind::KeyRenewed,
        AuditKind::PoolKeyRenewed => record_capnp::AuditKind::PoolKeyRenewed,
        AuditKind::WorkerForgotten => record_capnp::AuditKind::WorkerForgotten,
    }
}

fn read_kind(kind: record_capnp::AuditKind) -> AuditKind {
    match kind {
        record_capnp::AuditKind::Enrolled => AuditKind::Enrolled,
        record_capnp::AuditKind::NotEnrolled => AuditKind::NotEnrolled,
        record_capnp::AuditKind::Connected => AuditKind::Connected,
        record_capnp::AuditKind::NotConnected => AuditKind::NotConnected,
        record_capnp::AuditKind::TokenCreated => AuditKind::TokenCreated,
        record_capnp::AuditKind::TokenRevoked => AuditKind::TokenRevoked,
        record_capnp::AuditKind::Submitted => AuditKind::Submitted,
        record_capnp::AuditKind::Cancelled => AuditKind::Cancelled,
        record_capnp::AuditKind::Abandoned => AuditKind::Abandoned,
        record_capnp::AuditKind::WorkerRemoved => AuditKind::WorkerRemoved,
        record_capnp::AuditKind::ClientRevoked => AuditKind::ClientRevoked,
        record_capnp::AuditKind::WorkerDrained => AuditKind::WorkerDrained,
        record_capnp::AuditKind::WorkerResumed => AuditKind::WorkerResumed,
        record_capnp::AuditKind::KeyRenewed => AuditKind::KeyRenewed,
        record_capnp::AuditKind::PoolKeyRenewed => AuditKind::PoolKeyRenewed,
        record_capnp::AuditKind::WorkerForgotten => AuditKind::WorkerForgotten,
    }
}
