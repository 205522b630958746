//! `stat` in its forms.

use abi::layout::PAGE_BYTES;

use super::path::{At, EMPTY_PATH, NO_FOLLOW, read_path, with_caller};
use super::{CallResult, DONE};
use crate::errno::Errno;
use crate::file::Stat;
use crate::filesystem::NAME_BYTES_MAX;
use crate::process::Call;
use crate::time::encode_timespec;

/// `STATX_BASIC_STATS`: what `statx` says it filled in.
const BASIC_FIELDS: u32 = 0x7ff;

pub(super) fn stat(call: &mut Call<'_>) -> CallResult {
    by_path(call, true)
}

pub(super) fn lstat(call: &mut Call<'_>) -> CallResult {
    by_path(call, false)
}

fn by_path(call: &mut Call<'_>, follows: bool) -> CallResult {
    let path = read_path(call, call.argument(0))?;
    let found = with_caller(call, |view, caller| view.stat(caller, None, &path, follows))?;
    let address = call.argument(1);
    call.write_bytes(address, &encode_stat(&found))?;
    DONE
}

pub(super) fn fstat(call: &mut Call<'_>) -> CallResult {
    let found = super::transfer::file(call)?.stat()?;
    let address = call.argument(1);
    call.write_bytes(address, &encode_stat(&found))?;
    DONE
}

pub(super) fn newfstatat(call: &mut Call<'_>) -> CallResult {
    let at_flags = call.unsigned_argument(3);
    let found = stat_at(call, at_flags)?;
    let address = call.argument(2);
    call.write_bytes(address, &encode_stat(&found))?;
    DONE
}

pub(super) fn statx(call: &mut Call<'_>) -> CallResult {
    let at_flags = call.unsigned_argument(2);
    let found = stat_at(call, at_flags)?;
    let address = call.argument(4);
    call.write_bytes(address, &encode_statx(&found))?;
    DONE
}

fn stat_at(call: &mut Call<'_>, at_flags: u32) -> Result<Stat, Errno> {
    let is_file = at_flags & EMPTY_PATH != 0
        && (call.argument(1) == 0 || call.read_bytes::<1>(call.argument(1))? == [0]);
    if is_file && call.int_argument(0) >= 0 {
        return super::transfer::file(call)?.stat();
    }
    let at = At::read(call, 0)?;
    let path: &[u8] = if is_file { b"." } else { &at.path };
    let follows = at_flags & NO_FOLLOW == 0;
    with_caller(call, |view, caller| view.stat(caller, at.directory(), path, follows))
}

pub(super) fn statfs(call: &mut Call<'_>) -> CallResult {
    let path = read_path(call, call.argument(0))?;
    let found = with_caller(call, |view, caller| view.stat(caller, None, &path, true))?;
    write_statfs(call, &found)
}

pub(super) fn fstatfs(call: &mut Call<'_>) -> CallResult {
    let found = super::transfer::file(call)?.stat()?;
    write_statfs(call, &found)
}

/// A `struct statfs`: all there is to fill is the container's memory.
fn write_statfs(call: &mut Call<'_>, found: &Stat) -> CallResult {
    const TYPE_TMPFS: u64 = 0x0102_1994;
    const TYPE_PROC: u64 = 0x9fa0;
    let account = call.process.memory.account();
    let is_proc = found.device == crate::filesystem::PROC_DEVICE;
    let pages = if is_proc { 0 } else { account.limit_bytes() / PAGE_BYTES };
    let used = if is_proc { 0 } else { account.used_bytes() / PAGE_BYTES };
    let mut fields = Fields::<120>::new();
    let kind = if is_proc { TYPE_PROC } else { TYPE_TMPFS };
    let free = pages - used;
    for word in [kind, PAGE_BYTES, pages, free, free, pages, free, 0] {
        fields.u64(word);
    }
    for word in [NAME_BYTES_MAX as u64, PAGE_BYTES, 0, 0, 0, 0, 0] {
        fields.u64(word);
    }
    let address = call.argument(1);
    call.write_bytes(address, &fields.bytes)?;
    DONE
}

