//! Cells: one jailed VMM process per VM, spawned and commanded from here.
//!
//! ```text
//!  Nursery   what every cell is made from: VMM, snapshot, root image, clock, limits
//!  Birth     a VMM that was started and has not said yet that its VM runs; the keeper's
//!  Cell      one running VMM: its control socket, region, counters; the shard's
//!  Infant    the same process as the keeper sees it: to be reaped, its group removed
//! ```
//! Everything here blocks for milliseconds (spawn, restore, exit), so it runs on the keeper's
//! thread; only [`Cell::place`], [`Cell::reset`] and [`Cell::reply`] are for the shard, and they
//! never wait.
//! A VMM dies with the thread that spawned it (parent-death signal), so the keeper's thread lives
//! as long as the node.

mod birth;
mod infant;
mod memory;
mod reply;
mod restoring;

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use abi::control::{self, Blame, Request, Start};
use abi::layout::{self, Flavour, PAGE_BYTES};
use abi::ring::Memory;
use region::clock::ClockSample;
use region::{Contents, Doorbell, Region, message, sealed};
use rustix::process::{Pid, PidfdFlags};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::cgroup::Cgroups;
use crate::embedded;
use crate::snapshot_store::FunctionSnapshot;

pub(crate) use birth::Birth;
pub(crate) use infant::Infant;
pub use memory::private_bytes;
use reply::await_reply;
pub(crate) use reply::{OwnReply, PutBack};
pub(crate) use restoring::Measured;

/// How far apart the clock's two samples lie: keeps its rate within a few parts per million.
const CLOCK_BASELINE: Duration = Duration::from_millis(50);
/// Memory a VMM process may use above its VM's RAM: its own pages, page tables, ring memory.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// What all cells of a node share.
pub(crate) struct NurserySettings {
    /// `/dev/kvm`, opened.
    pub(crate) kvm: OwnedFd,
    /// RAM of each VM, bytes.
    pub(crate) ram_bytes: u64,
    /// Cores the vCPUs are bound to in turn; empty for any.
    pub(crate) guest_cores: Vec<u32>,
    /// User id VMMs become when the node is root; 0 to stay.
    pub(crate) user: u32,
    /// The root image, a tar archive of whole pages.
    pub(crate) root_image: Vec<u8>,
    /// A VMM to use instead of the embedded one.
    pub(crate) vmm: Option<PathBuf>,
    /// A guest kernel to use instead of the embedded one.
    pub(crate) kernel: Option<PathBuf>,
}

/// What every cell is made from.
pub(crate) struct Nursery {
    vmm: OwnedFd,
    kvm: OwnedFd,
    snapshot: OwnedFd,
    snapshot_bytes: u64,
    boots: u64,
    root_image: OwnedFd,
    root_image_bytes: u64,
    ram_bytes: u64,
    guest_cores: Vec<u32>,
    user: u32,
    clock: (u64, u64),
    cgroups: Cgroups,
    flavour: Flavour,
    generations: Generations,
    identity: [u8; 32],
    restoring: Measured,
}

/// Gives each restore and each reset of a node a number of its own: by it a guest's `READY` is
/// told from that of an earlier life, and programs may tell that they were copied.
#[derive(Clone, Debug)]
struct Generations(Arc<AtomicU64>);

