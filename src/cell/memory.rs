//! What a VMM process costs: memory that is its own.

use std::io;

/// Bytes of memory only this process has: pages of its VM's RAM that are no longer its snapshot's,
/// its stacks and heap. What it shares is not in it: the snapshot and images with other VMMs, the
/// rings with the node.
///
/// Takes tens of microseconds and may wait for the process: not for a shard.
///
/// # Errors
/// The process is gone, or hidden.
pub fn private_bytes(pid: u32) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    anonymous_bytes(&status).ok_or(io::ErrorKind::InvalidData.into())
}

/// `RssAnon` and `VmSwap` of proc_pid_status(5). `smaps_rollup` counts the same, and may only be
/// read by who may trace the process, which nobody may.
fn anonymous_bytes(status: &str) -> Option<u64> {
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    kib("RssAnon:")?.checked_add(kib("VmSwap:").unwrap_or(0))?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_from_the_status() {
        let status = "VmRSS:\t  900 kB\nRssAnon:\t     564 kB\nRssFile:\t 4 kB\nVmSwap:\t 8 kB\n";
        assert_eq!(anonymous_bytes(status), Some(572 << 10));
        assert_eq!(anonymous_bytes("VmRSS: 900 kB\n"), None);
        let before = private_bytes(std::process::id()).unwrap();
        let held = std::hint::black_box(vec![1_u8; 8 << 20]);
        let more = private_bytes(std::process::id()).unwrap() - before;
        assert!(more > 7 << 20, "{more} bytes more for {}", held.len());
        assert!(private_bytes(u32::MAX).is_err());
    }
}
