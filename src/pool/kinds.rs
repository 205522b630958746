//! What the invokes of one line want, in kinds: those of one key and function want the same.

use crate::credential::ActiveKey;

use super::event::{Arrival, FunctionRef};

/// Kinds that are told apart; a line with more of them is looked through whole.
const KINDS_MAX: usize = 4;

/// How many of each kind wait in a line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    known: [Option<(ActiveKey, FunctionRef, u32)>; KINDS_MAX],
    /// Waiting invokes of kinds for which there was no place.
    others: u32,
}

impl Kinds {
    fn place_of(&self, arrival: &Arrival) -> Option<usize> {
        let kind = (arrival.key, arrival.facts.function);
        self.known.iter().position(|known| known.is_some_and(|it| (it.0, it.1) == kind))
    }

    /// One more waits.
    pub(super) fn add(&mut self, arrival: &Arrival) {
        let free = || self.known.iter().position(Option::is_none);
        match self.place_of(arrival).or_else(free).map(|place| &mut self.known[place]) {
            Some(Some((_, _, count))) => *count += 1,
            Some(free) => *free = Some((arrival.key, arrival.facts.function, 1)),
            None => self.others += 1,
        }
    }

    /// One waits no longer.
    pub(super) fn remove(&mut self, arrival: &Arrival) {
        // Of a kind that got a place later some are counted there, some among the others.
        let Some(place) = self.place_of(arrival) else {
            self.others -= 1;
            return;
        };
        self.known[place] = self.known[place]
            .map(|(key, function, count)| (key, function, count - 1))
            .filter(|(_, _, count)| *count > 0);
    }

    /// Whether one of the kind of this one waits, or may.
    pub(super) fn has(&self, arrival: &Arrival) -> bool {
        self.others > 0 || self.place_of(arrival).is_some()
    }

    /// How many there are; `None`: too many to tell.
    pub(super) fn count(&self) -> Option<usize> {
        (self.others == 0).then(|| self.known.iter().flatten().count())
    }
}
