//! Which shard serves an invoke: pure, from what this shard knows and what the index hints at.
//!
//! The order is: own active VM, another shard's, own warm VM, another shard's, wait at home. The
//! hints may be old; the shard that gets an invoke serves it or lets it wait, and never sends it
//! on, so that no invoke travels more than once.

use crate::credential::ActiveKey;
use crate::pool::index::Index;
use crate::pool::{KeyState, Sight};

/// Where an invoke goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this shard's pool.
    Own,
    /// To another shard, through its mailbox. When that is full: to this shard's pool.
    Other(u16),
}

/// What a shard sees of others when it looks for room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// One with a VM of the key that has room.
    pub active: Option<u16>,
    /// One with a warm VM.
    pub warm: Option<u16>,
}

/// Chooses where an invoke that came in here goes. `elsewhere` is asked only if it matters.
#[must_use]
pub fn choose(sight: Sight, elsewhere: impl FnOnce() -> Elsewhere) -> Route {
    if sight.key == KeyState::Room {
        return Route::Own;
    }
    let elsewhere = elsewhere();
    match (elsewhere.active, sight.has_warm, elsewhere.warm) {
        (Some(shard), _, _) | (None, false, Some(shard)) => Route::Other(shard),
        (None, true, _) | (None, false, None) => Route::Own,
    }
}

/// Asks the index what others have for this key.
#[must_use]
pub fn look(index: &Index, key: &ActiveKey, own: u16) -> Elsewhere {
    Elsewhere {
        active: index.active_elsewhere(key.fingerprint(), own),
        warm: index.warm_elsewhere(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept() {
        let states = [KeyState::Absent, KeyState::Full, KeyState::Room];
        let places = [None, Some(7)];
        for (key, has_warm) in states.into_iter().flat_map(|key| [(key, false), (key, true)]) {
            for (active, warm) in places.into_iter().flat_map(|a| [(a, None), (a, Some(8))]) {
                let expected = if key == KeyState::Room {
                    Route::Own
                } else if let Some(shard) = active {
                    Route::Other(shard)
                } else if has_warm {
                    Route::Own
                } else if let Some(shard) = warm {
                    Route::Other(shard)
                } else {
                    Route::Own
                };
                let route = choose(Sight { key, has_warm }, || Elsewhere { active, warm });
                assert_eq!(route, expected, "{key:?} {has_warm} {active:?} {warm:?}");
            }
        }
    }

    #[test]
    fn the_index_is_not_asked_when_there_is_room_at_home() {
        let sight = Sight { key: KeyState::Room, has_warm: false };
        assert_eq!(choose(sight, || unreachable!("no need")), Route::Own);
    }
}
