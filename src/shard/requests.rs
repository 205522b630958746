//! What clients ask for, turned into events and jobs.

use std::rc::Rc;
use std::time::Duration;

use super::catalog::Entry;
use super::clients::{Client, ClientId, Clients};
use super::engine::{Engine, Hand, Marks, Running};
use super::logging::Logging;
use crate::code::Code;
use crate::invoke::{BusyReason, ClientFault, FunctionName, InvokeId, Nanos, NodeFault, User};
use crate::librarian::{Job, Ticket};
use crate::pool::{Answer, Arrival, Blame, Event};
use crate::socket::Incoming;
use crate::socket::answer::Room;
use crate::socket::request::{Deploy, Invoke, Request};
use crate::socket::settings::Settings;

/// Bytes of a VM's backlog above which bodies for it are left in their client's socket.
const BACKLOG_BYTES_MAX: usize = 1 << 20;

/// Bytes of a first frame's body that are always taken: pipelined requests without large bodies are
/// bounded by their number.
const BODY_BYTES_SMALL: usize = 4096;

/// Frames taken from all clients together in one turn, as long as each gets its share: what comes in
/// behind them is seen, and refused if need be, within a fraction of a millisecond.
const FRAMES_PER_TURN: usize = 64;

/// What follows from a request at once.
enum Handled {
    /// Nothing; an answer comes later.
    Open,
    /// The connection is to remember this number with the request.
    Tag(u64),
    /// The request is offered again next turn.
    Later,
    /// Its answer.
    Reply(Vec<u8>),
    /// Its answer: it cannot be served.
    Refuse(ClientFault),
    /// Its answer: there is no room for it now.
    Busy(BusyReason),
    /// The connection's new default.
    Logging(Rc<Logging>),
    /// The connection goes on in shared memory.
    Attach,
    /// What it may know of the node.
    Status,
}

/// Who wants an invoke.
#[derive(Clone, Copy)]
struct Asker {
    client: ClientId,
    request: u64,
    /// It is no other shard.
    may_forward: bool,
}

/// A deploy whose package is still coming in.
pub(super) struct Deploying {
    client: ClientId,
    request: u64,
    user: User,
    name: FunctionName,
    settings: Settings,
    package: Vec<u8>,
}

/// A package on its way into the store.
pub(super) struct Storing {
    client: u64,
    request: u64,
    bytes: usize,
}

impl Engine {
    /// Receives from every client and serves what they ask; returns whether anything moved.
    pub(super) fn serve_clients(&mut self, clients: &mut Clients, now: Nanos) -> bool {
        let mut moved = false;
        let bridges_max = self.config.requests.shared_connections_max as usize;
        let mut bridges = clients.bridges();
        let share = clients.share_of(FRAMES_PER_TURN);
        for client in clients.iter_mut() {
            moved |= client.receive(now, &mut self.metrics);
            client.begin_turn();
            let (id, mut logging) = (client.id, client.logging.clone());
            let may_forward = !client.is_neighbour();
            let is_bridge = client.is_bridge();
            while client.taken < share
                && let Some(incoming) = client.connection.next_request()
            {
                moved = true;
                client.taken += 1;
                let request = incoming.id;
                let is_attach = incoming.request == Request::Attach;
                let handled = if is_attach && is_bridge {
                    let what = "attach in shared memory".to_owned();
                    Handled::Refuse(ClientFault::BadRequest { what })
                } else if is_attach && bridges >= bridges_max {
                    Handled::Busy(BusyReason::SharedMemoryFull)
                } else {
                    self.serve((id, may_forward), logging.as_ref(), incoming, now)
                };
                let connection = &mut client.connection;
                let full = match handled {
                    Handled::Open => Ok(()),
                    Handled::Tag(tag) => {
                        connection.set_tag(request, tag);
                        Ok(())
                    }
                    Handled::Later => {
                        connection.put_back();
                        break;
                    }
                    Handled::Reply(json) => connection.reply(request, &json),
                    Handled::Status => match self.ask_status((id, request), connection.peer()) {
                        Some(json) => connection.reply(request, &json),
                        None => Ok(()),
                    },
                    Handled::Refuse(fault) => {
                        self.metrics.refused(fault.code());
                        connection.error(request, fault.code(), &fault.to_string())
                    }
                    Handled::Busy(reason) => {
                        let fault =
                            NodeFault::Busy { reason, limit: self.config.limit_met(reason) };
                        self.metrics.refused(fault.code());
                        connection.error(request, fault.code(), &fault.to_string())
                    }
                    // Its earlier answers first.
                    Handled::Attach if !connection.pending_output().is_empty() => {
                        connection.put_back();
                        break;
                    }
                    Handled::Attach => {
                        bridges += 1;
                        self.attach(client, request, now);
                        break;
                    }
                    Handled::Logging(default) => {
                        client.logging = Some(Rc::clone(&default));
                        logging = Some(default);
                        connection.reply(request, b"{}")
                    }
                };
                if full.is_err() {
                    connection.fail(Code::TooSlow, "answers wait and are not read");
                }
            }
        }
        moved
    }

