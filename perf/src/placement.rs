//! Which thread runs on which core: half of what a latency depends on.

use std::io;
use std::num::NonZeroU64;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this thread may use.
///
/// # Errors
/// The system's own.
pub fn cores() -> io::Result<Vec<u32>> {
    let set = sched_getaffinity(None)?;
    let all = 0..u32::try_from(CpuSet::MAX_CPU).unwrap_or(0);
    Ok(all.filter(|core| set.is_set(*core as usize)).collect())
}

/// Keeps this thread, and what it starts from now on, on one core.
///
/// # Errors
/// The system's own: there is no such core, or this process may not use it.
pub fn pin(core: u32) -> io::Result<()> {
    spread(&[core])
}

/// Lets this thread, and what it starts from now on, use these cores.
///
/// # Errors
/// As for [`pin`].
pub fn spread(cores: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        let core = *core as usize;
        if core >= CpuSet::MAX_CPU {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no machine has that core"));
        }
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Has timed waits of this thread end when they are to, not up to 50 us later as is usual. What it
/// starts inherits that.
///
/// # Errors
/// The system's own.
pub fn wake_on_time() -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(Some(NonZeroU64::MIN))?)
}

/// Takes [`wake_on_time`] back.
///
/// # Errors
/// The system's own.
pub fn wake_as_usual() -> io::Result<()> {
    Ok(rustix::thread::set_current_timer_slack(None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_core() {
        std::thread::spawn(|| {
            let all = cores().unwrap();
            let last = *all.last().unwrap();
            pin(last).unwrap();
            assert_eq!(cores().unwrap(), [last]);
            assert!(pin(u32::MAX).is_err());
            spread(&all).unwrap();
            assert_eq!(cores().unwrap(), all);
        })
        .join()
        .unwrap();
    }
}
