//! The first boot: page tables, kernel image and registers of a VM that has never run. What goes
//! where is [`abi::layout`]'s; the kernel half made here never changes afterwards.

use crate::flavour::{msr_list, set_msrs};
use crate::gone::{Doing, Gone};
use crate::machine::Shell;
use crate::memory::Ram;
use abi::ABI_VERSION;
use abi::layout::{
    BootInfo, CLOCK_GPA, DIRECT_MAP, Flavour, KERNEL_BASE, LARGE_PAGE_BYTES, PAGE_BYTES,
    REGION_GPA, WINDOW_BYTES, WINDOW_GPA, boot, region as layout,
};
use abi::wire::{Malformed, Reader, Writer};
use std::io;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Accessed and dirty from the start: the CPU never has to write the tables.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

const GIB: u64 = 1 << 30;
const ENTRIES: u64 = 512;
/// PDPT entry of [`KERNEL_BASE`]: the last but one of slot 511.
const KERNEL_ENTRY: u64 = 510;

/// Puts kernel, tables and boot info into RAM and the vCPU at the kernel's entry.
pub(crate) fn load(
    shell: &Shell,
    ram: &mut Ram,
    elf: &[u8],
    root_image_bytes: u64,
) -> Result<(), Gone> {
    let kernel = Kernel::parse(elf, ram.bytes())?;
    let cpu = &shell.cpu;
    for segment in &kernel.segments {
        ram.write(segment.gpa, segment.bytes).doing("load the kernel")?;
    }
    write_tables(ram, &kernel, cpu.flavour).doing("write the page tables")?;
    let info = BootInfo {
        magic: BootInfo::MAGIC,
        abi_version: ABI_VERSION,
        flavour: cpu.flavour as u32,
        ram_bytes: ram.bytes(),
        kernel_end: kernel.end(),
        xsave_mask: cpu.xsave_mask,
        xsave_bytes: cpu.xsave_bytes,
        root_image_offset: 0,
        root_image_bytes,
    };
    let info = encode(&info).map_err(|_| Gone::Request("boot info is too long"))?;
    ram.write(boot::INFO, &info).doing("write the boot info")?;
    let vcpu = &shell.vcpu;
    let sregs = vcpu.get_sregs().doing("read the vCPU's registers")?;
    vcpu.set_sregs(&cpu.first_sregs(sregs, boot::ROOT)).doing("set the vCPU's registers")?;
    let regs = kvm_bindings::kvm_regs {
        rip: kernel.entry,
        rsp: DIRECT_MAP + boot::STACK_TOP,
        rflags: 2,
        ..kvm_bindings::kvm_regs::default()
    };
    vcpu.set_regs(&regs).doing("set the vCPU's registers")?;
    set_msrs(vcpu, &msr_list(&cpu.first_msrs())?)
}

/// Where the kernel's segments come to lie, if the file is one.
pub(crate) fn places(elf: &[u8], ram_bytes: u64) -> Option<Vec<std::ops::Range<u64>>> {
    let kernel = Kernel::parse(elf, ram_bytes).ok()?;
    let place = |segment: &Segment<'_>| segment.gpa..segment.gpa + segment.memory_bytes;
    Some(kernel.segments.iter().map(place).collect())
}

fn encode(info: &BootInfo) -> Result<[u8; size_of::<BootInfo>()], Malformed> {
    let mut bytes = [0; size_of::<BootInfo>()];
    let mut writer = Writer::new(&mut bytes);
    writer.u64(info.magic)?;
    writer.u32(info.abi_version)?;
    writer.u32(info.flavour)?;
    writer.u64(info.ram_bytes)?;
    writer.u64(info.kernel_end)?;
    writer.u64(info.xsave_mask)?;
    writer.u64(info.xsave_bytes)?;
    writer.u64(info.root_image_offset)?;
    writer.u64(info.root_image_bytes)?;
    Ok(bytes)
}

