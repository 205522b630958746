//! Which thread runs on which core: half of what a latency depends on.

use std::io;

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
    let core = core as usize;
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no machine has that core"));
    }
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_core() {
        std::thread::spawn(|| {
            let last = *cores().unwrap().last().unwrap();
            pin(last).unwrap();
            assert_eq!(cores().unwrap(), [last]);
            assert!(pin(u32::MAX).is_err());
        })
        .join()
        .unwrap();
    }
}
