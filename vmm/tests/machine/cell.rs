//! The node's side of one VMM process, as small as it can be: for the tests and the `drive`
//! example.

use abi::ABI_VERSION;
use abi::control::{MESSAGE_BYTES_MAX, Reply, Request, Restoring, Start, Verified, status};
use abi::layout::region as layout;
use abi::layout::{CLOCK_GPA, REGION_GPA};
use region::clock::{ClockSample, calibrate};
use region::{Doorbell, Region, message, sealed};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::LazyLock;
use std::time::Duration;

/// One VMM process and all that is shared with it.
#[derive(Debug)]
pub(crate) struct Cell {
    /// The process.
    pub(crate) child: Child,
    /// Control socket; `None` once closed.
    pub(crate) socket: Option<OwnedFd>,
    /// Rings and control words.
    pub(crate) region: Region,
    /// Clock page and counters.
    pub(crate) status: Region,
    /// Node to guest.
    pub(crate) doorbell: Doorbell,
    /// Guest to node.
    pub(crate) node_doorbell: Doorbell,
    /// Multiplier and offset of the guest's clock.
    pub(crate) clock: (u64, u64),
    region_memfd: OwnedFd,
    status_memfd: OwnedFd,
}

/// A reply, out of its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Length of the snapshot.
    Captured(u64),
    /// Nanoseconds from `Start`.
    Running(u64),
    /// Offset in the window.
    Placed(u64),
    /// Pages put back, nanoseconds; how much was compared, nanoseconds.
    Reset(u32, u64, Verified, u64),
    /// Blame as number, reason.
    Gone(u8, String),
    /// The socket is closed.
    Closed,
}

/// The root image, and a package with its place in the window.
pub(crate) type Images<'a> = (Option<&'a [u8]>, Option<(u64, &'a [u8])>);

/// What a restore needs beyond the snapshot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// RAM.
    pub(crate) ram_bytes: u64,
    /// Core of the vCPU.
    pub(crate) core: u32,
    /// User id to become.
    pub(crate) user: u32,
    /// Whether it may be captured.
    pub(crate) is_capturable: bool,
    /// How memory comes.
    pub(crate) restoring: Restoring,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            ram_bytes: 32 << 20,
            core: u32::MAX,
            user: 0,
            is_capturable: false,
            restoring: Restoring::Map,
        }
    }
}

/// The guests' clock, the same for all.
static CLOCK: LazyLock<(u64, u64)> = LazyLock::new(|| {
    let earlier = ClockSample::take();
    std::thread::sleep(Duration::from_millis(20));
    calibrate(earlier, ClockSample::take()).expect("the host's clocks advance")
});

impl Cell {
    /// Starts the executable with nothing but its control socket.
    ///
    /// # Panics
    /// When the host cannot.
    #[must_use]
    pub(crate) fn spawn(vmm: &Path) -> Self {
        Self::spawn_with(Command::new(vmm))
    }

    /// Starts a command that is the VMM.
    ///
    /// # Panics
    /// When the host cannot.
    #[must_use]
    pub(crate) fn spawn_with(mut command: Command) -> Self {
        let (socket, other) = message::pair().expect("a socket pair");
        let child = command.stdin(other).spawn().expect("the VMM starts");
        // The command keeps the other end, and with it the VMM's.
        drop(command);
        let bytes = u64::from(layout::BYTES);
        let region_memfd = sealed::shared("region", bytes).expect("a memfd");
        let status_memfd = sealed::shared("status", status::BYTES).expect("a memfd");
        let region = Region::map(&region_memfd, layout::BYTES, REGION_GPA).expect("a mapping");
        let status_bytes = u32::try_from(status::BYTES).expect("small");
        let status = Region::map(&status_memfd, status_bytes, CLOCK_GPA).expect("a mapping");
        Self {
            child,
            socket: Some(socket),
            region,
            status,
            doorbell: Doorbell::new().expect("an eventfd"),
            node_doorbell: Doorbell::new().expect("an eventfd"),
            clock: *CLOCK,
            region_memfd,
            status_memfd,
        }
    }

    /// Boots a kernel; the snapshot goes to `snapshot`.
    pub(crate) fn boot(
        &self,
        kernel: &OwnedFd,
        snapshot: &OwnedFd,
        image: Option<&[u8]>,
        shape: Shape,
    ) {
        self.start(false, &[kernel.as_fd(), snapshot.as_fd()], (image, None), shape, 0);
    }

