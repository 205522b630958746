//! Reset in place: a VM that has run becomes what its snapshot says, without being made anew.
//!
//! ```text
//! stopped ─► every page that is private and differs is copied back ─► special registers
//!         ─► region emptied, seed and generation left in it ─► clock page ─► (verify) ─► runs
//! ```
//! No page is ever protected to find out who writes it: a page that is private stays private and
//! present, and is compared from then on. That costs 0.1 us a page, a first write after
//! protection 3 us. A VM that has collected very many private pages is laid out anew instead, so
//! that an idle one is small again.
//!
//! The vCPU stopped behind a halt or by a signal, so no port access is left to be completed.

use crate::gone::{Doing, Gone};
use crate::kvm;
use crate::memory::{ZEROS, filled};
use crate::order;
use crate::restore::{Restored, set_special_registers};
use crate::template::Template;
use crate::vcpu::Vcpu;
use crate::verify;
use abi::control::{PageFinder, Verified, status};
use abi::layout::{Flavour, PAGE_BYTES, region as layout};
use abi::ring::Memory;
use region::clock::monotonic_nanos;
use rustix::io::Errno;
use std::io;

/// Private pages beyond those of a fresh VM, above which RAM is laid out anew: comparing so many
/// takes 400 us, about what mapping them again takes, and 16 MiB is a lot to hold for nothing.
const SURPLUS_PAGES_MAX: u64 = 4096;

/// Longest a guest is left to poll after a reset; nodes ask for far less.
const POLL_NANOS_MAX: u64 = 1_000_000_000;

/// What a reset took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Pages of RAM that were put back.
    pub(crate) dirty_pages: u32,
    /// From the node's request to a VM that may run.
    pub(crate) reset_nanos: u64,
    /// How much of it was then compared with the snapshot.
    pub(crate) verified: Verified,
    /// And how long that took.
    pub(crate) verify_nanos: u64,
}

/// Puts the stopped VM back, so that it may run.
pub(crate) fn reset(
    restored: &mut Restored,
    vcpu: &mut Vcpu,
    order: &order::Reset,
) -> Result<Done, Gone> {
    let stopped_nanos = monotonic_nanos();
    let dirty_pages = put_back(restored).doing("put the guest's memory back")?;
    let pages_nanos = monotonic_nanos();
    set_registers(&restored.template, vcpu)?;
    let registers_nanos = monotonic_nanos();
    empty_region(restored, order).doing("empty the region")?;
    vcpu.restart(order.generation);
    let reset_nanos = monotonic_nanos();
    let verified = match order.verify_nanos {
        0 => Verified::Nothing,
        limit => verify::verify(restored, vcpu, (order.generation, limit))?,
    };
    let verify_nanos = monotonic_nanos() - reset_nanos;
    vcpu.count(status::RESETS, 1);
    vcpu.count(status::PAGES_PUT_BACK, u64::from(dirty_pages));
    vcpu.count(status::RESET_STOP_NANOS, stopped_nanos.saturating_sub(order.asked_nanos));
    vcpu.count(status::RESET_PAGES_NANOS, pages_nanos - stopped_nanos);
    vcpu.count(status::RESET_REGISTERS_NANOS, registers_nanos - pages_nanos);
    let reset_nanos = reset_nanos.saturating_sub(order.asked_nanos);
    Ok(Done { dirty_pages, reset_nanos, verified, verify_nanos })
}

/// Makes RAM what the snapshot says; returns how many pages were not.
fn put_back(restored: &mut Restored) -> io::Result<u32> {
    let Restored { template, ram, pagemap, private, .. } = restored;
    pagemap.private(ram, private)?;
    let count: u64 = private.iter().map(|run| u64::from(run.pages)).sum();
    let surplus = count.saturating_sub(template.warm_pages());
    if surplus > SURPLUS_PAGES_MAX && pagemap.finder() != PageFinder::Everything {
        template.lay_out(ram)?;
        pagemap.private(ram, private)?;
        return Ok(u32::try_from(surplus).unwrap_or(u32::MAX));
    }
    let mut put_back = 0;
    for number in private.iter().flat_map(|run| run.numbers()) {
        let page = template.page(number);
        if ram.holds(number, page)? {
            continue;
        }
        put_back += 1;
        if cfg!(feature = "planted-reset-bug") && *page == ZEROS {
            continue;
        }
        ram.write(u64::from(number) * PAGE_BYTES, page)?;
    }
    Ok(put_back)
}

/// The registers as the snapshot has them. General ones and events travel with the next
/// `KVM_RUN`; every other kind is set, because nothing tells cheaper that the guest left it
/// alone: on PVM reading one kind costs what setting it does, 5 us.
fn set_registers(template: &Template, vcpu: &mut Vcpu) -> Result<(), Gone> {
    set_special_registers(&vcpu.shell, template)?;
    if vcpu.shell.cpu.flavour == Flavour::Stock {
        // A guest kernel may have set its time-stamp counter.
        kvm::clear_tsc_offset(&vcpu.shell.vcpu).doing("make the guest's TSC the host's")?;
    }
    let state = &template.state;
    vcpu.set_on_entry(&state.regs, &state.events);
    Ok(())
}

/// Zeros wherever anything was ever written, then what a guest finds when it wakes.
fn empty_region(restored: &Restored, order: &order::Reset) -> io::Result<()> {
    let region = &restored.region;
    // The node wrote it once; the guest may have since.
    let poll_nanos = region.load_u64(layout::POLL_NANOS).min(POLL_NANOS_MAX);
    for (start, end) in filled(&restored.region_memfd)? {
        for at in (start..end).step_by(ZEROS.len()) {
            region.write(u32::try_from(at).map_err(|_| Errno::OVERFLOW)?, &ZEROS);
        }
    }
    region.store_u64(layout::VM, restored.number);
    region.store_u64(layout::IS_RESET, 1);
    region.store_u64(layout::POLL_NANOS, poll_nanos);
    region.write(layout::SEED, &order.seed);
    region.store_u64(layout::GENERATION, order.generation);
    region.fence();
    Ok(())
}