    fn attach(&mut self, client: &mut Client, request: u64, now: Nanos) {
        match client.attach(request, now) {
            Ok(()) => self.metrics.attaches += 1,
            Err(error) => {
                tracing::warn!(error = error.to_string(), "a client gets no shared memory");
            }
        }
        if client.connection.has_input() {
            client.connection.fail(Code::MalformedFrame, "a request behind attach on the socket");
        }
    }

    fn serve(
        &mut self,
        (client, may_forward): (ClientId, bool),
        default: Option<&Rc<Logging>>,
        incoming: Incoming<'_>,
        now: Nanos,
    ) -> Handled {
        let Incoming { id, tag, has_more, request } = incoming;
        let handled = match request {
            Request::Invoke(invoke) => {
                let asker = Asker { client, request: id, may_forward };
                self.begin(asker, default, &invoke, !has_more, now)
            }
            Request::Body(bytes) => {
                let asker = Asker { client, request: id, may_forward };
                return self.body(asker, InvokeId(tag), (bytes, !has_more), now);
            }
            Request::Cancel => {
                self.cancel(InvokeId(tag), now);
                return Handled::Open;
            }
            Request::SetLogging(sent) => {
                Logging::new(sent).map(|logging| Handled::Logging(Rc::new(logging)))
            }
            Request::Deploy(deploy) => self.deploy((client, id), &deploy, !has_more),
            Request::Package(bytes) => return self.package(tag, bytes, !has_more),
            Request::List(user) => User::new(user).map(|user| self.list(user)),
            Request::Remove { user, function } => self.remove((client, id), user, function),
            Request::Attach => return Handled::Attach,
            Request::Status => return Handled::Status,
        };
        handled.unwrap_or_else(Handled::Refuse)
    }

