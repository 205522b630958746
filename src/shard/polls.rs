//! How long this shard and its guests look for work before they sleep.
//!
//! A shard waits for two things: for guests, while invokes are under way, and else for clients. The
//! first mostly comes soon; the second says nothing about the first. Each has its own
//! [`Polling`], and so has each guest. Guests poll only while those that were at work lately are no
//! more than there are cores for them: a guest that polls on another's core is in its way.

use serde_json::{Value, json};

use super::engine::Engine;
use super::vms::{VmSide, Vms};
use crate::invoke::Nanos;
use crate::link::Link;
use crate::polling::{Polling, Tally};

/// A guest that had work this recently may be polling, or about to.
const RECENT_NANOS: Nanos = 10_000_000;
/// How often they are counted.
const COUNT_NANOS: Nanos = 1_000_000;
/// A turn with nothing to do takes microseconds; one that took this long was not run meanwhile:
/// somebody else wants the core.
const PREEMPTED_NANOS: Nanos = 500_000;

/// Since when there is nothing to do, and what is waited for.
#[derive(Clone, Copy)]
struct Idle {
    since: Nanos,
    awaits_guest: bool,
    looked: Nanos,
}

/// One shard's.
pub(super) struct Polls {
    clients: Polling,
    guests: Polling,
    idle: Option<Idle>,
    /// What all guests' polling came to.
    tally: Tally,
    guest_max: Nanos,
    /// Guests that may poll at the same time.
    guest_cores: usize,
    are_guests_crowded: bool,
    counted: Nanos,
}

impl Polls {
    /// `max` is how long the shard may poll, `guest_max` a guest; `guest_cores` how many cores are
    /// this shard's guests'.
    pub(super) fn new(max: Nanos, guest_max: Nanos, guest_cores: usize) -> Self {
        Self {
            clients: Polling::new(max),
            guests: Polling::new(max),
            idle: None,
            tally: Tally::default(),
            guest_max,
            guest_cores,
            are_guests_crowded: false,
            counted: 0,
        }
    }

    /// The polling of a guest that was just restored.
    pub(super) fn of_guest(&self) -> Polling {
        Polling::new(self.guest_max)
    }

    fn polling(&mut self, awaits_guest: bool) -> &mut Polling {
        if awaits_guest { &mut self.guests } else { &mut self.clients }
    }

    /// A turn that began at `now` had something to do.
    fn worked(&mut self, now: Nanos) {
        if let Some(idle) = self.idle.take() {
            self.polling(idle.awaits_guest).worked_after(now.saturating_sub(idle.since));
        }
    }

    /// A turn that began at `now` had nothing to do; returns whether it is time to sleep.
    fn idled(&mut self, awaits_guest: bool, now: Nanos) -> bool {
        let mut idle = self.idle.unwrap_or(Idle { since: now, awaits_guest, looked: now });
        let polling = self.polling(idle.awaits_guest);
        if now.saturating_sub(idle.looked) > PREEMPTED_NANOS {
            polling.shrink();
        }
        let limit = polling.limit();
        idle.looked = now;
        self.idle = Some(idle);
        now.saturating_sub(idle.since) >= limit
    }

    /// The shard slept until `now`.
    pub(super) fn woke(&mut self, now: Nanos) {
        if let Some(idle) = &mut self.idle {
            idle.looked = now;
        }
    }

    /// An invoke is sent to a guest: lets it poll as long as that was worth it before.
    pub(super) fn sent(&mut self, side: &mut VmSide, link: &Link, now: Nanos) {
        let before = side.polling;
        if side.worked_nanos > 0 {
            side.polling.worked_after(now.saturating_sub(side.worked_nanos));
        }
        side.worked_nanos = now;
        let (tally, known) = (side.polling.tally(), before.tally());
        self.tally.hits += tally.hits - known.hits;
        self.tally.misses += tally.misses - known.misses;
        self.tally.vain_nanos += tally.vain_nanos - known.vain_nanos;
        if side.polling.limit() != before.limit() && !self.are_guests_crowded {
            link.set_poll_nanos(side.polling.limit());
        }
    }

    /// Counts guests that were at work lately, now and then, and lets all of them poll or none.
    pub(super) fn count_guests(&mut self, vms: &mut Vms, now: Nanos) {
        if now.saturating_sub(self.counted) < COUNT_NANOS {
            return;
        }
        self.counted = now;
        let is_recent =
            |side: &VmSide| side.worked_nanos > 0 && now < side.worked_nanos + RECENT_NANOS;
        let recent = vms.iter_mut().filter(|vm| is_recent(&vm.side)).count();
        let are_crowded = recent > self.guest_cores;
        if std::mem::replace(&mut self.are_guests_crowded, are_crowded) != are_crowded {
            for vm in vms.iter_mut() {
                vm.link.set_poll_nanos(if are_crowded { 0 } else { vm.side.polling.limit() });
            }
        }
    }

    /// What polling found and cost, for the status.
    pub(super) fn describe(&self) -> Value {
        let of_shard = |polling: &Polling| {
            let mut described = describe(polling.tally());
            described["limit_nanos"] = json!(polling.limit());
            described
        };
        let mut guests = describe(self.tally);
        guests["are_crowded"] = json!(self.are_guests_crowded);
        json!({
            "for_clients": of_shard(&self.clients),
            "for_guests": of_shard(&self.guests),
            "by_guests": guests,
        })
    }
}

fn describe(tally: Tally) -> Value {
    json!({ "hits": tally.hits, "misses": tally.misses, "vain_nanos": tally.vain_nanos })
}

impl Engine {
    /// A turn that began at `now` had something to do, or not; returns whether it is time to sleep.
    pub(super) fn is_rest_due(&mut self, has_worked: bool, now: Nanos) -> bool {
        if has_worked {
            self.polls.worked(now);
            return false;
        }
        let awaits_guest = !self.running.is_empty() || !self.forwarded.is_empty();
        self.polls.idled(awaits_guest, now) && !self.is_placing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Nanos = 1_000_000;

    /// Turns every microsecond for as long, or until it is time to sleep; then wakes.
    fn idle_for(polls: &mut Polls, start: Nanos, nanos: Nanos, awaits_guest: bool) -> Nanos {
        let end = start + nanos;
        let slept = (start..end).step_by(1_000).find(|now| polls.idled(awaits_guest, *now));
        polls.woke(end);
        polls.worked(end);
        slept.map_or(nanos, |slept| slept - start)
    }

    #[test]
    fn what_clients_do_does_not_change_how_guests_are_waited_for() {
        let mut polls = Polls::new(MAX, 0, 1);
        let mut now = 0;
        for _ in 0..10 {
            assert_eq!(idle_for(&mut polls, now, 20_000, true), 20_000, "found while polling");
            now += 20_000;
            idle_for(&mut polls, now, 50 * MAX, false);
            now += 50 * MAX;
        }
        assert_eq!(idle_for(&mut polls, now, 50 * MAX, false), 0, "a rare client is slept for");
        assert_eq!(polls.guests.limit(), MAX);
    }

    #[test]
    fn who_is_kept_from_running_polls_less() {
        let mut polls = Polls::new(MAX, 0, 1);
        polls.idled(false, 0);
        polls.idled(false, PREEMPTED_NANOS + 1);
        assert_eq!(polls.clients.limit(), MAX / 2);
    }

    #[test]
    fn a_shard_on_a_guests_core_never_polls() {
        let mut polls = Polls::new(0, 0, 1);
        assert!(polls.idled(true, 5) && polls.idled(false, 6));
    }
}
