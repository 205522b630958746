//! What is inside one VM, as the node keeps it: containers and loaded packages.
//!
//! Invariants: never more containers than may be, never more memory promised to them than the VM
//! has; a package is forgotten only when no container uses it; container and load numbers are
//! never used twice in a VM's life, across its resets too.
//!
//! Room in the image window is never given out twice while a guest may still look at it. A guest
//! that was reset looks at nothing. Its VMM still has every package mapped, so the window is not
//! simply empty again: a package that lies there needs no new place, which saves a message to the
//! VMM and back, and only when another one has no room does the window begin anew, provided the
//! guest was given nothing of it since its reset.
//!
//! A VM restored from a function's snapshot begins, and begins again after each reset, with that
//! function's package and a container for it, both number 1. The package stays where it lies.

use abi::frame::code::INLINE_BYTES_MAX;
use abi::layout::PAGE_BYTES;

use crate::config::PoolLimits;
use crate::invoke::{ContainerId, Contract, InvokeId, Nanos, VmId};

use super::event::{Effect, FunctionFacts, LoadId, PackageRef, Place};

/// Numbers of the container and the package in a function's snapshot, as the maker gave them.
const PREPARED_CONTAINER: ContainerId = ContainerId(1);
const PREPARED_LOAD: LoadId = LoadId(1);

/// Containers and packages of one VM.
#[derive(Debug)]
pub(super) struct Interior {
    containers: Vec<Container>,
    packages: Vec<Package>,
    limits: InteriorLimits,
    next_container: u32,
    next_load: u64,
    window_next: u64,
    /// What lies in the window, perhaps from before a reset: package and offset.
    placed: Vec<(PackageRef, u64)>,
    /// Whether the guest knows of something in the window since it was restored or reset.
    is_window_seen: bool,
    /// What its snapshot has in it.
    prepared: Option<FunctionFacts>,
    /// Where the window is free behind what the snapshot has in it.
    window_start: u64,
}

#[derive(Clone, Copy, Debug)]
struct InteriorLimits {
    containers: usize,
    packages: usize,
    memory_mib: u32,
    window_end: u64,
}

/// A container; it exists in the guest unless it awaits its package.
#[derive(Clone, Copy, Debug)]
pub(super) struct Container {
    pub(super) id: ContainerId,
    pub(super) facts: FunctionFacts,
    pub(super) load: LoadId,
    pub(super) state: ContainerState,
    /// When it was made; `None`: it was in the snapshot.
    pub(super) made_nanos: Option<Nanos>,
}

/// What a container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerState {
    /// Its package is on the way; nothing was sent for it yet.
    AwaitingLoad(InvokeId),
    /// An invoke was sent into it.
    Running(InvokeId),
    /// Resident, waiting for the next invoke of its function.
    Idle { since_nanos: Nanos },
}

