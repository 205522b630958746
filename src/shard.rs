//! One core's loop: collect what happened, step the pool, do what it wants. The only clock.
//!
//! ```text
//!  ┌► letters ─► clients ─► VMs ─► time ─► answers ─► flush ─┐   one turn, nothing waits
//!  └───────────── nothing for a while: park ◄────────────────┘   guests and clients ring
//! ```
//! One long-lived task of one pinned executor. While there is work it polls: sockets by receives
//! that do not wait, rings by reading their indexes. Without work for as long as that is worth it
//! ([`polls`], at most [`Config::shard_poll_nanos`]) it says to every guest that it sleeps, looks
//! once more, and waits for the doorbell all of them share, for a client, or for time.
//!
//! The shard owns all it touches and shares none of it; what blocks is done by the keeper and the
//! librarian, whose news come in as letters.

mod catalog;
mod clients;
mod wire;
mod neighbour;
mod logging;
mod vms;
mod polls;
mod bodies;
mod engine;
mod guest;
mod resets;
mod snapshots;
mod requests;
mod answers;
mod status;
mod trace;

use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::or;
use region::clock::monotonic_nanos;

use crate::config::Config;
use crate::credential::NodeKey;
use crate::inbox::Inbox;
use crate::invoke::{Function, Nanos, VmId};
use crate::keeper::{Keeper, News};
use crate::librarian::{Librarian, Report};
use crate::link::Scratch;
use crate::log::Relay;
use crate::maker::SnapshotNews;
use crate::passage::End;
use crate::pool::index::{self, Publisher};
use crate::pool::{Blame, Event, Pool};
use crate::signal::{Errand, Signal, step_aside};
use crate::socket::Connection;
use crate::wait::Bell;

use clients::{Client, Clients};
use engine::{Engine, Parts};
use neighbour::Neighbour;

/// Longest sleep: a bound on what a lost wake-up could cost.
const SLEEP_MAX: Duration = Duration::from_secs(10);
/// How often a polling shard lets its other tasks run when they have something under way: bounds
/// what polling costs log delivery and connections, at a few system calls each time.
const YIELD_NANOS: Nanos = 250_000;
/// The same when none has: a bound on what one that nobody counted could wait.
const YIELD_IDLE_NANOS: Nanos = 10_000_000_000;
/// Sleep while a client does not read what waits for it.
const SLEEP_WITH_OUTPUT: Duration = Duration::from_millis(1);
/// The runtime never sleeps longer than this: should it ever sleep over ready tasks (see
/// `PREEMPT_INTERVAL` in [`crate::node`]), this bounds what that costs.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long delivery of logs may take once the node was told to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What other threads have to tell a shard.
pub(crate) enum Letter {
    /// From its keeper.
    News(News),
    /// From the librarian.
    Report(Report),
    /// From the maker.
    Snapshot(SnapshotNews),
    /// Another shard was asked for the node's status.
    AskStatus { ticket: u64, from: u16 },
    /// The part of it this one asked for.
    StatusPart { ticket: u64, part: Box<Part> },
    /// A client.
    Client(UnixStream, Box<Connection>),
    /// Finish what runs, then end.
    Stop,
}

/// What a shard is given when its thread starts.
pub(crate) struct Setting {
    pub(crate) config: Arc<Config>,
    pub(crate) node_key: Arc<NodeKey>,
    /// Every shard's mailbox, in the order of their numbers.
    pub(crate) inboxes: Arc<[Arc<Inbox<Letter>>]>,
    /// This shard as a client of each other one, by their numbers; none at its own.
    pub(crate) neighbours: Vec<Option<End>>,
    /// The others as clients of this one.
    pub(crate) passages: Vec<End>,
    pub(crate) index: index::Shared,
    pub(crate) keeper: Keeper,
    pub(crate) librarian: Arc<Librarian>,
    pub(crate) publisher: Publisher,
    pub(crate) pool: Pool,
    pub(crate) functions: Vec<Function>,
    pub(crate) shard: u16,
    pub(crate) first_invoke: u64,
    pub(crate) facts: Arc<NodeFacts>,
}

pub(crate) use status::{NodeFacts, Part, flavour_name, isolation_name};

/// One shard; lives on its executor's thread.
pub(crate) struct Shard {
    engine: Engine,
    clients: Clients,
    scratch: Scratch,
    inbox: Arc<Inbox<Letter>>,
    wake: Rc<Signal>,
}