impl Generations {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1)))
    }

    fn next(&self) -> u64 {
        // Relaxed: the number publishes nothing but itself.
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Nursery {
    /// Boots the guest once and captures the base snapshot all cells are restored from.
    ///
    /// # Errors
    /// What the host lacks, as a sentence that says what to do.
    pub(crate) fn boot(settings: NurserySettings) -> Result<Self, String> {
        let earlier = ClockSample::take();
        let host = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let vmm = read_or(settings.vmm.as_deref(), embedded::VMM)?;
        let kernel = read_or(settings.kernel.as_deref(), embedded::GUEST_KERNEL)?;
        let vmm = sealed::executable("pilotlight-vmm", &vmm).map_err(host("no memfd"))?;
        let root_image_bytes = settings.root_image.len() as u64;
        let root_image =
            sealed::frozen("pilotlight-root", &settings.root_image).map_err(host("no memfd"))?;
        let snapshot = sealed::unsealed("pilotlight-snapshot").map_err(host("no memfd"))?;
        let mut nursery = Self {
            vmm,
            kvm: settings.kvm,
            snapshot,
            snapshot_bytes: 0,
            boots: 0,
            root_image,
            root_image_bytes,
            ram_bytes: settings.ram_bytes,
            guest_cores: settings.guest_cores,
            user: settings.user,
            clock: (1 << 32, 0),
            cgroups: Cgroups::prepare(),
            flavour: Flavour::Stock,
            generations: Generations::new(),
            identity: [0; 32],
            restoring: Measured::default(),
        };
        nursery.capture_base(&kernel)?;
        nursery.identity = nursery.identify(&settings.root_image)?;
        nursery.restoring = nursery.measure_restoring()?;
        if let Some(rest) = CLOCK_BASELINE
            .as_nanos()
            .checked_sub(u128::from(region::clock::monotonic_nanos() - earlier.monotonic_nanos))
        {
            std::thread::sleep(Duration::from_nanos(u64::try_from(rest).unwrap_or(0)));
        }
        nursery.clock = region::clock::calibrate(earlier, ClockSample::take())
            .ok_or("the time-stamp counter of this machine does not count")?;
        Ok(nursery)
    }

    /// Which kind of KVM this host has.
    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// How VMM processes are limited.
    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// How VMs get their memory, and why so.
    pub(crate) fn restoring(&self) -> Measured {
        self.restoring
    }

    /// VMs booted from the kernel image so far.
    pub(crate) fn boots(&self) -> u64 {
        self.boots
    }

    /// Bytes of the base snapshot.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// What snapshots made from this base depend on beside their function: kernel, ABI, CPU and
    /// flavour (all in the base snapshot), and the root image.
    pub(crate) fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    fn identify(&self, root_image: &[u8]) -> Result<[u8; 32], String> {
        let base = Contents::map(&self.snapshot)
            .map_err(|error| format!("the base snapshot cannot be read: {error}"))?;
        let mut hash = Sha256::new_with_prefix(abi::ABI_VERSION.to_le_bytes());
        hash.update((base.len() as u64).to_le_bytes());
        hash.update(&base[..]);
        hash.update(root_image);
        Ok(hash.finalize().into())
    }

    /// First offset of the image window that is free for packages.
    pub(crate) fn window_start(&self) -> u64 {
        self.root_image_bytes.next_multiple_of(PAGE_BYTES)
    }

    fn capture_base(&mut self, kernel: &[u8]) -> Result<(), String> {
        let kernel = sealed::frozen("pilotlight-kernel", kernel)
            .map_err(|error| format!("no memfd: {error}"))?;
        let shared =
            SharedParts::new(0, 0).map_err(|error| format!("no shared memory: {error}"))?;
        let nobody = Doorbell::new().map_err(|error| format!("no eventfd: {error}"))?;
        let (mut infant, control) = self.spawn_process(0)?;
        let start = self.start(false, 0, u32::MAX);
        let descriptors = [Some(kernel.as_fd()), Some(self.snapshot.as_fd()), self.root_image()];
        let outcome = self
            .send_start(&control, start, (&shared, &nobody), &descriptors)
            .and_then(|()| await_reply(&control, &infant));
        infant.kill();
        infant.reap();
        match outcome? {
            OwnReply::Captured { bytes } => {
                self.snapshot_bytes = bytes;
                self.boots += 1;
            }
            other @ (OwnReply::Running { .. }
            | OwnReply::Placed { .. }
            | OwnReply::Reset { .. }
            | OwnReply::Gone { .. }) => {
                return Err(format!("the guest kernel did not boot: {}", other.describe()));
            }
        }
        let number = u32::try_from(shared.status.load_u64(control::status::FLAVOUR));
        self.flavour = number.ok().and_then(Flavour::from_number).unwrap_or(Flavour::Stock);
        // The VMM has sealed it; nobody, it included, changes it any more.
        sealed::check_frozen(&self.snapshot)
            .map(drop)
            .map_err(|error| format!("the snapshot is not sealed: {error}"))
    }

    /// Starts a VMM that restores a function's snapshot, or the base. The guest will ring
    /// `node_doorbell`, sooner if it is awaited. Returns before it is restored.
    ///
    /// # Errors
    /// Why there is no VM, for the operator; nothing is left behind.
    pub(crate) fn restore(
        &self,
        vm: u64,
        node_doorbell: &Doorbell,
        snapshot: Option<&FunctionSnapshot>,
        is_awaited: bool,
    ) -> Result<Birth, String> {
        let start = self.start(true, self.generations.next(), self.core_of(vm));
        self.launch(start, (vm, is_awaited), node_doorbell, snapshot)
    }

    /// As [`Nursery::restore`] of the base, for a VM that will be captured.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn restore_to_capture(
        &self,
        vm: u64,
        node_doorbell: &Doorbell,
    ) -> Result<Birth, String> {
        let start = self.start(true, self.generations.next(), self.core_of(vm));
        self.launch(Start { is_capturable: true, ..start }, (vm, true), node_doorbell, None)
    }

    fn launch(
        &self,
        mut start: Start,
        (vm, is_awaited): (u64, bool),
        node_doorbell: &Doorbell,
        snapshot: Option<&FunctionSnapshot>,
    ) -> Result<Birth, String> {
        let generation = start.generation;
        let shared = SharedParts::new(vm, generation)
            .map_err(|error| format!("no shared memory: {error}"))?;
        shared.region.store_u64(layout::region::IS_AWAITED, u64::from(is_awaited));
        let (mut infant, control) = self.spawn_process(vm)?;
        infant.set_quiet(!is_awaited);
        if let Some(snapshot) = snapshot {
            snapshot.touch(region::clock::monotonic_nanos());
        }
        let package = snapshot.and_then(|snapshot| snapshot.package.as_ref());
        if let Some(package) = package {
            (start.package_offset, start.package_bytes) = (package.offset, package.bytes);
        }
        let memory = snapshot.map_or(self.snapshot.as_fd(), |snapshot| snapshot.memfd.as_fd());
        let images = [Some(memory), self.root_image(), package.map(|it| it.memfd.as_fd())];
        match self.send_start(&control, start, (&shared, node_doorbell), &images) {
            Ok(()) => {
                let generations = self.generations.clone();
                Ok(Birth::new(infant, control, shared, (generation, generations)))
            }
            Err(reason) => {
                infant.kill();
                infant.reap();
                Err(reason)
            }
        }
    }

    /// The root image, if there is one.
    fn root_image(&self) -> Option<BorrowedFd<'_>> {
        (self.root_image_bytes > 0).then_some(self.root_image.as_fd())
    }

    fn core_of(&self, vm: u64) -> u32 {
        let count = self.guest_cores.len() as u64;
        let index = vm.checked_rem(count).and_then(|index| usize::try_from(index).ok());
        index.map_or(u32::MAX, |index| self.guest_cores[index])
    }

    fn start(&self, is_restore: bool, generation: u64, core: u32) -> Start {
        Start {
            abi_version: abi::ABI_VERSION,
            is_restore,
            ram_bytes: self.ram_bytes,
            root_image_bytes: self.root_image_bytes,
            is_capturable: false,
            restoring: self.restoring.way(),
            package_offset: 0,
            package_bytes: 0,
            generation,
            core,
            clock_multiplier: self.clock.0,
            clock_offset: self.clock.1,
            user: self.user,
        }
    }

    /// Starts the VMM with the control socket as its standard input and limits it.
    fn spawn_process(&self, vm: u64) -> Result<(Infant, OwnedFd), String> {
        let broken = |error: io::Error| format!("the VMM process could not be started: {error}");
        let (ours, theirs) = message::pair().map_err(broken)?;
        let mut command = Command::new(format!("/proc/self/fd/{}", self.vmm.as_raw_fd()));
        command
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let limit = self.ram_bytes + OVERHEAD_BYTES;
        let spawned = self.cgroups.spawn(&mut command, &format!("vm-{vm}"), limit);
        let (mut child, group) = spawned.map_err(|error| {
            format!("the VMM process could not be started under limits: {error}")
        })?;
        match rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok((Infant { vm, child, pidfd, group: Some(group) }, ours)),
            Err(error) => {
                drop((child.kill(), child.wait()));
                Err(broken(error.into()))
            }
        }
    }

    fn send_start(
        &self,
        control: &OwnedFd,
        start: Start,
        (shared, node_doorbell): (&SharedParts, &Doorbell),
        images: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), String> {
        let mut buffer = [0; control::MESSAGE_BYTES_MAX];
        let length = Request::Start(start).encode(&mut buffer).unwrap_or(0);
        let mut descriptors = vec![
            self.kvm.as_fd(),
            shared.region_memfd.as_fd(),
            shared.status_memfd.as_fd(),
            shared.doorbell.as_fd(),
            node_doorbell.as_fd(),
        ];
        descriptors.extend(images.iter().flatten());
        message::send(control, &buffer[..length], &descriptors)
            .map_err(|error| format!("the VMM process ended at once: {error}"))
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        self.cgroups.remove();
    }
}