/// Bytes of fields put one behind the other.
struct Fields<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Fields<N> {
    fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn put(&mut self, field: &[u8]) {
        self.bytes[self.length..self.length + field.len()].copy_from_slice(field);
        self.length += field.len();
    }

    fn u16(&mut self, field: u16) {
        self.put(&field.to_le_bytes());
    }

    fn u32(&mut self, field: u32) {
        self.put(&field.to_le_bytes());
    }

    fn u64(&mut self, field: u64) {
        self.put(&field.to_le_bytes());
    }
}

/// A `struct stat` of x86-64.
fn encode_stat(stat: &Stat) -> [u8; 144] {
    let mut fields = Fields::<144>::new();
    fields.u64(stat.device);
    fields.u64(stat.inode);
    fields.u64(stat.links);
    fields.u32(stat.mode);
    fields.u32(stat.user);
    fields.u32(stat.group);
    fields.u32(0);
    fields.u64(stat.special);
    fields.u64(stat.bytes);
    fields.u64(stat.block_bytes);
    fields.u64(stat.blocks);
    for nanos in [stat.accessed_nanos, stat.modified_nanos, stat.changed_nanos] {
        fields.put(&encode_timespec(nanos));
    }
    fields.bytes
}

/// Major and minor number of a device number (`gnu_dev_major`, `gnu_dev_minor`).
fn device_parts(device: u64) -> (u32, u32) {
    let major = device >> 8 & 0xfff | device >> 32 & 0xffff_f000;
    let minor = device & 0xff | device >> 12 & 0xffff_ff00;
    (u32::try_from(major).unwrap_or(0), u32::try_from(minor).unwrap_or(0))
}

/// A `struct statx`.
fn encode_statx(stat: &Stat) -> [u8; 256] {
    let mut fields = Fields::<256>::new();
    fields.u32(BASIC_FIELDS);
    fields.u32(u32::try_from(stat.block_bytes).unwrap_or(4096));
    fields.u64(0);
    fields.u32(u32::try_from(stat.links).unwrap_or(u32::MAX));
    fields.u32(stat.user);
    fields.u32(stat.group);
    fields.u16((stat.mode & 0xffff) as u16);
    fields.u16(0);
    fields.u64(stat.inode);
    fields.u64(stat.bytes);
    fields.u64(stat.blocks);
    fields.u64(0);
    // The time of birth is not known: its bit is not set.
    for nanos in [stat.accessed_nanos, 0, stat.changed_nanos, stat.modified_nanos] {
        fields.put(&encode_timespec(nanos));
    }
    for device in [stat.special, stat.device] {
        let (major, minor) = device_parts(device);
        fields.u32(major);
        fields.u32(minor);
    }
    fields.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_c_headers_have_them() {
        let stat = Stat {
            inode: 7,
            mode: 0o100_644,
            bytes: 1234,
            modified_nanos: 5_000_000_009,
            special: 0x103,
            ..Stat::default()
        };
        let bytes = encode_stat(&stat);
        assert_eq!((bytes[8], bytes[24..26] == 0o100_644_u16.to_le_bytes()), (7, true));
        assert_eq!(bytes[48..56], 1234_u64.to_le_bytes());
        assert_eq!((bytes[88], bytes[96]), (5, 9));
        let bytes = encode_statx(&stat);
        assert_eq!(bytes[28..30], 0o100_644_u16.to_le_bytes());
        assert_eq!((bytes[32], bytes[40..48] == 1234_u64.to_le_bytes()), (7, true));
        assert_eq!((bytes[112], bytes[120]), (5, 9), "stx_mtime");
        assert_eq!((bytes[128], bytes[132]), (1, 3), "stx_rdev");
    }
}
