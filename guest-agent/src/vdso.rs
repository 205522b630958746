//! The vDSO: a page of code in every program that reads the clock page beside it, so that asking
//! for the time is no system call.
//!
//! ```text
//!   clock page (host writes)  │  vDSO: ELF header, tables, code at TEXT
//!   base - 4096               │  base = AT_SYSINFO_EHDR
//! ```
//! It is a complete little ELF shared object with the names, version (`LINUX_2.6`) and tables C
//! libraries look for, built here byte by byte. Clocks other than realtime and monotonic go on to
//! the system call.

use alloc::vec::Vec;

use abi::layout::PAGE_BYTES;
use machine::frame::Frame;
use machine::paging::Backing;

use crate::errno::Errno;
use crate::memory::{Access, Area, AtFork, Kind, Memory, Range};

/// Where the code starts in the page; the tables in front of it are shorter.
const TEXT: u64 = 0x400;
const FUNCTIONS_AT: usize = 0x400;

/// The code, position independent as long as the clock page lies just below. `r10` is all ones to
/// ask `now` for realtime, 0 for monotonic time; `now` returns nanoseconds in `rax` by the
/// formula of [`abi::layout::ClockPage`] under its seqlock.
#[rustfmt::skip]
const CODE: &[u8] = &[
    // clock_gettime:
    0x83, 0xff, 0x07, // cmp edi,0x7
    0x77, 0x2e, // ja clock_gettime_call
    0xb8, 0xf3, 0x00, 0x00, 0x00, // mov eax,0xf3
    0x0f, 0xa3, 0xf8, // bt eax,edi
    0x73, 0x24, // jae clock_gettime_call
    0xb8, 0x21, 0x00, 0x00, 0x00, // mov eax,0x21
    0x0f, 0xa3, 0xf8, // bt eax,edi
    0x4d, 0x19, 0xd2, // sbb r10,r10
    0xe8, 0x90, 0x00, 0x00, 0x00, // call now
    0x31, 0xd2, // xor edx,edx
    0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov ecx,0x3b9aca00
    0x48, 0xf7, 0xf1, // div rcx
    0x48, 0x89, 0x06, // mov QWORD PTR [rsi],rax
    0x48, 0x89, 0x56, 0x08, // mov QWORD PTR [rsi+0x8],rdx
    0x31, 0xc0, // xor eax,eax
    0xc3, // ret
    // clock_gettime_call:
    0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax,0xe4
    0x0f, 0x05, // syscall
    0xc3, // ret
    // gettimeofday:
    0x48, 0x85, 0xff, // test rdi,rdi
    0x74, 0x28, // je gettimeofday_zone
    0x49, 0xc7, 0xc2, 0xff, 0xff, 0xff, 0xff, // mov r10,0xffffffffffffffff
    0xe8, 0x63, 0x00, 0x00, 0x00, // call now
    0x31, 0xd2, // xor edx,edx
    0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov ecx,0x3b9aca00
    0x48, 0xf7, 0xf1, // div rcx
    0x48, 0x89, 0x07, // mov QWORD PTR [rdi],rax
    0x89, 0xd0, // mov eax,edx
    0x31, 0xd2, // xor edx,edx
    0xb9, 0xe8, 0x03, 0x00, 0x00, // mov ecx,0x3e8
    0xf7, 0xf1, // div ecx
    0x48, 0x89, 0x47, 0x08, // mov QWORD PTR [rdi+0x8],rax
    // gettimeofday_zone:
    0x48, 0x85, 0xf6, // test rsi,rsi
    0x74, 0x07, // je gettimeofday_end
    0x48, 0xc7, 0x06, 0x00, 0x00, 0x00, 0x00, // mov QWORD PTR [rsi],0x0
    // gettimeofday_end:
    0x31, 0xc0, // xor eax,eax
    0xc3, // ret
    // time:
    0x49, 0xc7, 0xc2, 0xff, 0xff, 0xff, 0xff, // mov r10,0xffffffffffffffff
    0xe8, 0x2c, 0x00, 0x00, 0x00, // call now
    0x31, 0xd2, // xor edx,edx
    0xb9, 0x00, 0xca, 0x9a, 0x3b, // mov ecx,0x3b9aca00
    0x48, 0xf7, 0xf1, // div rcx
    0x48, 0x85, 0xff, // test rdi,rdi
    0x74, 0x03, // je time_end
    0x48, 0x89, 0x07, // mov QWORD PTR [rdi],rax
    // time_end:
    0xc3, // ret
    // getcpu:
    0x48, 0x85, 0xff, // test rdi,rdi
    0x74, 0x06, // je getcpu_node
    0xc7, 0x07, 0x00, 0x00, 0x00, 0x00, // mov DWORD PTR [rdi],0x0
    // getcpu_node:
    0x48, 0x85, 0xf6, // test rsi,rsi
    0x74, 0x06, // je getcpu_end
    0xc7, 0x06, 0x00, 0x00, 0x00, 0x00, // mov DWORD PTR [rsi],0x0
    // getcpu_end:
    0x31, 0xc0, // xor eax,eax
    0xc3, // ret
    // now:
    0x44, 0x8b, 0x05, 0x4a, 0xeb, 0xff, 0xff, // mov r8d,DWORD PTR [rip+0xffffffffffffeb4a]
    0x41, 0xf6, 0xc0, 0x01, // test r8b,0x1
    0x75, 0x36, // jne now_wait
    0x0f, 0xae, 0xe8, // lfence
    0x0f, 0x31, // rdtsc
    0x48, 0xc1, 0xe2, 0x20, // shl rdx,0x20
    0x48, 0x09, 0xd0, // or rax,rdx
    0x48, 0xf7, 0x25, 0x39, 0xeb, 0xff, 0xff, // mul QWORD PTR [rip+0xffffffffffffeb39]
    0x48, 0x0f, 0xac, 0xd0, 0x20, // shrd rax,rdx,0x20
    0x48, 0x03, 0x05, 0x35, 0xeb, 0xff, 0xff, // add rax,QWORD PTR [rip+0xffffffffffffeb35]
    0x4c, 0x8b, 0x0d, 0x36, 0xeb, 0xff, 0xff, // mov r9,QWORD PTR [rip+0xffffffffffffeb36]
    0x4d, 0x21, 0xd1, // and r9,r10
    0x4c, 0x01, 0xc8, // add rax,r9
    0x44, 0x3b, 0x05, 0x11, 0xeb, 0xff, 0xff, // cmp r8d,DWORD PTR [rip+0xffffffffffffeb11]
    0x75, 0xbe, // jne now
    0xc3, // ret
    // now_wait:
    0xf3, 0x90, // pause
    0xeb, 0xb9, // jmp now
];

