//! What every shard can see of the others' pools: a lock-free summary, read on the way of an
//! invoke that finds no room at home.
//!
//! ```text
//! shard 0 writes ─► segment 0: warm count, [key word] [key word] ...   ◄─ all shards read
//! shard 1 writes ─► segment 1: ...
//! ```
//! A key word is one `u64`: 63 bits of the key's fingerprint and whether there is room. Everything
//! a reader learns about a key is in that one word, so it cannot see halves of two writes, and no
//! order between words matters. Only its shard's [`Publisher`] writes a segment.
//!
//! All of it is a hint: a shard that is asked in vain serves the invoke from its own warming pool
//! or lets it wait. A segment with no place for a key leaves it out, with the same effect.

#[cfg(feature = "loom")]
use loom::sync::Arc;
#[cfg(feature = "loom")]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(feature = "loom"))]
use std::sync::Arc;
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// Words looked at for one key: with a segment at most a quarter full, a key without a place
/// among so many is one in a hundred thousand.
const PROBES: usize = 8;
const ROOM: u64 = 1;

/// The index, as everybody holds it.
pub type Shared = Arc<Index>;

/// All shards' segments.
#[derive(Debug)]
pub struct Index {
    segments: Box<[Segment]>,
}

#[derive(Debug)]
struct Segment {
    warm: CachePadded<AtomicU32>,
    invokes: CachePadded<AtomicU64>,
    words: Box<[AtomicU64]>,
}

/// The right to write one shard's segment.
#[derive(Debug)]
pub struct Publisher {
    index: Arc<Index>,
    shard: usize,
}

impl Index {
    /// An index for `shards` shards of at most `vms` VMs, and each shard's right to write to it.
    #[must_use]
    pub fn new(shards: u16, vms: u32) -> (Arc<Self>, Vec<Publisher>) {
        let places = usize::try_from(vms).unwrap_or(usize::MAX / 8).saturating_mul(4);
        Self::with_places(shards, places.next_power_of_two().max(64))
    }

    /// As [`Index::new`], with a given number (a power of two) of places for keys.
    #[must_use]
    pub fn with_places(shards: u16, places: usize) -> (Arc<Self>, Vec<Publisher>) {
        assert!(places.is_power_of_two());
        let segment = |_| Segment {
            warm: CachePadded::new(AtomicU32::new(0)),
            invokes: CachePadded::new(AtomicU64::new(0)),
            words: (0..places).map(|_| AtomicU64::new(0)).collect(),
        };
        let index = Arc::new(Self { segments: (0..shards).map(segment).collect() });
        let publisher = |shard| Publisher { index: Arc::clone(&index), shard };
        let publishers = (0..usize::from(shards)).map(publisher).collect();
        (index, publishers)
    }

    /// Another shard than `own` whose VMs for this key have room.
    #[must_use]
    pub fn active_elsewhere(&self, fingerprint: u64, own: u16) -> Option<u16> {
        self.others(own).find(|shard| {
            let segment = &self.segments[usize::from(*shard)];
            segment.find(fingerprint).is_some_and(|(_, word)| word & ROOM != 0)
        })
    }

    /// Another shard than `own` with warm VMs: the one with most.
    #[must_use]
    pub fn warm_elsewhere(&self, own: u16) -> Option<u16> {
        let warm = |shard: &u16| {
            // Relaxed: pairs with `publish_warm`; the number publishes nothing but itself.
            self.segments[usize::from(*shard)].warm.load(Ordering::Relaxed)
        };
        let most = self.others(own).max_by_key(warm)?;
        (warm(&most) > 0).then_some(most)
    }

    /// Invokes all shards have taken in so far, as far as they have said so: for who works in the
    /// background and wants to know whether the node is busy.
    #[must_use]
    pub fn invokes(&self) -> u64 {
        // Relaxed: pairs with `publish_invokes`; the number publishes nothing but itself.
        self.segments.iter().map(|segment| segment.invokes.load(Ordering::Relaxed)).sum()
    }

    /// The other shards, starting behind `own`, so that not all turn to the same one.
    fn others(&self, own: u16) -> impl Iterator<Item = u16> + '_ {
        let count = u16::try_from(self.segments.len()).unwrap_or(u16::MAX);
        let (before, behind) = (0..own.min(count), own.saturating_add(1)..count);
        behind.chain(before)
    }
}

impl Segment {
    /// The place and word of a key.
    fn find(&self, fingerprint: u64) -> Option<(usize, u64)> {
        let wanted = key_bits(fingerprint);
        self.probes(fingerprint).find_map(|place| {
            // Relaxed: pairs with the stores in `publish_key`; the word publishes only itself.
            let word = self.words[place].load(Ordering::Relaxed);
            (word & !ROOM == wanted).then_some((place, word))
        })
    }

    fn probes(&self, fingerprint: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.words.len() - 1;
        // The high half: the low bit of the fingerprint is not part of the word.
        let start = usize::try_from(fingerprint >> 32).unwrap_or(0);
        (0..PROBES.min(mask + 1)).map(move |step| (start + step) & mask)
    }
}

