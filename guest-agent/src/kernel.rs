//! The kernel's loop: what runs on the VM's only processor, and in which order.
//!
//! ```text
//!   boot ─► Kernel::new ─► ready() ┈ snapshot ┈ restored ─► attach ─┐
//!   ┌───────────────────────────────────────────────────────────────┘
//!   └► agent: rings, streams, outcomes ─► deadlines ─► events ─► one task's turn ─┐
//!      ▲                                     └─ nothing to run ─► idle: poll, halt │
//!      └──────────────────────────────────────────────────────────────────────────┘
//! ```
//! A program only ever runs in [`turn`]; everything else happens between turns, so nothing here
//! is ever interrupted.

mod turn;

use abi::layout::region;
use abi::ring::{Memory, SharedMemory};
use machine::boot::Touch;
use machine::clock::monotonic_nanos;
use machine::{idle, port};

use crate::agent::Agent;
use crate::process::Processes;
use crate::process::scheduler::SLICE_NANOS;
use crate::time::NEVER;
use crate::world::World;
use turn::Turn;

/// A program that asks for nothing is left to itself this long at most; then the rings are looked
/// at. What came in meanwhile for another container waits no longer than that. Costs an exit and an
/// interrupt each time a program computes this long, and nothing when none does.
const LOOK_NANOS: u64 = 20_000_000;
/// The VMM's idea of now and ours differ by far less.
const CLOCK_MARGIN_NANOS: u64 = 1_000_000;
/// Bytes of the seed the node leaves in the region.
const SEED_BYTES: usize = 32;

/// Everything the kernel owns.
#[derive(Debug)]
pub struct Kernel {
    agent: Agent,
    processes: Processes,
    world: World,
    region: &'static SharedMemory,
    /// When the VMM will look at the deadline in the region; `NEVER` when it was not asked to.
    armed_nanos: u64,
    /// When the kernel last had something to do.
    busy_nanos: u64,
    /// Number of the restore it lives in.
    generation: u64,
    /// Pages this VM has not met since then.
    touch: Touch,
}

