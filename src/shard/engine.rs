//! The shard's state, and what it does for its pool: every [`Effect`] is performed here, in order.
//!
//! ```text
//!  requests.rs ─ Event ─► pool ─ Effect ─► engine.rs ─► link, cell, keeper, librarian
//!  guest.rs ──── Event ─►      ─ Answer ─► answers.rs ─► connection
//! ```
//! Performing an effect may itself be an event (a package is loaded at once); such events join
//! the same run, so that one turn leaves nothing half done.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use abi::frame::code::Window;
use zeroize::Zeroize;

use super::answers::Held;
use super::bodies::Bodies;
use super::catalog::{Catalog, Package};
use super::clients::ClientId;
use super::logging::Logging;
use super::neighbour::{Forwarded, Neighbour};
use super::polls::Polls;
use super::requests::{Deploying, Storing};
use super::status::{Gathering, NodeFacts};
use super::vms::{Vm, Vms};
use super::{Letter, moment, trace};
use crate::config::Config;
use crate::credential::NodeKey;
use crate::egress::Policy;
use crate::inbox::Inbox;
use crate::invoke::{ContainerId, InvokeId, LogProtocol, Nanos, User, VmId};
use crate::keeper::{Keeper, Wish};
use crate::librarian::{Job, Librarian, OpenPackage};
use crate::link::Link;
use crate::log::{Destination, InvokeLog, Origin, Pem, Relay, Service};
use crate::metrics::ShardMetrics;
use crate::metrics::functions::Functions;
use crate::pool::index::{self, Publisher};
use crate::pool::{
    Answer, Blame, Effect, Event, KeyState, LoadId, PackageRef, Place, Pool, ResetId, SnapshotRef,
};
use crate::signal::Signal;
use crate::socket::answer::Room;
use crate::trace::Pace;

/// Where the time of an invoke goes: moments of its way, 0 when it was not there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// The turn that received its request began.
    pub(super) arrived: Nanos,
    /// The request was understood.
    pub(super) admitted: Nanos,
    /// The pool chose a VM for it.
    pub(super) placed: Nanos,
    /// Its package was there; a container for it was made, if it needed a new one.
    pub(super) loaded: Nanos,
    /// It was sent.
    pub(super) dispatched: Nanos,
}

/// An invoke between its request and its answer.
pub(super) struct Running {
    pub(super) client: ClientId,
    pub(super) request: u64,
    pub(super) options: u8,
    pub(super) entry: Rc<super::catalog::Entry>,
    pub(super) logging: Rc<Logging>,
    pub(super) deadline_nanos: Nanos,
    /// Bytes of the body that came before there was a VM to send them to.
    pub(super) body: Vec<u8>,
    pub(super) body_ended: bool,
    pub(super) vm: Option<VmId>,
    pub(super) room: Room,
    pub(super) log: Option<InvokeLog>,
    pub(super) response_bytes: u64,
    pub(super) is_too_large: bool,
    /// Its body cannot be held until it has a VM.
    pub(super) is_overfull: bool,
    /// Its logging service's name is being looked up; the pool has not heard of it.
    pub(super) is_resolving: bool,
    pub(super) marks: Marks,
}

impl Running {
    /// Keeps more of its body.
    pub(super) fn keep(&mut self, bytes: &[u8], bodies: &mut Bodies) {
        bodies.add(self.client, bytes.len());
        self.body.extend_from_slice(bytes);
    }

    /// Gives what was kept of its body.
    pub(super) fn take_body(&mut self, bodies: &mut Bodies) -> Vec<u8> {
        bodies.remove(self.client, self.body.len());
        std::mem::take(&mut self.body)
    }
}

/// The bytes of a request while it is being admitted: dispatched at once, they are never copied.
#[derive(Clone, Copy)]
pub(super) struct Hand<'a> {
    pub(super) invoke: InvokeId,
    pub(super) body: &'a [u8],
    pub(super) ended: bool,
}

