//! Wakes one task of the same executor: log delivery and egress relays tell the shard, and the
//! shard tells them, that there is something to do.
//!
//! A raise that nobody waits for is kept, further ones fall together with it: what is to be done
//! lies in the state both sides look at, never in the signal.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long [`step_aside`] takes at least: not over before it began.
const PAUSE: Duration = Duration::from_micros(1);

/// Lets every other task of this executor run until none is ready, and events be taken in. For
/// loops that may always have something to do: a task that only yields keeps the runtime from
/// looking at events and timers, and so everybody else from theirs.
pub async fn step_aside() {
    glommio::timer::sleep(PAUSE).await;
}

thread_local! {
    /// Errands under way on this thread, which runs one executor.
    static ERRANDS: Cell<usize> = const { Cell::new(0) };
}

/// Something another task of this executor has under way: while there is one, a loop that polls has
/// to [`step_aside`] now and then. Without any it need not, which saves its system calls and the
/// runtime's allocations.
#[derive(Debug)]
pub struct Errand(());

impl Errand {
    /// One that lasts until it is dropped.
    #[must_use]
    pub fn begin() -> Self {
        ERRANDS.set(ERRANDS.get() + 1);
        Self(())
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_any() -> bool {
        ERRANDS.get() > 0
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        ERRANDS.set(ERRANDS.get() - 1);
    }
}

/// A wake-up for at most one waiting task.
#[derive(Debug, Default)]
pub struct Signal {
    is_raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiting task, or the next one that waits.
    pub fn raise(&self) {
        self.is_raised.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// Completes once the signal was raised since the last completion. May be dropped at any
    /// time without losing a raise.
    pub async fn wait(&self) {
        poll_fn(|context| self.poll_wait(context)).await;
    }

    /// [`Signal::wait`] for futures written by hand.
    pub fn poll_wait(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_raised.take() {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        match &mut *waiter {
            Some(known) => known.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::{Errand, Signal};

    #[test]
    fn an_errand_lasts_until_it_is_dropped() {
        assert!(!Errand::is_any());
        let (one, two) = (Errand::begin(), Errand::begin());
        drop(one);
        assert!(Errand::is_any());
        drop(two);
        assert!(!Errand::is_any());
    }

    #[test]
    fn a_raise_before_the_wait_is_kept_once() {
        let signal = Signal::default();
        signal.raise();
        signal.raise();
        assert_eq!(block_on(poll_once(signal.wait())), Some(()));
        assert_eq!(block_on(poll_once(signal.wait())), None);
    }

    #[test]
    fn a_dropped_wait_loses_nothing() {
        let signal = Signal::default();
        assert_eq!(block_on(poll_once(signal.wait())), None);
        signal.raise();
        assert_eq!(block_on(poll_once(signal.wait())), Some(()));
    }
}
