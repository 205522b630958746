//! Calls that wait, and what ends the wait.

use super::*;

const READ: u64 = 0;
const AGAIN: Option<i64> = Some(-11);

fn timespec(nanos: u64) -> [u8; 16] {
    crate::time::encode_timespec(nanos)
}

#[test]
fn a_timer_behind_a_descriptor_ends_a_read() {
    let mut fixture = Fixture::new();
    let timer = u64::try_from(fixture.call(283, [1, 0, 0, 0, 0, 0]).unwrap()).unwrap();
    fixture.write(SCRATCH, &timespec(50));
    fixture.write(SCRATCH + 16, &timespec(100));
    assert_eq!(fixture.call(286, [timer, 0, SCRATCH, 0, 0, 0]), Some(0));
    assert_eq!(fixture.call(READ, [timer, SCRATCH + 64, 8, 0, 0, 0]), None);
    assert!(fixture.processes.next_deadline() > machine::clock::monotonic_nanos());
    fixture.advance(99);
    let main = fixture.main();
    assert_eq!(fixture.result(main), None);
    fixture.advance(60);
    fixture.processes.settle();
    assert_eq!(fixture.resume(main), Some(8));
    assert_eq!(fixture.read(SCRATCH + 64), 2_u64.to_le_bytes());
}

#[test]
fn an_awaited_signal_is_taken_and_not_delivered() {
    let mut fixture = Fixture::new();
    let other = fixture.thread();
    let usr1 = 1_u64 << 9;
    fixture.write(SCRATCH, &usr1.to_le_bytes());
    fixture.write(SCRATCH + 8, &timespec(100));
    assert_eq!(fixture.call(14, [0, SCRATCH, 0, 8, 0, 0]), Some(0), "blocked");
    let wait = [SCRATCH, SCRATCH + 64, SCRATCH + 8, 8, 0, 0];
    assert_eq!(fixture.call(128, wait), None);
    fixture.advance(200);
    let main = fixture.main();
    assert_eq!(fixture.resume(main), AGAIN);
    assert_eq!(fixture.call(128, [SCRATCH, SCRATCH + 64, 0, 8, 0, 0]), None);
    let own = u64::from(fixture.process.number());
    assert_eq!(fixture.call_as(other, 62, [own, 10, 0, 0, 0, 0]), Some(0));
    assert_eq!(fixture.resume(main), Some(10));
    assert_eq!(fixture.read(SCRATCH + 64), 10_u32.to_le_bytes());
}

#[test]
fn a_robust_lock_of_a_thread_that_ends_is_given_up() {
    let mut fixture = Fixture::new();
    let owner = fixture.thread();
    let (head, lock) = (SCRATCH + 0x100, SCRATCH + 0x200);
    // The entry lies 8 bytes behind its word.
    for (at, word) in [(head, lock + 8), (head + 8, 8_u64.wrapping_neg()), (head + 16, 0)] {
        fixture.write(at, &word.to_le_bytes());
    }
    fixture.write(lock + 8, &head.to_le_bytes());
    fixture.write(lock, &(owner.number() | 1 << 31).to_le_bytes());
    assert_eq!(fixture.call_as(owner, 273, [head, 24, 0, 0, 0, 0]), Some(0));
    let held = u64::from(owner.number() | 1 << 31);
    assert_eq!(fixture.call(202, [lock, 128, held, 0, 0, 0]), None, "somebody waits");
    assert_eq!(fixture.call_as(owner, 60, [0; 6]), None);
    let main = fixture.main();
    assert_eq!(fixture.result(main), Some(0), "and is woken");
    assert_eq!(fixture.read(lock), (1_u32 << 31 | 1 << 30).to_le_bytes());
}

#[test]
fn the_time_a_program_works_is_counted_while_it_works() {
    let mut fixture = Fixture::new();
    let main = fixture.main();
    fixture.processes.begin_turn(main, machine::clock::monotonic_nanos());
    host::advance(5_000);
    for clock in [2, 3] {
        assert_eq!(fixture.call(228, [clock, SCRATCH, 0, 0, 0, 0]), Some(0));
        assert_eq!(fixture.read(SCRATCH), timespec(5_000), "clock {clock}");
    }
    assert_eq!(fixture.call(61, [u64::MAX, 0, 0, 0, 0, 0]), error(Errno::CHILD));
}

#[test]
fn a_connection_ends_the_wait_for_one() {
    let mut fixture = Fixture::new();
    let other = fixture.thread();
    let address = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    fixture.write(SCRATCH, &address);
    let listener = fixture.call(41, [2, 1, 0, 0, 0, 0]).unwrap().unsigned_abs();
    assert_eq!(fixture.call(49, [listener, SCRATCH, 16, 0, 0, 0]), Some(0));
    assert_eq!(fixture.call(50, [listener, 5, 0, 0, 0, 0]), Some(0));
    let main = fixture.main();
    assert_eq!(fixture.call(43, [listener, 0, 0, 0, 0, 0]), None);
    let client = fixture.call_as(other, 41, [2, 1, 0, 0, 0, 0]).unwrap().unsigned_abs();
    assert_eq!(fixture.call_as(other, 42, [client, SCRATCH, 16, 0, 0, 0]), Some(0));
    let server = fixture.resume(main).unwrap();
    assert!(server > 0);
    let server = server.unsigned_abs();
    assert_eq!(fixture.call(READ, [server, SCRATCH + 64, 8, 0, 0, 0]), None);
    assert_eq!(fixture.call_as(other, 1, [client, SCRATCH, 4, 0, 0, 0]), Some(4));
    assert_eq!(fixture.resume(main), Some(4));
    assert_eq!(fixture.call(49, [client, SCRATCH, 16, 0, 0, 0]), error(Errno::INVAL));
}

#[test]
fn a_file_shared_with_memory_is_one() {
    let mut fixture = Fixture::new();
    fixture.write(SCRATCH, b"/tmp/shared\0");
    let file = fixture.call(2, [SCRATCH, 0o102, 0o600, 0, 0, 0]).unwrap().unsigned_abs();
    assert_eq!(fixture.call(77, [file, 2 * PAGE_BYTES, 0, 0, 0, 0]), Some(0));
    let map = fixture.call(9, [0, 2 * PAGE_BYTES, RW, 1, file, 0]).unwrap().unsigned_abs();
    fixture.write(map + PAGE_BYTES, b"stored");
    assert_eq!(fixture.call(17, [file, SCRATCH, 6, PAGE_BYTES, 0, 0]), Some(6));
    assert_eq!(&fixture.read::<6>(SCRATCH), b"stored");
    assert_eq!(fixture.call(18, [file, SCRATCH, 6, 0, 0, 0]), Some(6));
    assert_eq!(&fixture.read::<6>(map), b"stored");
    assert_eq!(fixture.call(28, [map, PAGE_BYTES, 4, 0, 0, 0]), Some(0), "MADV_DONTNEED");
    assert_eq!(&fixture.read::<6>(map), b"stored");
}
