//! The vCPU: the main thread of this process, in `KVM_RUN` or waiting for the doorbell.
//!
//! ```text
//!          ┌── HLT ──► wait: doorbell or deadline ──┐
//! KVM_RUN ─┼── signal, interrupt window ► interrupt ┼─► KVM_RUN
//!          ├── READY ► capture                      │
//!          └── anything else ► Gone
//! ```
//! Behind every halt, wait, signal and window it looks whether the node has ordered something.
//!
//! Preemption: the control thread sends a signal; its handler sets `immediate_exit`, so that a
//! signal that arrives just before `KVM_RUN` is not lost. The interrupt is injected as soon as
//! the guest can take one, which is only in user mode. Kernel and user are told apart by the
//! sign of RIP: selectors cannot be trusted on PVM. A guest there that enters programs without
//! KVM's knowledge names an entry instead, at which it is made to go on; while its kernel runs, the
//! control thread tries again soon.

use crate::clock::{Clock, ClockWriter};
use crate::gone::{Doing, Gone};
use crate::kvm;
use crate::lookout::{FIRST_LOOK_NANOS, Lookout};
use crate::machine::Shell;
use crate::order::{Order, Orders};
use abi::control::status;
use abi::layout::{Flavour, PORT_PANIC, PORT_READY, VECTOR_PREEMPT, region as layout};
use abi::ring::Memory;
use kvm_bindings::{kvm_regs, kvm_vcpu_events};
use kvm_ioctls::{SyncReg, VcpuExit};
use libc::{c_int, c_void, siginfo_t};
use region::{Doorbell, Region};
use std::io;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// Flags of a kernel that was entered: the bit that is always set.
const RFLAGS_KERNEL: u64 = 2;

/// `immediate_exit` of this process' vCPU, for the signal handler.
static IMMEDIATE_EXIT: AtomicPtr<u8> = AtomicPtr::new(null_mut());

extern "C" fn on_signal(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    // ordering: acquire; pairs with the release store in `Vcpu::new`.
    let flag = IMMEDIATE_EXIT.load(Ordering::Acquire);
    if !flag.is_null() {
        // SAFETY: the byte lies in the vCPU's shared page, which stays mapped while the process
        // lives; the kernel reads it as it does any memory another thread may write.
        let flag = unsafe { AtomicU8::from_ptr(flag) };
        // ordering: relaxed; read by the kernel in this same thread.
        flag.store(1, Ordering::Relaxed);
    }
}

/// What the control thread needs to interrupt the vCPU thread.
#[derive(Debug)]
pub(crate) struct Preempt {
    is_armed: AtomicBool,
    process: c_int,
    thread: c_int,
}

impl Preempt {
    /// To be made on the vCPU's thread.
    pub(crate) fn here() -> Self {
        let number = |pid: rustix::process::Pid| pid.as_raw_nonzero().get();
        Self {
            is_armed: AtomicBool::new(false),
            process: number(rustix::process::getpid()),
            thread: number(rustix::thread::gettid()),
        }
    }

    /// The guest asked for a deadline, or goes on after a halt.
    pub(crate) fn arm(&self) {
        // ordering: relaxed; a flag that publishes nothing, and a lost or late one costs the
        // guest one spurious interrupt.
        self.is_armed.store(true, Ordering::Relaxed);
    }

    /// The guest went idle: its deadline is now the wait's. Or it was interrupted.
    fn disarm(&self) {
        // ordering: relaxed; see `arm`.
        self.is_armed.store(false, Ordering::Relaxed);
    }

    /// Makes the vCPU's thread leave `KVM_RUN`, now or the next time it enters.
    pub(crate) fn kick(&self) {
        let (process, thread) = (self.process, self.thread);
        // SAFETY: a system call without pointers, to a thread of this process.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGRTMIN()) };
    }

    /// The deadline passed: interrupts the vCPU, unless it went idle meanwhile or was interrupted.
    /// Returns whether it tried.
    pub(crate) fn fire(&self) -> bool {
        // ordering: relaxed; see `arm`.
        let is_armed = self.is_armed.load(Ordering::Relaxed);
        if is_armed {
            self.kick();
        }
        is_armed
    }
}

