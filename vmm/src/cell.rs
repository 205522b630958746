//! One VMM process from its first message to its end: the steps in order.

use crate::boot;
use crate::capture::{self, Image};
use crate::clock::{Clock, ClockWriter};
use crate::control::{self, Control};
use crate::gone::{Doing, Gone};
use crate::jail;
use crate::machine::{self, Machine, Parts, Shell, contents};
use crate::memory::Ram;
use crate::order::{Order, Orders};
use crate::origin::Origin;
use crate::reset;
use crate::restore;
use crate::vcpu::{Preempt, Surroundings, Vcpu};
use abi::control::{Blame, Reply, Request, Start};
use abi::layout::PAGE_BYTES;
use region::Doorbell;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// How long a captured guest may run on until it halts; it takes well under a millisecond.
const IDLE_LIMIT_NANOS: u64 = 200_000_000;
/// The control thread's frames are shallow; its stack is part of every idle VM.
const CONTROL_STACK_BYTES: usize = 128 << 10;

/// Closes descriptors the parent left open beside the first three. To be called before anything
/// else is.
pub fn close_inherited() {
    jail::close_inherited();
}

/// Serves one VM over the node's socket; ends the process.
pub fn run(socket: OwnedFd) -> ! {
    report_panics(&socket);
    match serve(&socket) {
        Ok(()) => std::process::exit(0),
        Err(gone) => control::end(&socket, &gone),
    }
}

/// A bug here is told to the node instead of to a standard error that leads nowhere.
fn report_panics(socket: &OwnedFd) {
    let Ok(socket) = socket.try_clone() else { return };
    std::panic::set_hook(Box::new(move |panic| {
        let reason = format!("VMM {panic}");
        control::reply(&socket, &Reply::Gone { blame: Blame::Host, reason: &reason });
        std::process::exit(101);
    }));
}

/// `Ok` when a boot's snapshot is captured or the node went away before it started anything.
fn serve(socket: &OwnedFd) -> Result<(), Gone> {
    let Some((request, descriptors)) = control::receive(socket)? else { return Ok(()) };
    let began = region::clock::monotonic_nanos();
    let Request::Start(start) = request else {
        return Err(Gone::Request("the first one has to be Start"));
    };
    machine::check(&start)?;
    let parts = Parts::sort(&start, descriptors)?;
    let any_core = bind(start.core)?;
    let Made { machine, origin, snapshot } = make(&start, parts)?;
    let clock = Clock::new(start.clock_multiplier, start.clock_offset);
    let Machine { shell, mut ram, window, region, status, doorbell, timer } = machine;
    let writer = ClockWriter::start(status.clone(), clock, start.generation);
    let preempt = Arc::new(Preempt::here());
    let orders = Arc::new(Orders::default());
    let control = Control {
        doorbell: doorbell.duplicate().doing("keep the doorbell")?.into(),
        orders: Arc::clone(&orders),
        is_capturable: start.is_capturable,
        socket: socket.try_clone().doing("keep the socket")?,
        timer: timer.duplicate().doing("keep the timer's doorbell")?.into(),
        region: region.clone(),
        window,
        packages_from: start.root_image_bytes.next_multiple_of(PAGE_BYTES),
        clock,
        preempt: Arc::clone(&preempt),
    };
    let around = Surroundings { region, status, doorbell, clock, writer, preempt };
    let mut vcpu = Vcpu::new(shell, around)?;
    if let Some(mut origin) = origin {
        drop((snapshot, timer));
        confine(&start, control, any_core, &mut vcpu)?;
        let restore_nanos = region::clock::monotonic_nanos().saturating_sub(began);
        control::reply(socket, &Reply::Running { restore_nanos });
        let mut upkeep = Upkeep { socket, origin: &mut origin, ram: &mut ram };
        return Err(vcpu.run(&orders, |vcpu, order| upkeep.obey(vcpu, order)));
    }
    confine(&start, control, any_core, &mut vcpu)?;
    let bytes = boot_and_capture(&start, &mut vcpu, &ram, &timer, &snapshot)?;
    control::reply(socket, &Reply::Captured { bytes });
    Ok(())
}

/// A machine, ready to run.
struct Made {
    machine: Machine,
    /// Of a restore: what it was restored from.
    origin: Option<Origin>,
    /// Every other descriptor is closed by then.
    snapshot: OwnedFd,
}

