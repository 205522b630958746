//! The node's own output: events for its operator, emitted with `tracing` wherever they happen. Who
//! embeds a node subscribes to them; `pilotlight serve` writes them to standard error. (What
//! programs log goes to their users: [`crate::log`].)
//!
//! Names and numbers are shown as they are ([`tracing::field::display`]); other text is a string, so that
//! a line of text has it in quotes, with its line breaks escaped.
//!
//! No event is on the path of a warm invoke. What clients can cause at will is told at a [`Pace`], so
//! that none of them fills the operator's disk.

/// Events of one kind that are told in a window; the rest is counted.
const TOLD_MAX: u32 = 10;
const WINDOW_NANOS: u64 = 1_000_000_000;

/// How often one kind of event is told.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    window_nanos: u64,
    told: u32,
    untold: u64,
}

impl Pace {
    /// Whether to tell of one more, and how many were not told since the last that was.
    pub(crate) fn admit(&mut self, now_nanos: u64) -> Option<u64> {
        if now_nanos.saturating_sub(self.window_nanos) >= WINDOW_NANOS {
            (self.window_nanos, self.told) = (now_nanos, 0);
        }
        if self.told == TOLD_MAX {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_later() {
        let mut pace = Pace::default();
        let now = 5 * WINDOW_NANOS;
        let told = (0..100).filter(|_| pace.admit(now).is_some());
        assert_eq!(told.count(), TOLD_MAX as usize);
        assert_eq!(pace.admit(now + WINDOW_NANOS), Some(100 - u64::from(TOLD_MAX)));
        assert_eq!(pace.admit(now + WINDOW_NANOS), Some(0));
    }
}