/// Boots, is captured, and serves for ever after each restore.
pub fn run() -> ! {
    assert!(!machine::selfcheck::is_emulated(), "the host emulates the kernel");
    let mut kernel = Kernel::new();
    port::ready();
    kernel.attach();
    loop {
        kernel.step();
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

impl Kernel {
    /// A kernel as it is captured: nothing from outside in it but the root image.
    ///
    /// # Panics
    /// When RAM does not suffice for the first objects: there is nothing to go on with.
    #[must_use]
    pub fn new() -> Self {
        let world = World::new();
        let mut processes = Processes::new(world.clone());
        assert!(processes.prepare().is_ok(), "RAM for the first frames");
        Self {
            agent: Agent::new(world.clone()),
            processes,
            world,
            region: machine::region::memory(),
            armed_nanos: NEVER,
            busy_nanos: 0,
            generation: 0,
            touch: Touch::new(),
        }
    }

    /// Comes to life after a restore: entropy first, because without it nothing may run.
    ///
    /// # Panics
    /// When the node left no seed.
    pub fn attach(&mut self) {
        assert!(!machine::selfcheck::is_emulated(), "the host emulates the kernel");
        let is_reset = self.region.load_u64(region::IS_RESET) != 0;
        if is_reset {
            machine::paging::forget_former_life();
        }
        self.generation = self.region.load_u64(region::GENERATION);
        let mut seed = [0; SEED_BYTES];
        self.region.read(region::SEED, &mut seed);
        self.region.write(region::SEED, &[0; SEED_BYTES]);
        assert!(seed != [0; SEED_BYTES], "the node left no seed");
        self.world.seed(seed);
        self.processes.set_vm(self.region.load_u64(region::VM));
        self.region.store_u64(region::DEADLINE, NEVER);
        self.region.store_u64(region::PREEMPT_ENTRY, machine::user::preempt_entry());
        self.armed_nanos = NEVER;
        self.touch = Touch::new();
        let is_prepared = self.agent.is_prepared_anew();
        // Nobody waits for this VM, only for what it saves its first request. Free frames last, as its
        // program has left them.
        let mut meets = match is_reset {
            // What a former life has met, a reset leaves; but not its program.
            true => is_prepared,
            false => self.region.load_u64(region::IS_AWAITED) == 0,
        };
        while meets {
            meets = self.agent.make_ready(&mut self.processes) || self.touch.more();
            meets &= is_reset || self.region.load_u64(region::IS_AWAITED) == 0;
        }
        self.agent.attach();
        self.busy_nanos = monotonic_nanos();
    }

    /// Does whatever there is to do once; halts when there is nothing.
    pub fn step(&mut self) {
        let now = monotonic_nanos();
        let was_busy = self.agent.step(&mut self.processes, now);
        self.processes.expire(now);
        self.processes.settle();
        if self.processes.has_ready() {
            self.run_task(now);
            self.busy_nanos = monotonic_nanos();
        } else if was_busy || self.processes.has_notice() {
            self.busy_nanos = now;
        } else {
            self.rest();
        }
    }

    fn next_deadline(&self) -> u64 {
        self.agent.next_deadline().min(self.processes.next_deadline())
    }

    /// Lets the next task run until it waits, its slice is over, or the agent has work.
    fn run_task(&mut self, now: u64) {
        let Some(task) = self.processes.take_next() else { return };
        let slice_end = now + SLICE_NANOS;
        let mut has_others = false;
        let mut until = self.next_deadline().min(now + LOOK_NANOS);
        self.arm(until);
        self.processes.begin_turn(task, now);
        let turn = loop {
            // Others may have become ready by what the task just did.
            if !has_others && self.processes.has_ready() {
                has_others = true;
                until = slice_end;
                self.arm(until);
            }
            let turn = turn::run(&mut self.processes, task);
            if turn != Turn::Goes {
                break turn;
            }
            if self.agent.has_input() || self.agent.has_output() || self.processes.has_notice() {
                break Turn::Goes;
            }
            // The VMM takes the CPU from a program, never from its calls.
            if monotonic_nanos() >= until {
                break Turn::Goes;
            }
        };
        let now = monotonic_nanos();
        self.processes.end_turn(now);
        if turn == Turn::Interrupted {
            self.armed_nanos = NEVER;
        }
        let keeps_turn = turn != Turn::Yielded && now < slice_end;
        self.processes.put_back(task, keeps_turn);
    }

    /// Sees to it that user mode is left by `at_nanos`. Asking the VMM to look costs 3 us here and
    /// wakes a thread of it, so when it looks before that anyway it is left to find out then.
    fn arm(&mut self, at_nanos: u64) {
        // What it is to find there, and only then the time: a look that is still to come finds it.
        self.region.store_u64(region::DEADLINE, at_nanos);
        let now = monotonic_nanos();
        if at_nanos != NEVER && !looks_in_time(self.armed_nanos, now, at_nanos) {
            port::ask_timer();
            self.armed_nanos = at_nanos;
        }
    }

    /// Nothing to do: meets pages, then looks at the rings for a while, then halts until the
    /// doorbell or the next deadline.
    fn rest(&mut self) {
        if self.touch.more() || self.agent.make_ready(&mut self.processes) {
            self.busy_nanos = monotonic_nanos();
            return;
        }
        let deadline = self.next_deadline();
        // What was asked for last stands in the region until the halt: the VMM may only now come to
        // read it, and `arm` counts on the look it makes then.
        loop {
            if self.agent.has_input() {
                return;
            }
            let now = monotonic_nanos();
            if now >= deadline {
                return;
            }
            let limit = self.region.load_u64(region::POLL_NANOS);
            if now.saturating_sub(self.busy_nanos) >= limit {
                break;
            }
            core::hint::spin_loop();
        }
        // Whoever pushes from here on sees that we sleep, or we see what was pushed.
        self.agent.set_sleeping(true);
        if !self.agent.has_input() {
            self.region.store_u64(region::DEADLINE, deadline);
            idle::halt();
            // The VMM's timer served the halt; it has set another.
            self.armed_nanos = self.region.load_u64(region::LOOK_AT);
            // It may have been captured here, asleep: then this is another VM, with a new region.
            if self.region.load_u64(region::GENERATION) != self.generation {
                return self.attach();
            }
        }
        self.agent.set_sleeping(false);
    }
}

/// Whether a look at `look_nanos` is still to come, and soon enough for what is wanted at `at_nanos`.
fn looks_in_time(look_nanos: u64, now: u64, at_nanos: u64) -> bool {
    (now + CLOCK_MARGIN_NANOS..=at_nanos).contains(&look_nanos)
}

#[cfg(test)]
mod tests;
