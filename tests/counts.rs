//! Promise: what an invoke costs in things that can be counted, the same on every kind of KVM: exits
//! to the VMM, page faults of the VMM's process (the guest's first touches of pages among them),
//! pages that a reset puts back. Times depend on the machine; these do not. Needs KVM.
//!
//! `COUNT` is how many invokes are looked at (1000). The table it prints is that of ARCHITECTURE.md.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::time::Duration;

use pilotlight::Config;
use pilotlight::client::Client;
use pilotlight::config::POLL_MICROS_MAX;
use pilotlight::invoke::Freshness;
use pilotlight::socket::answer::Room;
use serde_json::Value;

use self::support::node::{
    TestNode, invoke, package, run, stream_package, wait_for_status, wait_until,
};

/// Uncounted invokes in front: once round the rings, each page of which is a fault, and queues that
/// grow.
const WARM_UP: u64 = 100;

/// Of a user's first invoke: waking up, and once for each time the guest waits for the node.
const FIRST_EXITS_MAX: u64 = 4;
/// Pages of kernel and program that no VM has private from the start.
const FIRST_FAULTS_MAX: u64 = 12;
/// Of a VM's whole life up to its first answer: two entries that set it up beside those.
const COLD_EXITS_MAX: u64 = FIRST_EXITS_MAX + 2;
/// Of its whole process up to there: the VMM's own start, the pages its snapshot has, and the guest's.
const COLD_FAULTS_MAX: u64 = 2_000;
/// One stops the VM that is reset; the others are its halts before and after.
const FRESH_EXITS_MAX: u64 = 4;
/// Pages that were written once stay private and present: far less than a request writes.
const FRESH_FAULTS_MAX: u64 = 16;
/// What guest kernel and program write beside what the request asks for.
const FRESH_PAGES_MAX: u64 = 80;
/// Longer than a VM that does not poll takes to halt.
const PAUSE: Duration = Duration::from_millis(1);

fn count() -> u64 {
    let text = std::env::var("COUNT").ok();
    text.map_or(1000, |text| text.parse().unwrap())
}

/// What one VM has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    exits: u64,
    /// Of those, the ones by a signal: the VM was to be reset, or the guest's time was up. How often
    /// it is depends on how long the host lets both sides run, not on what they do.
    by_signal: u64,
    faults: u64,
}

impl Cost {
    fn of(client: &mut Client, vm: &str) -> Self {
        let status = client.status().unwrap();
        let vm = vm_where(&status, "vm", vm);
        let count = |key: &str| vm[key].as_u64().unwrap();
        let (exits, by_signal) = (count("vm_exits"), count("vm_exits_by_signal"));
        Self { exits, by_signal, faults: faults(&vm["pid"]) }
    }

    fn since(self, before: Self) -> Self {
        Self {
            exits: self.exits - before.exits,
            by_signal: self.by_signal - before.by_signal,
            faults: self.faults - before.faults,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            exits: self.exits + other.exits,
            by_signal: self.by_signal + other.by_signal,
            faults: self.faults + other.faults,
        }
    }

    /// Exits by what was done.
    fn own_exits(self) -> u64 {
        self.exits - self.by_signal
    }
}

/// The first VM in whose description `key` is `value`.
fn vm_where<'a>(status: &'a Value, key: &str, value: &str) -> &'a Value {
    let mut vms = status["vms"].as_array().unwrap().iter();
    vms.find(|vm| vm[key] == value).unwrap_or_else(|| panic!("no {key} {value} in {status:#}"))
}

fn name(vm: &Value) -> String {
    vm["vm"].as_str().unwrap().to_owned()
}

/// Page faults of a process, all of its threads (proc_pid_stat(5), fields 10 and 12).
fn faults(process: &Value) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The second may have spaces in it and ends with the last parenthesis.
    let rest = &stat[stat.rfind(')').unwrap() + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    let field = |number: usize| fields[number - 3].parse::<u64>().unwrap();
    field(10) + field(12)
}

fn counter(status: &Value, name: &str) -> u64 {
    status["counters"][name].as_u64().unwrap()
}

