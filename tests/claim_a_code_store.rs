//! Claim a: an electronic data store holds at least a user's program code. It is addressed by
//! content, outlives the node, is verified when it is loaded, and reaches a VM through the code
//! ring. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use abi::layout::region::CODE;
use pilotlight::invoke::Digest;
use sha2::{Digest as _, Sha256};

use self::support::node::{TestNode, invoke, package, refusal, run, text, wait_until};
use self::support::programs::program;
use self::support::region::{holds, ring};

/// Where the store keeps what has this digest.
fn file_of(state: &Path, digest: Digest) -> PathBuf {
    let name = digest.to_string();
    state.join("sha256").join(&name[..2]).join(name)
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[test]
fn claim_a_code_is_stored_once_under_its_digest() {
    let node = TestNode::new();
    let mut client = node.client();
    let busybox = package("busybox", &["wc", "-w"]);
    let first = client.deploy(("ada", "count"), &busybox).unwrap();
    let file = file_of(node.state(), first.package);
    let bytes = fs::read(&file).unwrap();
    assert_eq!(<[u8; 32]>::from(Sha256::digest(&bytes)), first.package.0);
    assert!(holds(&bytes, &fs::read(program("busybox")).unwrap()), "the code itself is in there");

    let second = client.deploy(("grace", "words"), &busybox).unwrap();
    assert_eq!(second.package, first.package);
    assert_eq!(files_below(&node.state().join("sha256")), 1, "the same code is stored once");
    let other = client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    assert_ne!(other.package, first.package);
    assert_eq!(files_below(&node.state().join("sha256")), 2);
}

#[test]
fn claim_a_code_outlives_the_node() {
    let mut node = TestNode::new();
    let mut client = node.client();
    let deployed = client.deploy(("ada", "count"), &package("busybox", &["wc", "-w"])).unwrap();
    assert_eq!(text(&run(&mut client, "ada", "count", b"one two three\n")), "3\n");
    drop(client);
    node.restart();
    let mut client = node.client();
    assert_eq!(client.list("ada").unwrap(), [deployed]);
    assert_eq!(text(&run(&mut client, "ada", "count", b"one two\n")), "2\n");
    client.remove("ada", "count").unwrap();
    let gone = refusal(client.invoke(&invoke("ada", "count", b"")));
    assert_eq!(gone.0, "unknown-function");
    wait_until("the code that nobody names any more to go", || {
        files_below(&node.state().join("sha256")) == 0
    });
}

#[test]
fn claim_a_altered_code_is_not_run() {
    let mut node = TestNode::new();
    let mut client = node.client();
    let deployed = client.deploy(("ada", "count"), &package("busybox", &["wc", "-w"])).unwrap();
    let file = file_of(node.state(), deployed.package);
    let whole = fs::read(&file).unwrap();
    let mut altered = whole.clone();
    // A byte of the program's own text: what it would print has changed, nothing else.
    let place = altered.len() / 2;
    altered[place] ^= 1;
    for damage in [&altered[..], &whole[..whole.len() - 4096], b"", &[&whole[..], b"x"].concat()] {
        fs::remove_file(&file).unwrap();
        fs::write(&file, damage).unwrap();
        let (code, message) = refusal(client.invoke(&invoke("ada", "count", b"one two\n")));
        assert_eq!(code, "package-unavailable", "{message}");
        assert!(message.contains("deploy the function again"), "{message}");
    }
    fs::remove_file(&file).unwrap();
    let missing = refusal(client.invoke(&invoke("ada", "count", b"one two\n")));
    assert_eq!(missing.0, "package-unavailable", "{}", missing.1);

    // What the message advises helps.
    client.deploy(("ada", "count"), &package("busybox", &["wc", "-w"])).unwrap();
    assert_eq!(fs::read(&file).unwrap(), whole);
    assert_eq!(text(&run(&mut client, "ada", "count", b"one two\n")), "2\n");

    // Verified code is a sealed copy: whatever happens to the file now changes nothing ...
    fs::remove_file(&file).unwrap();
    fs::write(&file, &altered).unwrap();
    assert_eq!(text(&run(&mut client, "ada", "count", b"one two\n")), "2\n");
    drop(client);
    // ... until a node has to load it anew.
    node.restart();
    let (code, _) = refusal(node.client().invoke(&invoke("ada", "count", b"one two\n")));
    assert_eq!(code, "package-unavailable");
}

#[test]
fn claim_a_code_arrives_as_frames_of_the_code_ring() {
    let node = TestNode::new();
    let mut client = node.client();
    // Small code travels in the ring, large code as a frame that says where it lies.
    let small = client.deploy(("ada", "small"), &package("noop", &[])).unwrap();
    let large = client.deploy(("ada", "large"), &package("busybox", &["true"])).unwrap();
    assert!(small.package_bytes < 64 * 1024 && large.package_bytes > 64 * 1024);
    let stored = fs::read(file_of(node.state(), small.package)).unwrap();
    let code = stored.chunks(1024).max_by_key(|part| part.iter().filter(|it| **it != 0).count());
    let code = code.unwrap();

    let vm = run(&mut client, "ada", "small", b"").outcome.vm;
    let after_small = ring(vm, CODE);
    assert!(holds(&after_small, &small.package.0), "its digest leads");
    assert!(holds(&after_small, code), "the code follows");
    assert!(!holds(&after_small, &large.package.0));

    assert_eq!(run(&mut client, "ada", "large", b"").outcome.vm, vm);
    assert!(holds(&ring(vm, CODE), &large.package.0), "a frame names it by its digest");
    run(&mut client, "ada", "large", b"");
    // One frame per load, not per invoke: the ring still holds each digest once.
    let ring = ring(vm, CODE);
    let count = ring.windows(32).filter(|window| *window == large.package.0).count();
    assert_eq!(count, 1);
}
