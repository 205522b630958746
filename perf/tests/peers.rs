//! Peers from elsewhere run for real: their packages are those of `scripts/setup test`. The one
//! that is built from this repository has its own test (package `wasmtime-peer`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use perf::peer::{Bubblewrap, Runc, Wasmtime};

/// A program of `perf/programs`, static, as a node would run it.
fn program(folder: &Path, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name);
    let built = folder.join(name);
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition", "2024", "--target", "x86_64-unknown-linux-musl", "-O", "-o"]);
    let status = rustc.arg(&built).arg(source.with_extension("rs")).status().unwrap();
    assert!(status.success());
    built
}

/// A peer for each of two programs.
fn check<P>(find: impl Fn(&Path) -> P, once: impl Fn(&mut P, &[u8]) -> io::Result<Duration>) {
    let folder = tempfile::tempdir().unwrap();
    let mut echo = find(&program(folder.path(), "echo"));
    for length in [1, 1024, 4096] {
        assert!(once(&mut echo, &vec![7; length]).unwrap() > Duration::ZERO);
    }
    assert!(once(&mut echo, &[7; 4097]).is_err(), "longer than fits");
    let mut noop = find(&program(folder.path(), "noop"));
    once(&mut noop, b"").unwrap();
    assert!(once(&mut noop, b"no answer comes").is_err());
    let mut nothing = find(&folder.path().join("nothing"));
    assert!(once(&mut nothing, b"").is_err());
}

#[test]
fn bubblewrap_serves_and_what_fails_is_no_measurement() {
    check(|program| Bubblewrap::find(program).unwrap(), Bubblewrap::once);
}

#[test]
fn runc_serves_and_what_fails_is_no_measurement() {
    let folder = tempfile::tempdir().unwrap();
    check(|program| Runc::find(program, folder.path()).unwrap(), Runc::once);
    let left = std::fs::read_dir(folder.path().join("runc-echo/state")).unwrap();
    assert_eq!(left.count(), 0, "containers are gone");
}

#[test]
fn a_peer_that_is_not_there_says_what_to_do() {
    let absent = Wasmtime::find(Some("/nonexistent/wasmtime-peer".as_ref())).unwrap_err();
    let says = absent.to_string();
    assert!(says.starts_with("peer wasmtime is not there (/nonexistent/wasmtime-peer: "), "{says}");
    assert!(
        says.ends_with(
            "run scripts/bench, which builds it, or leave it out with --without wasmtime"
        ),
        "{says}"
    );
    let ended = Wasmtime::find(Some("/bin/true".as_ref())).unwrap_err();
    assert!(ended.to_string().contains("it ended"), "{ended}");
}
