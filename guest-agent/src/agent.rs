//! The agent: reads the node's frames, keeps packages and containers, and sees answers out.
//!
//! ```text
//!   code ══► packages ─┐
//!   invoke ══► containers ─► processes ─► notices ─► containers ══► log, outcome
//!   stream ◄══► connections
//! ```

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use abi::frame::code::{self, DIGEST_BYTES, Window};
use abi::frame::invoke::{self, Acquire, Assign};
use abi::frame::stream::Address;
use abi::frame::{Header, outcome};
use abi::layout::region;
use abi::ring::Memory;

use crate::container::{Assignment, Container, Package, Shared};
use crate::filesystem::image::{Archive, Image};
use crate::filesystem::tree;
use crate::process::{Notice, Processes};
use crate::program_io::News;
use crate::rings::Rings;
use crate::socket::connection::Connections;
use crate::time::NEVER;
use crate::world::World;

/// Frames taken from a ring before programs and the other rings have their turn.
const BURST: usize = 64;

/// Everything the agent keeps.
#[derive(Debug)]
pub struct Agent {
    shared: Shared,
    rings: Option<Rings>,
    packages: BTreeMap<u64, Package>,
    containers: BTreeMap<u32, Container>,
    /// Frames of a message of the invoke ring and of the code ring, so far.
    message: Vec<u8>,
    code: Vec<u8>,
    /// Tells images apart.
    serial: u64,
    /// The stream ring was full: nothing can leave until the node rings.
    is_stream_full: bool,
}

impl Agent {
    /// An agent as it is captured: with the root image, without rings.
    ///
    /// # Panics
    /// When the root image is none: the node built it, there is nothing to go on with.
    #[must_use]
    pub fn new(world: World) -> Self {
        let shared = Shared {
            root: root(),
            assignment: Assignment::default(),
            connections: Rc::new(Connections::new(&world)),
            news: News::default(),
            vm: 0,
            world,
        };
        Self {
            shared,
            rings: None,
            packages: BTreeMap::new(),
            containers: BTreeMap::new(),
            message: Vec::new(),
            code: Vec::new(),
            serial: 2,
            is_stream_full: false,
        }
    }

    /// Takes the rings of a restored VM and tells the node.
    pub fn attach(&mut self) {
        let memory = machine::region::memory();
        self.shared.vm = memory.load_u64(region::VM);
        let mut rings = Rings::new();
        let generation = memory.load_u64(region::GENERATION);
        let header = Header { kind: outcome::READY, flags: 0, channel: 0, id: generation };
        rings.outcome.push(header, &[]);
        rings.ring_node();
        self.rings = Some(rings);
        self.is_stream_full = false;
    }

    /// Does what there is to do; `true` when there was anything.
    pub fn step(&mut self, processes: &mut Processes, now_nanos: u64) -> bool {
        let Some(mut rings) = self.rings.take() else { return false };
        self.shared.news.set(false);
        let mut moved = self.take_frames(&mut rings, processes);
        moved |= self.take_notices(&mut rings, processes);
        for container in self.containers.values_mut() {
            container.expire(now_nanos, processes);
            if let Some(package) = self.packages.get(&container.package()) {
                container.load(&self.shared, package, processes, &mut rings);
            }
            moved |= container.serve(&mut rings, processes);
        }
        moved |= self.send_streams(&mut rings);
        rings.ring_node();
        self.rings = Some(rings);
        processes.bury();
        // What was used is made ready behind the answer, not in front of it.
        for container in self.containers.values_mut().filter(|it| it.invoke().is_none()) {
            container.rewind(&self.shared, self.packages.get(&container.package()), processes);
        }
        moved
    }

    /// Whether a container has its program loaded before its first request. After a restore: what
    /// was met before it is to be met again.
    pub fn is_prepared_anew(&mut self) -> bool {
        let mut prepared = 0;
        for container in self.containers.values_mut() {
            prepared += usize::from(container.is_prepared_anew());
        }
        prepared > 0
    }

    /// Makes containers ready for what may come, a step at a time; `false` when they are.
    pub fn make_ready(&mut self, processes: &mut Processes) -> bool {
        self.containers.values_mut().any(|container| {
            let package = self.packages.get(&container.package());
            package.is_some_and(|package| container.make_ready(&self.shared, package, processes))
        })
    }

