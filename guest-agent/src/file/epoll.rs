//! `epoll`: a set of files with what is wanted of each.
//!
//! The set holds weak references: closing the last descriptor of a file takes it out of every
//! set. A level-triggered member is reported while it is ready; an edge-triggered one when it is
//! ready and one of its notifiers was raised since it was last reported.

use alloc::boxed::Box;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::flags::{self, ready};
use super::stat::Stat;
use super::{Keeping, Notifier, Object, OpenFile};
use crate::errno::Errno;
use crate::world::World;

/// `EPOLL_CTL_ADD`.
pub const ADD: u32 = 1;
/// `EPOLL_CTL_DEL`.
pub const DELETE: u32 = 2;
/// `EPOLL_CTL_MOD`.
pub const MODIFY: u32 = 3;

const EDGE_TRIGGERED: u32 = 1 << 31;
const ONE_SHOT: u32 = 1 << 30;
/// Reported whether asked for or not.
const ALWAYS: u32 = ready::ERR | ready::HUP;
/// Files one set may hold.
const MEMBERS_MAX: usize = 1024;

#[derive(Clone)]
struct Member {
    descriptor: i32,
    file: Weak<OpenFile>,
    events: u32,
    data: u64,
    /// Raises of the file when it was last reported; `None` when it has to be looked at anyway.
    seen_raises: Option<u64>,
    is_armed: bool,
}

impl Member {
    /// What is to be reported now, 0 for nothing.
    fn pending(&self, file: &OpenFile) -> u32 {
        if !self.is_armed {
            return 0;
        }
        let events = file.readiness() & (self.events | ALWAYS);
        let is_stale = self.events & EDGE_TRIGGERED != 0 && self.seen_raises == Some(file.raises());
        if is_stale { 0 } else { events }
    }
}

/// The set itself.
pub struct Epoll {
    members: RefCell<Vec<Member>>,
    /// Where the next collection starts, so that a busy member does not starve the others.
    next: Cell<usize>,
    notifier: Notifier,
}

impl Epoll {
    /// An empty set as an open file.
    #[must_use]
    pub fn file(world: &World, flags: u32) -> Rc<OpenFile> {
        let epoll = Self {
            members: RefCell::new(Vec::new()),
            next: Cell::new(0),
            notifier: Notifier::new(world),
        };
        OpenFile::new(Rc::new(epoll), flags & flags::NONBLOCK | flags::READ_WRITE)
    }

    /// `epoll_ctl`.
    ///
    /// # Errors
    /// [`Errno::EXIST`], [`Errno::NOENT`] by membership; [`Errno::INVAL`] for another set (sets
    /// do not nest) or operation; [`Errno::PERM`] for files that are always ready.
    pub fn control(
        &self,
        operation: u32,
        descriptor: i32,
        file: &Rc<OpenFile>,
        events: u32,
        data: u64,
    ) -> Result<(), Errno> {
        if file.epoll().is_some() {
            return Err(Errno::INVAL);
        }
        if file.shared_object().length().is_some() || file.stat()?.is_directory() {
            return Err(Errno::PERM);
        }
        let mut members = self.members.borrow_mut();
        members.retain(|member| member.file.strong_count() > 0);
        let place = members.iter().position(|member| {
            member.descriptor == descriptor
                && core::ptr::eq(member.file.as_ptr(), &raw const **file)
        });
        let file = Rc::downgrade(file);
        let member = Member { descriptor, file, events, data, seen_raises: None, is_armed: true };
        match (operation, place) {
            (ADD, Some(_)) => return Err(Errno::EXIST),
            (ADD, None) if members.len() >= MEMBERS_MAX => return Err(Errno::NOSPC),
            (ADD, None) => members.push(member),
            (MODIFY, Some(place)) => members[place] = member,
            (DELETE, Some(place)) => drop(members.remove(place)),
            (MODIFY | DELETE, None) => return Err(Errno::NOENT),
            _ => return Err(Errno::INVAL),
        }
        drop(members);
        // Whoever waits on the set has to wait on the new member too.
        self.notifier.raise();
        Ok(())
    }

    /// Reports what is ready; the visitor says whether it has room for another. Returns how many
    /// were reported.
    pub fn collect(&self, visit: &mut dyn FnMut(u32, u64) -> bool) -> usize {
        let mut members = self.members.borrow_mut();
        let count = members.len();
        if count == 0 {
            return 0;
        }
        let start = self.next.get() % count;
        let mut reported = 0;
        for index in (start..count).chain(0..start) {
            let member = &mut members[index];
            let Some(file) = member.file.upgrade() else { continue };
            let events = member.pending(&file);
            if events == 0 {
                continue;
            }
            member.seen_raises = Some(file.raises());
            member.is_armed = member.events & ONE_SHOT == 0;
            reported += 1;
            if !visit(events, member.data) {
                self.next.set(index + 1);
                break;
            }
        }
        reported
    }

    fn is_ready(&self) -> bool {
        let members = self.members.borrow();
        members
            .iter()
            .any(|member| member.file.upgrade().is_some_and(|file| member.pending(&file) != 0))
    }
}