    fn begin(
        &mut self,
        Asker { client, request, may_forward }: Asker,
        default: Option<&Rc<Logging>>,
        sent: &Invoke<'_>,
        ended: bool,
        now: Nanos,
    ) -> Result<Handled, ClientFault> {
        if sent.body.len() > BODY_BYTES_SMALL && may_forward && self.is_full_of(client) {
            return Ok(Handled::Later);
        }
        let user = User::new(sent.user)?;
        let name = FunctionName::new(sent.function)?;
        let entry = self.catalog.find(user, name);
        let entry = Rc::clone(entry.ok_or(ClientFault::UnknownFunction { user, name })?);
        let logging = match (sent.logging, default) {
            (Some(sent), _) => Rc::new(Logging::new(sent)?),
            (None, Some(default)) => Rc::clone(default),
            (None, None) => Rc::clone(&self.no_logging),
        };
        let key = logging.key(&self.node_key, user);
        if let Some(shard) =
            may_forward.then(|| self.elsewhere(&key, entry.facts.snapshot)).flatten()
            && let Some(invoke) = self.forward(shard, (client, request), (sent, &logging), ended)
        {
            return Ok(Handled::Tag(invoke.0));
        }
        let timeout = match sent.timeout_nanos {
            0 => entry.function.timeout(),
            nanos => Duration::from_nanos(nanos).min(entry.function.timeout()),
        };
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let invoke = InvokeId(self.next_invoke);
        self.next_invoke += 1;
        self.metrics.invokes += 1;
        let unresolved = logging.unresolved();
        self.running.insert(
            invoke,
            Running {
                client,
                request,
                options: sent.options,
                entry,
                logging,
                deadline_nanos: now.saturating_add(timeout),
                body: Vec::new(),
                body_ended: ended,
                vm: None,
                room: Room::None,
                log: None,
                response_bytes: 0,
                is_too_large: false,
                is_overfull: false,
                is_resolving: unresolved.is_some(),
                marks: Marks { arrived: now, admitted: super::moment(), ..Marks::default() },
            },
        );
        if let Some(address) = unresolved {
            self.keep_body(invoke, sent.body, now);
            self.librarian.ask(Job::Resolve { shard: self.shard, invoke, address });
        } else {
            self.ask_pool(invoke, Some(Hand { invoke, body: sent.body, ended }), now);
        }
        Ok(Handled::Tag(invoke.0))
    }

    /// Asks the pool for a room; a body that could not be sent at once is kept.
    fn ask_pool(&mut self, invoke: InvokeId, hand: Option<Hand<'_>>, now: Nanos) {
        let Some(running) = self.running.get(&invoke) else { return };
        let arrival = Arrival {
            invoke,
            key: running.logging.key(&self.node_key, running.entry.function.user),
            facts: running.entry.facts,
            deadline_nanos: running.deadline_nanos,
        };
        self.drive(Event::Invoke(arrival), now, hand);
        if self.pool.is_loading(invoke)
            && let Some(running) = self.running.get_mut(&invoke)
            && running.marks.placed == 0
        {
            running.marks.placed = super::moment();
        }
        let is_refused = self.answers.last().is_some_and(|(answered, _)| *answered == invoke);
        if is_refused {
            return;
        }
        if self.running.get(&invoke).is_some_and(|running| running.vm.is_none()) {
            // It waits for a VM; meanwhile its package is verified.
            self.open(arrival.facts.package);
        }
        if let Some(hand) = hand {
            self.keep_body(invoke, hand.body, now);
        }
    }

    /// Keeps the first bytes of an invoke that has no VM yet, or answers it.
    fn keep_body(&mut self, invoke: InvokeId, bytes: &[u8], now: Nanos) {
        let is_waiting = self.running.get(&invoke).is_some_and(|running| running.vm.is_none());
        if !is_waiting || bytes.is_empty() {
            return;
        }
        if self.is_full_with(bytes) {
            return self.overfill(invoke, now);
        }
        if let Some(running) = self.running.get_mut(&invoke) {
            running.keep(bytes, &mut self.bodies);
        }
    }

    /// Whether with these bytes more would wait than may.
    fn is_full_with(&mut self, bytes: &[u8]) -> bool {
        let backlog: usize = self.vms.iter_mut().map(|vm| vm.link.backlog_bytes()).sum();
        let waiting = (self.bodies.bytes() + backlog + bytes.len()) as u64;
        waiting > self.config.requests.waiting_bytes_max
    }

    /// Whether as much of this client waits as may.
    fn is_full_of(&self, client: ClientId) -> bool {
        self.bodies.of(client) as u64 >= self.config.requests.waiting_bytes_per_client_max
    }

