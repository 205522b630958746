//! Who descends from whom: parents, process groups, sessions, and the dead that nobody has asked for.
//!
//! ```text
//!   found ─► alive ─► die ─► dead ─► reap
//!              │               └──► nobody will ask: forgotten at once
//!              └── bear ─► alive ...            a parent that ends leaves orphans
//! ```
//! Pure. Containers do not see each other: every question is asked by somebody, and answered within
//! that one's container.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::identity::ProcessId;
use crate::signal::{Information, Signal};

/// `CLD_EXITED` and `CLD_KILLED`.
const CODE_EXITED: i32 = 1;
const CODE_KILLED: i32 = 2;
/// What an orphan is told its parent is, as on Linux.
const NOBODY: u32 = 1;

/// How a process left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal.
    Signalled(Signal),
}

/// What is left of a process until its parent asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Which.
    pub id: ProcessId,
    /// How it left.
    pub parting: Parting,
    /// Time it and its dead had run.
    pub run_nanos: u64,
}

impl Parting {
    /// As `wait4` says it.
    #[must_use]
    pub fn wait_status(self) -> u32 {
        match self {
            Self::Exited(status) => u32::from(status) << 8,
            Self::Signalled(signal) => signal.number(),
        }
    }

    /// As a `siginfo_t` says it, with `signal` for its first field.
    #[must_use]
    pub fn information(self, id: ProcessId, signal: Signal) -> Information {
        let (code, status) = match self {
            Self::Exited(status) => (CODE_EXITED, u32::from(status)),
            Self::Signalled(by) => (CODE_KILLED, by.number()),
        };
        Information { signal, code, value: u64::from(id.number()), data: u64::from(status) }
    }
}

/// Whose processes or children are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Everybody's.
    Any,
    /// This one.
    One(ProcessId),
    /// Those of this group.
    Group(ProcessId),
}

/// What there is of a process's children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// None that are meant.
    None,
    /// All that are meant live.
    Live,
    /// One is dead.
    Dead(Dead),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    /// It is the first process of its container.
    Nobody,
    Process(ProcessId),
    /// Its parent is over.
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Kin {
    container: u32,
    parent: Parent,
    group: ProcessId,
    session: ProcessId,
    /// What its parent gets when it is over.
    tells: Option<Signal>,
    has_executed: bool,
    tasks: usize,
    dead: Option<Dead>,
}

/// All processes of the VM.
#[derive(Debug, Default)]
pub struct Family {
    kin: BTreeMap<ProcessId, Kin>,
}

impl Family {
    /// The first process of a container, or that once more for another request.
    pub fn found(&mut self, id: ProcessId, container: u32) {
        let kin = Kin {
            container,
            parent: Parent::Nobody,
            group: id,
            session: id,
            tells: None,
            has_executed: true,
            tasks: 0,
            dead: None,
        };
        self.kin.insert(id, kin);
    }

    /// A child, which belongs where its parent does.
    pub fn bear(&mut self, parent: ProcessId, id: ProcessId, tells: Option<Signal>) {
        if let Some(of) = self.kin.get(&parent).copied() {
            let parent = Parent::Process(parent);
            let kin = Kin { parent, tells, has_executed: false, tasks: 0, dead: None, ..of };
            self.kin.insert(id, kin);
        }
    }

    /// A process is over. Its parent, and the signal for that, if there is one to hear of it;
    /// `is_kept`: whether that parent may still ask.
    pub fn die(
        &mut self,
        dead: Dead,
        is_kept: impl FnOnce(ProcessId) -> bool,
    ) -> Option<(ProcessId, Option<Signal>)> {
        let id = dead.id;
        self.kin.retain(|_, kin| kin.dead.is_none() || kin.parent != Parent::Process(id));
        for kin in self.kin.values_mut().filter(|kin| kin.parent == Parent::Process(id)) {
            kin.parent = Parent::Gone;
        }
        let parent = match self.kin.get(&id)?.parent {
            Parent::Process(parent) => parent,
            Parent::Nobody | Parent::Gone => {
                self.kin.remove(&id);
                return None;
            }
        };
        let tells = self.kin.get(&id).and_then(|kin| kin.tells);
        match self.kin.get_mut(&id) {
            Some(kin) if is_kept(parent) => kin.dead = Some(dead),
            _ => _ = self.kin.remove(&id),
        }
        Some((parent, tells))
    }

    /// Forgets a process.
    pub fn forget(&mut self, id: ProcessId) {
        self.kin.remove(&id);
    }

    /// Forgets a container's processes.
    pub fn forget_container(&mut self, container: u32) {
        self.kin.retain(|_, kin| kin.container != container);
    }

    /// Whether `id` is the first process of its container.
    #[must_use]
    pub fn is_first(&self, id: ProcessId) -> bool {
        self.kin.get(&id).is_some_and(|kin| kin.parent == Parent::Nobody)
    }