    /// Whether the node has sent something.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.rings.as_ref().is_some_and(Rings::has_input)
    }

    /// Whether a program did something that [`Agent::step`] has to look at.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let has_streams = !self.is_stream_full && self.shared.connections.has_output();
        self.shared.news.get() || has_streams
    }

    /// When the next request has to be over.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        self.containers.values().map(Container::deadline_nanos).min().unwrap_or(NEVER)
    }

    /// Says whether the kernel sleeps; after `true` look at [`Agent::has_input`] once more.
    pub fn set_sleeping(&mut self, sleeps: bool) {
        if let Some(rings) = &mut self.rings {
            rings.set_sleeping(sleeps);
        }
    }

    fn take_frames(&mut self, rings: &mut Rings, processes: &mut Processes) -> bool {
        let mut moved = false;
        // Packages first: what a request needs was sent before it.
        for _ in 0..BURST {
            if !rings.code.pop(|header, payload| self.take_code(header, payload, processes)) {
                break;
            }
            moved = true;
        }
        let connections = Rc::clone(&self.shared.connections);
        for _ in 0..BURST {
            if !rings.stream_in.pop(|header, payload| connections.take_frame(header, payload)) {
                break;
            }
            moved = true;
        }
        for _ in 0..BURST {
            if !rings.invoke.pop(|header, payload| self.take_invoke(header, payload, processes)) {
                break;
            }
            moved = true;
        }
        moved
    }

    fn take_code(&mut self, header: Header, payload: &[u8], processes: &mut Processes) {
        let package = match header.kind {
            code::WINDOW => {
                let Ok(window) = Window::decode(payload) else { panic!("a WINDOW frame is none") };
                let bytes = machine::window::bytes(window.offset, window.bytes);
                self.image(Archive::Window { offset: window.offset, bytes })
            }
            code::INLINE => {
                self.code.extend_from_slice(payload);
                if header.has_more() {
                    return;
                }
                let mut bytes = core::mem::take(&mut self.code);
                assert!(bytes.len() >= DIGEST_BYTES, "a package behind its digest");
                bytes.drain(..DIGEST_BYTES);
                self.image(Archive::Owned(bytes))
            }
            kind => panic!("a code frame of kind {kind}"),
        };
        // Requests may have come before their package: it lies in another ring.
        for container in self.containers.values_mut().filter(|it| it.package() == header.id) {
            container.start(&self.shared, &package, processes);
        }
        self.packages.insert(header.id, package);
    }

    fn image(&mut self, archive: Archive) -> Package {
        self.serial += 1;
        let image = Image::from_tar(archive, self.serial);
        image.map(Rc::new).map_err(|_| "its package is not a readable archive")
    }

    fn take_invoke(&mut self, header: Header, payload: &[u8], processes: &mut Processes) {
        match header.kind {
            invoke::ASSIGN | invoke::ACQUIRE => {
                self.message.extend_from_slice(payload);
                if !header.has_more() {
                    let message = core::mem::take(&mut self.message);
                    self.take_message(header, &message);
                }
            }
            invoke::INVOKE => self.begin(header, payload, processes),
            invoke::BODY => {
                if let Some(container) = self.serving(header.id) {
                    container.body(payload, header.has_more());
                }
            }
            invoke::CANCEL => {
                if let Some(container) = self.serving(header.id) {
                    container.cancel(processes);
                }
            }
            invoke::RELEASE => {
                if let Some(mut container) = self.containers.remove(&header.channel) {
                    container.release(processes);
                }
            }
            invoke::PREPARE => {
                let Some(container) = self.containers.get_mut(&header.channel) else {
                    panic!("a PREPARE for container {} that was never acquired", header.channel)
                };
                container.prepare(header.id);
            }
            invoke::FORGET => drop(self.packages.remove(&header.id)),
            kind => panic!("an invoke frame of kind {kind}"),
        }
    }

    fn take_message(&mut self, header: Header, message: &[u8]) {
        if header.kind == invoke::ASSIGN {
            let Ok(assign) = Assign::decode(message) else { panic!("an ASSIGN message is none") };
            self.shared.assignment = assignment(&assign);
        } else {
            let Ok(acquire) = Acquire::decode(message) else {
                panic!("an ACQUIRE message is none")
            };
            let container = Container::new(header.channel, header.id, &acquire, &self.shared);
            self.containers.insert(header.channel, container);
        }
    }

    fn begin(&mut self, header: Header, payload: &[u8], processes: &mut Processes) {
        let Ok(request) = invoke::Invoke::decode(payload) else {
            panic!("an INVOKE frame is none")
        };
        let Some(container) = self.containers.get_mut(&header.channel) else {
            panic!("an INVOKE for container {} that was never acquired", header.channel)
        };
        container.begin(&self.shared, header.id, request.deadline_nanos);
        container.body(request.body, header.has_more());
        if let Some(package) = self.packages.get(&container.package()) {
            container.start(&self.shared, package, processes);
        }
    }

    fn serving(&mut self, invoke: u64) -> Option<&mut Container> {
        self.containers.values_mut().find(|container| container.invoke() == Some(invoke))
    }

    fn take_notices(&mut self, rings: &mut Rings, processes: &mut Processes) -> bool {
        let mut moved = false;
        while let Some(notice) = processes.take_notice() {
            moved = true;
            let (Notice::Ended { container: number, .. }
            | Notice::Missing { container: number, .. }) = notice;
            let Some(container) = self.containers.get_mut(&number) else { continue };
            if let Notice::Missing { number: call, .. } = notice {
                // What the node cannot take now it does not need to know: it is a statistic.
                if let Some(id) = container.invoke()
                    && rings.outcome.has_room()
                {
                    let header = Header { kind: outcome::MISSING, flags: 0, channel: number, id };
                    rings.outcome.push(header, &[&call.to_le_bytes()]);
                }
            } else {
                container.ended(notice, processes);
            }
        }
        moved
    }

    fn send_streams(&mut self, rings: &mut Rings) -> bool {
        let connections = &self.shared.connections;
        let outlet = core::cell::RefCell::new(&mut rings.stream_out);
        let mut is_full = false;
        let has_room = || {
            is_full = !outlet.borrow_mut().has_room();
            !is_full
        };
        let moved = connections.has_output()
            && connections.drain(has_room, |header, payload| {
                outlet.borrow_mut().push(header, &[payload]);
            });
        self.is_stream_full = is_full;
        moved
    }
}