fn say(status: &Value, what: &str, invokes: u64, cost: Cost, pages: Option<u64>) {
    let per = |count: u64| count as f64 / invokes as f64;
    let pages = pages.map_or(String::new(), |pages| format!(", {:.1} pages put back", per(pages)));
    eprintln!(
        "{} KVM, {what}: {:.3} exits ({:.3} of them by a signal), {:.3} faults{pages} per invoke, of \
         {invokes}",
        status["flavour"].as_str().unwrap(),
        per(cost.exits),
        per(cost.by_signal),
        per(cost.faults),
    );
}

/// A node whose VMs are not verified, replaced or added to while they are looked at.
fn node(change: impl FnOnce(&mut Config)) -> TestNode {
    TestNode::with(|config| {
        config.vm.verify_every = 0;
        config.vm.shard_poll_micros = 1_000_000;
        config.vm.poll_micros = POLL_MICROS_MAX;
        config.snapshots.count_max = 0;
        config.pools.warm_target = 1;
        config.pools.warm_max = 1;
        config.pools.vms_per_user_max = 1;
        change(config);
    })
}

/// What invokes in one VM cost it, once it has served some.
fn warm(client: &mut Client) -> (String, u64) {
    client.deploy(("ada", "echo"), &stream_package("echo-stream", &[])).unwrap();
    let vm = run(client, "ada", "echo", &[7; 1024]).outcome.vm.to_string();
    invokes(client, WARM_UP);
    wait_for_status(client, "no VM on its way", |status| status["pools"]["starting"] == 0);
    (vm, count())
}

fn invokes(client: &mut Client, count: u64) {
    for _ in 0..count {
        assert_eq!(run(client, "ada", "echo", &[7; 1024]).response, [7; 1024]);
    }
}

#[test]
fn a_warm_invoke_costs_no_exit_and_no_fault() {
    let node = node(|_| ());
    let mut client = node.warm_client();
    let (vm, count) = warm(&mut client);
    let before = Cost::of(&mut client, &vm);
    invokes(&mut client, count);
    let cost = Cost::of(&mut client, &vm).since(before);
    say(&client.status().unwrap(), "warm, polling", count, cost, None);
    assert_eq!(cost.faults, 0);
    // A guest, or a shard, that is not run for longer than the other polls has it halt without need,
    // as it may while the status is gathered; that is rare.
    assert!(cost.own_exits() <= 4 + count / 50, "{cost:?}");
}

#[test]
fn a_warm_invoke_of_a_sleeping_vm_costs_one_exit_and_no_fault() {
    let node = node(|config| config.vm.poll_micros = 0);
    let mut client = node.warm_client();
    let (vm, count) = warm(&mut client);
    let before = at_rest(&mut client, &vm);
    for _ in 0..count {
        invokes(&mut client, 1);
        // A request that comes sooner finds a VM that has not halted yet.
        std::thread::sleep(PAUSE);
    }
    let cost = at_rest(&mut client, &vm).since(before);
    say(&client.status().unwrap(), "warm, asleep", count, cost, None);
    assert_eq!(cost.faults, 0);
    // Two may come before a vCPU that is not run at once has halted in between.
    assert!((count / 2..=count).contains(&cost.own_exits()), "{cost:?}");
}

/// What a VM has cost when it has come to rest after its last invoke: twice the same.
fn at_rest(client: &mut Client, vm: &str) -> Cost {
    let mut before = Cost::of(client, vm);
    wait_until("the VM to come to rest", || {
        std::thread::sleep(Duration::from_millis(20));
        let now = Cost::of(client, vm);
        std::mem::replace(&mut before, now) == now
    });
    before
}