/// Why `KVM_RUN` came back, as far as the caller has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Halt,
    Out(u16),
    In(u16),
    Window,
    Signal,
}

/// The vCPU and all it needs to run.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) shell: Shell,
    region: Region,
    status: Region,
    doorbell: Doorbell,
    lookout: Arc<Lookout>,
    clock: Clock,
    writer: ClockWriter,
    preempt: Arc<Preempt>,
    orders: Arc<Orders>,
    wants_interrupt: bool,
}

/// What the vCPU shares with others.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) region: Region,
    pub(crate) status: Region,
    pub(crate) doorbell: Doorbell,
    pub(crate) lookout: Arc<Lookout>,
    pub(crate) clock: Clock,
    pub(crate) writer: ClockWriter,
    pub(crate) preempt: Arc<Preempt>,
    pub(crate) orders: Arc<Orders>,
}

impl Vcpu {
    /// Takes the vCPU over; from now on signals end `KVM_RUN`.
    pub(crate) fn new(mut shell: Shell, around: Surroundings) -> Result<Self, Gone> {
        let flag = &raw mut shell.vcpu.get_kvm_run().immediate_exit;
        // ordering: release; pairs with the handler's acquire load.
        IMMEDIATE_EXIT.store(flag, Ordering::Release);
        register_signal_handler(SIGRTMIN(), on_signal).doing("register a signal handler")?;
        let Surroundings { region, status, doorbell, lookout, clock, writer, preempt, orders } =
            around;
        Ok(Self {
            shell,
            region,
            status,
            doorbell,
            lookout,
            clock,
            writer,
            preempt,
            orders,
            wants_interrupt: false,
        })
    }

    /// Enters KVM without running a guest instruction. That completes the port write the guest
    /// stopped in; and the first time in a VM's life KVM starts a thread of its own in this
    /// process (since Linux 6.14), which the jail would forbid later.
    pub(crate) fn settle(&mut self) -> Result<(), Gone> {
        self.shell.vcpu.set_kvm_immediate_exit(1);
        let exit = classify(self.shell.vcpu.run());
        self.shell.vcpu.set_kvm_immediate_exit(0);
        match exit? {
            Exit::Signal => Ok(()),
            Exit::Halt | Exit::Out(_) | Exit::In(_) | Exit::Window => {
                Err(Gone::Dead("went on where it had to stop"))
            }
        }
    }

    /// Runs until the node orders something; the vCPU then stands still with nothing left to be
    /// completed. An error is the end of the VM.
    pub(crate) fn run(&mut self) -> Result<Order, Gone> {
        loop {
            let exit = self.enter()?;
            if let Exit::Out(port) = exit {
                return Err(self.out(port));
            }
            let is_idle = exit == Exit::Halt;
            if let Some(order) = self.orders.take(is_idle) {
                return self.stand_still(order);
            }
            if !is_idle {
                self.other(exit)?;
                continue;
            }
            self.idle()?;
            if let Some(order) = self.orders.take(is_idle) {
                return self.stand_still(order);
            }
            self.go_on()?;
        }
    }

    /// The guest goes on after a halt: what it would ask the control thread for is seen to.
    fn go_on(&mut self) -> Result<(), Gone> {
        self.preempt.arm();
        self.lookout.set().doing("set a timer")?;
        let at = self.clock.now().wrapping_add(FIRST_LOOK_NANOS.unsigned_abs());
        self.region.store_u64(layout::LOOK_AT, at);
        Ok(())
    }

    /// Takes back what stopped the vCPU for an order, and what could disturb that.
    fn stand_still(&mut self, order: Order) -> Result<Order, Gone> {
        self.preempt.disarm();
        self.lookout.clear().doing("clear a timer")?;
        self.doorbell.drain().doing("read the doorbell")?;
        self.shell.vcpu.set_kvm_immediate_exit(0);
        Ok(order)
    }