    /// The first process of the container of `id`.
    #[must_use]
    pub fn first_of(&self, id: ProcessId) -> Option<ProcessId> {
        let container = self.kin.get(&id)?.container;
        self.within(container).find(|(_, kin)| kin.parent == Parent::Nobody).map(|(id, _)| id)
    }

    /// Whether a number stands for a process, a group or a session.
    #[must_use]
    pub fn uses(&self, number: u32) -> bool {
        let id = ProcessId::from_number(number);
        self.kin.contains_key(&id)
            || self.kin.values().any(|kin| kin.group == id || kin.session == id)
    }

    /// The number of the parent of `id`.
    #[must_use]
    pub fn parent_number(&self, id: ProcessId) -> u32 {
        match self.kin.get(&id).map(|kin| kin.parent) {
            Some(Parent::Process(parent)) => parent.number(),
            Some(Parent::Gone) => NOBODY,
            Some(Parent::Nobody) | None => 0,
        }
    }

    /// One more task, or one less.
    pub fn count_task(&mut self, id: ProcessId, is_new: bool) {
        if let Some(kin) = self.kin.get_mut(&id) {
            kin.tasks = if is_new { kin.tasks + 1 } else { kin.tasks.saturating_sub(1) };
        }
    }

    /// Tasks of the container of `id`; one that is dead and not asked for counts as one.
    #[must_use]
    pub fn tasks_beside(&self, id: ProcessId) -> usize {
        let Some(of) = self.kin.get(&id) else { return 0 };
        self.within(of.container).map(|(_, kin)| kin.tasks + usize::from(kin.dead.is_some())).sum()
    }

    /// It runs a program of its own now: its parent decides no more about its group.
    pub fn execute(&mut self, id: ProcessId) {
        if let Some(kin) = self.kin.get_mut(&id) {
            kin.has_executed = true;
        }
    }

    /// What `caller` gets to hear of its children; a dead one is forgotten if it `takes` it.
    pub fn ask(&mut self, caller: ProcessId, whose: Whose, takes: bool) -> Children {
        let of_caller = |kin: &&Kin| kin.parent == Parent::Process(caller);
        let is_meant = |id: ProcessId, kin: &Kin| match whose {
            Whose::Any => true,
            Whose::One(one) => id == one,
            Whose::Group(group) => kin.group == group,
        };
        let mut children = Children::None;
        for (id, kin) in self.kin.iter().filter(|(_, kin)| of_caller(kin)) {
            match kin.dead {
                _ if !is_meant(*id, kin) => {}
                Some(dead) => {
                    children = Children::Dead(dead);
                    break;
                }
                None => children = Children::Live,
            }
        }
        if let Children::Dead(dead) = children
            && takes
        {
            self.kin.remove(&dead.id);
        }
        children
    }

    /// The processes a signal of `caller` is for, dead ones included; everybody but itself and the
    /// first when it is for [`Whose::Any`].
    #[must_use]
    pub fn addressed(&self, caller: ProcessId, whose: Whose) -> Vec<ProcessId> {
        let Some(of) = self.kin.get(&caller) else { return Vec::new() };
        let is_meant = |(id, kin): &(ProcessId, &Kin)| match whose {
            Whose::Any => *id != caller && kin.parent != Parent::Nobody,
            Whose::One(one) => *id == one,
            Whose::Group(group) => kin.group == group,
        };
        self.within(of.container).filter(is_meant).map(|(id, _)| id).collect()
    }

    /// The other processes of the container of `id`.
    #[must_use]
    pub fn others(&self, id: ProcessId) -> Vec<ProcessId> {
        let Some(of) = self.kin.get(&id) else { return Vec::new() };
        self.within(of.container).map(|(other, _)| other).filter(|other| *other != id).collect()
    }

    /// The group and the session of `id`, as `caller` sees them.
    ///
    /// # Errors
    /// [`Errno::SRCH`] when there is no such process.
    pub fn place(&self, caller: ProcessId, id: ProcessId) -> Result<(ProcessId, ProcessId), Errno> {
        let kin = self.seen(caller, id)?;
        Ok((kin.group, kin.session))
    }

    /// `setpgid`.
    ///
    /// # Errors
    /// As setpgid(2).
    pub fn set_group(
        &mut self,
        caller: ProcessId,
        id: ProcessId,
        group: ProcessId,
    ) -> Result<(), Errno> {
        let (of, kin) = (*self.seen(caller, caller)?, *self.seen(caller, id)?);
        if id != caller && kin.parent != Parent::Process(caller) {
            return Err(Errno::SRCH);
        }
        if id != caller && kin.has_executed {
            return Err(Errno::ACCES);
        }
        let is_there =
            |(_, other): (ProcessId, &Kin)| other.group == group && other.session == of.session;
        let is_joinable = group == id || self.within(of.container).any(is_there);
        if kin.session == id || kin.session != of.session || !is_joinable {
            return Err(Errno::PERM);
        }
        self.kin.insert(id, Kin { group, ..kin });
        Ok(())
    }

