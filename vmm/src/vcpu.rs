//! The vCPU: the main thread of this process, in `KVM_RUN` or waiting for the doorbell.
//!
//! ```text
//!          ┌── HLT ──► wait: doorbell or deadline ──┐
//! KVM_RUN ─┼── signal, interrupt window ► interrupt ┼─► KVM_RUN
//!          ├── READY ► capture                      │
//!          └── anything else ► Gone
//! ```
//! Preemption: the control thread sends a signal; its handler sets `immediate_exit`, so that a
//! signal that arrives just before `KVM_RUN` is not lost. The interrupt is injected as soon as
//! the guest can take one, which is only in user mode. Kernel and user are told apart by the
//! sign of RIP: selectors cannot be trusted on PVM.

use crate::clock::{Clock, ClockWriter};
use crate::gone::{Doing, Gone};
use crate::kvm;
use crate::machine::Shell;
use crate::order::{Order, Orders};
use abi::control::status;
use abi::layout::{PORT_PANIC, PORT_READY, VECTOR_PREEMPT, region as layout};
use abi::ring::Memory;
use kvm_ioctls::VcpuExit;
use libc::{c_int, c_void, siginfo_t};
use region::{Doorbell, Region};
use std::io;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

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

    /// The guest asked for a deadline.
    pub(crate) fn arm(&self) {
        // ordering: relaxed; a flag that publishes nothing, and a lost or late one costs the
        // guest one spurious interrupt.
        self.is_armed.store(true, Ordering::Relaxed);
    }

    /// The guest went idle: its deadline is now the wait's.
    fn disarm(&self) {
        // ordering: relaxed; see `arm`.
        self.is_armed.store(false, Ordering::Relaxed);
    }

    /// The deadline passed: interrupts the vCPU, unless it went idle meanwhile.
    pub(crate) fn fire(&self) {
        // ordering: relaxed; see `arm`.
        if self.is_armed.swap(false, Ordering::Relaxed) {
            self.stop();
        }
    }

    /// Makes the vCPU's thread come out of the guest.
    pub(crate) fn stop(&self) {
        let (process, thread) = (self.process, self.thread);
        // SAFETY: a system call without pointers, to a thread of this process.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGRTMIN()) };
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
    pub(crate) region: Region,
    status: Region,
    doorbell: Doorbell,
    clock: Clock,
    writer: ClockWriter,
    preempt: Arc<Preempt>,
    wants_interrupt: bool,
}

/// What the vCPU shares with others.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) region: Region,
    pub(crate) status: Region,
    pub(crate) doorbell: Doorbell,
    pub(crate) clock: Clock,
    pub(crate) writer: ClockWriter,
    pub(crate) preempt: Arc<Preempt>,
}

impl Vcpu {
    /// Takes the vCPU over; from now on signals end `KVM_RUN`.
    pub(crate) fn new(mut shell: Shell, around: Surroundings) -> Result<Self, Gone> {
        let flag = &raw mut shell.vcpu.get_kvm_run().immediate_exit;
        // ordering: release; pairs with the handler's acquire load.
        IMMEDIATE_EXIT.store(flag, Ordering::Release);
        register_signal_handler(SIGRTMIN(), on_signal).doing("register a signal handler")?;
        let Surroundings { region, status, doorbell, clock, writer, preempt } = around;
        let wants_interrupt = false;
        Ok(Self { shell, region, status, doorbell, clock, writer, preempt, wants_interrupt })
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

    /// Runs for good, with `obey` called for each order while the guest stands still; comes back
    /// only when the VM is over.
    pub(crate) fn run(
        &mut self,
        orders: &Orders,
        mut obey: impl FnMut(&mut Self, Order) -> Result<(), Gone>,
    ) -> Gone {
        loop {
            if let Err(gone) = self.stretch(orders, &mut obey) {
                return gone;
            }
        }
    }

    /// From one exit to the next.
    fn stretch(
        &mut self,
        orders: &Orders,
        obey: &mut impl FnMut(&mut Self, Order) -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        let exit = self.enter()?;
        match exit {
            // Whoever leaves an order rings, so that one left behind this look ends the wait.
            Exit::Halt if orders.is_pending() => {}
            Exit::Halt => self.idle()?,
            Exit::Out(port) => return Err(self.out(port)),
            Exit::In(_) | Exit::Window | Exit::Signal => self.other(exit)?,
        }
        match orders.take(exit == Exit::Halt) {
            Some(order) => obey(self, order),
            None => Ok(()),
        }
    }

    /// The VM was put back and is about to run: what this thread knew of it is no longer so.
    pub(crate) fn begin_anew(&mut self, generation: u64, dirty_pages: u32) {
        self.preempt.disarm();
        self.wants_interrupt = false;
        self.shell.vcpu.get_kvm_run().request_interrupt_window = 0;
        self.shell.vcpu.set_kvm_immediate_exit(0);
        self.writer = ClockWriter::start(self.status.clone(), self.clock, generation);
        self.count(status::RESETS);
        let pages = self.status.load_u64(status::PAGES_PUT_BACK);
        self.status.store_u64(status::PAGES_PUT_BACK, pages.wrapping_add(u64::from(dirty_pages)));
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
        self.count(status::EXITS);
        let exit = exit?;
        let rip = self.shell.vcpu.sync_regs_mut().regs.rip;
        match exit {
            Exit::Halt | Exit::Out(_) | Exit::In(_) if rip.cast_signed() >= 0 => {
                let what = if exit == Exit::Halt { "halted the VM" } else { "used a port" };
                Err(Gone::UserExit { what, rip })
            }
            Exit::Halt | Exit::Out(_) | Exit::In(_) | Exit::Window => Ok(exit),
            Exit::Signal => {
                self.count(status::EXITS_SIGNAL);
                Ok(exit)
            }
        }
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
            self.count(status::INTERRUPTS);
        }
        Ok(())
    }

    /// Waits as the guest asked: until the doorbell or its deadline.
    fn idle(&mut self) -> Result<(), Gone> {
        self.count(status::EXITS_HALT);
        self.preempt.disarm();
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
                self.wants_interrupt = true;
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

    fn count(&self, counter: u32) {
        // Only this thread writes counters; the node reads them whenever it likes.
        self.status.store_u64(counter, self.status.load_u64(counter).wrapping_add(1));
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
