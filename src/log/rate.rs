//! How many bytes of text each user's programs may log: a bucket for each, which holds what a second
//! may have. Pure: `now` is an argument.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::invoke::User;

const SECOND_NANOS: u128 = 1_000_000_000;
/// Buckets kept at least before full ones are forgotten: a full bucket is what a new user gets.
const BUCKETS: usize = 256;

/// What each user may still log now.
#[derive(Debug)]
pub(super) struct Rates {
    bytes_per_second: u64,
    buckets: RefCell<HashMap<User, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u64,
    filled_nanos: u64,
}

impl Bucket {
    /// The bucket at a later time.
    fn at(self, now: u64, bytes_per_second: u64) -> Self {
        let elapsed = u128::from(now.saturating_sub(self.filled_nanos));
        let more = elapsed * u128::from(bytes_per_second) / SECOND_NANOS;
        let left = u64::try_from(u128::from(self.left) + more).unwrap_or(u64::MAX);
        if more == 0 {
            // What has come is less than a byte: it is not to be lost.
            return self;
        }
        Self { left: left.min(bytes_per_second), filled_nanos: now }
    }
}

impl Rates {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, buckets: RefCell::default() }
    }

    /// The limit.
    pub(super) fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second
    }

    /// Whether a user may log so many bytes now; they count if so.
    pub(super) fn take(&self, user: User, bytes: u64, now: u64) -> bool {
        let full = Bucket { left: self.bytes_per_second, filled_nanos: now };
        let mut buckets = self.buckets.borrow_mut();
        if buckets.len() >= BUCKETS && !buckets.contains_key(&user) {
            buckets.retain(|_, bucket| {
                bucket.at(now, self.bytes_per_second).left < self.bytes_per_second
            });
        }
        let bucket = buckets.entry(user).or_insert(full);
        *bucket = bucket.at(now, self.bytes_per_second);
        let left = bucket.left.checked_sub(bytes);
        bucket.left = left.unwrap_or(bucket.left);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        User::new(name).unwrap()
    }

    #[test]
    fn a_second_has_what_it_may_have() {
        let rates = Rates::new(1000);
        let (ada, bob) = (user("ada"), user("bob"));
        assert!(rates.take(ada, 600, 0) && rates.take(ada, 400, 0));
        assert!(!rates.take(ada, 1, 0), "no more");
        assert!(rates.take(bob, 1000, 0), "others have their own");
        assert!(rates.take(ada, 500, 500_000_000), "half a second later, half as many");
        assert!(!rates.take(ada, 1, 500_000_000));
        assert!(rates.take(ada, 1000, 10_000_000_000), "never more than a second's");
        assert!(!rates.take(ada, 1, 10_000_000_000));
    }

    #[test]
    fn often_and_little_is_not_less() {
        let rates = Rates::new(1000);
        assert!(rates.take(user("ada"), 1000, 0));
        // A tenth of a byte comes in between.
        let taken = (1..=10_000).filter(|step| rates.take(user("ada"), 1, step * 100_000)).count();
        assert_eq!(taken, 1000, "of one second");
    }

    #[test]
    fn those_that_do_not_log_are_forgotten() {
        let rates = Rates::new(1000);
        for number in 0..10_000_u64 {
            assert!(rates.take(user(&format!("u{number}")), 10, number * 1_000_000_000));
            assert!(rates.buckets.borrow().len() <= BUCKETS);
        }
    }
}