/// A load that waits for its package to be verified.
struct WaitingLoad {
    vm: VmId,
    package: PackageRef,
    load: LoadId,
    place: Place,
}

/// Everything of a shard but its clients.
pub(super) struct Engine {
    pub(super) config: Arc<Config>,
    pub(super) pool: Pool,
    pub(super) catalog: Catalog,
    pub(super) vms: Vms,
    pub(super) running: HashMap<InvokeId, Running>,
    /// Bytes of their bodies that are kept.
    pub(super) bodies: Bodies,
    pub(super) answers: Vec<(InvokeId, Answer)>,
    pub(super) held: Vec<Held>,
    pub(super) deploying: HashMap<u64, Deploying>,
    pub(super) next_deploy: u64,
    pub(super) storing: Vec<Storing>,
    pub(super) metrics: ShardMetrics,
    pub(super) functions: Functions,
    pub(super) node_key: Arc<NodeKey>,
    pub(super) no_logging: Rc<Logging>,
    pub(super) librarian: Arc<Librarian>,
    pub(super) relay: Relay,
    pub(super) shard: u16,
    pub(super) next_invoke: u64,
    pub(super) wake: Rc<Signal>,
    pub(super) facts: Arc<NodeFacts>,
    pub(super) inboxes: Arc<[Arc<Inbox<Letter>>]>,
    pub(super) gathering: HashMap<u64, Gathering>,
    pub(super) next_gathering: u64,
    pub(super) index: index::Shared,
    /// The other shards, by number; none at this shard's own.
    pub(super) neighbours: Vec<Option<Neighbour>>,
    pub(super) forwarded: HashMap<InvokeId, Forwarded>,
    keeper: Keeper,
    pub(super) publisher: Publisher,
    effects: Vec<Effect>,
    pub(super) polls: Polls,
    /// The container made last, and when: the invoke it is for follows.
    acquired: Option<(VmId, ContainerId, Nanos)>,
    /// What guests said while their VM was being served.
    pub(super) taken: Vec<Event>,
    waiting_loads: Vec<WaitingLoad>,
    /// Resets to ask for once this turn's answers are out.
    pub(super) resets_due: Vec<(VmId, ResetId)>,
    pub(super) resets_begun: u64,
    /// How often refused clients are told of.
    pub(super) refused: Pace,
    assign_buffer: Box<[u8]>,
    allowed: Rc<[std::net::SocketAddr]>,
}

/// What an engine is made of.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) pool: Pool,
    pub(super) node_key: Arc<NodeKey>,
    pub(super) librarian: Arc<Librarian>,
    pub(super) relay: Relay,
    pub(super) keeper: Keeper,
    pub(super) publisher: Publisher,
    pub(super) shard: u16,
    pub(super) first_invoke: u64,
    pub(super) wake: Rc<Signal>,
    pub(super) facts: Arc<NodeFacts>,
    pub(super) inboxes: Arc<[Arc<Inbox<Letter>>]>,
    pub(super) index: index::Shared,
    pub(super) neighbours: Vec<Option<Neighbour>>,
}

impl Engine {
    pub(super) fn new(parts: Parts) -> Self {
        let allowed = parts.config.egress.allow.iter().copied().collect();
        let polls = polls(&parts);
        Self {
            config: parts.config,
            pool: parts.pool,
            catalog: Catalog::new(*parts.facts.base_identity()),
            vms: Vms::default(),
            running: HashMap::new(),
            bodies: Bodies::default(),
            answers: Vec::new(),
            held: Vec::new(),
            deploying: HashMap::new(),
            next_deploy: 1,
            storing: Vec::new(),
            metrics: ShardMetrics::default(),
            functions: Functions::default(),
            node_key: parts.node_key,
            no_logging: Rc::new(Logging::none()),
            librarian: parts.librarian,
            relay: parts.relay,
            shard: parts.shard,
            next_invoke: parts.first_invoke,
            wake: parts.wake,
            facts: parts.facts,
            inboxes: parts.inboxes,
            gathering: HashMap::new(),
            next_gathering: 1,
            index: parts.index,
            neighbours: parts.neighbours,
            forwarded: HashMap::new(),
            keeper: parts.keeper,
            publisher: parts.publisher,
            effects: Vec::new(),
            polls,
            acquired: None,
            taken: Vec::new(),
            waiting_loads: Vec::new(),
            resets_due: Vec::new(),
            resets_begun: 0,
            refused: Pace::default(),
            assign_buffer: vec![0; abi::frame::invoke::MESSAGE_BYTES_MAX].into(),
            allowed,
        }
    }