/// Names and offsets of the functions in [`CODE`].
const FUNCTIONS: [(&[u8], u64); 4] = [
    (b"__vdso_clock_gettime", 0x400),
    (b"__vdso_gettimeofday", 0x43b),
    (b"__vdso_time", 0x477),
    (b"__vdso_getcpu", 0x496),
];
const FILE_NAME: &[u8] = b"linux-vdso.so.1";
const VERSION_NAME: &[u8] = b"LINUX_2.6";

/// Code and tables of the vDSO, made once and shared by all programs.
#[derive(Debug)]
pub struct Vdso {
    frame: Frame,
}

impl Vdso {
    /// Puts the vDSO into a frame. `None` when RAM is used up.
    #[must_use]
    pub fn new() -> Option<Self> {
        let frame = Frame::zeroed()?;
        frame.write(0, &image());
        Some(Self { frame })
    }

    /// Maps clock page and vDSO into a program and returns the vDSO's address.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when the program has no room for them.
    pub fn map(&self, memory: &mut Memory) -> Result<u64, Errno> {
        let start = memory.place(0, 2 * PAGE_BYTES)?;
        let base = start + PAGE_BYTES;
        let area = |access| Area { access, kind: Kind::Kernel, at_fork: AtFork::Copied };
        memory.map(Range { start, end: base }, area(Access::READ))?;
        memory.map(Range { start: base, end: base + PAGE_BYTES }, area(Access::READ_EXECUTE))?;
        memory.map_backing(start, Backing::Clock, Access::READ)?;
        let code = Backing::Frame(self.frame.clone());
        memory.map_backing(base, code, Access::READ_EXECUTE)?;
        Ok(base)
    }
}

/// Bytes under construction.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Where the next byte goes, 8-aligned.
    fn align(&mut self) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self.0.len() as u64
    }
}

/// The string table: an empty string, then each name behind the last.
struct Names {
    bytes: Vec<u8>,
}

impl Names {
    fn add(&mut self, name: &[u8]) -> u32 {
        let at = u32::try_from(self.bytes.len()).unwrap_or(0);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        at
    }
}

