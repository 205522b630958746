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

use machine::clock::monotonic_nanos;

use super::task::State;
use super::{Call, Process, Schedule, Task, Timers};
use crate::errno::Errno;
use crate::file::{Descriptors, Keeping, OpenFile};
use crate::filesystem::View;
use crate::filesystem::inode::SavedTree;
use crate::futex::Key;
use crate::memory::Withheld;
use crate::signal::{Actions, Pending};
use crate::socket::Network;
use crate::time::{NEVER, after, time_left};

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

/// What brings a process to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It looks outside for the first time: requests find a process just started.
    Look,
    /// It waits for its input for the first time, all its threads waiting, or looks at the id of
    /// its request: requests find a copy of the process as it has initialised itself.
    Wait,
}

/// How a process comes to its next request.
#[derive(Debug, Default)]
pub enum Rewind {
    /// Not at all.
    #[default]
    Never,
    /// Its point is still to come.
    Ahead(Until, Gate, Places),
    /// It has passed its point.
    Behind(Box<Point>),
}

/// A task as it was, and what it waited for.
#[derive(Debug)]
pub(super) struct SavedTask {
    pub(super) task: Task,
    /// It waited for events: it looks again, and waits again.
    pub(super) has_waited: bool,
    /// How long it would still have waited.
    pub(super) nanos_left: u64,
    pub(super) futex: Option<(Key, u32)>,
}

/// What a process was at its point, less its memory, which keeps that itself.
#[derive(Debug)]
pub struct Point {
    pub(super) tasks: Vec<SavedTask>,
    descriptors: Descriptors,
    files: Keepings,
    view: View,
    /// `None`: a tree just made is as good.
    tree: Option<SavedTree>,
    actions: Actions,
    pending: Pending,
    /// With the time left in place of the time.
    alarm: Schedule,
    timers: Timers,
    places: Places,
    /// Nobody had seen the bytes of `AT_RANDOM`.
    is_random_unseen: bool,
}

/// What puts files back.
struct Keepings(Vec<Keeping>);

impl core::fmt::Debug for Keepings {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_tuple("Keepings").field(&self.0.len()).finish()
    }
}

/// What a request gets new, whatever its process was.
#[derive(Debug)]
pub struct Fresh {
    /// The file system, when the last request has changed it and it was not saved.
    pub view: Option<View>,
    /// The network.
    pub network: Rc<Network>,
}

impl Rewind {
    /// Whether the process is on its way to its first look outside.
    #[must_use]
    pub const fn is_before_look(&self) -> bool {
        matches!(self, Self::Ahead(Until::Look, ..))
    }

    /// Whether the process is initialising itself.
    #[must_use]
    pub const fn is_before_wait(&self) -> bool {
        matches!(self, Self::Ahead(Until::Wait, ..))
    }
}

impl Call<'_> {
    /// The task is about to make a call that looks outside, or changes something there.
    pub fn pass_point_in_call(&mut self) {
        self.pass_point(State::InCall);
    }

    /// The task has touched `address`: if that is something outside, it is revealed.
    pub fn pass_point_in_touch(&mut self, address: u64) {
        let is_ahead = matches!(self.process.rewind, Rewind::Ahead(..));
        if is_ahead && self.process.memory.withheld(address) == Some(Withheld::Outside) {
            self.pass_point(State::Runnable);
        }
    }

    fn pass_point(&mut self, state: State) {
        let task = SavedTask {
            task: self.task.duplicate(state),
            has_waited: false,
            nanos_left: NEVER,
            futex: None,
        };
        // Other threads might be anywhere.
        let tasks = if self.process.tasks.len() == 1 { alloc::vec![task] } else { Vec::new() };
        self.process.pass_point(tasks);
    }
}

