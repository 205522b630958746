//! ELF files, read three times: by the guest, which maps programs; by the node, which refuses what
//! the guest cannot run; and by the VMM, which loads the guest's kernel. What the guest accepts can
//! be mapped, and the node accepts it too.

use abi::layout::{LARGE_PAGE_BYTES, PAGE_BYTES, RAM_BYTES_MIN, USER_END, boot};
use guest_agent::elf::{self, HEADER_BYTES_MAX, Program};
use pilotlight::package::{ProgramFault, check_program};

/// `data` is a file, or the start of a larger one.
pub fn check(data: &[u8]) -> bool {
    let start = &data[..data.len().min(HEADER_BYTES_MAX)];
    let verdict = check_program(data);
    let mut is_program = false;
    for file_bytes in [data.len() as u64, 1 << 20, u64::MAX] {
        let Ok(program) = elf::parse(start, file_bytes) else { continue };
        can_be_mapped(&program, file_bytes);
        is_program = true;
        assert_eq!(verdict, Ok(()), "the node lets through what the guest can run");
    }
    if verdict == Err(ProgramFault::Dynamic) {
        assert!(elf::parse(start, u64::MAX).is_err(), "there is no loader in the guest");
    }
    kernel(data);
    is_program
}

/// What `guest-agent/src/process/exec.rs` relies on.
fn can_be_mapped(program: &Program, file_bytes: u64) {
    assert!(!program.segments.is_empty());
    let mut floor = if program.is_fixed { 0x1_0000 } else { 0 };
    let mut is_entered = false;
    for segment in &program.segments {
        let end = segment.address.checked_add(segment.memory_bytes);
        let end = end.filter(|end| *end <= USER_END);
        assert!(end.is_some(), "in the user half");
        let end = end.unwrap_or(0);
        assert!(segment.address / PAGE_BYTES * PAGE_BYTES >= floor, "no page in two segments");
        floor = end.next_multiple_of(PAGE_BYTES);
        assert!(segment.file_bytes <= segment.memory_bytes && segment.memory_bytes > 0);
        let file_end = segment.file_offset.checked_add(segment.file_bytes);
        assert!(file_end.is_some_and(|end| end <= file_bytes), "in the file");
        let is_congruent = (segment.file_offset ^ segment.address).is_multiple_of(PAGE_BYTES);
        assert!(is_congruent || segment.file_bytes == 0);
        let holds_entry = (segment.address..end).contains(&program.entry);
        is_entered |= holds_entry && segment.access.is_executable;
    }
    assert!(is_entered, "it starts in a segment it may execute");
    assert_eq!(program.segments.last().map(|it| it.address + it.memory_bytes), Some(program.end()));
    let table_end = program.headers_address + 56 * u64::from(program.headers);
    let is_loaded = |it: &elf::Segment| {
        program.headers_address >= it.address && table_end <= it.address + it.file_bytes
    };
    assert!(program.headers_address == 0 || program.segments.iter().any(is_loaded));
}

/// A kernel that is accepted lies in RAM, behind what the VMM puts there, on pages of its own.
fn kernel(data: &[u8]) {
    let mut free_from = boot::KERNEL;
    for place in vmm::fuzzing::kernel_places(data, RAM_BYTES_MIN).unwrap_or_default() {
        assert!(place.start >= free_from && place.start.is_multiple_of(LARGE_PAGE_BYTES));
        assert!(place.start < place.end && place.end <= RAM_BYTES_MIN);
        free_from = place.end.next_multiple_of(LARGE_PAGE_BYTES);
    }
}
