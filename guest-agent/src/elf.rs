//! Reads the headers of a 64-bit x86-64 ELF executable. Pure: bytes in, a checked [`Program`] or
//! a reason for a person out; nothing of a package can make it panic.
//!
//! Accepted: executables at a fixed address and position-independent ones, static or with the path of
//! the loader that links them. What `process::exec` maps is
//! only what was checked here: segments are in ascending order, do not share a page, lie inside
//! the file and inside the user half.

use alloc::vec::Vec;

use abi::layout::{PAGE_BYTES, USER_END};
use abi::wire::{Malformed, Reader};

use crate::memory::Access;

/// Bytes from the start of a file within which its program headers have to lie.
pub const HEADER_BYTES_MAX: usize = 8192;
/// Bytes of the ELF header.
const ELF_HEADER_BYTES: usize = 64;
/// Bytes of a program header; also the only size accepted.
pub const PROGRAM_HEADER_BYTES: u16 = 56;
/// Most program headers; linkers make about a dozen.
const PROGRAM_HEADERS_MAX: u16 = 64;
/// Lowest address of a fixed program, as Linux' `mmap_min_addr`: a null pointer must fault.
const ADDRESS_MIN: u64 = 0x1_0000;
/// Bytes of a loader's path, its NUL included.
const INTERPRETER_BYTES_MAX: u64 = 4096;
/// Most bytes between a program's first and last page. Larger static programs do not exist and
/// the number keeps address arithmetic far from its limits.
const SPAN_MAX: u64 = 16 << 30;

const TYPE_EXECUTABLE: u16 = 2;
const TYPE_DYNAMIC: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SEGMENT_STACK: u32 = 0x6474_e551;
const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;
const FLAG_READ: u32 = 4;

/// A part of the file that becomes memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts, relative to the load base.
    pub address: u64,
    /// Bytes in memory; those behind the file's are zero.
    pub memory_bytes: u64,
    /// Where its bytes start in the file; congruent to `address` modulo the page size.
    pub file_offset: u64,
    /// Bytes taken from the file.
    pub file_bytes: u64,
    /// Allowed uses.
    pub access: Access,
}

/// A program that can be mapped and started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The addresses are final; otherwise any page-aligned base may be added.
    pub is_fixed: bool,
    /// First instruction, relative to the load base.
    pub entry: u64,
    /// Where the program headers are in memory (`AT_PHDR`), relative to the load base; 0 when
    /// they are not loaded.
    pub headers_address: u64,
    /// How many program headers there are (`AT_PHNUM`).
    pub headers: u16,
    /// The stack has to be executable.
    pub has_executable_stack: bool,
    /// Where in the file the path of its loader is, with a NUL behind it, and how long; none for a
    /// static one.
    pub interpreter: Option<(u64, usize)>,
    /// What to map; at least one, ascending, no page in two of them.
    pub segments: Vec<Segment>,
}

impl Program {
    /// First byte behind the last segment, relative to the load base.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.address + last.memory_bytes)
    }
}

struct Header {
    kind: u16,
    entry: u64,
    headers_offset: u64,
    headers: u16,
}

/// Checks the headers at the start of a file of `file_bytes` bytes. `start` holds the file's first
/// [`HEADER_BYTES_MAX`] bytes, or all of a shorter one.
///
/// # Errors
/// Why the file cannot be executed here.
pub fn parse(start: &[u8], file_bytes: u64) -> Result<Program, &'static str> {
    if start.get(..4) != Some(b"\x7fELF") {
        return Err(not_elf(start));
    }
    let bytes = start.get(..ELF_HEADER_BYTES).ok_or("its ELF header is cut short")?;
    let header = header(bytes)?;
    let table = usize::try_from(header.headers_offset)
        .ok()
        .and_then(|offset| start.get(offset..))
        .and_then(|rest| rest.get(..usize::from(header.headers * PROGRAM_HEADER_BYTES)))
        .ok_or("its program headers are cut short or not at the start of the file")?;
    program(&header, table, file_bytes)
}

