//! From a file to a process that can run: parse, lay out, map, fill the first stack.
//!
//! Mapping is eager, because a page fault costs more than the page: read-only pages that lie
//! whole and aligned in the image window are mapped where they are, everything else of the file
//! is copied; of zero-initialised data and of the stack the first pages are made, the rest
//! follows on demand.

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use abi::layout::{PAGE_BYTES, USER_END};
use machine::frame::Frame;
use machine::paging::{Backing, Met};
use machine::user::{Context, area_bytes};

use super::executable::{Binary, Executable};
use super::rewind::{Places, digits};
use super::stack::{self, Contents, key};
use crate::elf::{self, Program, Segment};
use crate::errno::Errno;
use crate::file::stat::kind;
use crate::file::{FilePage, OpenFile};
use crate::memory::{Access, Account, Area, AtFork, Kind, Memory, PAGE, Range, Sink, Withheld};
use crate::signal::frame::stack_bytes;
use crate::vdso::Vdso;
use crate::world::World;

/// Bytes of a program's first stack, as Linux' default limit.
pub const STACK_BYTES: u64 = 8 << 20;
/// Free addresses below the stack: an overflow must hit nothing.
const STACK_GAP_BYTES: u64 = 1 << 20;
/// Most bytes of arguments and environment, a quarter of the stack as in Linux.
pub const ARGUMENT_BYTES_MAX: u64 = STACK_BYTES / 4;
/// Stack pages made below the arguments before the program starts: what C start-up and a small
/// program use.
const STACK_EAGER_BYTES: u64 = 3 * PAGE_BYTES;
/// Pages of zero-initialised data made before the program starts.
const ZERO_EAGER_BYTES: u64 = 4 * PAGE_BYTES;
/// Where position-independent programs are loaded from, as on Linux two thirds up the user half.
const PIE_BASE: u64 = 0x5555_5555_4000;
/// Bytes of a segment, and of the stack, that are made for a snapshot of a program not started yet.
const PREPARED_BYTES_MAX: u64 = 4 << 20;
const PREPARED_STACK_BYTES: u64 = STACK_EAGER_BYTES + 2 * PAGE_BYTES;
/// The variable a program finds its request's id in, in front of the id's page.
const ID_NAME: &[u8] = b"PILOTLIGHT_INVOKE_ID=";
/// The id's page and that of the random bytes.
const HELD_BYTES: u64 = 2 * PAGE_BYTES;
/// Random bits of page-granular addresses: the stack's, a static-pie's, the heap's gap.
const STACK_RANDOM_BITS: u32 = 22;
const PIE_RANDOM_BITS: u32 = 28;
const HEAP_RANDOM_BITS: u32 = 12;

/// What a program is started with.
#[derive(Debug)]
pub struct Arguments<'a> {
    /// Path shown to the program.
    pub path: &'a [u8],
    /// Arguments, the program's name first.
    pub arguments: &'a [Vec<u8>],
    /// `NAME=VALUE` entries.
    pub environment: &'a [Vec<u8>],
    /// The process is to be rewound: what differs from request to request lies in pages of its own
    /// and is withheld.
    pub held: Option<Held>,
}

/// What is withheld from a process that is to be rewound, besides random bytes.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Its request's id, if it is to see one.
    pub invoke: Option<u64>,
    /// The clock.
    pub has_clock: bool,
}

/// A program ready to run.
#[derive(Debug)]
pub struct Loaded {
    /// Its memory.
    pub memory: Memory,
    /// Its first registers.
    pub context: Context,
    /// Where what is withheld lies.
    pub places: Option<Places>,
}

/// Addresses chosen for one start.
struct Layout {
    base: u64,
    stack_top: u64,
    heap_gap: u64,
}

/// A program in memory, without arguments and environment: those come when it starts.
#[derive(Debug)]
pub struct Image {
    memory: Memory,
    entry: u64,
    stack_top: u64,
    vdso: u64,
    auxiliary: Vec<(u64, u64)>,
    met: Met,
}

