//! What is known about a file, as `stat` reports it.

/// Kinds of files: the type bits of a mode shifted down, which are the `DT_*` numbers too.
pub mod kind {
    /// Pipe.
    pub const PIPE: u8 = 1;
    /// Character device.
    pub const CHARACTER: u8 = 2;
    /// Directory.
    pub const DIRECTORY: u8 = 4;
    /// Regular file.
    pub const REGULAR: u8 = 8;
    /// Symbolic link.
    pub const SYMLINK: u8 = 10;
    /// Socket.
    pub const SOCKET: u8 = 12;
}

/// Bits a mode keeps besides the type: permissions, set-id and sticky.
pub const MODE_BITS: u32 = 0o7777;

/// The numbers of `struct stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// File system.
    pub device: u64,
    /// Number of the file in it.
    pub inode: u64,
    /// Names it has.
    pub links: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub user: u32,
    /// Group.
    pub group: u32,
    /// Device number, when it is one.
    pub special: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Good size for reads and writes.
    pub block_bytes: u64,
    /// 512-byte units in use.
    pub blocks: u64,
    /// Last read, nanoseconds since the Unix epoch.
    pub accessed_nanos: u64,
    /// Last write.
    pub modified_nanos: u64,
    /// Last change of anything about it.
    pub changed_nanos: u64,
}

impl Stat {
    /// A file of a kind that has neither length nor times worth telling.
    #[must_use]
    pub fn plain(kind: u8, permissions: u32, inode: u64) -> Self {
        let mode = u32::from(kind) << 12 | permissions & MODE_BITS;
        Self { device: 1, inode, links: 1, mode, block_bytes: 4096, ..Self::default() }
    }

    /// The type bits as a [`kind`].
    #[must_use]
    pub fn kind(&self) -> u8 {
        (self.mode >> 12 & 0xf) as u8
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind() == kind::DIRECTORY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_the_type_bits_of_the_mode() {
        let stat = Stat::plain(kind::DIRECTORY, 0o1777, 3);
        assert_eq!((stat.mode, stat.kind()), (0o04_1777, kind::DIRECTORY));
        assert!(stat.is_directory());
    }
}