fn not_elf(start: &[u8]) -> &'static str {
    if start.starts_with(b"#!") {
        "it is a script; name the interpreter as the program instead"
    } else {
        "it is not an ELF file"
    }
}

fn header(bytes: &[u8]) -> Result<Header, &'static str> {
    match (bytes[4], bytes[5]) {
        (2, 1) => {}
        (1, _) => return Err("it is a 32-bit program; build it for x86_64"),
        _ => return Err("it is not a little-endian 64-bit ELF file"),
    }
    let cut = |_: Malformed| "its ELF header is cut short";
    let mut reader = Reader::new(&bytes[16..]);
    let (kind, machine) = (reader.u16().map_err(cut)?, reader.u16().map_err(cut)?);
    reader.u32().map_err(cut)?;
    let (entry, headers_offset) = (reader.u64().map_err(cut)?, reader.u64().map_err(cut)?);
    reader.bytes(8 + 4 + 2).map_err(cut)?;
    let (entry_bytes, headers) = (reader.u16().map_err(cut)?, reader.u16().map_err(cut)?);
    if machine != MACHINE_X86_64 {
        return Err("it is built for another processor than x86_64");
    }
    if kind != TYPE_EXECUTABLE && kind != TYPE_DYNAMIC {
        return Err("it is an object file or a core dump, not a program");
    }
    if entry_bytes != PROGRAM_HEADER_BYTES || headers == 0 || headers > PROGRAM_HEADERS_MAX {
        return Err("its program header table is not one");
    }
    // Where a position-independent program would have its ELF header: the node, too, takes this for
    // a library, which has the type of such a program.
    if entry == 0 {
        return Err("it is a library, not a program: it starts nowhere");
    }
    Ok(Header { kind, entry, headers_offset, headers })
}

fn program(header: &Header, table: &[u8], file_bytes: u64) -> Result<Program, &'static str> {
    let mut program = Program {
        is_fixed: header.kind == TYPE_EXECUTABLE,
        entry: header.entry,
        headers_address: 0,
        headers: header.headers,
        has_executable_stack: false,
        interpreter: None,
        segments: Vec::new(),
    };
    for bytes in table.chunks_exact(usize::from(PROGRAM_HEADER_BYTES)) {
        let (kind, segment) = program_header(bytes).map_err(|_| "its program headers are bad")?;
        match kind {
            SEGMENT_LOAD if segment.memory_bytes != 0 => {
                check_segment(&program, &segment, file_bytes)?;
                program.segments.push(segment);
            }
            SEGMENT_INTERPRETER => program.interpreter = Some(interpreter(&segment, file_bytes)?),
            SEGMENT_STACK => program.has_executable_stack = segment.access.is_executable,
            _ => {}
        }
    }
    finish(program, header.headers_offset)
}

fn interpreter(segment: &Segment, file_bytes: u64) -> Result<(u64, usize), &'static str> {
    let end = segment.file_offset.checked_add(segment.file_bytes);
    let is_sane = (2..=INTERPRETER_BYTES_MAX).contains(&segment.file_bytes);
    if !is_sane || end.is_none_or(|end| end > file_bytes) {
        return Err("the path of its loader is cut short or none");
    }
    let bytes = usize::try_from(segment.file_bytes).unwrap_or(0);
    Ok((segment.file_offset, bytes))
}

fn program_header(bytes: &[u8]) -> Result<(u32, Segment), Malformed> {
    let mut reader = Reader::new(bytes);
    let (kind, flags) = (reader.u32()?, reader.u32()?);
    let (file_offset, address) = (reader.u64()?, reader.u64()?);
    reader.u64()?;
    let (file_bytes, memory_bytes) = (reader.u64()?, reader.u64()?);
    let access = Access {
        is_readable: flags & FLAG_READ != 0,
        is_writable: flags & FLAG_WRITE != 0,
        is_executable: flags & FLAG_EXECUTE != 0,
    };
    Ok((kind, Segment { address, memory_bytes, file_offset, file_bytes, access }))
}