impl Shard {
    /// Sets up a shard inside its executor.
    pub(crate) fn new(setting: Setting) -> Self {
        let wake = Rc::new(Signal::default());
        let limits = crate::log::Limits::from(&setting.config.log);
        let seed = setting.first_invoke ^ monotonic_nanos();
        let relay = Relay::new(limits, monotonic_nanos, seed, Rc::clone(&wake));
        let clients_max = setting.config.requests.connections_max as usize;
        let mut clients = Clients::new(clients_max, Rc::clone(&wake));
        for end in setting.passages {
            clients.adopt_passage(end, Connection::between_shards(&setting.config));
        }
        let neighbours = setting.neighbours.into_iter();
        let inbox = Arc::clone(&setting.inboxes[usize::from(setting.shard)]);
        let mut engine = Engine::new(Parts {
            config: setting.config,
            pool: setting.pool,
            node_key: setting.node_key,
            librarian: setting.librarian,
            relay,
            keeper: setting.keeper,
            publisher: setting.publisher,
            shard: setting.shard,
            first_invoke: setting.first_invoke,
            wake: Rc::clone(&wake),
            facts: setting.facts,
            inboxes: setting.inboxes,
            index: setting.index,
            neighbours: neighbours.map(|end| end.map(Neighbour::new)).collect(),
        });
        for function in setting.functions {
            engine.catalog.put(function);
        }
        Self { engine, clients, scratch: Scratch::new(), inbox, wake }
    }

    /// Serves until told to stop and everything is answered.
    ///
    /// # Errors
    /// The runtime's own, when it starts.
    pub(crate) async fn run(mut self) -> std::io::Result<()> {
        let bell = Bell::new(self.inbox.doorbell().duplicate()?);
        let wake = Rc::clone(&self.wake);
        let listener = glommio::spawn_local(async move {
            while bell.rung().await.is_ok() {
                wake.raise();
            }
        });
        let heart = glommio::spawn_local(async {
            loop {
                glommio::timer::sleep(HEARTBEAT).await;
            }
        });
        let mut yielded_nanos = monotonic_nanos();
        self.engine.drive(Event::Tick, yielded_nanos, None);
        loop {
            let now = monotonic_nanos();
            let has_worked = self.turn(now);
            if self.engine.pool.is_stopped() && !self.has_unsent() {
                break;
            }
            if has_worked {
                self.engine.publish_invokes();
            }
            if self.engine.is_rest_due(has_worked, now) {
                self.park(now).await;
                yielded_nanos = monotonic_nanos();
                self.engine.polls.woke(yielded_nanos);
            } else if now.saturating_sub(yielded_nanos) > yield_nanos() {
                self.engine.metrics.step_asides += 1;
                step_aside().await;
                yielded_nanos = monotonic_nanos();
            } else if !has_worked {
                // Polling is for time nobody else has a use for.
                rustix::thread::sched_yield();
            }
        }
        self.engine.relay.drain(DRAIN_LIMIT).await;
        listener.cancel().await;
        heart.cancel().await;
        Ok(())
    }

    /// Does everything there is to do now; returns whether there was something.
    fn turn(&mut self, now: Nanos) -> bool {
        let Self { engine, clients, scratch, .. } = self;
        let mut moved = false;
        while let Some(letter) = self.inbox.take() {
            moved = true;
            engine.read(letter, clients, scratch, now);
        }
        moved |= engine.serve_clients(clients, now);
        moved |= engine.serve_vms(clients, scratch, now);
        moved |= engine.serve_neighbours(clients);
        if engine.pool.next_wake().is_some_and(|wake| wake <= now) {
            moved |= engine.tick(now);
        }
        moved |= engine.deliver_answers(clients);
        engine.let_go(now);
        moved |= engine.settle(clients, now);
        moved |= engine.flush_vms(now);
        let (mut left, mut closed) = (Vec::new(), Vec::new());
        let gone = |client: &Client| {
            left.push(client.id);
            if client.connection.is_closing() {
                closed.push(client.connection.peer().login().to_owned());
            }
        };
        if clients.flush(&mut engine.metrics, gone) {
            moved = true;
            // A client on this core need not wait for the shard's next pause.
            rustix::thread::sched_yield();
        }
        for client in left {
            engine.abandon(client, now);
        }
        while let Some(login) = closed.pop() {
            engine.tell_refused(now, &format!("{login} broke the protocol, or does not read"));
        }
        moved |= engine.begin_resets(clients, scratch, now);
        moved
    }

    fn has_unsent(&self) -> bool {
        let engine = &self.engine;
        self.clients.has_output() || engine.has_held() || !engine.forwarded.is_empty()
    }

