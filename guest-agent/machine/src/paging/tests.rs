//! Address spaces over the host's stand-in for RAM.

use super::skeleton::{KERNEL_SLOT, Stale};
use super::*;
use crate::frame::free_count;
use crate::host;
use crate::state::state;
use abi::layout::boot;

const PAGE: u64 = 0x40_0000;

fn frame_of(byte: u8) -> Frame {
    let frame = Frame::zeroed().unwrap();
    frame.write(0, &[byte; 4096]);
    frame
}

fn space() -> AddressSpace {
    host::init(8 << 20);
    AddressSpace::new().unwrap()
}

#[test]
fn every_root_lies_at_an_odd_frame_and_shares_the_kernel_half() {
    host::init(8 << 20);
    store(boot::ROOT, KERNEL_SLOT, 0x2007);
    let spaces: Vec<_> = (0..50).map(|_| AddressSpace::new().unwrap()).collect();
    for space in &spaces {
        assert_eq!(space.0.root() & PAGE_BYTES, PAGE_BYTES);
        assert_eq!(load(space.0.root(), KERNEL_SLOT), 0x2007);
    }
}

#[test]
fn an_empty_space_maps_nothing() {
    let mut space = space();
    assert_eq!(space.lookup(PAGE), None);
    assert_eq!(space.unmap(PAGE), None);
    assert_eq!(space.read(PAGE, &mut [0]), Err(BadAddress));
    space.protect(PAGE, Protection::READ_WRITE);
    assert_eq!(space.table_count(), 1);
}