    /// Has the next entry set these registers, instead of a call for each.
    pub(crate) fn set_on_entry(&mut self, regs: &kvm_regs, events: &kvm_vcpu_events) {
        let sync = self.shell.vcpu.sync_regs_mut();
        (sync.regs, sync.events) = (*regs, *events);
        self.shell.vcpu.set_sync_dirty_reg(SyncReg::Register);
        self.shell.vcpu.set_sync_dirty_reg(SyncReg::VcpuEvents);
    }

    /// Forgets what a former life of the VM has asked for.
    pub(crate) fn restart(&mut self, generation: u64) {
        self.preempt.disarm();
        self.wants_interrupt = false;
        let run = self.shell.vcpu.get_kvm_run();
        (run.request_interrupt_window, run.immediate_exit) = (0, 0);
        self.writer.restart(generation);
    }

    /// Runs a booting guest until it is ready, and completes the instruction that said so.
    pub(crate) fn run_to_ready(&mut self) -> Result<(), Gone> {
        loop {
            match self.enter()? {
                Exit::Out(PORT_READY) => break,
                Exit::Out(port) => return Err(self.out(port)),
                Exit::Halt => self.idle()?,
                exit @ (Exit::In(_) | Exit::Window | Exit::Signal) => self.other(exit)?,
            }
        }
        self.settle()
    }

    /// Runs until the guest halts or `limit_nanos` are over; `timer` is the guest's way to have
    /// its deadline looked at, used here on its behalf.
    pub(crate) fn run_to_idle(&mut self, timer: &Doorbell, limit_nanos: u64) -> Result<(), Gone> {
        self.region.store_u64(layout::DEADLINE, self.clock.now().wrapping_add(limit_nanos));
        timer.ring().doing("set a timer")?;
        match self.enter()? {
            Exit::Halt | Exit::Signal | Exit::Window => Ok(()),
            Exit::Out(port) => Err(self.out(port)),
            Exit::In(port) => Err(Gone::UnknownPort(port)),
        }
    }

    fn enter(&mut self) -> Result<Exit, Gone> {
        self.inject()?;
        let exit = classify(self.shell.vcpu.run());
        self.count(status::EXITS, 1);
        let exit = exit?;
        let rip = self.shell.vcpu.sync_regs_mut().regs.rip;
        match exit {
            Exit::Halt | Exit::Out(_) | Exit::In(_) if rip.cast_signed() >= 0 => {
                let what = if exit == Exit::Halt { "halted the VM" } else { "used a port" };
                Err(Gone::UserExit { what, rip })
            }
            Exit::Halt | Exit::Out(_) | Exit::In(_) | Exit::Window => Ok(exit),
            Exit::Signal => {
                self.count(status::EXITS_SIGNAL, 1);
                Ok(exit)
            }
        }
    }

    /// Takes the CPU from the program that runs, if one does.
    fn preempt(&mut self) {
        let entry = self.region.load_u64(layout::PREEMPT_ENTRY);
        let is_of_kernel = entry.cast_signed() < 0;
        if self.shell.cpu.flavour == Flavour::Stock || !is_of_kernel {
            self.preempt.disarm();
            self.wants_interrupt = true;
            return;
        }
        let sync = self.shell.vcpu.sync_regs_mut();
        let events = &sync.events;
        // An event on its way is the program's: it would meet the kernel's first instruction.
        let has_event = events.exception.injected | events.exception.pending | events.nmi.injected;
        if sync.regs.rip.cast_signed() < 0 || has_event != 0 {
            // Still armed: the control thread comes again.
            return;
        }
        self.region.store_u64(layout::PREEMPTED_RIP, sync.regs.rip);
        self.region.store_u64(layout::PREEMPTED_RFLAGS, sync.regs.rflags);
        (sync.regs.rip, sync.regs.rflags) = (entry, RFLAGS_KERNEL);
        self.shell.vcpu.set_sync_dirty_reg(SyncReg::Register);
        self.preempt.disarm();
        self.count(status::INTERRUPTS, 1);
    }

