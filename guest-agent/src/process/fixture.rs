//! What a process needs around it, made on the host for tests.

use alloc::rc::Rc;
use std::vec;
use std::vec::Vec;

use machine::host;

use crate::filesystem::View;
use crate::filesystem::image::{Archive, Builder, Data, Kind as FileKind, Node};
use crate::filesystem::tree::{self, Tree};
use crate::memory::Account;
use crate::socket::{Network, unconnected};
use crate::world::World;

/// Bytes of the host's memory that are the VM's.
const RAM_BYTES: u64 = 48 << 20;

/// One loadable segment: flags, offset in the file, address, bytes in the file and in memory.
pub(crate) type Segment = (u32, u64, u64, u64, u64);

/// A static executable for x86-64 of `bytes` bytes, zeros where nothing else is said.
pub(crate) fn executable(bytes: usize, entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut file = vec![0; bytes];
    let mut put = |at: usize, value: &[u8]| file[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2_u16.to_le_bytes());
    put(18, &62_u16.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &u16::try_from(segments.len()).unwrap().to_le_bytes());
    for (index, (flags, offset, address, in_file, in_memory)) in segments.iter().enumerate() {
        let at = 64 + index * 56;
        put(at, &1_u32.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 16, &address.to_le_bytes());
        put(at + 32, &in_file.to_le_bytes());
        put(at + 40, &in_memory.to_le_bytes());
    }
    file
}

/// A container with one program, `/var/task/bootstrap`, and no process yet.
pub(crate) struct Surroundings {
    pub(crate) world: World,
    pub(crate) account: Rc<Account>,
    pub(crate) view: View,
    pub(crate) network: Rc<Network>,
}

impl Surroundings {
    /// Of `program`, which may use `limit_bytes` of memory.
    pub(crate) fn of(program: Vec<u8>, limit_bytes: u64) -> Self {
        host::init(RAM_BYTES);
        host::set_clock(1_000_000_000, 1_700_000_000_000_000_000, 1);
        let world = World::new();
        world.seed([5; 32]);
        let mut builder = Builder::new();
        let kind = FileKind::File(Data::Own(program.into()));
        let node = Node { kind, permissions: 0o755, links: 1, modified_nanos: 0 };
        builder.put(b"bootstrap", node).unwrap();
        let package = Rc::new(builder.finish(Archive::Owned(Vec::new()), 3));
        let root = Rc::new(tree::with_skeleton(None, 2).unwrap());
        let account = Account::new(limit_bytes);
        let view = View::new(Tree::new(&world, &account, &root, Some(&package), None));
        let network = Network::new(1, &unconnected(&World::new()), &account, None);
        Self { world, account, view, network }
    }
}
