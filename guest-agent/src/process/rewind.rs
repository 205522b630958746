//! Rewinding a process in place: to its *point*, where it first looked outside itself.
//!
//! ```text
//!   exec ─► first instruction ─► ... only its own affairs ... ─► POINT ─► request ─► end
//!                                                                  ▲                  │
//!                                                                  └──── rewind ◄─────┘
//! ```
//! Up to the point a process has met nothing that could tell one request from another, so what it
//! was then is what a freshly started one would be: registers and extended state, signal
//! dispositions and masks, open files, areas, heap, and the bytes of every page. All of it is saved
//! at the point (memory: see [`crate::memory::rewind`]) and put back behind each request.
//! What a process may do before its point is listed in `syscall::inward`. What it may not touch is
//! withheld from it, so that touching it is seen: the clock page, and the request's id, which
//! therefore is right in every request wherever the program keeps it.
//! Not seen: `rdtsc`, `rdtscp`, `rdrand`, `rdseed`, `cpuid`, which never leave user mode; what a
//! program makes of them before its point it keeps for all its requests.
//!
//! A task is a thing of this kernel: however a request ended, and with however many threads, what
//! is left of it is dropped and the point's task starts again.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use super::task::State;
use super::{Call, Process, Schedule, Task, Timers};
use crate::errno::Errno;
use crate::file::{Descriptors, OpenFile};
use crate::filesystem::View;
use crate::memory::Withheld;
use crate::signal::{Actions, Pending};
use crate::socket::Network;

/// Closed while standard input shows nothing; whoever passes the point opens it.
pub type Gate = Rc<Cell<bool>>;

/// Addresses of what differs from request to request, in pages of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Sixteen digits: the value of `PILOTLIGHT_INVOKE_ID`. 0: the function has given it a value.
    pub id: u64,
    /// Where `AT_RANDOM` points.
    pub random: u64,
}

/// How a process comes to its next request.
#[derive(Debug, Default)]
pub enum Rewind {
    /// Not at all.
    #[default]
    Never,
    /// Its point is still to come.
    Ahead(Gate, Places),
    /// It has passed its point.
    Behind(Box<Point>),
}

/// What a process was at its point, less its memory, which keeps that itself.
#[derive(Debug)]
pub struct Point {
    task: Task,
    descriptors: Descriptors,
    files: Vec<(Rc<OpenFile>, u32)>,
    view: View,
    actions: Actions,
    pending: Pending,
    places: Places,
    /// Nobody had seen the bytes of `AT_RANDOM`.
    is_random_unseen: bool,
}

/// What a request gets new, whatever its process was.
#[derive(Debug)]
pub struct Fresh {
    /// The file system, when the last request has changed it.
    pub view: Option<View>,
    /// The network.
    pub network: Rc<Network>,
}

impl Rewind {
    /// Whether the point is still to come.
    #[must_use]
    pub const fn is_ahead(&self) -> bool {
        matches!(self, Self::Ahead(..))
    }
}

impl Call<'_> {
    /// The task is about to make a call that looks outside, or changes something there.
    pub fn pass_point_in_call(&mut self) {
        self.pass_point(State::InCall);
    }

    /// The task has touched `address`: if that is something outside, it is revealed.
    pub fn pass_point_in_touch(&mut self, address: u64) {
        if self.process.rewind.is_ahead()
            && self.process.memory.withheld(address) == Some(Withheld::Outside)
        {
            self.pass_point(State::Runnable);
        }
    }

    fn pass_point(&mut self, state: State) {
        let Rewind::Ahead(gate, places) = core::mem::take(&mut self.process.rewind) else { return };
        gate.set(false);
        let process = &mut *self.process;
        let is_random_unseen = process.memory.reveal_all();
        // Neither can be: making a task looks outside, and no call that does not reads the clock.
        if process.memory.has_peeked() || process.tasks.len() != 1 {
            return;
        }
        process.memory.save();
        let files = process.descriptors.files();
        process.rewind = Rewind::Behind(Box::new(Point {
            task: self.task.duplicate(state),
            descriptors: process.descriptors.clone(),
            files: files.map(|file| (Rc::clone(file), file.flags())).collect(),
            view: process.view.clone(),
            actions: process.actions.clone(),
            pending: process.pending.clone(),
            places,
            is_random_unseen,
        }));
    }
}

impl Process {
    /// Whether it can be put back to its point.
    #[must_use]
    pub fn can_rewind(&self) -> bool {
        matches!(self.rewind, Rewind::Behind(_)) && self.memory.is_saved()
    }

    /// Closes what the request has opened, as soon as it is over.
    pub(super) fn close_files(&mut self) {
        if let Rewind::Behind(point) = &self.rewind {
            self.descriptors = point.descriptors.clone();
        }
    }

    /// Puts everything back to the point, but for the task and what `resume` writes.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when it cannot be; the process is of no use then.
    pub(super) fn go_back(&mut self, fresh: Fresh) -> Result<(), Errno> {
        let Rewind::Behind(point) = &mut self.rewind else { return Err(Errno::NOMEM) };
        self.descriptors = point.descriptors.clone();
        point.files.iter().for_each(|(file, flags)| file.set_flags(*flags));
        self.actions = point.actions.clone();
        self.pending = point.pending.clone();
        self.alarm = Schedule::NONE;
        self.timers = Timers::default();
        self.has_overflowed = false;
        self.tasks.clear();
        if let Some(view) = fresh.view {
            point.view = view;
        }
        self.view = point.view.clone();
        self.network = fresh.network;
        self.memory.rewind()
    }

    /// Writes what differs from request to request and returns the task that goes on.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when a page cannot be had.
    pub(super) fn take_up(
        &mut self,
        invoke: u64,
        random: impl FnOnce(&mut [u8]),
    ) -> Result<Task, Errno> {
        let Rewind::Behind(point) = &self.rewind else { return Err(Errno::NOMEM) };
        let places = point.places;
        let task = point.task.duplicate(point.task.state);
        if places.id != 0 {
            self.memory.write(places.id, &digits(invoke))?;
        }
        if point.is_random_unseen {
            let mut bytes = [0; 16];
            random(&mut bytes);
            self.memory.write(places.random, &bytes)?;
        }
        Ok(task)
    }
}

/// A request's id as programs see it.
#[must_use]
pub fn digits(invoke: u64) -> [u8; 16] {
    const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [b'0'; 16];
    for (digit, shift) in digits.iter_mut().rev().zip((0..64).step_by(4)) {
        let nibble = (invoke >> shift) & 15;
        *digit = HEXADECIMAL[usize::try_from(nibble).unwrap_or(0)];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_sixteen_digits() {
        assert_eq!(&digits(0x1f), b"000000000000001f");
        assert_eq!(&digits(u64::MAX - 0xf), b"fffffffffffffff0");
    }
}