    /// Injects the interrupt the guest is due, or asks to be told when it can take one.
    fn inject(&mut self) -> Result<(), Gone> {
        if !self.wants_interrupt {
            return Ok(());
        }
        let run = self.shell.vcpu.get_kvm_run();
        let is_possible = run.ready_for_interrupt_injection != 0 && run.if_flag != 0;
        run.request_interrupt_window = u8::from(!is_possible);
        if is_possible {
            kvm::interrupt(&self.shell.vcpu, VECTOR_PREEMPT).doing("inject an interrupt")?;
            self.wants_interrupt = false;
            self.count(status::INTERRUPTS, 1);
        }
        Ok(())
    }

    /// Waits as the guest asked: until the doorbell or its deadline.
    fn idle(&mut self) -> Result<(), Gone> {
        self.count(status::EXITS_HALT, 1);
        self.preempt.disarm();
        self.lookout.clear().doing("clear a timer")?;
        self.wants_interrupt = false;
        self.shell.vcpu.get_kvm_run().request_interrupt_window = 0;
        let limit = self.clock.until(self.region.load_u64(layout::DEADLINE));
        self.doorbell.wait(limit).doing("wait for the doorbell")?;
        // A signal that came meanwhile woke the guest as well as any interrupt would.
        self.shell.vcpu.set_kvm_immediate_exit(0);
        self.writer.refresh();
        Ok(())
    }

    fn other(&mut self, exit: Exit) -> Result<(), Gone> {
        match exit {
            Exit::Signal => {
                self.shell.vcpu.set_kvm_immediate_exit(0);
                self.preempt();
                Ok(())
            }
            Exit::Window | Exit::Halt => Ok(()),
            Exit::Out(port) | Exit::In(port) => Err(Gone::UnknownPort(port)),
        }
    }

    fn out(&self, port: u16) -> Gone {
        if port == PORT_PANIC {
            Gone::Panicked(self.panic_message())
        } else {
            Gone::UnknownPort(port)
        }
    }

    fn panic_message(&self) -> String {
        let bytes = self.region.load_u32(layout::PANIC_BYTES).min(layout::PANIC_BYTES_MAX);
        let mut message = vec![0; bytes as usize];
        self.region.read(layout::PANIC, &mut message);
        String::from_utf8_lossy(&message).into_owned()
    }

    /// Adds to a counter. Only this thread writes them; the node reads them whenever it likes.
    pub(crate) fn count(&self, counter: u32, more: u64) {
        self.status.store_u64(counter, self.status.load_u64(counter).wrapping_add(more));
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // The shared page goes with the vCPU; a signal may still come, on this thread.
        // ordering: relaxed; read by the handler in this same thread.
        IMMEDIATE_EXIT.store(null_mut(), Ordering::Relaxed);
    }
}

fn classify(exit: Result<VcpuExit<'_>, vmm_sys_util::errno::Error>) -> Result<Exit, Gone> {
    match exit {
        Ok(VcpuExit::Hlt) => Ok(Exit::Halt),
        Ok(VcpuExit::IoOut(port, _)) => Ok(Exit::Out(port)),
        Ok(VcpuExit::IoIn(port, _)) => Ok(Exit::In(port)),
        Ok(VcpuExit::IrqWindowOpen) => Ok(Exit::Window),
        Ok(VcpuExit::Intr) => Ok(Exit::Signal),
        Ok(VcpuExit::MmioRead(gpa, _) | VcpuExit::MmioWrite(gpa, _)) => {
            Err(Gone::NoMemory { gpa: Some(gpa) })
        }
        Ok(VcpuExit::MemoryFault { gpa, .. }) => Err(Gone::NoMemory { gpa: Some(gpa) }),
        Ok(VcpuExit::Shutdown) => Err(Gone::Dead("ran into a triple fault")),
        Ok(VcpuExit::InternalError) => Err(Gone::Dead("executed what KVM cannot emulate")),
        Ok(VcpuExit::FailEntry(..)) => {
            Err(Gone::Host { doing: "enter the guest", error: io::ErrorKind::Other.into() })
        }
        Ok(_) => Err(Gone::Dead("left in a way no guest of ours does")),
        Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
            Ok(Exit::Signal)
        }
        Err(error) if error.errno() == libc::EFAULT => Err(Gone::NoMemory { gpa: None }),
        Err(error) => Err(Gone::Host { doing: "run the guest", error: error.into() }),
    }
}
