//! What a process of this machine has used, as `/proc` says.

use std::fs;
use std::io;
use std::time::Duration;

/// What `/proc` counts processor time in, per second: fixed for programs on x86 (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// A process by its number. It may end at any time; asking about it is an error then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// Processor time of its threads, and of those of its children that have ended and were waited
    /// for. Resolution: a tick, 10 ms.
    ///
    /// # Errors
    /// There is no such process.
    pub fn cpu_time(self) -> io::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        // proc_pid_stat(5): the command's name, in parentheses, may hold anything; utime, stime,
        // cutime and cstime are fields 14 to 17, the state behind the name is field 3.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
        let ticks = fields.into_iter().flatten().skip(11).take(4);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / TICKS_PER_SECOND)))
    }

    /// Memory that is its alone: anonymous pages, those in swap too. Pages of files and of shared
    /// memory are not counted.
    ///
    /// # Errors
    /// There is no such process.
    pub fn private_bytes(self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        Ok(["RssAnon:", "VmSwap:"].into_iter().map(|key| kibibytes(&status, key) * 1024).sum())
    }
}

/// Memory of this machine that programs could still get without swapping, bytes.
///
/// # Errors
/// The system's own.
pub fn available_bytes() -> io::Result<u64> {
    Ok(kibibytes(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:") * 1024)
}

fn kibibytes(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let this = Process(std::process::id());
        let before = this.private_bytes().unwrap();
        let block = vec![1_u8; 32 << 20];
        let after = this.private_bytes().unwrap();
        assert!(after >= before + (block.len() as u64) / 2, "{before} {after}");
        let start = this.cpu_time().unwrap();
        let mut sum = 0_u64;
        while this.cpu_time().unwrap() < start + Duration::from_millis(20) {
            sum += block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        assert!(sum > 0 && available_bytes().unwrap() > 0);
    }

    #[test]
    fn no_process_is_an_error() {
        assert!(Process(u32::MAX).cpu_time().is_err());
        assert!(Process(u32::MAX).private_bytes().is_err());
    }
}