impl Container {
    /// The invoke it is taken by.
    pub(super) fn invoke(&self) -> Option<InvokeId> {
        match self.state {
            ContainerState::AwaitingLoad(invoke) | ContainerState::Running(invoke) => Some(invoke),
            ContainerState::Idle { .. } => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Package {
    package: PackageRef,
    load: LoadId,
    /// When a load on the way has failed; `None` once it is there.
    give_up_nanos: Option<Nanos>,
    used_nanos: Nanos,
}

/// How well a VM suits an invoke; a greater one is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// A container can be made; the package has to be loaded first.
    NeedsLoad,
    /// A container can be made; the package is on the way.
    Loading,
    /// A container can be made; the package is there.
    Loaded,
    /// A resident container of the function is idle.
    Resident,
}

impl Interior {
    pub(super) fn new(limits: &PoolLimits, prepared: Option<FunctionFacts>) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let limits_inside = InteriorLimits {
            containers: count(limits.containers_per_vm),
            packages: count(limits.packages_per_vm),
            memory_mib: limits.memory_mib_max,
            window_end: limits.window_start + limits.window_bytes,
        };
        let mut placed = Vec::with_capacity(limits_inside.packages);
        let mut window_start = limits.window_start;
        if let Some(facts) = prepared.filter(|facts| !is_inline(facts.package_bytes)) {
            placed.push((facts.package, window_start));
            window_start += facts.package_bytes.next_multiple_of(PAGE_BYTES);
        }
        let mut interior = Self {
            containers: Vec::with_capacity(limits_inside.containers),
            packages: Vec::with_capacity(limits_inside.packages),
            limits: limits_inside,
            next_container: PREPARED_CONTAINER.0 + 1,
            next_load: PREPARED_LOAD.0 + 1,
            window_next: window_start,
            placed,
            is_window_seen: false,
            prepared,
            window_start,
        };
        interior.begin();
        interior
    }

    /// What its snapshot has in it.
    pub(super) fn prepared(&self) -> Option<&FunctionFacts> {
        self.prepared.as_ref()
    }

    /// Makes what its snapshot has in it this function's, which is of the same code and settings.
    /// Nothing of it ran yet.
    pub(super) fn adopt(&mut self, facts: &FunctionFacts) {
        let is_it = |other: &FunctionFacts| other.snapshot == facts.snapshot;
        if let Some(prepared) = self.prepared.as_mut().filter(|prepared| is_it(prepared)) {
            *prepared = *facts;
            for container in &mut self.containers {
                container.facts = *facts;
            }
        }
    }

    /// Puts in what its snapshot has in it.
    fn begin(&mut self) {
        let Some(facts) = self.prepared else { return };
        let (load, used_nanos) = (PREPARED_LOAD, 0);
        self.packages.push(Package {
            package: facts.package,
            load,
            give_up_nanos: None,
            used_nanos,
        });
        self.containers.push(Container {
            id: PREPARED_CONTAINER,
            facts,
            load,
            state: ContainerState::Idle { since_nanos: 0 },
            made_nanos: None,
        });
    }

    /// The VM is put back to its snapshot: its guest has no container and no package.
    pub(super) fn reset(&mut self) {
        self.containers.clear();
        while let Some(package) = self.packages.pop() {
            // What was on the way may never have been placed.
            if package.give_up_nanos.is_some() {
                self.unplace(package.package);
            }
        }
        self.is_window_seen = false;
        self.begin();
    }

    pub(super) fn containers(&self) -> &[Container] {
        &self.containers
    }

    pub(super) fn packages_count(&self) -> usize {
        self.packages.len()
    }

    /// The earliest time at which a load on the way has failed.
    pub(super) fn load_give_up_nanos(&self) -> Option<Nanos> {
        self.packages.iter().filter_map(|package| package.give_up_nanos).min()
    }

    /// Whether some invoke could go in: a hint.
    pub(super) fn has_room(&self) -> bool {
        let (count, memory_mib) = self.taken();
        count < self.limits.containers && memory_mib < self.limits.memory_mib
    }

    /// Containers taken by an invoke and the memory promised to them; the others can go.
    fn taken(&self) -> (usize, u32) {
        let taken = self.containers.iter().filter(|container| container.invoke().is_some());
        taken.fold((0, 0), |(count, mib), container| (count + 1, mib + container.facts.memory_mib))
    }

    /// Whether and how an invoke of this function can go in now.
    pub(super) fn fit(&self, facts: &FunctionFacts) -> Option<Fit> {
        if self.idle_container(facts).is_some() {
            return Some(Fit::Resident);
        }
        let (count, memory_mib) = self.taken();
        let memory_mib = memory_mib.checked_add(facts.memory_mib)?;
        if count >= self.limits.containers || memory_mib > self.limits.memory_mib {
            return None;
        }
        match self.packages.iter().find(|package| package.package == facts.package) {
            Some(Package { give_up_nanos: None, .. }) => Some(Fit::Loaded),
            Some(_) => Some(Fit::Loading),
            None => self.can_load(facts).then_some(Fit::NeedsLoad),
        }
    }

    /// The same for one that wants no other container beside it, in a VM in which nothing ran.
    pub(super) fn fit_alone(&self, facts: &FunctionFacts) -> Option<Fit> {
        let mut containers = self.containers.iter();
        let has_others = containers.any(|container| container.facts.function != facts.function);
        if has_others { None } else { self.fit(facts) }
    }

    fn idle_container(&self, facts: &FunctionFacts) -> Option<usize> {
        self.containers.iter().position(|container| {
            container.facts.function == facts.function && container.invoke().is_none()
        })
    }

    fn can_load(&self, facts: &FunctionFacts) -> bool {
        let has_entry = self.packages.len() < self.limits.packages
            || self.packages.iter().any(|package| self.is_spare(package));
        has_entry && self.place_for(facts).is_some()
    }

    /// Where a package would go; `None`: the window has no room for it.
    fn place_for(&self, facts: &FunctionFacts) -> Option<Place> {
        if is_inline(facts.package_bytes) {
            return Some(Place::Inline);
        }
        let placed = self.placed.iter().find(|(package, _)| *package == facts.package);
        if let Some((_, offset)) = placed {
            return Some(Place::Placed { offset: *offset });
        }
        let bytes = facts.package_bytes.checked_next_multiple_of(PAGE_BYTES)?;
        let fits = |offset: u64| {
            offset.checked_add(bytes).is_some_and(|end| end <= self.limits.window_end)
        };
        let offset = match fits(self.window_next) {
            true => self.window_next,
            false if !self.is_window_seen => self.window_start,
            false => return None,
        };
        fits(offset).then_some(Place::Window { offset })
    }

    /// Gives a package its place.
    fn take_place(&mut self, facts: &FunctionFacts) -> Place {
        let Some(place) = self.place_for(facts) else {
            unreachable!("fit() found a place");
        };
        match place {
            Place::Inline => {}
            Place::Placed { .. } => self.is_window_seen = true,
            Place::Window { offset } => {
                if offset < self.window_next {
                    let kept = self.window_start;
                    self.placed.retain(|(_, offset)| *offset < kept);
                }
                // Of those remembered only as many as a VM may have: more is luck anyway.
                if self.placed.len() == self.limits.packages {
                    self.placed.remove(0);
                }
                self.placed.push((facts.package, offset));
                self.window_next = offset + facts.package_bytes.next_multiple_of(PAGE_BYTES);
                self.is_window_seen = true;
            }
        }
        place
    }

    /// Whether a package is there and no invoke needs it.
    fn is_spare(&self, package: &Package) -> bool {
        let mut containers = self.containers.iter();
        let is_needed = containers
            .any(|container| container.load == package.load && container.invoke().is_some());
        package.give_up_nanos.is_none() && !is_needed
    }

    /// Puts an invoke into a container, making and loading what that takes; [`Interior::fit`]
    /// said that it can. Gives the container and whether the invoke was sent.
    pub(super) fn enter(
        &mut self,
        entry: &Entry<'_>,
        effects: &mut Vec<Effect>,
    ) -> (ContainerId, bool) {
        let Entry { vm, invoke, facts, now, load_timeout_nanos } = *entry;
        if let Some(place) = self.idle_container(facts) {
            let container = &mut self.containers[place];
            container.state = ContainerState::Running(invoke);
            let (container, load) = (container.id, container.load);
            self.touch(load, now);
            effects.push(Effect::Dispatch { vm, container, invoke });
            return (container, true);
        }
        self.make_room(vm, facts.memory_mib, effects);
        let (load, is_there) =
            self.package(vm, facts, now, now.saturating_add(load_timeout_nanos), effects);
        let id = self.fresh_container();
        let state = match is_there {
            true => ContainerState::Running(invoke),
            false => ContainerState::AwaitingLoad(invoke),
        };
        let made_nanos = Some(now);
        let container = Container { id, facts: *facts, load, state, made_nanos };
        self.containers.push(container);
        if is_there {
            push_start(vm, &container, invoke, effects);
        }
        (id, is_there)
    }

    /// Ends idle containers, the longest idle first, until another one fits.
    fn make_room(&mut self, vm: VmId, memory_mib: u32, effects: &mut Vec<Effect>) {
        loop {
            let promised: u32 = self.containers.iter().map(|c| c.facts.memory_mib).sum();
            let fits = promised.saturating_add(memory_mib) <= self.limits.memory_mib;
            if fits && self.containers.len() < self.limits.containers {
                return;
            }
            let idle = self.containers.iter().filter_map(|container| match container.state {
                ContainerState::Idle { since_nanos } => Some((since_nanos, container.id)),
                ContainerState::AwaitingLoad(_) | ContainerState::Running(_) => None,
            });
            let Some((_, container)) = idle.min() else {
                unreachable!("fit() counted the idle containers as room");
            };
            self.release(vm, container, effects);
        }
    }

    /// The load of a function's package, started now if there is none; and whether it is there.
    fn package(
        &mut self,
        vm: VmId,
        facts: &FunctionFacts,
        now: Nanos,
        give_up_nanos: Nanos,
        effects: &mut Vec<Effect>,
    ) -> (LoadId, bool) {
        let known = self.packages.iter_mut().find(|package| package.package == facts.package);
        if let Some(package) = known {
            package.used_nanos = now;
            return (package.load, package.give_up_nanos.is_none());
        }
        if self.packages.len() >= self.limits.packages {
            self.forget_one(vm, effects);
        }
        let place = self.take_place(facts);
        let load = LoadId(self.next_load);
        self.next_load += 1;
        self.packages.push(Package {
            package: facts.package,
            load,
            give_up_nanos: Some(give_up_nanos),
            used_nanos: now,
        });
        effects.push(Effect::Load { vm, package: facts.package, load, place });
        (load, false)
    }

    /// Forgets the package unused for longest, its idle containers first.
    fn forget_one(&mut self, vm: VmId, effects: &mut Vec<Effect>) {
        let spare = self.packages.iter().filter(|package| self.is_spare(package));
        let Some(load) = spare.min_by_key(|p| (p.used_nanos, p.load)).map(|p| p.load) else {
            unreachable!("can_load() found a spare package");
        };
        while let Some(container) = self.containers.iter().find(|c| c.load == load) {
            self.release(vm, container.id, effects);
        }
        self.packages.retain(|package| package.load != load);
        effects.push(Effect::Forget { vm, load });
    }

    fn fresh_container(&mut self) -> ContainerId {
        loop {
            let id = ContainerId(self.next_container);
            self.next_container = self.next_container.wrapping_add(1);
            if self.containers.iter().all(|container| container.id != id) {
                return id;
            }
        }
    }

    fn touch(&mut self, load: LoadId, now: Nanos) {
        if let Some(package) = self.packages.iter_mut().find(|package| package.load == load) {
            package.used_nanos = now;
        }
    }

    fn release(&mut self, vm: VmId, container: ContainerId, effects: &mut Vec<Effect>) {
        self.containers.retain(|other| other.id != container);
        effects.push(Effect::Release { vm, container });
    }

    /// A package is there: starts the containers that waited for it. Gives their invokes.
    pub(super) fn loaded(
        &mut self,
        vm: VmId,
        load: LoadId,
        effects: &mut Vec<Effect>,
        mut on_start: impl FnMut(InvokeId),
    ) {
        let Some(package) = self.packages.iter_mut().find(|package| package.load == load) else {
            return;
        };
        if package.give_up_nanos.take().is_none() {
            return;
        }
        for container in self.containers.iter_mut().filter(|container| container.load == load) {
            if let ContainerState::AwaitingLoad(invoke) = container.state {
                container.state = ContainerState::Running(invoke);
                push_start(vm, container, invoke, effects);
                on_start(invoke);
            }
        }
    }

    /// A package will not come: drops its entry if it was on the way. The containers that wait
    /// for it are the caller's to abandon, found by [`Interior::awaiting`].
    pub(super) fn load_failed(&mut self, load: LoadId) -> bool {
        let is_it = |package: &Package| package.load == load && package.give_up_nanos.is_some();
        let Some(place) = self.packages.iter().position(is_it) else {
            return false;
        };
        let package = self.packages.remove(place).package;
        self.unplace(package);
        true
    }

    fn unplace(&mut self, package: PackageRef) {
        self.placed.retain(|(placed, _)| *placed != package);
    }

    /// An invoke that waits for this load.
    pub(super) fn awaiting(&self, load: LoadId) -> Option<InvokeId> {
        let mut containers = self.containers.iter().filter(|container| container.load == load);
        containers.find_map(|container| match container.state {
            ContainerState::AwaitingLoad(invoke) => Some(invoke),
            ContainerState::Running(_) | ContainerState::Idle { .. } => None,
        })
    }

    /// An invoke that was never sent is over: its container never was.
    pub(super) fn abandon(&mut self, container: ContainerId) {
        self.containers.retain(|other| other.id != container);
    }

    /// An invoke is over: a container that can serve another one becomes idle, another one ends.
    /// One of contract `program` always can: its process is put back, or a new one started.
    pub(super) fn finish(
        &mut self,
        vm: VmId,
        container: ContainerId,
        lives_on: LivesOn,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        let found = self.containers.iter_mut().find(|other| other.id == container);
        match (found, lives_on) {
            (Some(found), lives_on)
                if lives_on == LivesOn::Yes || found.facts.contract == Contract::Program =>
            {
                found.state = ContainerState::Idle { since_nanos: now };
            }
            _ => self.release(vm, container, effects),
        }
    }

    /// Breaks no rule: for simulations.
    pub(super) fn check(&self) {
        let memory_mib: u32 = self.containers.iter().map(|c| c.facts.memory_mib).sum();
        assert!(self.containers.len() <= self.limits.containers, "containers_per_vm");
        assert!(memory_mib <= self.limits.memory_mib, "memory promised twice");
        assert!(self.packages.len() <= self.limits.packages, "packages_per_vm");
        assert!(self.window_next <= self.limits.window_end, "window exceeded");
        for (place, container) in self.containers.iter().enumerate() {
            let before = &self.containers[..place];
            assert!(before.iter().all(|other| other.id != container.id), "container number twice");
            let package = self.packages.iter().find(|package| package.load == container.load);
            let Some(package) = package else {
                panic!("container without a package");
            };
            let awaits = matches!(container.state, ContainerState::AwaitingLoad(_));
            assert_eq!(awaits, package.give_up_nanos.is_some(), "runs without its package");
        }
    }
}

/// An invoke about to enter a VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) vm: VmId,
    pub(super) invoke: InvokeId,
    pub(super) facts: &'a FunctionFacts,
    pub(super) now: Nanos,
    pub(super) load_timeout_nanos: Nanos,
}

/// Whether a container's process survived its invoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LivesOn {
    Yes,
    No,
}

fn is_inline(package_bytes: u64) -> bool {
    usize::try_from(package_bytes).is_ok_and(|bytes| bytes <= INLINE_BYTES_MAX)
}

fn push_start(vm: VmId, container: &Container, invoke: InvokeId, effects: &mut Vec<Effect>) {
    effects.push(Effect::Acquire {
        vm,
        container: container.id,
        function: container.facts.function,
        load: container.load,
    });
    effects.push(Effect::Dispatch { vm, container: container.id, invoke });
}
