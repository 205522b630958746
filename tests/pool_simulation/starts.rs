//! VMs that start.

use std::collections::{BTreeMap, BTreeSet};

use pilotlight::invoke::{Nanos, VmId};
use pilotlight::pool::{Event, FunctionFacts, Pressure, ResetId, SnapshotRef};

use super::{Model, State, Vm};

impl Model {
    pub(super) fn follow_spawn(
        &mut self,
        vm: VmId,
        snapshot: Option<SnapshotRef>,
        is_awaited: bool,
        now: Nanos,
    ) {
        assert!(!self.is_stopping, "starts although stopping");
        assert!(vm.0 > self.last_vm, "a VM's number is used once");
        self.last_vm = vm.0;
        let prepared = snapshot.map(|snapshot| {
            self.sight("started from a function's snapshot");
            if is_awaited {
                self.sight("started from a function's snapshot for one that waits");
            } else {
                assert_eq!(self.pressure, Pressure::Calm, "a luxury while memory is short");
            }
            *self.snapshots.get(&snapshot).expect("from a snapshot that is there")
        });
        let window_start = self.limits.window_start;
        let mut new = Vm {
            state: State::Starting,
            since: now,
            containers: BTreeMap::new(),
            loads: BTreeMap::new(),
            load_last: 1,
            window: Vec::new(),
            window_end: window_start,
            seen: Vec::new(),
            reset: ResetId(0),
            is_told: false,
            entered: BTreeSet::new(),
            is_spent: false,
            prepared,
            is_awaited,
        };
        new.begin(window_start);
        self.vms.insert(vm, new);
        let of_it = |vm: &&Vm| {
            let is_coming = matches!(vm.state, State::Starting | State::Warm);
            let is_same = |facts: FunctionFacts| Some(facts.snapshot) == snapshot;
            is_coming && !vm.is_awaited && vm.prepared.is_some_and(is_same)
        };
        let of_it = u32::try_from(self.vms.values().filter(of_it).count()).unwrap();
        assert!(of_it <= self.limits.warm_per_function_max, "too many of one function");
        let is_waiting = self.invokes.values().any(|open| open.entered.is_none());
        assert!(!is_awaited || is_waiting, "nobody waits for it");
        assert!(self.vms.len() <= usize::try_from(self.limits.vms_max).unwrap(), "no slot");
        let count = |state| self.vms.values().filter(|vm| vm.state == state).count();
        let starting = u32::try_from(count(State::Starting)).unwrap();
        assert!(starting <= self.limits.spawns_at_once_max, "too many starts at once");
        let warm = u32::try_from(count(State::Warm)).unwrap();
        assert!(starting + warm <= self.limits.warm_max, "more than warm_max");
    }

    pub(super) fn follow_hasten(&mut self, vm: VmId, event: &Event) {
        let is_warm = matches!(*event, Event::Ready { vm: ready } if ready == vm);
        let vm = self.vms.get_mut(&vm).expect("not gone");
        assert!(!vm.is_awaited, "told twice");
        let expected = if is_warm { State::Warm } else { State::Starting };
        assert_eq!(vm.state, expected, "hastened for nothing");
        vm.is_awaited = !is_warm;
        if !is_warm {
            self.sight("hastened");
        }
    }
}
