//! What a state directory lies on: SQLite's write-ahead log shares memory between connections, which no network file
//! system offers.

use std::path::Path;

use nix::sys::statfs::{FsType, statfs};

/// File systems whose files may be open on another machine too, with the magic numbers of statfs(2).
const REMOTE: [(FsType, &str); 11] = [
    (FsType(0x6969), "NFS"),
    (FsType(0xFF53_4D42), "CIFS"),
    (FsType(0xFE53_4D42), "SMB2"),
    (FsType(0x517B), "SMB"),
    (FsType(0x6573_5546), "FUSE"),
    (FsType(0x0102_1997), "9P"),
    (FsType(0x00C3_6400), "Ceph"),
    (FsType(0x0BD0_0BD0), "Lustre"),
    (FsType(0x4750_4653), "GPFS"),
    (FsType(0x5346_414F), "AFS"),
    (FsType(0x1983_0326), "BeeGFS"),
];

/// The name of the network file system that a directory lies on, if it does.
///
/// # Errors
/// When the directory cannot be looked at.
pub(super) fn remote(directory: &Path) -> std::io::Result<Option<&'static str>> {
    Ok(name_of(statfs(directory)?.filesystem_type()))
}

fn name_of(kind: FsType) -> Option<&'static str> {
    REMOTE.iter().find(|(remote, _)| *remote == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use nix::sys::statfs::{EXT4_SUPER_MAGIC, NFS_SUPER_MAGIC, TMPFS_MAGIC};

    use super::*;

    #[test]
    fn a_network_file_system_is_told_from_a_disk() {
        assert_eq!(name_of(NFS_SUPER_MAGIC), Some("NFS"));
        assert_eq!(name_of(EXT4_SUPER_MAGIC), None);
        assert_eq!(name_of(TMPFS_MAGIC), None);
    }
}