    /// Answers "busy" to an invoke whose body cannot be held.
    fn overfill(&mut self, invoke: InvokeId, now: Nanos) {
        if let Some(running) = self.running.get_mut(&invoke) {
            running.is_overfull = true;
            drop(running.take_body(&mut self.bodies));
        }
        self.cancel(invoke, now);
    }

    /// The logging service's name was looked up.
    pub(super) fn resolved(
        &mut self,
        invoke: InvokeId,
        found: Result<std::net::SocketAddr, String>,
        clients: &mut Clients,
        now: Nanos,
    ) {
        match found {
            Ok(address) => {
                if let Some(running) = self.running.get_mut(&invoke) {
                    running.logging.resolve(address);
                    running.is_resolving = false;
                }
                self.ask_pool(invoke, None, now);
            }
            Err(what) => {
                let Some(running) = self.take_running(invoke) else { return };
                let fault = ClientFault::BadLogging { what };
                if let Some(client) = clients.find(running.client) {
                    let message = fault.to_string();
                    let _ = client.connection.error(running.request, fault.code(), &message);
                }
            }
        }
    }

    fn body(
        &mut self,
        asker: Asker,
        invoke: InvokeId,
        (bytes, ended): (&[u8], bool),
        now: Nanos,
    ) -> Handled {
        let Some(running) = self.running.get(&invoke) else {
            return match self.forward_body(invoke, bytes, ended) {
                true => Handled::Open,
                false => Handled::Later,
            };
        };
        let Some(vm) = running.vm else {
            return self.body_without_vm(asker, invoke, (bytes, ended), now);
        };
        let Some(entry) = self.vms.find(vm) else { return Handled::Open };
        if entry.link.backlog_bytes() > BACKLOG_BYTES_MAX {
            if asker.may_forward {
                return Handled::Later;
            }
            // As in `body_without_vm`.
            if self.is_full_with(bytes) {
                self.overfill(invoke, now);
                return Handled::Open;
            }
        }
        let Some(entry) = self.vms.find(vm) else { return Handled::Open };
        if entry.link.body(invoke.0, bytes, ended).is_err() {
            self.drive(Event::VmFault { vm, blame: Blame::Guest }, now, None);
        }
        Handled::Open
    }

    /// Keeps more of a body until there is a VM for it, or leaves it with the client. What another
    /// shard sent on cannot be left: it would hold up that shard's other clients.
    fn body_without_vm(
        &mut self,
        asker: Asker,
        invoke: InvokeId,
        (bytes, ended): (&[u8], bool),
        now: Nanos,
    ) -> Handled {
        let is_full = self.is_full_with(bytes);
        if asker.may_forward && (is_full || self.is_full_of(asker.client)) {
            return Handled::Later;
        }
        if is_full {
            self.overfill(invoke, now);
        } else if let Some(running) = self.running.get_mut(&invoke) {
            running.keep(bytes, &mut self.bodies);
            running.body_ended = ended;
        }
        Handled::Open
    }

    fn deploy(
        &mut self,
        (client, request): (ClientId, u64),
        sent: &Deploy<'_>,
        ended: bool,
    ) -> Result<Handled, ClientFault> {
        if !self.has_room_for_package(sent.package.len()) {
            return Ok(Handled::Busy(BusyReason::PackagesFull));
        }
        let settings = serde_json::from_str(sent.settings).map_err(|error| {
            ClientFault::BadRequest { what: format!("the settings of a deploy: {error}") }
        })?;
        let deploying = Deploying {
            client,
            request,
            user: User::new(sent.user)?,
            name: FunctionName::new(sent.function)?,
            settings,
            package: sent.package.to_vec(),
        };
        if ended {
            self.store(deploying);
            return Ok(Handled::Open);
        }
        let tag = self.next_deploy;
        self.next_deploy += 1;
        self.deploying.insert(tag, deploying);
        Ok(Handled::Tag(tag))
    }

