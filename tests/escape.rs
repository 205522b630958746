//! Promise: what one request leaves behind, no later request finds: not under `--freshness fork` or
//! `vm`, not in the next run of a program, and never another user. Needs KVM.
//!
//! `tests/programs/escape.c` plants a secret in registers (AVX and AVX-512 where there are), heap,
//! stack, static and thread memory, freed pages, tmpfs, pipes, environment, signal state, or hunts
//! for it. `COUNT=100000` sets how many secrets are planted in all (default: a hundredth of that).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a long run says how far it came")]

mod support;

use pilotlight::client::{Client, Package};
use pilotlight::invoke::{Contract, Freshness};

#[cfg(feature = "planted-bugs")]
use self::support::node::wait_for_status;
use self::support::node::{TestNode, package, run, text};

const SECRET_BYTES: usize = 16;
const MASK: u8 = 0xa5;
/// Pages of fresh memory a hunt looks through; every so many hunts a great deal of them.
const PAGES: u32 = 48;
const PAGES_MANY: u32 = 4096;
const MANY_EVERY: u64 = 200;
/// Secrets one process that stays is given.
#[cfg(not(feature = "planted-bugs"))]
const PLANTS_MAX: u64 = 200;
/// Secrets planted in all when nothing else is said.
const COUNT: u64 = 1000;

fn count() -> u64 {
    let text = std::env::var("COUNT").ok();
    text.map_or(COUNT, |text| text.parse().unwrap())
}

/// A secret no other round has, and none of whose bytes is 0.
fn secret(round: u64) -> [u8; SECRET_BYTES] {
    let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635;
    [(); SECRET_BYTES].map(|()| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state % 255).unwrap() + 1
    })
}

fn request(letter: u8, pages: u32, secret: [u8; SECRET_BYTES]) -> Vec<u8> {
    let masked = secret.map(|byte| byte ^ MASK);
    [&[letter][..], &pages.to_le_bytes(), &masked].concat()
}

fn escape(contract: Contract, freshness: Freshness) -> Package {
    let arguments: &[&str] = if contract == Contract::Stream { &["stream"] } else { &[] };
    let mut package = package("escape", arguments);
    package.settings.contract = contract;
    package.settings.freshness = freshness;
    package
}

fn plant(client: &mut Client, user: &str, function: &str, secret: [u8; SECRET_BYTES]) {
    let done = run(client, user, function, &request(b'P', 0, secret));
    assert_eq!(text(&done), "planted");
}

fn hunt(client: &mut Client, user: &str, function: &str, round: u64) -> String {
    let pages = if round.is_multiple_of(MANY_EVERY) { PAGES_MANY } else { PAGES };
    text(&run(client, user, function, &request(b'H', pages, secret(round))))
}

/// Plants and hunts in turn, in one function of one user.
fn hunt_in_turn(contract: Contract, freshness: Freshness, rounds: u64) {
    // One VM, so that the hunter meets the one the secret was planted in. The verifier, which
    // takes longer than all else, has tests of its own.
    let node = TestNode::with(|config| {
        config.pools.vms_per_user_max = 1;
        config.vm.verify_every = 0;
    });
    let mut client = node.warm_client();
    client.deploy(("ada", "escape"), &escape(contract, freshness)).unwrap();
    for round in 1..=rounds {
        plant(&mut client, "ada", "escape", secret(round));
        let found = hunt(&mut client, "ada", "escape", round);
        assert_eq!(found, "clean", "{contract}, {freshness}, round {round}");
    }
    println!("{contract}, {freshness}: {rounds} secrets planted, none found");
}

/// What a VMM or a guest leaves in RAM where nobody looks is found there, where a program can look
/// at all: where page tables are the VM's only wall.
fn hunt_ram(client: &mut Client, user: &str, function: &str, secret: [u8; SECRET_BYTES]) -> String {
    text(&run(client, user, function, &request(b'K', PAGES_MANY, secret)))
}

#[test]
#[cfg(not(feature = "planted-bugs"))]
fn the_hunter_finds_what_a_process_keeps() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    client.deploy(("ada", "keeps"), &escape(Contract::Stream, Freshness::Reuse)).unwrap();
    let secret = secret(1);
    for (letter, place) in [
        (b'R', "found vector registers"),
        (b'M', "found memory"),
        (b'T', "found file /tmp/"),
        (b'E', "found the environment"),
    ] {
        plant(&mut client, "ada", "keeps", secret);
        let found = text(&run(&mut client, "ada", "keeps", &request(letter, PAGES, secret)));
        assert!(found.starts_with(place), "{found:?} is not {place:?}");
    }
}

#[test]
#[cfg(not(feature = "planted-bugs"))]
fn nothing_escapes_a_rewound_program() {
    hunt_in_turn(Contract::Program, Freshness::Reuse, count() / 5);
}

#[test]
#[cfg(not(feature = "planted-bugs"))]
fn nothing_escapes_a_fork_of_a_program() {
    hunt_in_turn(Contract::Program, Freshness::Fork, count() / 5);
}

