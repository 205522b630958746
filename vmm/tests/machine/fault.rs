//! What a guest does wrong ends its VM, says why, and blames the guest.

use crate::cell::{Answer, Cell, Shape};
use crate::{command, guest, guest_fault, restored};
use abi::layout::region as layout;
use abi::ring::Memory;

#[test]
fn panic_message_reaches_the_node() {
    let cell = restored();
    cell.region.write(layout::PANIC, b"out of frames");
    cell.region.store_u32(layout::PANIC_BYTES, 13);
    command(&cell, guest::PANIC, 0);
    assert_eq!(guest_fault(&cell), "guest kernel: out of frames");
}

#[test]
fn hostile_panic_message_is_clamped() {
    let cell = restored();
    cell.region.write(layout::PANIC, &[0xff; layout::PANIC_BYTES_MAX as usize]);
    cell.region.store_u32(layout::PANIC_BYTES, u32::MAX);
    command(&cell, guest::PANIC, 0);
    assert!(guest_fault(&cell).starts_with("guest kernel: \u{fffd}"));
}

#[test]
fn unplaced_window_is_a_guest_fault() {
    let cell = restored();
    command(&cell, guest::READ_WINDOW, 1 << 20);
    assert!(guest_fault(&cell).contains("window"));
}

#[test]
fn missing_memory_is_a_guest_fault() {
    let cell = restored();
    command(&cell, guest::NO_MEMORY, 0);
    assert_eq!(guest_fault(&cell), "guest touched 0x10001ff000, where no memory is");
}

#[test]
fn unknown_port_is_a_guest_fault() {
    let cell = restored();
    command(&cell, guest::BAD_PORT, 0);
    assert_eq!(guest_fault(&cell), "guest kernel used port 0x777");
}

#[test]
fn triple_fault_is_a_guest_fault() {
    let cell = restored();
    command(&cell, guest::TRIPLE_FAULT, 0);
    assert_eq!(guest_fault(&cell), "guest ran into a triple fault");
}

#[test]
fn halt_in_user_mode_never_halts_the_vm() {
    let cell = restored();
    command(&cell, guest::USER_HALT, 0);
    // Stock KVM: a general protection fault, which this kernel panics on. PVM: the VMM sees it.
    let reason = guest_fault(&cell);
    assert!(reason == "guest kernel: fault" || reason.starts_with("a program halted"), "{reason}");
}

#[test]
fn kernel_out_of_place_is_refused() {
    let snapshot = region::sealed::unsealed("snapshot").unwrap();
    let cell = Cell::spawn(&crate::vmm());
    let kernel = region::sealed::frozen("kernel", b"\x7fELF nonsense").unwrap();
    cell.boot(&kernel, &snapshot, None, Shape::default());
    let answer = cell.answer();
    assert!(matches!(&answer, Answer::Gone(2, why) if why.contains("ELF")), "{answer:?}");
}
