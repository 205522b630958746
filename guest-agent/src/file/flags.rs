//! Numbers of `open`, `lseek` and `poll` on x86-64 (`asm-generic/fcntl.h`, `poll.h`).

/// Access mode bits.
pub const ACCESS_MODE: u32 = 0o3;
/// Open for writing only.
pub const WRITE_ONLY: u32 = 0o1;
/// Open for reading and writing.
pub const READ_WRITE: u32 = 0o2;
/// Make the file when it is not there.
pub const CREATE: u32 = 0o100;
/// Fail when it is there.
pub const EXCLUSIVE: u32 = 0o200;
/// Cut it to length 0.
pub const TRUNCATE: u32 = 0o1000;
/// Each write goes to the end.
pub const APPEND: u32 = 0o2000;
/// Fail instead of waiting.
pub const NONBLOCK: u32 = 0o4000;
/// Fail unless it is a directory.
pub const DIRECTORY: u32 = 0o20_0000;
/// Fail when it is a symbolic link.
pub const NO_FOLLOW: u32 = 0o40_0000;
/// Close on `execve`; a property of the descriptor, not of the file.
pub const CLOSE_ON_EXEC: u32 = 0o200_0000;
/// Only a place in the tree, neither readable nor writable.
pub const PATH: u32 = 0o1000_0000;
/// A file without a name (together with [`DIRECTORY`]).
pub const TEMPORARY: u32 = 0o2000_0000;

/// What `F_SETFL` may change: append, non-blocking, direct, no access time, asynchronous.
pub const SETTABLE: u32 = APPEND | NONBLOCK | 0o4_0000 | 0o100_0000 | 0o2_0000;
/// What `F_GETFL` shows: all but what only matters while opening.
pub const KEPT: u32 = !(CREATE | EXCLUSIVE | TRUNCATE | CLOSE_ON_EXEC | 0o400);

/// `lseek`: from the start.
pub const SEEK_SET: u32 = 0;
/// `lseek`: from the position.
pub const SEEK_CURRENT: u32 = 1;
/// `lseek`: from the end.
pub const SEEK_END: u32 = 2;
/// `lseek`: to the next data.
pub const SEEK_DATA: u32 = 3;
/// `lseek`: to the next hole.
pub const SEEK_HOLE: u32 = 4;

/// `POLL*` bits, the same as `EPOLL*`.
pub mod ready {
    /// Bytes, a connection or the end can be read.
    pub const IN: u32 = 1;
    /// Bytes can be written.
    pub const OUT: u32 = 4;
    /// It is broken.
    pub const ERR: u32 = 8;
    /// The other side is gone.
    pub const HUP: u32 = 0x10;
    /// The other side sends nothing more.
    pub const RDHUP: u32 = 0x2000;
}

/// Whether a file opened with these flags may be read.
#[must_use]
pub fn reads(flags: u32) -> bool {
    flags & ACCESS_MODE != WRITE_ONLY && flags & PATH == 0
}

/// Whether a file opened with these flags may be written.
#[must_use]
pub fn writes(flags: u32) -> bool {
    flags & ACCESS_MODE != 0 && flags & PATH == 0
}