    /// Tells the pool what happened and does what it wants.
    pub(super) fn drive(&mut self, event: Event, now: Nanos, hand: Option<Hand<'_>>) {
        self.run(event, now, hand);
    }

    /// The pool's time has come. Whether it wanted more than a look at guests.
    pub(super) fn tick(&mut self, now: Nanos) -> bool {
        self.run(Event::Tick, now, None)
    }

    fn run(&mut self, event: Event, now: Nanos, hand: Option<Hand<'_>>) -> bool {
        let mut has_done = false;
        let mut effects = std::mem::take(&mut self.effects);
        self.count_fault(&event);
        self.pool.step(event, now, &mut effects);
        let mut next = 0;
        while let Some(effect) = effects.get(next).copied() {
            next += 1;
            has_done |= !matches!(effect, Effect::Look { .. });
            if let Some(event) = self.perform(effect, hand) {
                self.count_fault(&event);
                self.pool.step(event, now, &mut effects);
            }
        }
        effects.clear();
        self.effects = effects;
        has_done
    }

    fn count_fault(&mut self, event: &Event) {
        let is_guests = matches!(
            event,
            Event::VmFault { blame: Blame::Guest, .. } | Event::VmGone { blame: Blame::Guest, .. }
        );
        self.metrics.guest_faults += u64::from(is_guests);
    }

    /// Does one thing; returns the event it is, if it is one.
    fn perform(&mut self, effect: Effect, hand: Option<Hand<'_>>) -> Option<Event> {
        match effect {
            Effect::Spawn { vm, snapshot, is_awaited } => {
                return self.spawn(vm, snapshot, is_awaited);
            }
            Effect::Hasten { vm } => {
                if let Some(entry) = self.vms.find(vm) {
                    entry.side.cell.hasten();
                }
                self.keeper.wish(Wish::Hasten { vm: vm.0 });
            }
            Effect::Retire { vm, reason } => {
                trace::retired(vm, reason);
                self.keeper.wish(Wish::Kill { vm: vm.0 });
            }
            Effect::Assign { vm, invoke, key } => {
                self.metrics.assigns += 1;
                self.running.get_mut(&invoke)?.room = Room::Warming;
                return self.assign(vm, invoke, *key.digest());
            }
            Effect::Reassign { vm, invoke, key } => {
                return self.assign(vm, invoke, *key.digest());
            }
            Effect::Reset { vm, reset } => self.reset_due(vm, reset),
            Effect::Load { vm, package, load, place } => {
                self.metrics.loads += 1;
                return self.load(WaitingLoad { vm, package, load, place });
            }
            Effect::Forget { vm, load } => return self.on_link(vm, |link| link.forget(load.0)),
            Effect::Acquire { vm, container, function, load } => {
                self.metrics.acquires += 1;
                self.acquired = Some((vm, container, moment()));
                let entry = self.catalog.entry(function)?;
                return self.on_link(vm, |link| link.acquire(container.0, load.0, &entry.acquire));
            }
            Effect::Dispatch { vm, container, invoke } => {
                return self.dispatch((vm, container), invoke, hand);
            }
            Effect::Look { vm } => return self.look(vm),
            Effect::Interrupt { vm, invoke } => {
                return self.on_link(vm, |link| link.cancel(invoke.0));
            }
            Effect::Release { vm, container } => {
                return self.on_link(vm, |link| link.release(container.0));
            }
            Effect::Answer { invoke, answer } => self.answers.push((invoke, answer)),
            Effect::PublishKey { fingerprint, state } => {
                let has_room = match state {
                    KeyState::Absent => None,
                    KeyState::Full => Some(false),
                    KeyState::Room => Some(true),
                };
                self.publisher.publish_key(fingerprint, has_room);
            }
            Effect::PublishWarm { count } => self.publisher.publish_warm(count),
            Effect::Report(notice) => trace::notice(notice),
        }
        None
    }