    /// `setsid`.
    ///
    /// # Errors
    /// [`Errno::PERM`] when the process leads a group.
    pub fn lead_session(&mut self, id: ProcessId) -> Result<(), Errno> {
        let container = self.seen(id, id)?.container;
        if self.within(container).any(|(_, kin)| kin.group == id) {
            return Err(Errno::PERM);
        }
        if let Some(kin) = self.kin.get_mut(&id) {
            (kin.group, kin.session) = (id, id);
        }
        Ok(())
    }

    fn within(&self, container: u32) -> impl Iterator<Item = (ProcessId, &Kin)> {
        let kin = self.kin.iter().filter(move |(_, kin)| kin.container == container);
        kin.map(|(id, kin)| (*id, kin))
    }

    fn seen(&self, caller: ProcessId, id: ProcessId) -> Result<&Kin, Errno> {
        let of = self.kin.get(&caller).ok_or(Errno::SRCH)?;
        self.kin.get(&id).filter(|kin| kin.container == of.container).ok_or(Errno::SRCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> ProcessId {
        ProcessId::from_number(number)
    }

    fn dead(number: u32) -> Dead {
        Dead { id: id(number), parting: Parting::Exited(3), run_nanos: 7 }
    }

    /// 1 is the first of container 1 with the children 2 and 3; 4 is 2's; 9 is another container's.
    fn family() -> Family {
        let mut family = Family::default();
        family.found(id(1), 1);
        family.found(id(9), 2);
        for (parent, child) in [(1, 2), (1, 3), (2, 4)] {
            family.bear(id(parent), id(child), Some(Signal::CHLD));
        }
        family
    }

    #[test]
    fn the_dead_wait_for_their_parent() {
        let mut family = family();
        assert_eq!(family.ask(id(3), Whose::Any, true), Children::None);
        assert_eq!(family.ask(id(1), Whose::Any, true), Children::Live);
        assert_eq!(family.die(dead(3), |_| true), Some((id(1), Some(Signal::CHLD))));
        assert_eq!(family.ask(id(1), Whose::One(id(2)), true), Children::Live);
        assert_eq!(family.ask(id(1), Whose::Any, false), Children::Dead(dead(3)));
        assert_eq!(family.ask(id(1), Whose::One(id(3)), true), Children::Dead(dead(3)));
        assert_eq!(family.ask(id(1), Whose::One(id(3)), true), Children::None);
        // Nobody will ask for this one.
        assert_eq!(family.die(dead(2), |_| false), Some((id(1), Some(Signal::CHLD))));
        assert_eq!(family.ask(id(1), Whose::Any, true), Children::None);
        assert_eq!((family.parent_number(id(4)), family.parent_number(id(1))), (1, 0));
        assert_eq!(family.die(dead(4), |_| true), None);
        assert_eq!(family.others(id(1)), []);
    }

    #[test]
    fn the_dead_of_the_dead_are_forgotten() {
        let mut family = family();
        family.die(dead(4), |_| true);
        family.die(dead(2), |_| true);
        assert_eq!(family.others(id(1)), [id(2), id(3)]);
        assert!(!family.uses(4) && family.uses(2));
    }

    #[test]
    fn groups_and_sessions_have_the_rules_of_setpgid() {
        let mut family = family();
        assert_eq!(family.lead_session(id(1)), Err(Errno::PERM));
        assert_eq!(family.set_group(id(1), id(1), id(1)), Err(Errno::PERM), "it leads a session");
        assert_eq!(family.set_group(id(1), id(4), id(4)), Err(Errno::SRCH), "not its child");
        assert_eq!(family.set_group(id(1), id(9), id(9)), Err(Errno::SRCH), "not of its container");
        assert_eq!(family.set_group(id(1), id(2), id(2)), Ok(()));
        assert_eq!(family.set_group(id(3), id(3), id(2)), Ok(()));
        assert_eq!(family.set_group(id(3), id(3), id(77)), Err(Errno::PERM), "no such group");
        assert_eq!(family.addressed(id(1), Whose::Group(id(2))), [id(2), id(3)]);
        assert_eq!(family.addressed(id(3), Whose::Any), [id(2), id(4)]);
        assert_eq!(family.addressed(id(3), Whose::One(id(9))), []);
        family.execute(id(3));
        assert_eq!(family.set_group(id(1), id(3), id(3)), Err(Errno::ACCES));
        assert_eq!(family.lead_session(id(4)), Ok(()));
        assert_eq!(family.place(id(1), id(4)), Ok((id(4), id(4))));
        assert_eq!(family.set_group(id(2), id(4), id(2)), Err(Errno::PERM), "another session");
    }

    #[test]
    fn tasks_are_counted_by_container() {
        let mut family = family();
        for process in [1, 2, 2, 9] {
            family.count_task(id(process), true);
        }
        assert_eq!((family.tasks_beside(id(4)), family.tasks_beside(id(9))), (3, 1));
        family.count_task(id(2), false);
        family.count_task(id(2), false);
        family.die(dead(2), |_| true);
        assert_eq!(family.tasks_beside(id(1)), 2, "a dead one holds its number");
    }
}