/// The root image the VMM placed, or an empty one.
fn root() -> Rc<Image> {
    let info = machine::boot::info();
    let image = (info.root_image_bytes != 0).then(|| {
        let offset = info.root_image_offset;
        let bytes = machine::window::bytes(offset, info.root_image_bytes);
        match Image::from_tar(Archive::Window { offset, bytes }, 1) {
            Ok(image) => image,
            Err(error) => panic!("the root image cannot be read: {error:?}"),
        }
    });
    match tree::with_skeleton(image, 2) {
        Ok(image) => Rc::new(image),
        Err(error) => panic!("the root image has a file in a directory's place: {error:?}"),
    }
}

fn assignment(assign: &Assign<'_>) -> Assignment {
    if assign.protocol == "none" || assign.address.is_empty() {
        return Assignment::default();
    }
    let entry = |name: &str, value: &str| format!("{name}={value}").into_bytes();
    let mut blobs = assign.credentials.iter();
    let pairs = core::iter::from_fn(|| Some((blobs.next()?, blobs.next()?)));
    let credentials = tree::secret_files(pairs, 0);
    Assignment {
        environment: alloc::vec![
            entry("PILOTLIGHT_LOG_ADDRESS", assign.address),
            entry("PILOTLIGHT_LOG_SERVER_NAME", assign.server_name),
            entry("PILOTLIGHT_LOG_PROTOCOL", assign.protocol),
            entry("PILOTLIGHT_LOG_CREDENTIALS", "/run/credentials/logging"),
        ],
        address: assign.address.parse().ok().map(on_ring),
        credentials: credentials.ok().map(Rc::new),
    }
}

fn on_ring(address: SocketAddr) -> Address {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    Address { ip: ip.octets(), port: address.port() }
}
