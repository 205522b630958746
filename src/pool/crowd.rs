//! The busy containers of one function in the VMs of one key, when none is idle: until when an
//! invoke waits for one of them before another one is made.
//!
//! A VM has one core. While its guest computes, a container more answers nothing sooner, and making
//! one takes the core for as long as hundreds of invokes; so the invoke waits. When the guest rests
//! although programs are busy, they wait for others, and a container more costs nothing: the shard
//! looks ([`super::Effect::Look`]). Because what computes may be another function, or other cores
//! free, patience has an end.

use crate::invoke::Nanos;

use super::interior::Container;

/// Patience is not doubled more often.
const DOUBLINGS_MAX: u32 = 10;

/// Busy containers of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crowd {
    busy: u32,
    /// When the last of them was made.
    last_made_nanos: Option<Nanos>,
}

impl Crowd {
    /// One of its containers.
    pub(super) fn see(&mut self, container: &Container) {
        self.busy += 1;
        self.last_made_nanos = self.last_made_nanos.max(container.made_nanos);
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.busy == 0
    }

    /// When the patience of an invoke ends that came at `since`. The more there are already, the
    /// longer it lasts: twice as long for each, counted from when the last was made. What ever more
    /// of them do not bear is more than the core can do.
    pub(super) fn patience_end(&self, since: Nanos, patience: Nanos) -> Nanos {
        let longer = patience.saturating_mul(1 << self.busy.saturating_sub(1).min(DOUBLINGS_MAX));
        let since_last = self.last_made_nanos.map_or(0, |last| last.saturating_add(longer));
        since.saturating_add(patience).max(since_last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_begins_with_the_invoke_or_with_the_last_container() {
        let old = Crowd { busy: 1, last_made_nanos: None };
        assert_eq!(old.patience_end(70, 50), 120);
        let new = Crowd { busy: 1, last_made_nanos: Some(90) };
        assert_eq!(new.patience_end(70, 50), 140);
        assert_eq!(new.patience_end(95, 50), 145);
        let more = Crowd { busy: 3, last_made_nanos: Some(90) };
        assert_eq!(more.patience_end(95, 50), 290);
        let many = Crowd { busy: 64, last_made_nanos: Some(90) };
        assert_eq!(many.patience_end(95, 50), 90 + 50 * 1024);
    }
}