fn check_segment(
    program: &Program,
    segment: &Segment,
    file_bytes: u64,
) -> Result<(), &'static str> {
    if segment.file_bytes > segment.memory_bytes {
        return Err("a segment has more bytes in the file than in memory");
    }
    let file_end = segment.file_offset.checked_add(segment.file_bytes);
    if file_end.is_none_or(|end| end > file_bytes) {
        return Err("the file is cut short: a segment lies behind its end");
    }
    if segment.file_bytes != 0 && segment.file_offset % PAGE_BYTES != segment.address % PAGE_BYTES {
        return Err("a segment's address and file offset do not fit together");
    }
    let end = segment.address.checked_add(segment.memory_bytes);
    let Some(end) = end.filter(|end| *end <= USER_END) else {
        return Err("a segment lies outside the address space");
    };
    if program.is_fixed && segment.address < ADDRESS_MIN {
        return Err("a segment lies below address 0x10000");
    }
    let floor = program.end().next_multiple_of(PAGE_BYTES);
    if segment.address - segment.address % PAGE_BYTES < floor {
        return Err("two segments overlap, share a page or are out of order");
    }
    let first = program.segments.first().map_or(segment.address, |first| first.address);
    if end - first > SPAN_MAX {
        return Err("its segments are too far apart");
    }
    Ok(())
}