#[test]
fn the_first_invoke_of_a_user_costs_few_exits_and_faults() {
    let node = node(|_| ());
    let mut client = node.warm_client();
    let rounds = (count() / 50).clamp(3, 20);
    let mut costs = Vec::new();
    for round in 0..rounds {
        let user = format!("u{round}");
        client.deploy((&user, "noop"), &package("noop", &[])).unwrap();
        let is_warm =
            |status: &Value| status["pools"]["warm"] == 1 && status["pools"]["starting"] == 0;
        let status = wait_for_status(&mut client, "a warm VM", is_warm);
        let vm = name(vm_where(&status, "state", "warm"));
        let before = at_rest(&mut client, &vm);
        let done = client.invoke(&invoke(&user, "noop", b"")).unwrap();
        assert_eq!((done.outcome.vm.to_string(), done.room), (vm.clone(), Room::Warming));
        let cost = Cost::of(&mut client, &vm).since(before);
        costs.push(cost);
    }
    let status = client.status().unwrap();
    say(&status, "first", rounds, costs.iter().copied().reduce(Cost::plus).unwrap(), None);
    let is_bounded =
        |cost: &Cost| cost.own_exits() <= FIRST_EXITS_MAX && cost.faults <= FIRST_FAULTS_MAX;
    // On a host that gives a VM no time, one that still meets its pages looks at rest.
    let beyond = costs.iter().filter(|cost| !is_bounded(cost)).count();
    assert!(beyond <= costs.len() / 10, "{costs:?}");
}

#[test]
fn an_invoke_that_finds_no_vm_costs_one_start() {
    let node = node(|config| {
        (config.pools.warm_min, config.pools.warm_target) = (0, 0);
        config.pools.demand_window_millis = 1;
    });
    let mut client = node.client();
    let rounds = (count() / 50).clamp(3, 20);
    let mut costs = Vec::new();
    for round in 0..rounds {
        let user = format!("u{round}");
        client.deploy((&user, "noop"), &package("noop", &[])).unwrap();
        wait_for_status(&mut client, "an empty warming pool", |status| {
            status["pools"]["warm"] == 0 && status["pools"]["starting"] == 0
        });
        let done = client.invoke(&invoke(&user, "noop", b"")).unwrap();
        assert_eq!(done.room, Room::Warming, "its VM, though nobody had one");
        costs.push(Cost::of(&mut client, &done.outcome.vm.to_string()));
    }
    let status = client.status().unwrap();
    say(&status, "cold", rounds, costs.iter().copied().reduce(Cost::plus).unwrap(), None);
    let is_bounded =
        |cost: &Cost| cost.own_exits() <= COLD_EXITS_MAX && cost.faults <= COLD_FAULTS_MAX;
    assert!(costs.iter().all(is_bounded), "{costs:?}");
}

#[test]
fn an_invoke_in_a_fresh_vm_puts_back_what_it_wrote() {
    let node = node(|_| ());
    let mut client = node.warm_client();
    let mut function = stream_package("dirty-pages", &[]);
    function.settings.freshness = Freshness::Vm;
    client.deploy(("ada", "dirty"), &function).unwrap();
    // Enough of them that a guest whose pages the host moves once, and who meets them all again, is
    // within the bound.
    let rounds = (count() / 10).clamp(20, 100);
    let mut costs = Vec::new();
    for pages in [0_u32, 256] {
        let mut fresh = |count: u64| {
            for _ in 0..count {
                run(&mut client, "ada", "dirty", &pages.to_le_bytes());
            }
            let status = wait_for_status(&mut client, "the VM to be reset", |status| {
                status["pools"]["resetting"] == 0
            });
            let vm = name(vm_where(&status, "state", "assigned"));
            (Cost::of(&mut client, &vm), counter(&status, "reset_pages"), status)
        };
        let (before, pages_before, _) = fresh(10);
        let (after, pages_after, status) = fresh(rounds);
        let put_back = pages_after - pages_before;
        let what = format!("fresh-vm, {pages} pages written");
        say(&status, &what, rounds, after.since(before), Some(put_back));
        costs.push((pages, after.since(before), put_back));
    }
    for (pages, cost, put_back) in costs {
        let expected = rounds * u64::from(pages);
        assert!(put_back >= expected, "{pages}: {put_back} pages put back");
        assert!(put_back <= expected + rounds * FRESH_PAGES_MAX, "{pages}: {put_back}");
        assert!(cost.exits <= rounds * FRESH_EXITS_MAX, "{pages}: {cost:?}");
        assert!(cost.faults <= rounds * FRESH_FAULTS_MAX, "{pages}: {cost:?}");
    }
}