impl Process {
    /// Saves what it is, unless that cannot be put back: then it serves one request only.
    pub(super) fn pass_point(&mut self, tasks: Vec<SavedTask>) {
        let Rewind::Ahead(until, gate, places) = core::mem::take(&mut self.rewind) else { return };
        gate.set(false);
        let is_random_unseen = self.memory.reveal_all();
        let kept: Option<Vec<_>> = self.descriptors.files().map(OpenFile::keep).collect();
        let Some(kept) = kept.filter(|_| {
            !tasks.is_empty() && !self.memory.has_peeked() && !self.memory.is_beyond_saving()
        }) else {
            return;
        };
        let tree = match until {
            Until::Look => None,
            Until::Wait => {
                self.memory.fork_in_place();
                let Ok(tree) = self.view.save(self.descriptors.files()) else { return };
                Some(tree)
            }
        };
        self.memory.save();
        self.rewind = Rewind::Behind(Box::new(Point {
            tasks,
            descriptors: self.descriptors.clone(),
            files: Keepings(kept),
            view: self.view.clone(),
            tree,
            actions: self.actions.clone(),
            pending: self.pending.clone(),
            alarm: self.alarm.at(time_left),
            timers: self.timers.at(time_left),
            places,
            is_random_unseen,
        }));
    }

    /// Whether it can be put back to its point.
    #[must_use]
    pub fn can_rewind(&self) -> bool {
        matches!(self.rewind, Rewind::Behind(_)) && self.memory.is_saved()
    }

    /// Whether its next request needs a tree just made.
    #[must_use]
    pub fn needs_tree(&self) -> bool {
        let is_saved = matches!(&self.rewind, Rewind::Behind(point) if point.tree.is_some());
        !is_saved && self.view.tree().has_changed()
    }

    /// Closes what the request has opened, as soon as it is over.
    pub(super) fn close_files(&mut self) {
        if let Rewind::Behind(point) = &self.rewind {
            self.descriptors = point.descriptors.clone();
        }
        self.tasks.clear();
    }

    /// Puts everything back to the point, but for what [`Process::take_up`] does.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when it cannot be; the process is of no use then.
    pub(super) fn go_back(&mut self, fresh: Fresh) -> Result<(), Errno> {
        let Rewind::Behind(point) = &mut self.rewind else { return Err(Errno::NOMEM) };
        self.descriptors = point.descriptors.clone();
        self.actions = point.actions.clone();
        self.pending = point.pending.clone();
        self.has_overflowed = false;
        self.children_nanos = 0;
        if let Some(view) = fresh.view {
            point.view = view;
        }
        self.view = point.view.clone();
        self.network = fresh.network;
        self.memory.rewind()?;
        if let Some(tree) = &point.tree {
            // What is mapped may have been stored to without anybody knowing.
            if self.memory.areas().any(|(_, area)| area.kind.is_shared()) {
                self.view.tree().root().note_change();
            }
            tree.put_back()?;
        }
        Ok(())
    }

    /// Sets what time passes for, and writes what differs from request to request.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when a page cannot be had.
    pub(super) fn take_up(
        &mut self,
        invoke: u64,
        random: impl FnOnce(&mut [u8]),
    ) -> Result<(), Errno> {
        let Rewind::Behind(point) = &self.rewind else { return Err(Errno::NOMEM) };
        point.files.0.iter().for_each(|put_back| put_back());
        let now = monotonic_nanos();
        self.alarm = point.alarm.at(|left| after(now, left));
        self.timers = point.timers.at(|left| after(now, left));
        let places = point.places;
        if places.id != 0 {
            self.memory.write(places.id, &digits(invoke))?;
        }
        if point.is_random_unseen {
            let mut bytes = [0; 16];
            random(&mut bytes);
            self.memory.write(places.random, &bytes)?;
        }
        Ok(())
    }

    /// The tasks of its point, each as it goes on.
    pub(super) fn point_tasks(&self) -> Vec<SavedTask> {
        let Rewind::Behind(point) = &self.rewind else { return Vec::new() };
        let again = |saved: &SavedTask| SavedTask {
            task: saved.task.duplicate(saved.task.state),
            ..*saved
        };
        point.tasks.iter().map(again).collect()
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