fn finish(mut program: Program, headers_offset: u64) -> Result<Program, &'static str> {
    if program.segments.is_empty() {
        return Err("it has nothing to load");
    }
    let inside = |address: u64, segment: &&Segment| {
        address.checked_sub(segment.address).is_some_and(|at| at < segment.memory_bytes)
    };
    let entry = program.segments.iter().find(|segment| inside(program.entry, segment));
    if !entry.is_some_and(|segment| segment.access.is_executable) {
        return Err("its entry point is not in an executable segment");
    }
    let table_bytes = u64::from(program.headers) * u64::from(PROGRAM_HEADER_BYTES);
    let holder = program.segments.iter().find(|segment| {
        headers_offset.checked_sub(segment.file_offset).is_some_and(|at| {
            at.checked_add(table_bytes).is_some_and(|end| end <= segment.file_bytes)
        })
    });
    program.headers_address =
        holder.map_or(0, |segment| segment.address + (headers_offset - segment.file_offset));
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn load(bytes: &mut [u8], index: usize, segment: &Segment) {
        let at = 64 + index * 56;
        let flags = u32::from(segment.access.is_readable) * 4
            + u32::from(segment.access.is_writable) * 2
            + u32::from(segment.access.is_executable);
        put(bytes, at, &SEGMENT_LOAD.to_le_bytes());
        put(bytes, at + 4, &flags.to_le_bytes());
        put(bytes, at + 8, &segment.file_offset.to_le_bytes());
        put(bytes, at + 16, &segment.address.to_le_bytes());
        put(bytes, at + 32, &segment.file_bytes.to_le_bytes());
        put(bytes, at + 40, &segment.memory_bytes.to_le_bytes());
    }

    fn text() -> Segment {
        Segment {
            address: 0x40_0000,
            memory_bytes: 0x1234,
            file_offset: 0,
            file_bytes: 0x1234,
            access: Access::READ_EXECUTE,
        }
    }

    fn data() -> Segment {
        Segment {
            address: 0x40_2f00,
            memory_bytes: 0x5000,
            file_offset: 0x1f00,
            file_bytes: 0x80,
            access: Access::READ_WRITE,
        }
    }

    fn file(segments: &[Segment]) -> Vec<u8> {
        let mut bytes = vec![0; 0x3000];
        put(&mut bytes, 0, b"\x7fELF\x02\x01\x01");
        put(&mut bytes, 16, &TYPE_EXECUTABLE.to_le_bytes());
        put(&mut bytes, 18, &MACHINE_X86_64.to_le_bytes());
        put(&mut bytes, 24, &0x40_0400_u64.to_le_bytes());
        put(&mut bytes, 32, &64_u64.to_le_bytes());
        put(&mut bytes, 54, &PROGRAM_HEADER_BYTES.to_le_bytes());
        put(&mut bytes, 56, &u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (index, segment) in segments.iter().enumerate() {
            load(&mut bytes, index, segment);
        }
        bytes
    }

    fn parse_file(bytes: &[u8]) -> Result<Program, &'static str> {
        parse(&bytes[..bytes.len().min(HEADER_BYTES_MAX)], bytes.len() as u64)
    }

    #[test]
    fn a_plain_static_program_is_read() {
        let program = parse_file(&file(&[text(), data()])).unwrap();
        assert_eq!(program.segments, [text(), data()]);
        assert_eq!((program.is_fixed, program.headers_address), (true, 0x40_0040));
        assert_eq!(program.end(), 0x40_7f00);
    }

    #[test]
    fn the_test_binary_itself_names_its_loader() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (offset, count) = parse_file(&bytes).unwrap().interpreter.unwrap();
        let at = usize::try_from(offset).unwrap();
        assert!(bytes[at..at + count].starts_with(b"/lib64/ld-linux-x86-64.so.2\0"));
    }

    #[test]
    fn each_lie_has_its_reason() {
        let overlapping = Segment { address: 0x40_1f00, ..data() };
        let long = Segment { file_bytes: 0x4000, ..data() };
        let outside = Segment { address: USER_END - 0x1100, ..data() };
        let wrapping = Segment { memory_bytes: u64::MAX, ..data() };
        for (segments, part) in [
            (vec![text(), overlapping], "overlap"),
            (vec![data(), text()], "overlap"),
            (vec![text(), long], "cut short"),
            (vec![text(), outside], "outside"),
            (vec![text(), wrapping], "outside"),
            (vec![data()], "entry point"),
        ] {
            let reason = parse_file(&file(&segments)).unwrap_err();
            assert!(reason.contains(part), "{reason} instead of {part}");
        }
        let mut library = file(&[Segment { address: 0, ..text() }]);
        put(&mut library, 16, &TYPE_DYNAMIC.to_le_bytes());
        put(&mut library, 24, &0x400_u64.to_le_bytes());
        assert_eq!(parse_file(&library).map(|program| program.entry), Ok(0x400));
        put(&mut library, 24, &0_u64.to_le_bytes());
        assert!(parse_file(&library).unwrap_err().contains("library"));
        let mut narrow = file(&[text()]);
        narrow[4] = 1;
        assert!(parse_file(&narrow).unwrap_err().contains("32-bit"));
        assert!(parse_file(&file(&[text()])[..80]).unwrap_err().contains("cut short"));
        assert!(parse_file(b"#!/bin/sh\n").unwrap_err().contains("script"));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_accepted_can_be_mapped(
            at in proptest::collection::vec((0_usize..64 + 4 * 56, any::<u64>()), 0..6),
            small in proptest::collection::vec((0_usize..64 + 4 * 56, any::<u8>()), 0..6),
            length in 0_usize..0x3000,
        ) {
            let mut bytes = file(&[text(), data()]);
            for (offset, value) in at {
                put(&mut bytes, offset, &value.to_le_bytes());
            }
            for (offset, value) in small {
                bytes[offset] = value;
            }
            for bytes in [&bytes[..], &bytes[..length]] {
                if let Ok(program) = parse_file(bytes) {
                    let mut floor = 0;
                    for segment in &program.segments {
                        prop_assert!(segment.address / PAGE_BYTES * PAGE_BYTES >= floor);
                        floor = (segment.address + segment.memory_bytes).next_multiple_of(PAGE_BYTES);
                        prop_assert!(floor <= USER_END.next_multiple_of(PAGE_BYTES));
                        prop_assert!(segment.file_offset + segment.file_bytes <= bytes.len() as u64);
                    }
                }
            }
        }
    }
}
