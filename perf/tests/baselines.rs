//! The echo baselines run: two processes, both kinds of server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use perf::{Echo, Latencies, cores, timed};

/// Built with the tests of this crate, beside them.
fn server() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    profile.join("examples/echo-server")
}

fn start(kind: &str, folder: &Path, bytes: usize) -> std::io::Result<Echo> {
    let socket = folder.join(kind);
    let core = cores()?[0];
    let mut command = Command::new(server());
    command.arg(kind).arg(&socket).args([bytes.to_string(), core.to_string()]);
    Echo::start(command, &socket, vec![7; bytes])
}

#[test]
fn both_echo_servers_echo() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["blocking", "runtime"] {
        let mut echo = start(kind, folder.path(), 1024).unwrap();
        let mut latencies = Latencies::new();
        for _ in 0..100 {
            latencies.record(timed(|| echo.echo()).unwrap().1);
        }
        let baseline = latencies.baseline();
        assert!(0 < baseline.p50 && baseline.p50 <= baseline.p99, "{kind}: {baseline:?}");
    }
}

#[test]
fn a_server_that_does_not_listen_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nobody");
    let failed = Echo::start(Command::new("/bin/true"), &socket, vec![1]).unwrap_err();
    assert!(failed.to_string().contains("before it listened"), "{failed}");
}