fn make(start: &Start, parts: Parts) -> Result<Made, Gone> {
    let Parts { kvm, shared, kernel, snapshot } = parts;
    let shell = Shell::create(kvm)?;
    let Some(kernel) = kernel else {
        let (ram, origin) = restore::load(&shell, start, &snapshot)?;
        let machine = Machine::assemble(shell, ram, start, shared)?;
        restore::set_registers(&machine.shell, origin.state())?;
        return Ok(Made { machine, origin: Some(origin), snapshot });
    };
    let kernel = contents(kernel, "map the kernel")?;
    let ram = Ram::blank(start.ram_bytes).doing("get memory for the guest")?;
    let mut machine = Machine::assemble(shell, ram, start, shared)?;
    boot::load(&mut machine, &kernel, start.root_image_bytes)?;
    Ok(Made { machine, origin: None, snapshot })
}

fn boot_and_capture(
    start: &Start,
    vcpu: &mut Vcpu,
    ram: &Ram,
    timer: &Doorbell,
    snapshot: &OwnedFd,
) -> Result<u64, Gone> {
    vcpu.run_to_ready()?;
    let state = capture::registers(&vcpu.shell)?;
    let at_ready = Image::copy(ram)?;
    vcpu.run_to_idle(timer, IDLE_LIMIT_NANOS)?;
    let at_idle = Image::copy(ram)?;
    let sizes = (start.ram_bytes, start.root_image_bytes);
    capture::write(&vcpu.shell, state, (&at_ready, &at_idle), sizes, snapshot.as_fd())
}

/// What is done to a VM between two stretches of its running.
struct Upkeep<'a> {
    socket: &'a OwnedFd,
    origin: &'a mut Origin,
    ram: &'a mut Ram,
}

impl Upkeep<'_> {
    fn obey(&mut self, vcpu: &mut Vcpu, order: Order) -> Result<(), Gone> {
        match order {
            Order::Reset { generation, seed, is_verified, began_nanos } => {
                let dirty_pages = reset::put_back(self.origin, self.ram)?;
                restore::set_registers(&vcpu.shell, self.origin.state())?;
                if is_verified {
                    reset::verify(self.origin, &vcpu.shell, self.ram)?;
                }
                reset::empty(self.origin, &vcpu.region, generation, &seed)?;
                vcpu.begin_anew(generation, dirty_pages);
                let reset_nanos = region::clock::monotonic_nanos().saturating_sub(began_nanos);
                let reply = Reply::Reset { generation, dirty_pages, reset_nanos };
                control::reply(self.socket, &reply);
                Ok(())
            }
            Order::Capture(memfd) => {
                let bytes = capture::running(&vcpu.shell, self.ram, self.origin, &memfd)?;
                control::reply(self.socket, &Reply::Captured { bytes });
                // The control thread ends the process when the node asks for it.
                loop {
                    std::thread::park();
                }
            }
        }
    }
}

/// Binds this thread to a core; returns the cores it had before.
fn bind(core: u32) -> Result<CpuSet, Gone> {
    let before = sched_getaffinity(None).doing("ask for the allowed cores")?;
    if core != u32::MAX {
        let core = core as usize;
        if core >= CpuSet::MAX_CPU {
            return Err(Gone::Request("there is no such core"));
        }
        let mut only = CpuSet::new();
        only.set(core);
        sched_setaffinity(None, &only).doing("bind the vCPU to its core")?;
    }
    Ok(before)
}

/// Gives up everything but the VM, with the control thread running beside this one. That one
/// may use any core: it has to get a turn while the vCPU spins on its own.
fn confine(start: &Start, control: Control, any_core: CpuSet, vcpu: &mut Vcpu) -> Result<(), Gone> {
    jail::enter(start.user, writes_snapshot(start).then_some(start.ram_bytes))?;
    vcpu.settle()?;
    let (started, is_started) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("control".into())
        .stack_size(CONTROL_STACK_BYTES)
        .spawn(move || {
            let _ = sched_setaffinity(None, &any_core);
            let _ = started.send(());
            control.serve()
        })
        .doing("start the control thread")?;
    let _ = is_started.recv();
    jail::seal(writes_snapshot(start))
}

fn writes_snapshot(start: &Start) -> bool {
    !start.is_restore || start.is_capturable
}