/// Memory and doorbell of one VM, before they are divided among their owners.
struct SharedParts {
    region: Region,
    region_memfd: OwnedFd,
    status: Region,
    status_memfd: OwnedFd,
    doorbell: Doorbell,
}

impl SharedParts {
    /// Fresh ones; the region already holds what the guest takes when it wakes.
    fn new(vm: u64, generation: u64) -> io::Result<Self> {
        use layout::region as offset;
        let region_memfd = sealed::shared("pilotlight-region", u64::from(offset::BYTES))?;
        let region = Region::map(&region_memfd, offset::BYTES, layout::REGION_GPA)?;
        let status_bytes = u32::try_from(control::status::BYTES).map_err(io::Error::other)?;
        let status_memfd = sealed::shared("pilotlight-status", control::status::BYTES)?;
        let status = Region::map(&status_memfd, status_bytes, layout::CLOCK_GPA)?;
        region.write(offset::SEED, fresh_seed()?.as_ref());
        region.store_u64(offset::GENERATION, generation);
        region.store_u64(offset::VM, vm);
        Ok(Self { region, region_memfd, status, status_memfd, doorbell: Doorbell::new()? })
    }
}

/// Entropy for a guest that wakes.
fn fresh_seed() -> io::Result<Zeroizing<[u8; control::SEED_BYTES]>> {
    let mut seed = Zeroizing::new([0; control::SEED_BYTES]);
    rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(seed)
}