/// Why a file does not become a program that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// It is none: for a person, and as `execve` says it.
    File(&'static str, Errno),
    /// What it takes is not to be had.
    System(Errno),
}

impl From<Errno> for LoadError {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl LoadError {
    /// As `execve` says it.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::File(_, error) | Self::System(error) => error,
        }
    }

    /// For a person; the limit is that of its memory.
    #[must_use]
    pub fn explain(self, limit_bytes: u64) -> String {
        match self {
            Self::File(reason, _) => reason.to_string(),
            Self::System(Errno::NOMEM) => {
                let limit_mib = limit_bytes >> 20;
                alloc::format!("it does not fit into its memory limit of {limit_mib} MiB")
            }
            Self::System(Errno::TOOBIG) => "its arguments and environment are too long".to_string(),
            Self::System(other) => alloc::format!("it cannot be read (error {})", other.number()),
        }
    }
}

/// Makes a program one in memory charged to `account`; `is_held` as [`Arguments::held`] will be.
///
/// # Errors
/// [`Errno::NOMEM`] when it does not fit, or why it cannot be read.
pub fn load(
    executable: &Executable,
    account: Rc<Account>,
    is_held: bool,
    world: &World,
    vdso: &Vdso,
) -> Result<Image, Errno> {
    let Executable { binary: Binary { file, program }, loader, .. } = executable;
    let layout = choose(program, world);
    let floor = layout.stack_top - STACK_BYTES;
    let mut memory = Memory::new(account, floor - STACK_GAP_BYTES)?;
    map_segments(file, &mut memory, program, layout.base)?;
    let end = (layout.base + program.end()).next_multiple_of(PAGE_BYTES);
    memory.set_heap(end + layout.heap_gap);
    let vdso = vdso.map(&mut memory)?;
    let held_bytes = if is_held { HELD_BYTES } else { 0 };
    let stack = Range { start: floor, end: layout.stack_top + held_bytes };
    let access = Access { is_executable: program.has_executable_stack, ..Access::READ_WRITE };
    memory.map(stack, Area { access, kind: Kind::Stack, at_fork: AtFork::Copied })?;
    let (mut loader_base, mut entry) = (0, layout.base + program.entry);
    if let Some(loader) = loader {
        loader_base = memory.place(0, loader.program.end().next_multiple_of(PAGE_BYTES))?;
        map_segments(&loader.file, &mut memory, &loader.program, loader_base)?;
        entry = loader_base + loader.program.entry;
    }
    Ok(Image {
        memory,
        entry,
        stack_top: layout.stack_top,
        vdso,
        auxiliary: auxiliary(program, layout.base, loader_base, vdso),
        met: Met::default(),
    })
}

impl Image {
    /// Who pays for it.
    #[must_use]
    pub fn account(&self) -> &Rc<Account> {
        self.memory.account()
    }

    /// After a restore none of its pages is met.
    pub fn forget_met(&mut self) {
        self.met = Met::default();
    }

    /// Meets a few more of its pages; `false` when it has met them.
    pub fn touch(&mut self) -> bool {
        self.memory.space().touch(&mut self.met)
    }

    /// Makes the pages a program touches as it starts, so that a snapshot has them: all of its
    /// segments up to a bound each, and the stack's.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when they cannot be had.
    pub fn populate(&mut self) -> Result<(), Errno> {
        let parts: Vec<_> = self.memory.areas().collect();
        let stack = |range: Range| Range { start: self.stack_top - PREPARED_STACK_BYTES, ..range };
        let wanted = parts.into_iter().filter_map(|(range, area)| match area.kind {
            Kind::Image => {
                Some(Range { end: range.end.min(range.start + PREPARED_BYTES_MAX), ..range })
            }
            Kind::Stack => Some(stack(range)),
            Kind::Mapped
            | Kind::SharedLater
            | Kind::Shared
            | Kind::SharedReadOnly
            | Kind::Heap
            | Kind::Kernel => None,
        });
        let wanted: Vec<_> = wanted.collect();
        let mut wanted = wanted.into_iter();
        wanted.try_for_each(|range| self.memory.populate_all(range))
    }