    /// Restores a snapshot.
    pub(crate) fn restore(
        &self,
        snapshot: &OwnedFd,
        image: Option<&[u8]>,
        shape: Shape,
        generation: u64,
    ) {
        self.restore_with(snapshot, (image, None), shape, generation);
    }

    /// Restores a snapshot whose guest may have a package in its window.
    pub(crate) fn restore_with(
        &self,
        snapshot: &OwnedFd,
        images: Images<'_>,
        shape: Shape,
        generation: u64,
    ) {
        self.start(true, &[snapshot.as_fd()], images, shape, generation);
    }

    /// Asks for a reset, and for so much time to be spent on verifying it.
    pub(crate) fn reset(&self, generation: u64, verify_nanos: u64) {
        let seed = [0x77; abi::control::SEED_BYTES];
        self.send(&Request::Reset { generation, seed, verify_nanos }, &[]);
    }

    fn start(
        &self,
        is_restore: bool,
        more: &[BorrowedFd<'_>],
        (image, package): Images<'_>,
        shape: Shape,
        generation: u64,
    ) {
        let (clock_multiplier, clock_offset) = self.clock;
        let start = Start {
            abi_version: ABI_VERSION,
            is_restore,
            ram_bytes: shape.ram_bytes,
            root_image_bytes: image.map_or(0, |image| image.len() as u64),
            restoring: shape.restoring,
            package_offset: package.map_or(0, |package| package.0),
            package_bytes: package.map_or(0, |package| package.1.len() as u64),
            generation,
            core: shape.core,
            clock_multiplier,
            clock_offset,
            user: shape.user,
            is_capturable: shape.is_capturable,
        };
        let image = image.map(|image| sealed::frozen("image", image).expect("a memfd"));
        let device = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        let device = device.expect("/dev/kvm opens");
        let mut descriptors = vec![
            device.as_fd(),
            self.region_memfd.as_fd(),
            self.status_memfd.as_fd(),
            self.doorbell.as_fd(),
            self.node_doorbell.as_fd(),
        ];
        descriptors.extend_from_slice(more);
        descriptors.extend(image.as_ref().map(AsFd::as_fd));
        let package = package.map(|(_, bytes)| sealed::frozen("package", bytes).expect("a memfd"));
        descriptors.extend(package.as_ref().map(AsFd::as_fd));
        self.send(&Request::Start(start), &descriptors);
    }

    /// Sends a request.
    ///
    /// # Panics
    /// When the socket is closed.
    pub(crate) fn send(&self, request: &Request, descriptors: &[BorrowedFd<'_>]) {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let length = request.encode(&mut buffer).expect("it fits");
        self.send_bytes(&buffer[..length], descriptors);
    }

    /// Sends anything.
    ///
    /// # Panics
    /// When the socket is closed.
    pub(crate) fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let socket = self.socket.as_ref().expect("an open socket");
        message::send(socket, bytes, descriptors).expect("the VMM listens");
    }

    /// What the VMM has said and nobody heard.
    #[must_use]
    pub(crate) fn last_words(&self) -> String {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let socket = self.socket.as_ref().expect("an open socket");
        match message::try_receive(socket, &mut buffer) {
            Ok(Some(received)) => format!("{:?}", Reply::decode(&buffer[..received.length])),
            other => format!("{other:?}"),
        }
    }

    /// Waits for a reply.
    ///
    /// # Panics
    /// When it is not one.
    #[must_use]
    pub(crate) fn answer(&self) -> Answer {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let socket = self.socket.as_ref().expect("an open socket");
        let length = message::receive(socket, &mut buffer).map_or(0, |received| received.length);
        if length == 0 {
            return Answer::Closed;
        }
        match Reply::decode(&buffer[..length]).expect("a reply") {
            Reply::Captured { bytes } => Answer::Captured(bytes),
            Reply::Running { restore_nanos } => Answer::Running(restore_nanos),
            Reply::Placed { offset } => Answer::Placed(offset),
            Reply::Reset { dirty_pages, reset_nanos, verified, verify_nanos, .. } => {
                Answer::Reset(dirty_pages, reset_nanos, verified, verify_nanos)
            }
            Reply::Gone { blame, reason } => Answer::Gone(blame as u8, reason.to_owned()),
        }
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.socket = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