/// The file's bytes, or those the library carries.
fn read_or(path: Option<&Path>, embedded: &'static [u8]) -> Result<Cow<'static, [u8]>, String> {
    let Some(path) = path else { return Ok(Cow::Borrowed(embedded)) };
    let read = std::fs::read(path);
    read.map(Cow::Owned).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Opens `/dev/kvm`; the text says what to do.
pub(crate) fn open_kvm() -> Result<OwnedFd, String> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(file) => Ok(file.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("there is no /dev/kvm: load the kernel module kvm_amd or kvm_intel, or give this \
             virtual machine nested virtualisation"
                .to_owned())
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err("/dev/kvm may not be opened: add this user to the group kvm and log in again"
                .to_owned())
        }
        Err(error) => Err(format!("/dev/kvm cannot be opened: {error}")),
    }
}

/// One running VMM, as its shard sees it.
pub(crate) struct Cell {
    control: OwnedFd,
    /// Rings and control words, shared with the guest.
    pub(crate) region: Region,
    /// Counters of the VMM; [`control::status`].
    pub(crate) status: Region,
    /// Rung for the guest.
    pub(crate) doorbell: Doorbell,
    /// Number of its restore or last reset; the guest's first frame repeats it.
    pub(crate) generation: u64,
    generations: Generations,
    /// What the restore took inside the VMM.
    pub(crate) restore_nanos: u64,
    /// The process.
    pub(crate) pid: u32,
}

