//! A shard's mailbox: what other threads have to tell it, bounded and lock-free.
//!
//! The doorbell behind it is the one all guests of the shard ring too, so a sleeping shard waits
//! on a single descriptor. Sleep and post never miss each other: the shard says it sleeps, fences
//! and looks once more; a poster posts, fences and reads the flag.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use region::Doorbell;

/// A bounded mailbox of `T`.
pub(crate) struct Inbox<T> {
    letters: ArrayQueue<T>,
    is_asleep: AtomicBool,
    doorbell: Doorbell,
}

impl<T> Inbox<T> {
    /// An empty one with room for `bound` letters.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(crate) fn new(bound: usize) -> std::io::Result<Self> {
        Ok(Self {
            letters: ArrayQueue::new(bound),
            is_asleep: AtomicBool::new(false),
            doorbell: Doorbell::new()?,
        })
    }

    /// Posts without waiting; gives the letter back when the mailbox is full.
    pub(crate) fn post(&self, letter: T) -> Result<(), T> {
        self.letters.push(letter)?;
        self.nudge();
        Ok(())
    }

    /// Wakes the owner if it sleeps, after something was put where it looks before it does.
    pub(crate) fn nudge(&self) {
        // ordering: SeqCst fence; pairs with the one in `set_asleep`: either the shard's second
        // look finds what was put there, or this load finds its flag.
        fence(Ordering::SeqCst);
        // ordering: relaxed; the fence orders it.
        if self.is_asleep.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Posts, waiting for room. Only for side threads, which may block.
    pub(crate) fn post_blocking(&self, letter: T) {
        let mut letter = letter;
        while let Err(back) = self.post(letter) {
            letter = back;
            self.ring();
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Takes the oldest letter.
    pub(crate) fn take(&self) -> Option<T> {
        self.letters.pop()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Says whether the owner sleeps. After `true` it looks at [`Inbox::is_empty`] once more.
    pub(crate) fn set_asleep(&self, asleep: bool) {
        // ordering: relaxed; the fence orders it.
        self.is_asleep.store(asleep, Ordering::Relaxed);
        // ordering: SeqCst fence; pairs with the one in `nudge`.
        fence(Ordering::SeqCst);
    }

    /// The doorbell, to be waited on by the owner and rung by its guests.
    pub(crate) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    fn ring(&self) {
        // An eventfd of our own takes every ring; one that does not is a broken host.
        self.doorbell.ring().expect("an eventfd takes a ring");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_only_a_sleeper_and_says_when_full() {
        let inbox = Inbox::new(2).unwrap();
        inbox.post(1).unwrap();
        assert!(!inbox.doorbell().drain().unwrap());
        inbox.set_asleep(true);
        inbox.post(2).unwrap();
        assert!(inbox.doorbell().drain().unwrap());
        assert_eq!(inbox.post(3), Err(3));
        assert_eq!((inbox.take(), inbox.take(), inbox.take()), (Some(1), Some(2), None));
        assert!(inbox.is_empty());
    }
}