impl Publisher {
    /// Says whether this shard's VMs for a key have room; `None`: it has no VM for it.
    pub fn publish_key(&self, fingerprint: u64, has_room: Option<bool>) {
        let segment = &self.index.segments[self.shard];
        let known = segment.find(fingerprint).map(|(place, _)| place);
        let empty = || {
            let is_empty =
                // Relaxed: only this shard writes the segment, so it reads its own stores.
                |place: &usize| segment.words[*place].load(Ordering::Relaxed) == 0;
            segment.probes(fingerprint).find(is_empty)
        };
        let word = match has_room {
            None => 0,
            Some(has_room) => key_bits(fingerprint) | if has_room { ROOM } else { 0 },
        };
        let place = if word == 0 { known } else { known.or_else(empty) };
        if let Some(place) = place {
            // Relaxed: pairs with the loads in `find`; the word publishes only itself.
            segment.words[place].store(word, Ordering::Relaxed);
        }
    }

    /// Says how many warm VMs this shard has.
    pub fn publish_warm(&self, count: u32) {
        // Relaxed: pairs with `warm_elsewhere`; the number publishes nothing but itself.
        self.index.segments[self.shard].warm.store(count, Ordering::Relaxed);
    }

    /// Says how many invokes this shard has taken in so far.
    pub fn publish_invokes(&self, count: u64) {
        // Relaxed: pairs with `Index::invokes`; the number publishes nothing but itself.
        self.index.segments[self.shard].invokes.store(count, Ordering::Relaxed);
    }
}

/// The key's part of its word; never 0, which means that a place is free.
fn key_bits(fingerprint: u64) -> u64 {
    match fingerprint & !ROOM {
        0 => 2,
        bits => bits,
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn others_see_what_a_shard_publishes() {
        let (index, shards) = Index::new(3, 4);
        assert_eq!(index.active_elsewhere(77, 0), None);
        shards[1].publish_key(77, Some(true));
        assert_eq!(index.active_elsewhere(77, 0), Some(1));
        assert_eq!(index.active_elsewhere(77, 2), Some(1));
        assert_eq!(index.active_elsewhere(77, 1), None, "not elsewhere");
        assert_eq!(index.active_elsewhere(78 << 8, 0), None, "another key");
        shards[1].publish_key(77, Some(false));
        assert_eq!(index.active_elsewhere(77, 0), None, "full");
        shards[2].publish_key(77, Some(true));
        assert_eq!(index.active_elsewhere(77, 0), Some(2));
        shards[2].publish_key(77, None);
        assert_eq!(index.active_elsewhere(77, 0), None, "gone");
    }

    #[test]
    fn most_warm_shard_is_found() {
        let (index, shards) = Index::new(3, 4);
        assert_eq!(index.warm_elsewhere(0), None);
        shards[0].publish_warm(9);
        shards[1].publish_warm(1);
        shards[2].publish_warm(2);
        assert_eq!(index.warm_elsewhere(0), Some(2));
        assert_eq!(index.warm_elsewhere(1), Some(0));
    }

    #[test]
    fn invokes_of_all_shards_are_counted() {
        let (index, shards) = Index::new(2, 4);
        shards[0].publish_invokes(5);
        shards[1].publish_invokes(1);
        shards[1].publish_invokes(2);
        assert_eq!(index.invokes(), 7);
    }

    #[test]
    fn a_full_neighbourhood_leaves_a_key_out() {
        let (index, shards) = Index::with_places(2, 8);
        for key in 1..=8_u64 {
            shards[0].publish_key(key << 32, Some(true));
        }
        shards[0].publish_key(9 << 32, Some(true));
        assert_eq!(index.active_elsewhere(9 << 32, 1), None);
        shards[0].publish_key(3 << 32, None);
        shards[0].publish_key(9 << 32, Some(true));
        assert_eq!(index.active_elsewhere(9 << 32, 1), Some(0));
    }
}

#[cfg(all(test, feature = "loom"))]
mod loom_tests {
    use super::*;

    /// While one shard's key comes, fills up, goes, and another takes its place, a reader sees
    /// for each key only states it had, in their order.
    #[test]
    fn a_reader_sees_only_states_that_were() {
        loom::model(|| {
            let (index, mut shards) = Index::with_places(2, 1);
            let writer = shards.remove(0);
            let (first, second) = (5 << 32, 6 << 32);
            let thread = loom::thread::spawn(move || {
                writer.publish_key(first, Some(false));
                writer.publish_key(first, None);
                writer.publish_key(second, Some(true));
            });
            let second_seen = index.active_elsewhere(second, 1).is_some();
            assert_eq!(index.active_elsewhere(first, 1), None, "first never had room");
            if second_seen {
                assert!(index.active_elsewhere(second, 1).is_some(), "never withdrawn");
            }
            thread.join().unwrap();
            assert!(index.active_elsewhere(second, 1).is_some());
        });
    }

    /// A key keeps its place while others around it come and go.
    #[test]
    fn a_published_key_stays_visible() {
        loom::model(|| {
            let (index, mut shards) = Index::with_places(2, 2);
            let writer = shards.remove(0);
            let (stays, comes) = (4 << 32, 6 << 32);
            writer.publish_key(stays, Some(true));
            let thread = loom::thread::spawn(move || {
                writer.publish_key(comes, Some(true));
                writer.publish_warm(3);
                writer.publish_key(comes, None);
            });
            assert_eq!(index.active_elsewhere(stays, 1), Some(0));
            let _ = index.warm_elsewhere(1);
            thread.join().unwrap();
            assert_eq!(index.active_elsewhere(comes, 1), None);
            assert_eq!(index.warm_elsewhere(1), Some(0));
        });
    }
}
