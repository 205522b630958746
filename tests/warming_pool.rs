//! A node lights its warming pool: the guest boots once, every VM is restored from that snapshot,
//! and nothing is left behind when the node stops. Needs KVM.

use std::time::{Duration, Instant};

use pilotlight::{Config, Node};

/// How long a busy machine may take to light the pool.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(state: &std::path::Path) -> Config {
    let mut config = Config::default();
    config.paths.state = state.to_owned();
    config.pools.warm_target = 2;
    config.pools.warm_max = 2;
    config
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a bound on a wait, not a measurement")]
fn every_warm_vm_is_restored_from_one_boot() {
    let state = tempfile::tempdir().unwrap();
    let node = Node::start(config(state.path())).unwrap();
    let mut client = node.client().unwrap();
    let began = Instant::now();
    let status = loop {
        let status = client.status().unwrap();
        if status["pools"]["warm"] == 2 {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "the pool is not lit: {status}");
        std::thread::yield_now();
    };
    assert_eq!(status["counters"]["boots"], 1, "{status}");
    assert_eq!(status["counters"]["restores"], 2, "{status}");
    let pids: Vec<u64> =
        status["vms"].as_array().unwrap().iter().map(|vm| vm["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids.len(), 2, "{status}");
    node.stop();
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "VMM {pid} lives on");
    }
}

#[test]
fn a_second_node_does_not_take_the_socket_of_the_first() {
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("run/node.sock");
    let mut first = Node::start(config(state.path())).unwrap();
    first.listen(&socket).unwrap();
    let other = tempfile::tempdir().unwrap();
    let mut second = Node::start(config(other.path())).unwrap();
    let refused = second.listen(&socket).unwrap_err().to_string();
    assert!(refused.contains("a node listens there already"), "{refused}");
    let mut client = pilotlight::client::Client::connect(&socket).unwrap();
    assert!(client.status().is_ok());
    first.stop();
    assert!(!socket.exists());
}