#[test]
fn bytes_written_across_pages_are_read_back() {
    let mut space = space();
    for page in [PAGE, PAGE + PAGE_BYTES] {
        space.map(page, Backing::Frame(frame_of(0)), Protection::READ_WRITE).unwrap();
    }
    space.write(PAGE + 4090, b"hello, world").unwrap();
    let mut bytes = [0; 12];
    space.read(PAGE + 4090, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello, world");
    space.zero(PAGE + 4094, 4).unwrap();
    space.read(PAGE + 4090, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hell\0\0\0\0orld");
    assert_eq!(space.write(PAGE + 8190, b"abc"), Err(BadAddress));
}

#[test]
fn rights_are_those_of_the_program() {
    let mut space = space();
    space.map(PAGE, Backing::Frame(frame_of(7)), Protection::READ).unwrap();
    assert_eq!(space.write(PAGE, &[1]), Err(BadAddress));
    assert_eq!(space.compare_exchange_u32(PAGE, 0, 1), Err(BadAddress));
    assert_eq!(space.load_u32(PAGE), Ok(0x0707_0707));
    space.protect(PAGE, Protection::NONE);
    assert_eq!(space.read(PAGE, &mut [0]), Err(BadAddress));
    assert_eq!(space.physical_address(PAGE), Err(BadAddress));
    let (view, protection) = space.lookup(PAGE).unwrap();
    assert!(matches!(view, View::Frame { share_count: 1, .. }));
    assert_eq!(protection, Protection::NONE);
    space.protect(PAGE, Protection::READ_WRITE);
    assert_eq!(space.load_u32(PAGE), Ok(0x0707_0707));
    space.write(PAGE, &[1]).unwrap();
}

#[test]
fn kernel_addresses_and_wrapping_ones_are_bad() {
    let space = space();
    for address in [USER_END, USER_END - 1, abi::layout::DIRECT_MAP, u64::MAX, 1 << 47] {
        assert_eq!(space.read(address, &mut [0; 16]), Err(BadAddress));
        assert_eq!(space.write(address, &[0; 16]), Err(BadAddress));
        assert_eq!(space.lookup(address), None);
    }
}

#[test]
fn a_futex_word_is_exchanged_only_if_it_holds_what_was_expected() {
    let mut space = space();
    space.map(PAGE, Backing::Frame(frame_of(0)), Protection::READ_WRITE).unwrap();
    assert_eq!(space.compare_exchange_u32(PAGE + 8, 0, 5), Ok(0));
    assert_eq!(space.compare_exchange_u32(PAGE + 8, 0, 6), Ok(5));
    assert_eq!(space.load_u32(PAGE + 8), Ok(5));
    assert_eq!(space.load_u32(PAGE + 6), Err(BadAddress));
}

#[test]
fn a_shared_frame_shows_in_both_spaces_and_outlives_one() {
    let mut parent = space();
    parent.map(PAGE, Backing::Frame(frame_of(3)), Protection::READ_WRITE).unwrap();
    let mut child = AddressSpace::new().unwrap();
    let (backing, protection) = parent.share(PAGE).unwrap();
    child.map(PAGE, backing, protection).unwrap();
    child.write(PAGE, &[9]).unwrap();
    assert_eq!(parent.load_u32(PAGE), Ok(0x0303_0309));
    assert_eq!(parent.physical_address(PAGE), child.physical_address(PAGE));
    drop(parent);
    assert!(matches!(child.lookup(PAGE), Some((View::Frame { share_count: 1, .. }, _))));
    assert_eq!(child.load_u32(PAGE), Ok(0x0303_0309));
}

#[test]
fn window_and_clock_pages_are_mapped_without_frames() {
    let mut space = space();
    host::place(0x3000, &[0x5a; 4096]);
    space.map(PAGE, Backing::Window(WINDOW_GPA + 0x3000), Protection::READ_EXECUTE).unwrap();
    space.map(PAGE + PAGE_BYTES, Backing::Clock, Protection::READ).unwrap();
    assert_eq!(space.load_u32(PAGE), Ok(0x5a5a_5a5a));
    assert_eq!(space.write(PAGE, &[0]), Err(BadAddress));
    assert_eq!(space.unmap(PAGE), Some(Backing::Window(WINDOW_GPA + 0x3000)));
    assert_eq!(space.lookup(PAGE + PAGE_BYTES), Some((View::Clock, Protection::READ)));
    assert_eq!(space.unmap(PAGE + PAGE_BYTES), Some(Backing::Clock));
}

#[test]
#[should_panic(expected = "only RAM is writable")]
fn a_window_page_cannot_become_writable() {
    let mut space = space();
    space.map(PAGE, Backing::Window(WINDOW_GPA), Protection::READ).unwrap();
    space.protect(PAGE, Protection::READ_WRITE);
}

#[test]
fn mapping_over_a_page_and_dropping_the_space_leak_nothing() {
    host::init(8 << 20);
    let free = free_count();
    let mut space = AddressSpace::new().unwrap();
    for page in 0..600 {
        let address = PAGE + page * 0x1_2345_6000 % (1 << 46);
        space.map(address, Backing::Frame(frame_of(1)), Protection::READ_WRITE).unwrap_or(());
        space.map(PAGE, Backing::Frame(frame_of(2)), Protection::READ).unwrap();
    }
    space.protect(PAGE, Protection::NONE);
    let kept = space.unmap(PAGE);
    assert!(free_count() < free);
    drop(space);
    assert_eq!(free_count(), free - 1);
    drop(kept);
    assert_eq!(free_count(), free);
}

#[test]
fn running_out_of_frames_is_an_answer_and_leaves_the_rest_mapped() {
    host::init(4 << 20);
    let free = free_count();
    let mut space = AddressSpace::new().unwrap();
    space.map(PAGE, Backing::Frame(frame_of(1)), Protection::READ_WRITE).unwrap();
    let mut held = Vec::new();
    while free_count() > 2 {
        held.push(Frame::zeroed().unwrap());
    }
    let frame = held.pop().unwrap();
    let far = 0x7000_0000_0000;
    assert_eq!(space.map(far, Backing::Frame(frame), Protection::READ), Err(OutOfFrames));
    assert_eq!(space.lookup(far), None);
    assert_eq!(space.load_u32(PAGE), Ok(0x0101_0101));
    drop((space, held));
    assert_eq!(free_count(), free);
}

#[test]
fn the_cpu_is_told_about_changes_of_present_pages_only() {
    let mut space = space();
    space.activate();
    space.map(PAGE, Backing::Frame(frame_of(1)), Protection::READ_WRITE).unwrap();
    assert_eq!(space.0.stale(), Stale::Nothing);
    space.protect(PAGE, Protection::READ_WRITE);
    assert_eq!(space.0.stale(), Stale::Nothing);
    space.protect(PAGE, Protection::READ);
    assert_eq!(space.0.stale(), Stale::One(PAGE));
    space.map(PAGE + PAGE_BYTES, Backing::Clock, Protection::READ).unwrap();
    space.unmap(PAGE + PAGE_BYTES);
    assert_eq!(space.0.stale(), Stale::Many);
    space.activate();
    assert_eq!(space.0.stale(), Stale::Nothing);
    let other = AddressSpace::new().unwrap();
    other.activate();
    space.unmap(PAGE);
    assert_eq!(space.0.stale(), Stale::Nothing);
    let root = other.0.root();
    assert_eq!(state().loaded_root.get(), root);
    drop(other);
    assert_eq!(state().loaded_root.get(), root);
}

#[test]
fn more_rights_and_the_page_that_faulted_need_no_word_to_the_cpu() {
    let mut space = space();
    space.activate();
    space.map(PAGE, Backing::Frame(frame_of(1)), Protection::READ).unwrap();
    space.protect(PAGE, Protection::READ_WRITE);
    assert_eq!(space.0.stale(), Stale::Nothing);
    assert!(space.is_allowed(PAGE + 5, true, false) && !space.is_allowed(PAGE, false, true));
    state().faulted_page.set(PAGE);
    space.map(PAGE, Backing::Frame(frame_of(2)), Protection::READ_WRITE).unwrap();
    assert_eq!(space.0.stale(), Stale::Nothing);
    state().faulted_page.set(u64::MAX);
    space.map(PAGE, Backing::Frame(frame_of(3)), Protection::READ_WRITE).unwrap();
    assert_eq!(space.0.stale(), Stale::One(PAGE));
}

#[test]
fn the_next_space_gets_the_last_ones_tables_empty() {
    host::init(8 << 20);
    let free = free_count();
    let mut space = AddressSpace::new().unwrap();
    space.map(PAGE, Backing::Frame(frame_of(1)), Protection::READ_WRITE).unwrap();
    space.activate();
    let root = space.0.root();
    drop(space);
    assert_eq!(free_count(), free);
    let again = AddressSpace::new().unwrap();
    assert_eq!((again.0.root(), again.table_count()), (root, 4));
    assert_eq!((again.lookup(PAGE), again.0.stale()), (None, Stale::Many));
    drop(again);
}

#[test]
fn kept_tables_are_given_back_when_frames_run_out() {
    host::init(4 << 20);
    let free = free_count();
    let spaces: Vec<_> = (0..8).map(|_| AddressSpace::new().unwrap()).collect();
    spaces.last().unwrap().activate();
    drop(spaces);
    assert_eq!(free_count(), free);
    let all: Vec<_> = core::iter::from_fn(Frame::zeroed).collect();
    assert_eq!((all.len(), free_count()), (free, 0));
    assert_eq!(state().loaded_root.get(), boot::ROOT);
    assert_eq!(AddressSpace::new().map(|_| ()), None);
}

#[test]
fn touched_pages_hold_what_they_held() {
    let mut space = space();
    let pages = [Protection::READ_WRITE, Protection::READ, Protection::NONE];
    for (number, protection) in (0..).zip(pages) {
        let frame = frame_of(u8::try_from(number).unwrap() + 1);
        space.map(PAGE + number * PAGE_BYTES, Backing::Frame(frame), protection).unwrap();
    }
    space.touch(2, 1);
    space.touch(100, 100);
    assert_eq!(state().loaded_root.get(), space.0.root());
    assert_eq!(space.load_u32(PAGE), Ok(0x0101_0101));
    assert_eq!(space.load_u32(PAGE + PAGE_BYTES), Ok(0x0202_0202));
    space.protect(PAGE + 2 * PAGE_BYTES, Protection::READ);
    assert_eq!(space.load_u32(PAGE + 2 * PAGE_BYTES), Ok(0x0303_0303));
}