    fn spawn(
        &mut self,
        vm: VmId,
        snapshot: Option<SnapshotRef>,
        is_awaited: bool,
    ) -> Option<Event> {
        let snapshot = match snapshot.map(|snapshot| self.snapshot(snapshot)) {
            None => None,
            Some(Some(snapshot)) => Some(snapshot),
            Some(None) => return Some(Event::SpawnFailed { vm }),
        };
        self.keeper.wish(Wish::Restore { vm: vm.0, snapshot, is_awaited });
        None
    }

    /// Does something with a VM's link; a guest that broke it is reported to the pool.
    fn on_link(
        &mut self,
        vm: VmId,
        act: impl FnOnce(&mut Link) -> Result<(), crate::link::GuestFault>,
    ) -> Option<Event> {
        let fault = act(&mut self.vms.find(vm)?.link).err()?;
        tracing::warn!(%vm, fault = fault.to_string(), "guest broke a rule");
        Some(Event::VmFault { vm, blame: Blame::Guest })
    }

    fn look(&mut self, vm: VmId) -> Option<Event> {
        let mut is_resting = false;
        let fault = self.on_link(vm, |link| link.is_resting().map(|rests| is_resting = rests));
        fault.or(Some(Event::Looked { vm, is_resting }))
    }

    fn assign(&mut self, vm: VmId, invoke: InvokeId, key: [u8; 32]) -> Option<Event> {
        let running = self.running.get_mut(&invoke)?;
        running.marks.placed = moment();
        let (service, credential) = running.logging.to_assign();
        let buffer = &mut self.assign_buffer;
        let (length, delivery) = credential.assign(&service, buffer).ok()?;
        let sent = self.vms.find(vm).map(|entry| {
            entry
                .side
                .egress
                .assign(Policy { assigned: service.resolved, allowed: Rc::clone(&self.allowed) });
            let user = running.entry.function.user;
            entry.side.service = deliver_to(&self.relay, (key, user), &service, &delivery)
                .unwrap_or_else(|fault| {
                    let (user, words) = (user.as_str(), fault.to_string());
                    tracing::warn!(%vm, user, fault = words, "a credential for logs cannot be used");
                    self.relay.unusable(fault)
                });
            entry.link.assign(&buffer[..length])
        });
        buffer[..length].zeroize();
        match sent? {
            Ok(()) => None,
            Err(_) => Some(Event::VmFault { vm, blame: Blame::Guest }),
        }
    }

    fn dispatch(
        &mut self,
        (vm, container): (VmId, ContainerId),
        invoke: InvokeId,
        hand: Option<Hand<'_>>,
    ) -> Option<Event> {
        let running = self.running.get_mut(&invoke)?;
        let entry = self.vms.find(vm)?;
        let made = self.acquired.take().filter(|made| (made.0, made.1) == (vm, container));
        let sending = moment();
        running.marks.loaded = made.map_or(sending, |made| made.2);
        let function = &running.entry.function;
        running.vm = Some(vm);
        running.marks.dispatched = sending;
        self.polls.sent(&mut entry.side, &entry.link, sending);
        if running.room == Room::None {
            running.room = Room::Active;
        }
        running.log = Some(entry.side.service.begin(Origin {
            user: function.user,
            function: function.name,
            vm: vm.0,
            invoke: invoke.0,
        }));
        let waiting = running.take_body(&mut self.bodies);
        let (body, ended) = match hand {
            Some(hand) if hand.invoke == invoke => (hand.body, hand.ended),
            _ => (waiting.as_slice(), running.body_ended),
        };
        let sent = entry.link.invoke(container.0, invoke.0, running.deadline_nanos, body, ended);
        self.polls.count_guests(&mut self.vms, sending);
        sent.err().map(|_| Event::VmFault { vm, blame: Blame::Guest })
    }