    /// Fills its first stack, and makes it ready to run.
    ///
    /// # Errors
    /// Why not.
    pub fn furnish(
        mut self,
        arguments: &Arguments<'_>,
        world: &World,
    ) -> Result<Loaded, LoadError> {
        let mut random = [0; 16];
        world.random(&mut random);
        let contents = Contents {
            path: arguments.path,
            arguments: arguments.arguments,
            environment: arguments.environment,
            random,
            auxiliary: &self.auxiliary,
            held: arguments.held.map(|held| stack::Held {
                name: if held.invoke.is_some() { ID_NAME } else { b"" },
                random: self.stack_top + PAGE_BYTES,
            }),
        };
        let image = stack::build(self.stack_top, &contents).ok_or(Errno::TOOBIG)?;
        if image.bytes.len() as u64 > ARGUMENT_BYTES_MAX {
            return Err(Errno::TOOBIG.into());
        }
        let memory = &mut self.memory;
        let eager = (image.stack_pointer - STACK_EAGER_BYTES) & !(PAGE_BYTES - 1);
        memory.populate(Range { start: eager, end: self.stack_top })?;
        memory.write(image.stack_pointer, &image.bytes)?;
        let places = match arguments.held {
            Some(held) => Some(withhold(memory, self.stack_top, self.vdso, held, random)?),
            None => None,
        };
        let context = Context::new(self.entry, image.stack_pointer);
        Ok(Loaded { memory: self.memory, context, places })
    }
}

fn unread(error: Errno) -> LoadError {
    LoadError::File("it cannot be read", error)
}

/// Whether a file may be executed at all, and how long it is.
///
/// # Errors
/// Why not.
pub fn check(file: &OpenFile) -> Result<u64, LoadError> {
    let stat = file.stat().map_err(unread)?;
    if stat.kind() != kind::REGULAR {
        return Err(LoadError::File("it is not a regular file", Errno::ACCES));
    }
    if stat.mode & 0o111 == 0 {
        return Err(LoadError::File("it is not marked executable (chmod +x)", Errno::ACCES));
    }
    Ok(stat.bytes)
}

pub(super) fn read_program(file: &OpenFile) -> Result<Program, LoadError> {
    let bytes = check(file)?;
    let mut start = vec![0; elf::HEADER_BYTES_MAX];
    let count = read_full(file, 0, &mut start).map_err(unread)?;
    let program = elf::parse(&start[..count], bytes);
    program.map_err(|reason| LoadError::File(reason, Errno::NOEXEC))
}

