//! One VMM process from its first message to its end: the steps in order.

use crate::boot;
use crate::capture::{self, Image};
use crate::clock::{Clock, ClockWriter};
use crate::control::{self, Control};
use crate::gone::{Doing, Gone};
use crate::jail::{self, Filter, Needs};
use crate::machine::{self, Fittings, Parts, Shell, contents};
use crate::memory::Ram;
use crate::order::{Order, Orders};
use crate::pagemap::Pagemap;
use crate::reset;
use crate::restore::{self, Made, Restored};
use crate::template::Template;
use crate::vcpu::{Preempt, Surroundings, Vcpu};
use crate::verify;
use abi::control::{Blame, Reply, Request, Start, status};
use abi::layout::region as layout;
use abi::ring::Memory;
use region::Doorbell;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::os::fd::OwnedFd;
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
    let (shell, fittings, origin) = make(&start, parts)?;
    let clock = Clock::new(start.clock_multiplier, start.clock_offset);
    let Fittings { ram, window, region, region_memfd, status, doorbell, timer, lookout } = fittings;
    status.store_u32(status::FLAVOUR, shell.cpu.flavour as u32);
    let writer = ClockWriter::start(status.clone(), clock, start.generation);
    let preempt = Arc::new(Preempt::here());
    let orders = Arc::new(Orders::default());
    let control = Control {
        socket: socket.try_clone().doing("keep the socket")?,
        timer: timer.duplicate().doing("keep the timer's doorbell")?.into(),
        lookout: Arc::clone(&lookout),
        region: region.clone(),
        window,
        packages_from: machine::packages_from(&start),
        clock,
        preempt: Arc::clone(&preempt),
        orders: Arc::clone(&orders),
        doorbell: doorbell.duplicate().doing("keep the doorbell")?.into(),
        is_capturable: start.is_capturable,
    };
    let (shared, counters) = (region.clone(), status.clone());
    let around = Surroundings { region, status, doorbell, lookout, clock, writer, preempt, orders };
    let mut vcpu = Vcpu::new(shell, around)?;
    vcpu.settle()?;
    accompany(control)?;
    bind(start.core)?;
    match origin {
        Origin::Boot { snapshot, kept } => {
            jail::seal(&Filter::new(&Needs { writes_snapshot: true, pagemap: None })?)?;
            let ram = (ram, kept.as_slice());
            let bytes = boot_and_capture(&start, &mut vcpu, ram, &timer, &snapshot)?;
            control::reply(socket, &Reply::Captured { bytes });
            Ok(())
        }
        Origin::Restore { template, pagemap, filter } => {
            drop(timer);
            counters.store_u64(status::PAGE_FINDER, pagemap.finder() as u64);
            jail::seal(&filter)?;
            let restore_nanos = region::clock::monotonic_nanos().saturating_sub(began);
            control::reply(socket, &Reply::Running { restore_nanos });
            let (number, private) = (shared.load_u64(layout::VM), Vec::new());
            let (region, verified) = (shared, verify::Progress::default());
            let mut restored = Restored {
                template,
                ram,
                pagemap,
                region,
                region_memfd,
                number,
                private,
                verified,
            };
            live(socket, &start, &mut vcpu, &mut restored)
        }
    }
}

/// Runs the VM, puts it back as often as the node asks for it, and stops for good once captured.
fn live(
    socket: &OwnedFd,
    start: &Start,
    vcpu: &mut Vcpu,
    restored: &mut Restored,
) -> Result<(), Gone> {
    loop {
        match vcpu.run()? {
            Order::Reset(order) => {
                let reset::Done { dirty_pages, reset_nanos, verified, verify_nanos } =
                    reset::reset(restored, vcpu, &order)?;
                let generation = order.generation;
                let reply =
                    Reply::Reset { generation, dirty_pages, reset_nanos, verified, verify_nanos };
                control::reply(socket, &reply);
            }
            Order::Capture(memfd) => {
                vcpu.settle()?;
                let bytes = capture::write_idle(vcpu, restored, start, &memfd)?;
                control::reply(socket, &Reply::Captured { bytes });
                // The control thread ends the process.
                loop {
                    std::thread::park();
                }
            }
        }
    }
}

/// What a VM is made from.
enum Origin {
    /// A kernel image; the snapshot's memfd, and the model-specific registers it will keep.
    Boot {
        snapshot: OwnedFd,
        kept: Vec<u32>,
    },
    Restore {
        template: Arc<Template>,
        pagemap: Pagemap,
        filter: Filter,
    },
}

/// The machine, ready to run, in a process that has entered its jail. Every descriptor it does not
/// need is closed by then.
fn make(start: &Start, parts: Parts) -> Result<(Shell, Fittings, Origin), Gone> {
    let Parts { kvm, shared, kernel, snapshot } = parts;
    let Some(kernel) = kernel else {
        let parts = Parts { kvm, shared, kernel, snapshot };
        let Made { shell, fittings, template, pagemap, filter } = restore::make(start, parts)?;
        return Ok((shell, fittings, Origin::Restore { template, pagemap, filter }));
    };
    let shell = Shell::create(kvm)?;
    let kernel = contents(kernel, "map the kernel")?;
    let ram = Ram::blank(start.ram_bytes).doing("get memory for the guest")?;
    let (mut fittings, wiring) = Fittings::new(ram, start, shared)?;
    shell.connect(wiring)?;
    let kept = shell.cpu.kept_msrs(&shell.vcpu);
    boot::load(&shell, &mut fittings.ram, &kernel, start.root_image_bytes)?;
    jail::enter(start.user, Some(start.ram_bytes))?;
    Ok((shell, fittings, Origin::Boot { snapshot, kept }))
}

fn boot_and_capture(
    start: &Start,
    vcpu: &mut Vcpu,
    (ram, kept): (Ram, &[u32]),
    timer: &Doorbell,
    snapshot: &OwnedFd,
) -> Result<u64, Gone> {
    vcpu.run_to_ready()?;
    let state = capture::registers(&vcpu.shell, kept)?;
    let at_ready = Image::copy(&ram)?;
    vcpu.run_to_idle(timer, IDLE_LIMIT_NANOS)?;
    let at_idle = Image::copy(&ram)?;
    capture::write_booted(&vcpu.shell, state, (&at_ready, &at_idle), start, snapshot)
}

/// Starts the control thread beside this one. It may use any core: it has to get a turn while the
/// vCPU spins on its own.
fn accompany(control: Control) -> Result<(), Gone> {
    let (started, is_started) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("control".into())
        .stack_size(CONTROL_STACK_BYTES)
        .spawn(move || {
            let _ = started.send(());
            control.serve()
        })
        .doing("start the control thread")?;
    // What a thread does before it comes here is not for the system-call filter.
    let _ = is_started.recv();
    Ok(())
}

/// Binds this thread to a core: only now, so that whichever is free has made the VM.
fn bind(core: u32) -> Result<(), Gone> {
    if core == u32::MAX {
        return Ok(());
    }
    let core = core as usize;
    if core >= CpuSet::MAX_CPU {
        return Err(Gone::Request("there is no such core"));
    }
    let mut only = CpuSet::new();
    only.set(core);
    sched_setaffinity(None, &only).doing("bind the vCPU to its core")
}