impl Cell {
    /// Asks the VMM to map a package into the image window; [`Cell::reply`] brings the answer.
    ///
    /// # Errors
    /// The VMM is gone, or has not answered for very long.
    pub(crate) fn place(&self, package: impl AsFd, offset: u64, bytes: u64) -> io::Result<()> {
        let mut buffer = [0; 64];
        let length = Request::Place { offset, bytes }
            .encode(&mut buffer)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        message::send(&self.control, &buffer[..length], &[package.as_fd()])
    }

    /// Asks the VMM to put its VM back to its snapshot, under a new generation and with a new
    /// seed, and to compare it for up to `verify_nanos` (0: not at all); [`Cell::reply`] brings the
    /// answer. Until then nobody may touch the region: the VMM empties it.
    ///
    /// # Errors
    /// The VMM is gone, or has not answered for very long; or the host has no entropy.
    pub(crate) fn reset(&mut self, verify_nanos: u64) -> io::Result<()> {
        self.generation = self.generations.next();
        let (generation, seed) = (self.generation, *fresh_seed()?);
        let mut buffer = Zeroizing::new([0; 64]);
        let mut request = Request::Reset { generation, seed, verify_nanos };
        let length = request.encode(&mut buffer[..]).map_err(|_| io::ErrorKind::InvalidInput)?;
        if let Request::Reset { seed, .. } = &mut request {
            seed.zeroize();
        }
        message::send(&self.control, &buffer[..length], &[])
    }

    /// Asks the VMM to write its VM, which has to be idle, into the empty memfd `snapshot`;
    /// [`Cell::reply`] brings the answer. The VM stays stopped.
    ///
    /// # Errors
    /// The VMM is gone.
    pub(crate) fn capture(&self, snapshot: impl AsFd) -> io::Result<()> {
        let mut buffer = [0; 16];
        let length =
            Request::Capture.encode(&mut buffer).map_err(|_| io::ErrorKind::InvalidInput)?;
        message::send(&self.control, &buffer[..length], &[snapshot.as_fd()])
    }

    /// Readable when the VMM has said something.
    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// What the VMM has said since, if anything; never waits.
    ///
    /// # Errors
    /// The VMM is gone, or speaks nonsense.
    pub(crate) fn reply(&self) -> io::Result<Option<OwnReply>> {
        let mut buffer = [0; control::MESSAGE_BYTES_MAX];
        let Some(received) = message::try_receive(&self.control, &mut buffer)? else {
            return Ok(None);
        };
        if received.length == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        OwnReply::decode(&buffer[..received.length])
            .map(Some)
            .ok_or(io::ErrorKind::InvalidData.into())
    }

    /// What the VMM said before it ended: whether its guest is to blame, and why.
    pub(crate) fn last_words(&self) -> (bool, String) {
        while let Ok(Some(reply)) = self.reply() {
            if let OwnReply::Gone { blame, reason } = reply {
                return (blame == Blame::Guest, reason);
            }
        }
        (false, "its VMM process is gone".to_owned())
    }

    /// Tells the guest that an invoke waits for it, should it not have said yet that it is ready.
    pub(crate) fn hasten(&self) {
        self.region.store_u64(layout::region::IS_AWAITED, 1);
    }

    /// Returns of `KVM_RUN` to the VMM so far.
    pub(crate) fn exits(&self) -> u64 {
        self.status.load_u64(control::status::EXITS)
    }

    /// Of those, the ones by a signal: the guest's time was up, or the VM is to be reset.
    pub(crate) fn exits_by_signal(&self) -> u64 {
        self.status.load_u64(control::status::EXITS_SIGNAL)
    }
}