    /// Brings a package into a VM, now or once it is verified.
    fn load(&mut self, wanted: WaitingLoad) -> Option<Event> {
        let Some((digest, package)) = self.catalog.package(wanted.package) else {
            return Some(Event::LoadFailed { vm: wanted.vm, load: wanted.load });
        };
        match package {
            Package::Open(open) => {
                let open = Rc::clone(open);
                self.load_open(&wanted, digest.0, &open)
            }
            Package::Opening => {
                self.waiting_loads.push(wanted);
                None
            }
            Package::Closed => {
                self.open(wanted.package);
                self.waiting_loads.push(wanted);
                None
            }
        }
    }

    /// Has a package verified, unless that is done or under way: an invoke that waits for its VM
    /// need not wait for that as well.
    pub(super) fn open(&mut self, wanted: PackageRef) {
        if let Some((digest, package)) = self.catalog.package(wanted)
            && matches!(package, Package::Closed)
        {
            *package = Package::Opening;
            self.librarian.ask(Job::Open { shard: self.shard, package: wanted, digest });
        }
    }

    fn load_open(
        &mut self,
        wanted: &WaitingLoad,
        digest: [u8; 32],
        package: &Rc<OpenPackage>,
    ) -> Option<Event> {
        let (vm, load) = (wanted.vm, wanted.load);
        let entry = self.vms.find(vm)?;
        match wanted.place {
            Place::Inline => match entry.link.load_inline(load.0, &digest, &package.contents) {
                Ok(()) => Some(Event::Loaded { vm, load }),
                Err(_) => Some(Event::VmFault { vm, blame: Blame::Guest }),
            },
            Place::Placed { offset } => {
                let bytes = package.contents.len() as u64;
                let window = Window { digest, offset, bytes };
                match entry.link.load_window(load.0, window) {
                    Ok(()) => Some(Event::Loaded { vm, load }),
                    Err(_) => Some(Event::VmFault { vm, blame: Blame::Guest }),
                }
            }
            Place::Window { offset } => {
                let bytes = package.contents.len() as u64;
                match entry.place(load, package, Window { digest, offset, bytes }) {
                    Ok(()) => None,
                    // There is nothing wrong with the package: its VMM is gone, or does not listen.
                    Err(_) => Some(Event::VmFault { vm, blame: Blame::Host }),
                }
            }
        }
    }

    /// A VM is being reset: loads that wait for their package are not its any more.
    pub(super) fn forget_waiting_loads(&mut self, vm: VmId) {
        self.waiting_loads.retain(|waiting| waiting.vm != vm);
    }

    /// The librarian has verified a package, or could not.
    pub(super) fn opened(&mut self, package: PackageRef, open: Option<OpenPackage>, now: Nanos) {
        // All its functions may have gone meanwhile, with their invokes.
        let Some((digest, state)) = self.catalog.package(package) else { return };
        let open = open.map(Rc::new);
        *state = open.as_ref().map_or(Package::Closed, |open| Package::Open(Rc::clone(open)));
        let mut index = 0;
        while let Some(wanted) = self.waiting_loads.get(index) {
            if wanted.package != package {
                index += 1;
                continue;
            }
            let wanted = self.waiting_loads.swap_remove(index);
            let event = match &open {
                Some(open) => self.load_open(&wanted, digest.0, open),
                None => Some(Event::LoadFailed { vm: wanted.vm, load: wanted.load }),
            };
            if let Some(event) = event {
                self.drive(event, now, None);
            }
        }
    }

