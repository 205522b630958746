//! Promise: more new users at once than a node has room for are served one after the other, and
//! none is turned away. Needs KVM.

mod support;

use std::collections::HashSet;

use pilotlight::Config;
use pilotlight::config::PoolLimits;
use pilotlight::credential::ActiveKey;
use pilotlight::invoke::{Contract, Freshness, InvokeId, Nanos, Status, User, VmId};
use pilotlight::pool::{
    Arrival, Effect, Event, FunctionFacts, FunctionRef, PackageRef, Pool, RetireReason, SnapshotRef,
};
use pilotlight::socket::answer::Answer;

use self::support::node::{TestNode, invoke, package};

#[test]
fn users_beyond_the_nodes_room_are_served_in_turn() {
    let node = TestNode::with(|config| {
        config.pools.vms_max = 4;
        config.pools.warm_target = 1;
        config.pools.warm_max = 2;
        config.pools.queue_wait_millis = 60_000;
    });
    let mut client = node.client();
    let users: Vec<_> = (0..24).map(|number| format!("user{number}")).collect();
    for user in &users {
        client.deploy((user, "cat"), &package("busybox", &["cat"])).unwrap();
    }
    let mut open: HashSet<_> =
        users.iter().map(|user| client.submit(&invoke(user, "cat", b"here")).unwrap()).collect();
    while !open.is_empty() {
        let received = client.receive().unwrap();
        let Answer::Outcome(outcome) = received.answer else {
            panic!("turned away: {:?}", received.answer)
        };
        assert_eq!(outcome.response, b"here");
        open.remove(&received.id);
    }
    let status = client.status().unwrap();
    assert_eq!(status["refusals"], serde_json::json!({}), "{status}");
}

/// What an effect leads to at once.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others lead to nothing here")]
fn follows(effect: &Effect) -> Option<Event> {
    match *effect {
        Effect::Spawn { vm, .. } => Some(Event::Ready { vm }),
        Effect::Load { vm, load, .. } => Some(Event::Loaded { vm, load }),
        Effect::Dispatch { vm, invoke, .. } => {
            Some(Event::OutcomeArrived { vm, invoke, status: Status::Exited })
        }
        _ => None,
    }
}

/// The VM an effect tells to make room.
fn gives_way(effect: &Effect) -> Option<VmId> {
    let Effect::Retire { vm, reason: RetireReason::SlotNeeded } = *effect else { return None };
    Some(vm)
}

/// A pool in a world where everything that is asked for happens at once.
struct Calm {
    pool: Pool,
    now: Nanos,
    retired: Vec<VmId>,
}

impl Calm {
    fn new(change: impl FnOnce(&mut PoolLimits)) -> Self {
        let mut limits = Config::default().pool_limits(1, 0);
        change(&mut limits);
        Self { pool: Pool::new(limits, 0, 1), now: 0, retired: Vec::new() }
    }

    /// Takes an event and does what follows; VMs that are told to end do so later.
    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.now += 1_000;
            let mut effects = Vec::new();
            self.pool.step(event, self.now, &mut effects);
            events.extend(effects.iter().filter_map(follows));
            self.retired.extend(effects.iter().filter_map(gives_way));
        }
        self.pool.check();
    }

    fn invoke(&mut self, number: u64) {
        let user = User::new(&format!("user{number}")).expect("a name");
        let facts = FunctionFacts {
            function: FunctionRef(1),
            package: PackageRef(1),
            snapshot: SnapshotRef(1),
            package_bytes: 1,
            contract: Contract::Program,
            freshness: Freshness::Reuse,
            memory_mib: 1,
        };
        let key = ActiveKey::from_parts(user, [u8::try_from(number).expect("small"); 32]);
        let arrival = Arrival { invoke: InvokeId(number), key, facts, deadline_nanos: 1 << 40 };
        self.step(Event::Invoke(arrival));
    }
}

#[test]
fn as_many_slots_are_freed_at_a_time_as_vms_may_start() {
    let mut calm = Calm::new(|limits| {
        (limits.vms_max, limits.warm_max) = (8, 8);
        (limits.warm_min, limits.warm_target) = (0, 0);
        limits.spawns_at_once_max = 3;
        limits.demand_window_nanos = 1;
    });
    (0..8).for_each(|user| calm.invoke(user));
    assert_eq!((calm.pool.census().assigned, calm.retired.len()), (8, 0), "all slots are taken");
    (8..13).for_each(|user| calm.invoke(user));
    assert_eq!(calm.pool.census().waiting, 5);
    assert_eq!(calm.retired.len(), 3, "five wait, three VMs may start at a time");
    for vm in std::mem::take(&mut calm.retired) {
        calm.step(Event::VmGone { vm, blame: pilotlight::pool::Blame::Nobody });
    }
    assert_eq!(calm.pool.census().waiting, 2);
    assert_eq!(calm.retired.len(), 2, "two still wait");
}
