//! What lies in the memory a node shares with a VM, read from outside both: through this process'
//! own memory file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use abi::layout::region;
use abi::ring::QueueLayout;
use pilotlight::invoke::VmId;

/// The bytes of a ring of this VM: descriptors, indexes and every slot, also those whose frame
/// was taken long ago.
pub(crate) fn ring(vm: VmId, ring: QueueLayout) -> Vec<u8> {
    let memory = File::open("/proc/self/mem").unwrap();
    let read = |start: u64, bytes: u32| {
        let mut content = vec![0; usize::try_from(bytes).unwrap()];
        memory.read_exact_at(&mut content, start).unwrap();
        content
    };
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let regions = maps.lines().filter(|line| line.contains("/memfd:pilotlight-region"));
    let starts = regions.map(|line| u64::from_str_radix(line.split('-').next().unwrap(), 16));
    let its = starts.map(Result::unwrap).find(|start| {
        let number = read(start + u64::from(region::VM), 8);
        u64::from_le_bytes(number.try_into().unwrap()) == vm.0
    });
    let start = its.unwrap_or_else(|| panic!("{vm} shares memory with this process"));
    read(start + u64::from(ring.descriptors()), ring.end() - ring.descriptors())
}

/// Whether `part` lies somewhere in `bytes`.
pub(crate) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