    /// A VMM process runs: its VM joins the shard and its guest is listened to.
    pub(super) fn admit(&mut self, id: VmId, cell: Box<crate::cell::Cell>, now: Nanos) {
        self.metrics.restored(cell.restore_nanos);
        tracing::debug!(vm = %id, pid = cell.pid, nanos = cell.restore_nanos, "VM restored");
        let doorbell = cell.doorbell.duplicate().map(region::Doorbell::from);
        let Ok(doorbell) = doorbell else {
            self.keeper.wish(Wish::Kill { vm: id.0 });
            return self.drive(Event::SpawnFailed { vm: id }, now, None);
        };
        // Its birth may have been over already when that was said.
        if self.pool.is_awaited(id) {
            cell.hasten();
        }
        let link = Link::new(cell.region.clone(), doorbell);
        let polling = self.polls.of_guest();
        link.set_poll_nanos(polling.limit());
        let egress = self.new_egress();
        self.vms.insert(Box::new(Vm::new(id, cell, link, egress, polling)));
        self.drive(Event::SpawnDone { vm: id }, now, None);
    }

    /// Takes out an invoke that is to be answered.
    pub(super) fn take_running(&mut self, invoke: InvokeId) -> Option<Running> {
        let mut running = self.running.remove(&invoke)?;
        drop(running.take_body(&mut self.bodies));
        Some(running)
    }

    /// Whether a VMM owes an answer that only polling finds.
    pub(super) fn is_placing(&mut self) -> bool {
        self.vms.iter_mut().any(|vm| vm.is_placing())
    }

    /// Whether outcomes wait for their logs.
    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Frees a VM that is gone; what takes long is freed elsewhere.
    pub(super) fn bury(&mut self, id: VmId) {
        if let Some(vm) = self.vms.remove(id) {
            self.metrics.vm_exits += vm.side.cell.exits();
            self.metrics.doorbells += vm.link.rings();
            self.metrics.vms_gone += 1;
            let Vm { link, side } = *vm;
            let super::vms::VmSide { cell, .. } = side;
            self.keeper.wish(Wish::Bury(Box::new((link, cell))));
        }
    }
}

/// How a shard of these parts polls.
fn polls(parts: &Parts) -> Polls {
    let (shards, guests) = parts.facts.cores();
    // A shard that polled on a guest's core would be in its way for milliseconds.
    let is_alone = shards.get(usize::from(parts.shard)).is_some_and(|core| !guests.contains(core));
    let max = if is_alone { parts.config.shard_poll_nanos() } else { 0 };
    let guest_cores = (guests.len() / shards.len().max(1)).max(1);
    Polls::new(max, parts.config.poll_nanos(), guest_cores)
}

/// The delivery of a service's log, as the protocol wants it.
fn deliver_to(
    relay: &Relay,
    (key, user): ([u8; 32], User),
    service: &crate::invoke::LoggingService,
    credential: &crate::credential::DeliveryCredential,
) -> Result<Service, crate::log::Unusable> {
    let Some(address) = service.resolved else { return Ok(Service::none()) };
    match service.protocol {
        LogProtocol::None => Ok(Service::none()),
        LogProtocol::SyslogTcp => {
            relay.service(key, || Ok(Destination::syslog_tcp(address).of(user)))
        }
        LogProtocol::SyslogTls => relay.service(key, || {
            let pair = credential.certificate_and_key();
            let pem = Pem {
                ca: credential.ca().unwrap_or_default(),
                cert: pair.map(|(certificate, _)| certificate),
                key: pair.map(|(_, key)| key),
            };
            Ok(Destination::syslog_tls(address, &service.server_name, pem)?.of(user))
        }),
    }
}