/// The whole page's bytes up to the end of the code.
fn image() -> Vec<u8> {
    const HEADERS: usize = 64 + 2 * 56;
    let mut bytes = Bytes::default();
    bytes.0.resize(HEADERS, 0);
    let mut names = Names { bytes: alloc::vec![0] };
    let file_name = names.add(FILE_NAME);
    let version_name = names.add(VERSION_NAME);
    let symbols = bytes.align();
    bytes.0.resize(bytes.0.len() + 24, 0);
    for (name, offset) in FUNCTIONS {
        // Global function in section 1 (any but 0: defined), size unknown.
        bytes.u32(names.add(name)).u16(0x12).u16(1).u64(offset).u64(0);
    }
    let hash = symbol_hash(&mut bytes);
    let versions = bytes.align();
    bytes.u16(0);
    for _ in FUNCTIONS {
        bytes.u16(2);
    }
    let definitions = bytes.align();
    version_definition(&mut bytes, 1, FILE_NAME, file_name);
    version_definition(&mut bytes, 2, VERSION_NAME, version_name);
    let strings = bytes.align();
    bytes.0.extend_from_slice(&names.bytes);
    let dynamic = bytes.align();
    let entries = [
        (14, u64::from(file_name)),
        (4, hash),
        (5, strings),
        (6, symbols),
        (10, names.bytes.len() as u64),
        (11, 24),
        (0x6fff_fff0, versions),
        (0x6fff_fffc, definitions),
        (0x6fff_fffd, 2),
        (0, 0),
    ];
    for (tag, value) in entries {
        bytes.u64(tag).u64(value);
    }
    let end = bytes.align();
    assert!(end <= TEXT, "the tables end before the code");
    bytes.0.resize(FUNCTIONS_AT, 0);
    bytes.0.extend_from_slice(CODE);
    let headers = headers(bytes.0.len() as u64, dynamic, end - dynamic);
    bytes.0[..HEADERS].copy_from_slice(&headers);
    bytes.0
}

/// `DT_HASH` with one bucket: a chain through all symbols.
fn symbol_hash(bytes: &mut Bytes) -> u64 {
    let at = bytes.align();
    let count = u32::try_from(FUNCTIONS.len() + 1).unwrap_or(0);
    bytes.u32(1).u32(count).u32(1).u32(0);
    for index in 1..count {
        bytes.u32(if index + 1 < count { index + 1 } else { 0 });
    }
    at
}

/// One `Elf64_Verdef` with its single name; the first one names the file itself.
fn version_definition(bytes: &mut Bytes, index: u16, name: &[u8], name_at: u32) {
    let (flags, next) = if index == 1 { (1, 28) } else { (0, 0) };
    bytes.u16(1).u16(flags).u16(index).u16(1).u32(elf_hash(name)).u32(20).u32(next);
    bytes.u32(name_at).u32(0);
}

/// Hash of a name (System V ABI, figure 5-13).
fn elf_hash(name: &[u8]) -> u32 {
    name.iter().fold(0_u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(*byte));
        let top = hash & 0xf000_0000;
        (hash ^ top >> 24) & !top
    })
}

fn headers(file_bytes: u64, dynamic: u64, dynamic_bytes: u64) -> Vec<u8> {
    let mut bytes = Bytes(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec());
    bytes.u16(3).u16(62).u32(1).u64(0).u64(64).u64(0).u32(0);
    bytes.u16(64).u16(56).u16(2).u16(0).u16(0).u16(0);
    bytes.u32(1).u32(5).u64(0).u64(0).u64(0).u64(file_bytes).u64(file_bytes).u64(PAGE_BYTES);
    bytes.u32(2).u32(4).u64(dynamic).u64(dynamic).u64(dynamic);
    bytes.u64(dynamic_bytes).u64(dynamic_bytes).u64(8);
    bytes.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn names_hash_as_in_the_abi() {
        assert_eq!(elf_hash(b"LINUX_2.6"), 0x3ae_75f6);
        assert_eq!(elf_hash(b""), 0);
    }

    #[test]
    fn each_function_starts_behind_the_end_of_another() {
        let image = image();
        assert!(image.len() as u64 <= PAGE_BYTES);
        for (_, offset) in &FUNCTIONS[1..] {
            let before = image[usize::try_from(*offset).unwrap() - 1];
            assert_eq!(before, 0xc3, "a function ends with ret before {offset:#x}");
        }
    }

    /// Readers other than ours agree on the tables.
    #[test]
    fn binutils_find_the_versioned_functions() {
        let path = std::env::temp_dir().join(format!("vdso-{}.so", std::process::id()));
        std::fs::write(&path, image()).unwrap();
        let mut command = Command::new("readelf");
        let output = command.args(["-W", "-D", "-s"]).arg(&path).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        std::fs::remove_file(&path).unwrap();
        for name in ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time", "__vdso_getcpu"]
        {
            assert!(text.contains(name), "{name} is not in:\n{text}");
        }
    }
}
