//! The keeper: a shard's side thread that makes and buries VMM processes.
//!
//! ```text
//!  shard ─ Restore, Hasten, Kill, Bury ─► keeper ─ spawn, kill, reap ─► VMM processes
//!  shard ◄── Up, Failed, Gone ───── keeper
//!  shard ◄── Memory ─────────────── keeper ◄─ once a second ─ the host's memory
//! ```
//! Making and ending a VM takes milliseconds, so none of it happens on a shard. It starts one VMM
//! after the other and waits for all of them at once. The thread lives
//! as long as its shard: VMMs get a signal when it dies, and so none outlives the node.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError, unbounded};
use region::Doorbell;
use region::clock::monotonic_nanos;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cell::{Birth, Cell, Infant, Nursery};
use crate::config::Memory;
use crate::pool::Pressure;
use crate::pressure;
use crate::snapshot_store::FunctionSnapshot;

/// What a shard asks for.
pub(crate) enum Wish {
    /// A new VM with this number, restored from a function's snapshot or the base, and whether an
    /// invoke waits for it.
    Restore { vm: u64, snapshot: Option<Arc<FunctionSnapshot>>, is_awaited: bool },
    /// A VM is awaited, or somebody's soon: it is to be quiet no longer.
    Hasten { vm: u64 },
    /// The end of a VM.
    Kill { vm: u64 },
    /// Freeing something that takes long to free.
    Bury(Box<dyn Send>),
}

/// What became of a VM.
pub(crate) enum News {
    /// It runs; its guest will say `READY`.
    Up { vm: u64, cell: Box<Cell> },
    /// It could not be made.
    Failed { vm: u64, reason: String },
    /// Its process is over.
    Gone { vm: u64, ending: String },
    /// The host is short of memory, still, or no longer.
    Memory(Pressure),
}

