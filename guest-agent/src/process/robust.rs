//! Locks a thread held when it ended (`set_robust_list(2)`): their waiters are told.

use crate::identity::TaskId;
use crate::memory::Memory;

/// Most locks looked at (`ROBUST_LIST_LIMIT`): the list is the program's and may be a circle.
const LOCKS_MAX: usize = 2048;
/// Bits of a lock word: somebody waits, the owner died, who owns it.
const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;
const OWNER: u32 = (1 << 30) - 1;

/// Marks every lock of the list at `head` that `owner` holds as abandoned and shows the addresses
/// of those that somebody waits for. A list that is none ends the walk.
pub(super) fn abandon(
    memory: &mut Memory,
    head: u64,
    owner: TaskId,
    wake: &mut dyn FnMut(&Memory, u64),
) {
    if head == 0 {
        return;
    }
    let mut words = [0; 24];
    if memory.read(head, &mut words).is_err() {
        return;
    }
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&words[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (first, offset, pending) = (word(0), word(8), word(16));
    let mut release = |memory: &mut Memory, entry: u64| {
        let address = (entry & !1).wrapping_add(offset);
        let mut held = [0; 4];
        if !address.is_multiple_of(4) || memory.read(address, &mut held).is_err() {
            return;
        }
        let held = u32::from_le_bytes(held);
        let abandoned = held & WAITERS | OWNER_DIED;
        let is_owned = held & OWNER == owner.number();
        if is_owned
            && memory.write(address, &abandoned.to_le_bytes()).is_ok()
            && held & WAITERS != 0
        {
            wake(memory, address);
        }
    };
    let mut entry = first;
    for _ in 0..LOCKS_MAX {
        if entry & !1 == head {
            break;
        }
        let mut next = [0; 8];
        let is_read = memory.read(entry & !1, &mut next).is_ok();
        if entry & !1 != pending & !1 {
            release(memory, entry);
        }
        if !is_read {
            break;
        }
        entry = u64::from_le_bytes(next);
    }
    if pending != 0 {
        release(memory, pending);
    }
}