/// Writes the kernel half: slot 511 of the root, and nothing else.
fn write_tables(ram: &mut Ram, kernel: &Kernel<'_>, flavour: Flavour) -> io::Result<()> {
    // On PVM the kernel runs at hardware privilege 3.
    let user = if flavour == Flavour::Pvm { USER } else { 0 };
    let table = PRESENT | WRITABLE | ACCESSED | user;
    let data = PRESENT | ACCESSED | DIRTY | LARGE | NO_EXECUTE | user;
    ram.write(boot::ROOT + 8 * 511, &(boot::PDPT | table).to_le_bytes())?;
    let mut directory = boot::DIRECTORIES;
    let mut add = |ram: &mut Ram, entry: u64, pages: &[(u64, u64)]| {
        ram.write(boot::PDPT + 8 * entry, &(directory | table).to_le_bytes())?;
        for (index, page) in pages {
            ram.write(directory + 8 * index, &page.to_le_bytes())?;
        }
        directory += PAGE_BYTES;
        io::Result::Ok(())
    };
    for start in (0..ram.bytes()).step_by(usize::try_from(GIB).unwrap_or(usize::MAX)) {
        let bytes = (ram.bytes() - start).min(GIB);
        add(ram, start / GIB, &pages(start, bytes, data | WRITABLE))?;
    }
    let region = u64::from(layout::BYTES);
    add(ram, REGION_GPA / GIB, &pages(REGION_GPA, region, data | WRITABLE))?;
    add(ram, CLOCK_GPA / GIB, &pages(CLOCK_GPA, PAGE_BYTES, data))?;
    add(ram, WINDOW_GPA / GIB, &pages(WINDOW_GPA, WINDOW_BYTES, data))?;
    let image = kernel.pages().map(|(gpa, flags)| {
        let access = match (flags & SEGMENT_EXECUTE != 0, flags & SEGMENT_WRITE != 0) {
            (true, _) => 0,
            (false, true) => WRITABLE | NO_EXECUTE,
            (false, false) => NO_EXECUTE,
        };
        let page = gpa | PRESENT | ACCESSED | DIRTY | LARGE | user | access;
        (gpa / LARGE_PAGE_BYTES, page)
    });
    add(ram, KERNEL_ENTRY, &image.collect::<Vec<_>>())
}

/// Entries of one directory for `bytes` bytes from `gpa`, rounded up to large pages.
fn pages(gpa: u64, bytes: u64, flags: u64) -> Vec<(u64, u64)> {
    let count = bytes.div_ceil(LARGE_PAGE_BYTES).min(ENTRIES);
    (0..count).map(|index| (index, (gpa + index * LARGE_PAGE_BYTES) | flags)).collect()
}

const SEGMENT_EXECUTE: u32 = 1;
const SEGMENT_WRITE: u32 = 2;

/// What of an ELF file has to be in memory (System V ABI, chapter 5; x86-64 supplement).
#[derive(Debug)]
struct Kernel<'a> {
    entry: u64,
    segments: Vec<Segment<'a>>,
}

#[derive(Debug)]
struct Segment<'a> {
    gpa: u64,
    bytes: &'a [u8],
    memory_bytes: u64,
    flags: u32,
}

impl<'a> Kernel<'a> {
    /// Reads a static executable linked into [`KERNEL_BASE`]'s range.
    fn parse(elf: &'a [u8], ram_bytes: u64) -> Result<Self, Gone> {
        let kernel = Self::read(elf).map_err(|_| Gone::Request("the kernel is no ELF file"))?;
        kernel.check(ram_bytes.min(GIB))?;
        Ok(kernel)
    }

    fn read(elf: &'a [u8]) -> Result<Self, Malformed> {
        let mut header = Reader::new(elf);
        // 64-bit, little-endian, current version.
        if header.array()? != [0x7f, b'E', b'L', b'F', 2, 1, 1] {
            return Err(Malformed);
        }
        header.bytes(9)?;
        let (kind, machine) = (header.u16()?, header.u16()?);
        if (kind, machine) != (2, 62) {
            return Err(Malformed);
        }
        header.u32()?;
        let (entry, table) = (header.u64()?, header.u64()?);
        header.bytes(8 + 4 + 2)?;
        let (entry_bytes, count) = (header.u16()?, header.u16()?);
        let mut segments = Vec::new();
        for index in 0..count {
            let at = table.checked_add(u64::from(index) * u64::from(entry_bytes));
            let bytes = slice(elf, at.ok_or(Malformed)?, u64::from(entry_bytes))?;
            segments.extend(Segment::read(elf, bytes)?);
        }
        Ok(Self { entry, segments })
    }

    fn check(&self, limit: u64) -> Result<(), Gone> {
        let mut free_from = boot::KERNEL;
        for segment in &self.segments {
            let end = segment.gpa.checked_add(segment.memory_bytes).filter(|end| *end <= limit);
            let is_sound = segment.gpa >= free_from
                && segment.gpa.is_multiple_of(LARGE_PAGE_BYTES)
                && segment.bytes.len() as u64 <= segment.memory_bytes;
            let end = end.filter(|_| is_sound);
            let end = end.ok_or(Gone::Request("a segment of the kernel is out of place"))?;
            free_from = end.next_multiple_of(LARGE_PAGE_BYTES);
        }
        Ok(())
    }

    /// First page-aligned byte behind the image.
    fn end(&self) -> u64 {
        let ends = self.segments.iter().map(|segment| segment.gpa + segment.memory_bytes);
        ends.max().unwrap_or(boot::KERNEL).next_multiple_of(PAGE_BYTES)
    }