#[test]
#[cfg(not(feature = "planted-bugs"))]
fn nothing_escapes_a_fork_of_a_resident_process() {
    hunt_in_turn(Contract::Stream, Freshness::Fork, count() / 5);
}

#[test]
#[cfg(not(feature = "planted-bugs"))]
fn nothing_escapes_a_reset_vm() {
    hunt_in_turn(Contract::Stream, Freshness::Vm, count() / 5);
}

/// Not even in free memory, through the guest kernel's eyes.
#[test]
#[cfg(not(feature = "planted-bugs"))]
fn nothing_is_left_in_the_ram_of_a_reset_vm() {
    // One VM, so that the hunter meets the one that was reset, and not one the verifier stopped.
    let node = TestNode::with(|config| {
        config.pools.vms_per_user_max = 1;
        config.vm.verify_every = 0;
    });
    let mut client = node.warm_client();
    client.deploy(("ada", "escape"), &escape(Contract::Stream, Freshness::Vm)).unwrap();
    client.deploy(("bob", "keeps"), &escape(Contract::Stream, Freshness::Reuse)).unwrap();
    let is_pvm = client.status().unwrap()["flavour"] == "pvm";
    for round in 1..=count() / 50 {
        plant(&mut client, "ada", "escape", secret(round));
        let found = hunt_ram(&mut client, "ada", "escape", secret(round));
        assert_eq!(found, if is_pvm { "clean" } else { "out of reach" }, "round {round}");
    }
    plant(&mut client, "bob", "keeps", secret(0));
    let found = hunt_ram(&mut client, "bob", "keeps", secret(0));
    assert_eq!(found.starts_with("found RAM"), is_pvm, "what is there is seen: {found}");
}

/// A file `scripts/test planted` built with a defect.
#[cfg(feature = "planted-bugs")]
fn planted(path: &str) -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("PLANTED").expect("run by scripts/test planted");
    Some(std::path::Path::new(&folder).join(path))
}

#[test]
#[cfg(feature = "planted-bugs")]
fn planted_reset_that_leaves_pages_is_found() {
    let vmm = || planted("x86_64-unknown-linux-musl/release/vmm");
    let node = TestNode::with(|config| {
        config.paths.vmm = vmm();
        config.vm.verify_every = 0;
        config.pools.vms_per_user_max = 1;
    });
    let mut client = node.warm_client();
    let is_pvm = client.status().unwrap()["flavour"] == "pvm";
    let package = escape(Contract::Stream, Freshness::Vm);
    client.deploy(("ada", "escape"), &package).unwrap();
    plant(&mut client, "ada", "escape", secret(1));
    let found = hunt_ram(&mut client, "ada", "escape", secret(1));
    assert_eq!(found.starts_with("found RAM"), is_pvm, "by looking: {found}");

    let node = TestNode::with(|config| {
        config.paths.vmm = vmm();
        config.vm.verify_every = 1;
    });
    let mut client = node.warm_client();
    client.deploy(("ada", "escape"), &package).unwrap();
    plant(&mut client, "ada", "escape", secret(1));
    wait_for_status(&mut client, "the verifier to find it", |status| {
        status["counters"]["resets_failed"].as_u64() >= Some(1)
    });
}

#[test]
#[cfg(feature = "planted-bugs")]
fn planted_rewind_that_leaves_pages_is_found() {
    for contract in [Contract::Stream, Contract::Program] {
        let kernel = planted("x86_64-unknown-none/release/guest-agent");
        let node = TestNode::with(|config| config.paths.kernel = kernel);
        let mut client = node.warm_client();
        client.deploy(("ada", "escape"), &escape(contract, Freshness::Fork)).unwrap();
        // The first requests find out what is written; from then on that is copied back.
        let found = (1..=5).map(|round| {
            plant(&mut client, "ada", "escape", secret(round));
            hunt(&mut client, "ada", "escape", round)
        });
        let found: Vec<_> = found.collect();
        assert!(found.iter().any(|found| found.starts_with("found")), "{contract}: {found:?}");
    }
}

#[test]
#[cfg(not(feature = "planted-bugs"))]
fn nothing_reaches_another_user() {
    let rounds = count() / 5;
    let node = TestNode::with(|config| config.pools.vms_max = 12);
    let mut client = node.warm_client();
    let package = escape(Contract::Stream, Freshness::Reuse);
    for round in 1..=rounds {
        // A process that stays keeps what it plants, and has memory for some hundred secrets.
        let planter = format!("ada{}", round / PLANTS_MAX);
        if round == 1 || round % PLANTS_MAX == 0 {
            client.deploy((&planter, "escape"), &package).unwrap();
        }
        plant(&mut client, &planter, "escape", secret(round));
        let other = format!("u{round}");
        client.deploy((&other, "escape"), &package).unwrap();
        let found = hunt(&mut client, &other, "escape", round);
        assert_eq!(found, "clean", "another user, round {round}");
        client.remove(&other, "escape").unwrap();
    }
    println!("{rounds} secrets planted, none found by another user");
}