    /// Sleeps until somebody rings or time has come. Nobody is missed: those who might ring are
    /// told first, and then looked at once more.
    async fn park(&mut self, now: Nanos) {
        self.inbox.set_asleep(true);
        self.clients.listen_to_all();
        let mut is_quiet = self.inbox.is_empty() && !self.clients.has_incoming();
        let mut neighbours = self.engine.neighbours.iter().flatten();
        is_quiet &= !neighbours.any(Neighbour::has_incoming);
        for vm in self.engine.vms.iter_mut().filter(|vm| !vm.is_resetting()) {
            vm.link.set_sleeping(true);
            is_quiet &= vm.side.is_faulty || vm.link.is_quiet();
        }
        if is_quiet {
            self.engine.metrics.sleeps += 1;
            let sleep = self.sleep_limit(now);
            or(self.wake.wait(), async {
                glommio::timer::sleep(sleep).await;
            })
            .await;
        }
        self.inbox.set_asleep(false);
        self.clients.poll_all();
        for vm in self.engine.vms.iter_mut().filter(|vm| !vm.is_resetting()) {
            vm.link.set_sleeping(false);
        }
    }

    fn sleep_limit(&self, now: Nanos) -> Duration {
        if self.clients.has_output() {
            return SLEEP_WITH_OUTPUT;
        }
        let wakes = [self.engine.pool.next_wake(), self.engine.next_settle()];
        let next = wakes.into_iter().flatten().min();
        let sleep = next.map(|next| Duration::from_nanos(next.saturating_sub(now)));
        sleep.unwrap_or(SLEEP_MAX).min(SLEEP_MAX)
    }
}

/// How long this executor's other tasks may wait.
fn yield_nanos() -> Nanos {
    if Errand::is_any() { YIELD_NANOS } else { YIELD_IDLE_NANOS }
}

/// The moment, for stages shorter than a turn.
fn moment() -> Nanos {
    monotonic_nanos()
}

impl Engine {
    fn read(&mut self, letter: Letter, clients: &mut Clients, scratch: &mut Scratch, now: Nanos) {
        match letter {
            Letter::News(News::Up { vm, cell }) => self.admit(VmId(vm), cell, now),
            Letter::News(News::Failed { vm, reason }) => {
                tracing::error!(vm = %VmId(vm), reason, "VM does not start");
                self.metrics.restores_failed += 1;
                self.drive(Event::SpawnFailed { vm: VmId(vm) }, now, None);
            }
            Letter::News(News::Gone { vm, ending }) => {
                self.drain_log(VmId(vm), clients, scratch);
                let blame = self.blame_of(VmId(vm), &ending);
                let was_resetting = self.vms.find(VmId(vm)).is_some_and(|vm| vm.is_resetting());
                self.metrics.resets_failed += u64::from(was_resetting);
                self.drive(Event::VmGone { vm: VmId(vm), blame }, now, None);
                self.deliver_answers(clients);
                self.bury(VmId(vm));
            }
            Letter::News(News::Memory(level)) => self.drive(Event::Pressure { level }, now, None),
            Letter::Report(Report::Opened { package, open }) => {
                self.opened(package, open, now);
            }
            Letter::Report(Report::Resolved { invoke, found }) => {
                self.resolved(invoke, found, clients, now);
            }
            Letter::Report(Report::Stored { function, reply_to }) => {
                self.put_function(*function);
                self.reply(reply_to, clients);
            }
            Letter::Report(Report::Removed { user, name, reply_to }) => {
                self.remove_function(user, name);
                self.reply(reply_to, clients);
            }
            Letter::Report(Report::Refused { client, request, code, message }) => {
                self.stored(client, request);
                if let Some(client) = clients.find_number(client) {
                    let _ = client.connection.error(request, code, &message);
                }
            }
            Letter::Snapshot(news) => self.take_snapshot(news, now),
            Letter::Client(stream, connection) => {
                if let Err(error) = clients.adopt(stream, *connection, now) {
                    self.tell_refused(now, &error.to_string());
                }
            }
            Letter::AskStatus { ticket, from } => self.send_part(ticket, from),
            Letter::StatusPart { ticket, part } => self.take_part(ticket, *part, clients),
            Letter::Stop => {
                self.stop_resolving();
                self.drive(Event::Stop, now, None);
            }
        }
    }

    fn reply(&mut self, reply_to: Option<crate::librarian::Reply>, clients: &mut Clients) {
        let Some(reply) = reply_to else { return };
        self.stored(reply.client, reply.request);
        if let Some(client) = clients.find_number(reply.client) {
            let _ = client.connection.reply(reply.request, reply.json.as_bytes());
        }
    }

    /// Whose fault the end of a VM is: what its VMM said last, else nobody could say.
    fn blame_of(&mut self, id: VmId, ending: &str) -> Blame {
        if self.pool.is_leaving(id) {
            return Blame::Nobody;
        }
        let Some(vm) = self.vms.find(id) else { return Blame::Host };
        let (is_guest, reason) = vm.side.cell.last_words();
        let blame = if is_guest { Blame::Guest } else { Blame::Host };
        tracing::warn!(vm = %id, ?blame, reason, ending, "VM lost");
        blame
    }
}