    /// The image's large pages with their segments' flags.
    fn pages(&self) -> impl Iterator<Item = (u64, u32)> {
        self.segments.iter().flat_map(|segment| {
            let count = segment.memory_bytes.div_ceil(LARGE_PAGE_BYTES);
            (0..count).map(|index| (segment.gpa + index * LARGE_PAGE_BYTES, segment.flags))
        })
    }
}

impl<'a> Segment<'a> {
    /// A program header, `None` when it is not one to load.
    fn read(elf: &'a [u8], header: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut reader = Reader::new(header);
        let (kind, flags) = (reader.u32()?, reader.u32()?);
        let (offset, address, _physical) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (file_bytes, memory_bytes) = (reader.u64()?, reader.u64()?);
        if kind != 1 || memory_bytes == 0 {
            return Ok(None);
        }
        let gpa = address.checked_sub(KERNEL_BASE).ok_or(Malformed)?;
        Ok(Some(Self { gpa, bytes: slice(elf, offset, file_bytes)?, memory_bytes, flags }))
    }
}

fn slice(bytes: &[u8], offset: u64, length: u64) -> Result<&[u8], Malformed> {
    let start = usize::try_from(offset).map_err(|_| Malformed)?;
    let length = usize::try_from(length).map_err(|_| Malformed)?;
    let end = start.checked_add(length).ok_or(Malformed)?;
    bytes.get(start..end).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(segments: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
        elf.extend((KERNEL_BASE + boot::KERNEL).to_le_bytes());
        elf.extend(64_u64.to_le_bytes());
        elf.extend([0; 14]);
        elf.extend(56_u16.to_le_bytes());
        elf.extend(u16::try_from(segments.len()).unwrap().to_le_bytes());
        elf.extend([0; 6]);
        for (flags, gpa, memory) in segments {
            elf.extend(1_u32.to_le_bytes());
            elf.extend(flags.to_le_bytes());
            for word in [0, KERNEL_BASE + gpa, *gpa, 64, *memory, 4096] {
                elf.extend(word.to_le_bytes());
            }
        }
        elf
    }

    #[test]
    fn segments_become_pages() {
        let file = elf(&[(5, 2 << 20, 100), (6, 4 << 20, (2 << 20) + 5)]);
        let kernel = Kernel::parse(&file, 32 << 20).unwrap();
        assert_eq!(kernel.entry, KERNEL_BASE + (2 << 20));
        assert_eq!(kernel.end(), (6 << 20) + 4096);
        let pages: Vec<_> = kernel.pages().collect();
        assert_eq!(pages, [(2 << 20, 5), (4 << 20, 6), (6 << 20, 6)]);
    }

    #[test]
    fn kernels_out_of_place_are_refused() {
        for bad in [
            [(5, 0, 100), (6, 4 << 20, 100)],
            [(5, 2 << 20, 100), (6, 2 << 20, 100)],
            [(5, 2 << 20, 100), (6, (4 << 20) + 4096, 100)],
            [(5, 2 << 20, 100), (6, 4 << 20, 1 << 40)],
            [(5, 2 << 20, 100), (6, 4 << 20, 10)],
        ] {
            assert!(Kernel::parse(&elf(&bad), 32 << 20).is_err(), "{bad:?}");
        }
        assert!(Kernel::parse(b"\x7fELF", 32 << 20).is_err());
    }

    #[test]
    fn tables_map_every_region_and_nothing_else() {
        let file = elf(&[(5, 2 << 20, 100), (6, 4 << 20, 100)]);
        let kernel = Kernel::parse(&file, 32 << 20).unwrap();
        let mut ram = Ram::blank(32 << 20).unwrap();
        write_tables(&mut ram, &kernel, Flavour::Stock).unwrap();
        let entry = |at: u64| {
            let mut bytes = [0; 8];
            ram.read(at, &mut bytes).unwrap();
            u64::from_le_bytes(bytes)
        };
        let used = (0..512).filter(|index| entry(boot::PDPT + 8 * index) != 0);
        assert_eq!(used.collect::<Vec<_>>(), [0, 64, 65, 66, 510]);
        let text = entry((entry(boot::PDPT + 8 * 510) & !0xfff) + 8);
        assert_eq!(text, (2 << 20) | PRESENT | ACCESSED | DIRTY | LARGE);
        let alias = entry((entry(boot::PDPT) & !0xfff) + 8);
        assert_eq!(alias & (NO_EXECUTE | USER), NO_EXECUTE);
        let window = entry(entry(boot::PDPT + 8 * 66) & !0xfff);
        assert_eq!(window & (WRITABLE | NO_EXECUTE), NO_EXECUTE);
    }
}