impl OpenFile {
    /// The set, when the file is one.
    #[must_use]
    pub fn epoll(&self) -> Option<&Epoll> {
        self.object()
    }
}

impl Object for Epoll {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        let members = self.members.borrow().clone();
        Some(Box::new(move || {
            // Raises are counted on: what a member was last reported at may be long past.
            let fresh = members.iter().cloned();
            *self.members.borrow_mut() =
                fresh.map(|member| Member { seen_raises: None, ..member }).collect();
        }))
    }

    fn readiness(&self) -> u32 {
        if self.is_ready() { ready::IN } else { 0 }
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.notifier);
        for member in self.members.borrow().iter() {
            if let Some(file) = member.file.upgrade() {
                file.shared_object().notifiers(visit);
            }
        }
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::plain(0, 0o600, self.notifier.id().number()))
    }

    fn path(&self) -> Vec<u8> {
        b"anon_inode:[eventpoll]".to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{eventfd, pipe};
    use crate::memory::Account;
    use crate::memory::transfer::{Sink, Source};

    fn collect(set: &OpenFile) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        set.epoll().unwrap().collect(&mut |events, data| {
            found.push((events, data));
            true
        });
        found
    }

    #[test]
    fn a_level_is_reported_until_it_is_gone() {
        let world = World::new();
        let set = Epoll::file(&world, 0);
        let (reader, writer) = pipe(&world, &Account::new(1 << 20), 0);
        set.epoll().unwrap().control(ADD, 3, &reader, ready::IN, 42).unwrap();
        assert_eq!((collect(&set), set.readiness()), (Vec::new(), 0));
        writer.write(&mut Source::kernel(b"x")).unwrap();
        assert_eq!(set.readiness(), ready::IN);
        assert_eq!((collect(&set), collect(&set)), (std::vec![(1, 42)], std::vec![(1, 42)]));
        reader.read(&mut Sink::kernel(&mut [0; 4])).unwrap();
        assert_eq!(collect(&set), []);
        drop(writer);
        assert_eq!(collect(&set), [(ready::HUP, 42)]);
    }

    #[test]
    fn an_edge_is_reported_once_per_raise() {
        let world = World::new();
        let set = Epoll::file(&world, 0);
        let (reader, writer) = pipe(&world, &Account::new(1 << 20), 0);
        let wanted = ready::IN | EDGE_TRIGGERED;
        set.epoll().unwrap().control(ADD, 3, &reader, wanted, 1).unwrap();
        writer.write(&mut Source::kernel(b"x")).unwrap();
        assert_eq!((collect(&set), collect(&set)), (std::vec![(1, 1)], Vec::new()));
        // Drained and filled again between two looks: a new edge.
        reader.read(&mut Sink::kernel(&mut [0; 4])).unwrap();
        writer.write(&mut Source::kernel(b"y")).unwrap();
        assert_eq!(collect(&set), [(1, 1)]);
    }

    #[test]
    fn one_shot_waits_for_the_next_modify() {
        let world = World::new();
        let set = Epoll::file(&world, 0);
        let file = eventfd(&world, 1, 0);
        let epoll = set.epoll().unwrap();
        epoll.control(ADD, 3, &file, ready::IN | ONE_SHOT, 1).unwrap();
        assert_eq!((collect(&set), collect(&set)), (std::vec![(1, 1)], Vec::new()));
        epoll.control(MODIFY, 3, &file, ready::IN | ONE_SHOT, 2).unwrap();
        assert_eq!(collect(&set), [(1, 2)]);
    }

    #[test]
    fn membership_follows_the_file_not_the_number() {
        let world = World::new();
        let set = Epoll::file(&world, 0);
        let epoll = set.epoll().unwrap();
        let first = eventfd(&world, 1, 0);
        epoll.control(ADD, 3, &first, ready::IN, 1).unwrap();
        assert_eq!(epoll.control(ADD, 3, &first, ready::IN, 1), Err(Errno::EXIST));
        assert_eq!(epoll.control(ADD, 4, &set, ready::IN, 1), Err(Errno::INVAL));
        drop(first);
        assert_eq!(collect(&set), []);
        let second = eventfd(&world, 1, 0);
        assert_eq!(epoll.control(DELETE, 3, &second, 0, 0), Err(Errno::NOENT));
        epoll.control(ADD, 3, &second, ready::IN, 2).unwrap();
        assert_eq!(collect(&set), [(1, 2)]);
        epoll.control(DELETE, 3, &second, 0, 0).unwrap();
        assert_eq!(collect(&set), []);
    }

    #[test]
    fn a_busy_member_does_not_starve_the_others() {
        let world = World::new();
        let set = Epoll::file(&world, 0);
        let files: Vec<_> = (0..3).map(|_| eventfd(&world, 1, 0)).collect();
        for (number, file) in (0..).zip(&files) {
            let data = u64::try_from(number).unwrap();
            set.epoll().unwrap().control(ADD, number, file, ready::IN, data).unwrap();
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            set.epoll().unwrap().collect(&mut |_, data| {
                seen.push(data);
                false
            });
        }
        assert_eq!(seen, [0, 1, 2]);
    }
}