/// Reads until `bytes` are full or the file ends.
pub(super) fn read_full(file: &OpenFile, offset: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let mut sink = Sink::kernel(&mut bytes[done..]);
        match file.read_at(offset + done as u64, &mut sink)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Lays what differs from request to request into the pages above the stack and withholds it, and
/// the clock page in front of the vDSO with it.
fn withhold(
    memory: &mut Memory,
    top: u64,
    vdso: u64,
    held: Held,
    random: [u8; 16],
) -> Result<Places, Errno> {
    let places =
        Places { id: if held.invoke.is_some() { top } else { 0 }, random: top + PAGE_BYTES };
    if let Some(invoke) = held.invoke {
        memory.write(places.id, &digits(invoke))?;
        memory.withhold(places.id, Withheld::Outside);
    }
    memory.write(places.random, &random)?;
    memory.withhold(places.random, Withheld::Random);
    if held.has_clock {
        memory.withhold(vdso - PAGE_BYTES, Withheld::Outside);
    }
    Ok(places)
}

fn choose(program: &Program, world: &World) -> Layout {
    let pages = |bits: u32| {
        let mut bytes = [0; 8];
        world.random(&mut bytes);
        (u64::from_le_bytes(bytes) >> (64 - bits)) * PAGE_BYTES
    };
    let base = if program.is_fixed { 0 } else { PIE_BASE + pages(PIE_RANDOM_BITS) };
    let top = USER_END - pages(STACK_RANDOM_BITS) - PAGE_BYTES - HELD_BYTES;
    Layout { base, stack_top: top & !(PAGE_BYTES - 1), heap_gap: pages(HEAP_RANDOM_BITS) }
}

fn map_segments(
    file: &OpenFile,
    memory: &mut Memory,
    program: &Program,
    base: u64,
) -> Result<(), Errno> {
    program.segments.iter().try_for_each(|segment| map_segment(file, memory, segment, base))
}

fn map_segment(
    file: &OpenFile,
    memory: &mut Memory,
    segment: &Segment,
    base: u64,
) -> Result<(), Errno> {
    let start = base + segment.address;
    let first = start & !(PAGE_BYTES - 1);
    let range =
        Range { start: first, end: (start + segment.memory_bytes).next_multiple_of(PAGE_BYTES) };
    let access = segment.access;
    memory.map(range, Area { access, kind: Kind::Image, at_fork: AtFork::Copied })?;
    let file_end = start + segment.file_bytes;
    let mut page = first;
    while page < file_end {
        let part = Range { start: page.max(start), end: (page + PAGE_BYTES).min(file_end) };
        let offset = segment.file_offset + (part.start - start);
        let backing = file_page(file, part, offset, access)?;
        memory.map_backing(page, backing, access)?;
        page += PAGE_BYTES;
    }
    let zeros = Range { start: page, end: range.end.min(page + ZERO_EAGER_BYTES) };
    if zeros.start < zeros.end && access.is_writable {
        memory.populate(zeros)?;
    }
    Ok(())
}

/// The page that holds `part` of memory, whose bytes are at `offset` of the file.
fn file_page(file: &OpenFile, part: Range, offset: u64, access: Access) -> Result<Backing, Errno> {
    let is_whole = part.bytes() == PAGE_BYTES;
    if is_whole
        && !access.is_writable
        && let Ok(FilePage::Window(gpa)) = file.map_page(offset)
    {
        return Ok(Backing::Window(gpa));
    }
    let frame = if is_whole { Frame::uninitialised() } else { Frame::zeroed() };
    let frame = frame.ok_or(Errno::NOMEM)?;
    let mut buffer = [0; PAGE];
    let count = usize::try_from(part.bytes()).map_err(|_| Errno::INVAL)?;
    let bytes = &mut buffer[..count];
    if read_full(file, offset, bytes)? != count {
        return Err(Errno::IO);
    }
    let at = usize::try_from(part.start % PAGE_BYTES).map_err(|_| Errno::INVAL)?;
    frame.write(at, bytes);
    Ok(Backing::Frame(frame))
}

fn auxiliary(program: &Program, base: u64, loader_base: u64, vdso: u64) -> Vec<(u64, u64)> {
    let headers = match program.headers_address {
        0 => 0,
        address => base + address,
    };
    vec![
        (key::VDSO, vdso),
        (key::SIGNAL_STACK_BYTES, stack_bytes(area_bytes() as u64)),
        (key::HARDWARE, u64::from(hardware())),
        (key::PAGE_BYTES, PAGE_BYTES),
        (key::CLOCK_TICKS, 100),
        (key::HEADERS, headers),
        (key::HEADER_BYTES, u64::from(elf::PROGRAM_HEADER_BYTES)),
        (key::HEADER_COUNT, u64::from(program.headers)),
        (key::BASE, loader_base),
        (key::FLAGS, 0),
        (key::ENTRY, base + program.entry),
        (key::USER, 0),
        (key::EFFECTIVE_USER, 0),
        (key::GROUP, 0),
        (key::EFFECTIVE_GROUP, 0),
        (key::SECURE, 0),
        (key::HARDWARE_2, 0),
    ]
}

/// What the processor says of itself (CPUID 1, EDX), as Linux passes it on.
fn hardware() -> u32 {
    core::arch::x86_64::__cpuid(1).edx
}
