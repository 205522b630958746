//! Times as programs pass them, and which clock is which. Durations and instants are nanoseconds
//! (u64) inside the kernel; a time too far away to count is `u64::MAX`, never.

use crate::errno::Errno;

/// Nanoseconds of a second.
pub const SECOND_NANOS: u64 = 1_000_000_000;
/// No instant: what is to happen then never happens.
pub const NEVER: u64 = u64::MAX;

/// Clocks programs can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Time since the Unix epoch.
    Realtime,
    /// Time that never goes back.
    Monotonic,
    /// Time the process has run.
    Process,
    /// Time the thread has run.
    Thread,
}

impl Clock {
    /// The clock with this number (`CLOCK_*`).
    ///
    /// # Errors
    /// [`Errno::INVAL`] when there is none.
    pub fn from_number(number: u64) -> Result<Self, Errno> {
        match number {
            // REALTIME, REALTIME_COARSE, REALTIME_ALARM, TAI.
            0 | 5 | 8 | 11 => Ok(Self::Realtime),
            // MONOTONIC, _RAW, _COARSE, BOOTTIME, BOOTTIME_ALARM.
            1 | 4 | 6 | 7 | 9 => Ok(Self::Monotonic),
            // PROCESS_CPUTIME_ID, THREAD_CPUTIME_ID.
            2 => Ok(Self::Process),
            3 => Ok(Self::Thread),
            _ => Err(Errno::INVAL),
        }
    }
}

/// A `struct timespec` with this many nanoseconds.
#[must_use]
pub fn encode_timespec(nanos: u64) -> [u8; 16] {
    encode(nanos / SECOND_NANOS, nanos % SECOND_NANOS)
}

/// A `struct timeval` with this many nanoseconds.
#[must_use]
pub fn encode_timeval(nanos: u64) -> [u8; 16] {
    encode(nanos / SECOND_NANOS, nanos % SECOND_NANOS / 1000)
}

/// The nanoseconds of a `struct timespec`.
///
/// # Errors
/// [`Errno::INVAL`] when it is negative or its nanoseconds are none.
pub fn decode_timespec(bytes: &[u8; 16]) -> Result<u64, Errno> {
    let (seconds, nanos) = decode(bytes);
    if seconds < 0 || !(0..1_000_000_000).contains(&nanos) {
        return Err(Errno::INVAL);
    }
    Ok(join(seconds, nanos))
}

/// The nanoseconds of a `struct timeval`.
///
/// # Errors
/// [`Errno::INVAL`] when it is negative or its microseconds are none.
pub fn decode_timeval(bytes: &[u8; 16]) -> Result<u64, Errno> {
    let (seconds, micros) = decode(bytes);
    if seconds < 0 || !(0..1_000_000).contains(&micros) {
        return Err(Errno::INVAL);
    }
    Ok(join(seconds, micros * 1000))
}

/// The nanoseconds part of a `struct timespec`, unchecked: `utimensat` has special ones.
#[must_use]
pub fn nanos_part(bytes: &[u8; 16]) -> i64 {
    decode(bytes).1
}

/// Nanoseconds from now until `at`; never stays never.
#[must_use]
pub fn time_left(at: u64) -> u64 {
    if at == NEVER { NEVER } else { at.saturating_sub(machine::clock::monotonic_nanos()) }
}

/// The instant `nanos` from `now`.
#[must_use]
pub fn after(now: u64, nanos: u64) -> u64 {
    now.saturating_add(nanos)
}

fn encode(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; 16]) -> (i64, i64) {
    let (mut first, mut second) = ([0; 8], [0; 8]);
    first.copy_from_slice(&bytes[..8]);
    second.copy_from_slice(&bytes[8..]);
    (i64::from_le_bytes(first), i64::from_le_bytes(second))
}

fn join(seconds: i64, nanos: i64) -> u64 {
    seconds.unsigned_abs().saturating_mul(SECOND_NANOS).saturating_add(nanos.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_their_encoding() {
        for nanos in [0, 1, 999_999_999, SECOND_NANOS, 1_700_000_000 * SECOND_NANOS + 5] {
            assert_eq!(decode_timespec(&encode_timespec(nanos)), Ok(nanos));
            let micros = nanos / 1000 * 1000;
            assert_eq!(decode_timeval(&encode_timeval(nanos)), Ok(micros));
        }
    }

    #[test]
    fn bad_times_are_refused_and_far_ones_are_never() {
        assert_eq!(decode_timespec(&encode(1, 1_000_000_000)), Err(Errno::INVAL));
        assert_eq!(decode_timespec(&encode(u64::MAX, 0)), Err(Errno::INVAL));
        assert_eq!(decode_timeval(&encode(0, 1_000_000)), Err(Errno::INVAL));
        assert_eq!(decode_timespec(&encode(1 << 60, 0)), Ok(NEVER));
        assert_eq!(after(5, NEVER), NEVER);
    }
}