    fn package(&mut self, tag: u64, bytes: &[u8], ended: bool) -> Handled {
        let has_room = self.has_room_for_package(bytes.len());
        let Some(deploying) = self.deploying.get_mut(&tag) else { return Handled::Open };
        if !has_room {
            self.deploying.remove(&tag);
            return Handled::Busy(BusyReason::PackagesFull);
        }
        deploying.package.extend_from_slice(bytes);
        if ended && let Some(deploying) = self.deploying.remove(&tag) {
            self.store(deploying);
        }
        Handled::Open
    }

    fn has_room_for_package(&self, bytes: usize) -> bool {
        let incoming: usize = self.deploying.values().map(|it| it.package.len()).sum();
        let storing: usize = self.storing.iter().map(|it| it.bytes).sum();
        (incoming + storing + bytes) as u64 <= self.config.requests.deploy_bytes_max
    }

    fn store(&mut self, deploying: Deploying) {
        let Deploying { client, request, user, name, settings, package } = deploying;
        let ticket = Ticket { shard: self.shard, client: client.number(), request };
        let bytes = package.len();
        self.storing.push(Storing { client: client.number(), request, bytes });
        self.librarian.ask(Job::Deploy { ticket, user, name, settings, package });
    }

    /// The librarian has answered a request, which may be a deploy.
    pub(super) fn stored(&mut self, client: u64, request: u64) {
        let mut storing = self.storing.iter();
        if let Some(at) = storing.position(|it| (it.client, it.request) == (client, request)) {
            self.storing.swap_remove(at);
        }
    }

    fn remove(
        &mut self,
        (client, request): (ClientId, u64),
        user: &str,
        function: &str,
    ) -> Result<Handled, ClientFault> {
        let (user, name) = (User::new(user)?, FunctionName::new(function)?);
        let ticket = Ticket { shard: self.shard, client: client.number(), request };
        self.librarian.ask(Job::Remove { ticket, user, name });
        Ok(Handled::Open)
    }

    fn list(&self, user: User) -> Handled {
        let entries = self.catalog.list(user);
        let functions: Vec<_> = entries.iter().map(|entry| &entry.function).collect();
        let describe =
            |entry: &&Rc<Entry>| self.describe_snapshot(entry.function.name, entry.facts.snapshot);
        let snapshots: Vec<_> = entries.iter().map(describe).collect();
        let finishing: Vec<_> = self
            .catalog
            .finishing(user)
            .into_iter()
            .map(|(function, invokes)| serde_json::json!({ "function": function, "invokes": invokes }))
            .collect();
        let listing = serde_json::json!({
            "functions": functions,
            "snapshots": snapshots,
            "finishing": finishing,
        });
        Handled::Reply(listing.to_string().into_bytes())
    }

    /// Withdraws what a client that left had asked for.
    pub(super) fn abandon(&mut self, client: ClientId, now: Nanos) {
        self.deploying.retain(|_, deploying| deploying.client != client);
        self.gathering.retain(|_, gathering| !gathering.is_of(client));
        self.abandon_forwarded(client);
        let open: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.client == client)
            .map(|(invoke, _)| *invoke)
            .collect();
        for invoke in open {
            self.cancel(invoke, now);
        }
    }

    /// Answers invokes that the pool has not heard of: it will not be asked any more.
    pub(super) fn stop_resolving(&mut self) {
        let resolving = self.running.iter().filter(|(_, running)| running.is_resolving);
        self.answers.extend(resolving.map(|(invoke, _)| (*invoke, Answer::Stopping)));
    }

    fn cancel(&mut self, invoke: InvokeId, now: Nanos) {
        match self.running.get(&invoke) {
            // The pool has not heard of it yet.
            Some(running) if running.is_resolving => {
                self.answers.push((invoke, Answer::Cancelled));
            }
            None if self.forwarded.contains_key(&invoke) => self.cancel_forwarded(invoke),
            _ => self.drive(Event::Cancel { invoke }, now, None),
        }
    }
}