/// How often the host's memory is looked at.
const LOOK_NANOS: u64 = 1_000_000_000;
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A shard's handle to its keeper. Dropping it ends every VM and waits for that.
pub(crate) struct Keeper {
    wishes: Option<Sender<Wish>>,
    bell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread. VMs that nobody waits for are quiet for `quiet_nanos` at most. `tell` hands news to the shard and may block; guests ring the doorbell
    /// `node_doorbell` gives.
    ///
    /// # Errors
    /// The process is out of threads or descriptors.
    pub(crate) fn start(
        nursery: Arc<Nursery>,
        node_doorbell: Doorbell,
        (memory, quiet_nanos): (Memory, u64),
        tell: impl Fn(News) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = unbounded();
        let bell = Arc::new(Doorbell::new()?);
        let round = Round {
            nursery,
            node_doorbell,
            memory,
            pressure: Pressure::Calm,
            looked_nanos: 0,
            bell: Arc::clone(&bell),
            births: Vec::new(),
            infants: Vec::new(),
            quiet: VecDeque::new(),
            quiet_nanos,
            wishes: VecDeque::new(),
            tell,
        };
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || round.run(&receiver))?;
        Ok(Self { wishes: Some(sender), bell, thread: Some(thread) })
    }

    /// Asks for something; never waits. The pool bounds how many wishes there are.
    pub(crate) fn wish(&self, wish: Wish) {
        if let Some(wishes) = &self.wishes {
            // The thread ends only after this handle dropped its sender.
            drop(wishes.send(wish));
            self.bell.ring().expect("an eventfd takes a ring");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.wishes = None;
        drop(self.bell.ring());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The thread's own state.
struct Round<F> {
    nursery: Arc<Nursery>,
    node_doorbell: Doorbell,
    memory: Memory,
    pressure: Pressure,
    looked_nanos: u64,
    bell: Arc<Doorbell>,
    births: Vec<Birth>,
    infants: Vec<Infant>,
    /// VMs that only get what others leave of their core, and until when.
    quiet: VecDeque<(u64, u64)>,
    quiet_nanos: u64,
    /// What is still to be granted.
    wishes: VecDeque<Wish>,
    tell: F,
}

impl<F: Fn(News)> Round<F> {
    fn run(mut self, wishes: &Receiver<Wish>) {
        loop {
            let is_over = self.take_in(wishes);
            match self.wishes.pop_front() {
                Some(wish) => {
                    self.grant(wish);
                    self.attend(&AT_ONCE);
                }
                None if is_over => break,
                None => self.attend(&self.pause()),
            }
            self.look_at_memory();
            self.end_quiet();
        }
        self.births.iter().for_each(Birth::kill);
        self.infants.iter().for_each(Infant::kill);
        for birth in self.births.drain(..) {
            if let Ok((_, infant)) = birth.finish() {
                self.infants.push(infant);
            }
        }
        for infant in &mut self.infants {
            infant.reap();
        }
    }

    /// Takes all wishes there are; somebody waits for VMs that are to be hastened, so they are at once.
    /// Gives whether there will be no more.
    fn take_in(&mut self, wishes: &Receiver<Wish>) -> bool {
        loop {
            match wishes.try_recv() {
                Ok(Wish::Hasten { vm }) => self.hasten(vm),
                Ok(wish) => self.wishes.push_back(wish),
                Err(error) => break error == TryRecvError::Disconnected,
            }
        }
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Restore { vm, snapshot, is_awaited } => {
                let (bell, snapshot) = (&self.node_doorbell, snapshot.as_deref());
                match self.nursery.restore(vm, bell, snapshot, is_awaited) {
                    Ok(birth) => {
                        self.births.push(birth);
                        if !is_awaited {
                            self.quiet.push_back((vm, monotonic_nanos() + self.quiet_nanos));
                        }
                    }
                    Err(reason) => (self.tell)(News::Failed { vm, reason }),
                }
            }
            Wish::Hasten { vm } => self.hasten(vm),
            Wish::Kill { vm } => {
                if let Some(infant) = self.infants.iter().find(|infant| infant.vm == vm) {
                    infant.kill();
                } else if let Some(birth) = self.births.iter().find(|birth| birth.vm() == vm) {
                    birth.kill();
                }
            }
            Wish::Bury(corpse) => drop(corpse),
        }
    }

    fn hasten(&mut self, vm: u64) {
        self.quiet.retain(|(quiet, _)| *quiet != vm);
        for wish in &mut self.wishes {
            if let Wish::Restore { vm: wished, is_awaited, .. } = wish {
                *is_awaited |= *wished == vm;
            }
        }
        if let Some(birth) = self.births.iter().find(|birth| birth.vm() == vm) {
            birth.hasten();
        } else if let Some(infant) = self.infants.iter().find(|infant| infant.vm == vm) {
            infant.set_quiet(false);
        }
    }

    /// On a core that others never leave, nobody is quiet for ever.
    fn end_quiet(&mut self) {
        let now = monotonic_nanos();
        while let Some((vm, _)) = self.quiet.front().copied().filter(|(_, until)| *until <= now) {
            self.hasten(vm);
        }
    }

    /// How long there is nothing to do by itself.
    fn pause(&self) -> Timespec {
        let Some((_, until)) = self.quiet.front() else { return LOOK };
        let nanos = until.saturating_sub(monotonic_nanos()).min(LOOK_NANOS);
        Timespec::try_from(Duration::from_nanos(nanos)).unwrap_or(LOOK)
    }

    /// Says each time that memory is short: what was let go of for that may not have been enough.
    fn look_at_memory(&mut self) {
        let now = monotonic_nanos();
        if now.saturating_sub(self.looked_nanos) < LOOK_NANOS {
            return;
        }
        self.looked_nanos = now;
        let pressure = pressure::look(&self.memory);
        if std::mem::replace(&mut self.pressure, pressure) != pressure
            || pressure == Pressure::Tight
        {
            (self.tell)(News::Memory(pressure));
        }
    }

    /// Sees to the VMMs that have something to say, waiting for them, for a wish, and for that
    /// long.
    fn attend(&mut self, limit: &Timespec) {
        let (born, over) = self.await_signs(limit);
        // From behind, so that those before keep their places.
        for place in over.into_iter().rev() {
            let mut infant = self.infants.swap_remove(place);
            let ending = infant.reap();
            (self.tell)(News::Gone { vm: infant.vm, ending });
        }
        for place in born.into_iter().rev() {
            let birth = self.births.swap_remove(place);
            let (vm, is_unwanted) = (birth.vm(), birth.is_unwanted());
            match birth.finish() {
                Ok((cell, infant)) => {
                    self.infants.push(infant);
                    (self.tell)(News::Up { vm, cell: Box::new(cell) });
                }
                Err(ending) if is_unwanted => (self.tell)(News::Gone { vm, ending }),
                Err(reason) => (self.tell)(News::Failed { vm, reason }),
            }
        }
    }

    /// Places of the births that have an answer and of the infants that are over.
    fn await_signs(&self, limit: &Timespec) -> (Vec<usize>, Vec<usize>) {
        let births = self.births.iter().map(Birth::control);
        let infants = self.infants.iter().map(Infant::pidfd);
        let descriptors: Vec<_> =
            std::iter::once(self.bell.as_fd()).chain(births).chain(infants).collect();
        let mut entries: Vec<_> =
            descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)).collect();
        // An interrupted wait is a wait that ended early.
        let _ = rustix::event::poll(&mut entries, Some(limit));
        drop(self.bell.drain());
        let (births, infants) = entries[1..].split_at(self.births.len());
        let signs = |entries: &[PollFd<'_>]| -> Vec<usize> {
            let entries = entries.iter().enumerate();
            entries.filter(|(_, entry)| !entry.revents().is_empty()).map(|it| it.0).collect()
        };
        (signs(births), signs(infants))
    }
}
