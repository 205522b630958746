//! Builds the VMM and the guest kernel, so that the library can carry them (`src/embedded.rs`),
//! and the ordinary programs that `pilotlight bench` and `pilotlight demo` deploy.
//!
//! VMM and kernel are built by a cargo of their own: another target, always the release profile,
//! nothing of the outer build's flags. That cargo writes to a folder of its own beside the outer
//! build's profiles, so neither waits for the other's lock and all profiles share one copy.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Package (and its program) and target of what needs a cargo.
const PACKAGES: [(&str, &str); 2] = [("vmm", MUSL), ("guest-agent", NONE)];
/// Single-file programs in `perf/programs`.
const PROGRAMS: [&str; 6] = ["chatter", "echo", "echo-stream", "greet", "noop", "scribble"];
const MUSL: &str = "x86_64-unknown-linux-musl";
const NONE: &str = "x86_64-unknown-none";

/// What the command is made from beside them.
const COMMAND_SOURCES: [&str; 3] = ["src", "perf/Cargo.toml", "perf/src"];

/// What the embedded programs are made from.
const SOURCES: [&str; 17] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
    "vmm/Cargo.toml",
    "vmm/build.rs",
    "vmm/src",
    "vmm/abi/Cargo.toml",
    "vmm/abi/src",
    "vmm/region/Cargo.toml",
    "vmm/region/src",
    "guest-agent/Cargo.toml",
    "guest-agent/build.rs",
    "guest-agent/kernel.ld",
    "guest-agent/src",
    "guest-agent/machine",
    "perf/programs",
];

fn main() {
    let root = folder("CARGO_MANIFEST_DIR");
    let out = folder("OUT_DIR");
    for source in SOURCES.iter().filter(|source| root.join(source).exists()) {
        println!("cargo::rerun-if-changed={source}");
    }
    tell_commit(&root);
    // Documents and fuzzers start no VM.
    let is_dry = ["DOCS_RS", "CARGO_CFG_FUZZING"].iter().any(|name| env::var_os(name).is_some());
    if is_dry {
        for name in PACKAGES.map(|(package, _)| package).into_iter().chain(PROGRAMS) {
            write(&out.join(name), &[]);
        }
        return;
    }
    let missing: Vec<_> = [NONE, MUSL].into_iter().filter(|target| !is_installed(target)).collect();
    if !missing.is_empty() {
        fail(&format!(
            "no Rust standard library for {}. Run: rustup target add {NONE} {MUSL}",
            missing.join(", ")
        ));
    }
    // OUT_DIR is <target folder>/<profile>/build/<package>/out.
    let nested = out.ancestors().nth(4).unwrap_or(&out).join("embedded");
    for (package, target) in PACKAGES {
        build(&root, &nested, package, target);
        let built = nested.join(target).join("release").join(package);
        match fs::read(&built) {
            Ok(bytes) => write(&out.join(package), &bytes),
            Err(error) => fail(&format!("{}: {error}", built.display())),
        }
    }
    for program in PROGRAMS {
        compile(&root.join("perf/programs").join(format!("{program}.rs")), &out.join(program));
    }
}

/// Tells the command which commit it is made from (`src/cli/version.rs`): 12 digits, and `+` if what
/// it is made from was modified. Who builds outside a clone says so in the variable.
///
/// Only in release builds: whatever this looks at has all that depends on this script built again,
/// and in other builds that is every test, at every commit.
fn tell_commit(root: &Path) {
    const VARIABLE: &str = "PILOTLIGHT_COMMIT";
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let is_told = env::var_os(VARIABLE).is_some_and(|commit| !commit.is_empty());
    if is_told || env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return;
    }
    // Only a clone of this repository, not any other that this folder happens to lie in.
    if git(root, &["rev-parse", "--show-prefix"]).is_none_or(|prefix| !prefix.is_empty()) {
        return;
    }
    let Some(commit) = git(root, &["rev-parse", "--verify", "HEAD"]) else { return };
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]);
    // A commit changes its branch's file, or makes one; the log tells of both.
    for name in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let path = git(root, &["rev-parse", "--git-path", name]).map(|path| root.join(path));
        if let Some(path) = path.filter(|path| path.exists()) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let sources = SOURCES.into_iter().chain(COMMAND_SOURCES);
    let sources: Vec<_> = sources.filter(|source| root.join(source).exists()).collect();
    for source in &sources {
        println!("cargo::rerun-if-changed={source}");
    }
    let changes = git(root, &[&["status", "--porcelain", "--"][..], &sources].concat());
    let mark = if changes.is_some_and(|changes| changes.is_empty()) { "" } else { "+" };
    println!("cargo::rustc-env={VARIABLE}={}{mark}", commit.get(..12).unwrap_or(&commit));
}

/// What git answers; nothing where there is no git, or no repository.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn build(root: &Path, nested: &Path, package: &str, target: &str) {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os().filter(|(name, _)| !is_kept(name)) {
        cargo.env_remove(name);
    }
    // The current folder decides which `.cargo/config.toml` applies: ours.
    cargo.current_dir(root).args(["build", "--release", "--quiet", "-p", package]);
    cargo.args(["--bin", package, "--target", target, "--target-dir"]).arg(nested);
    cargo.env("CARGO_BUILD_BUILD_DIR", nested);
    // Symbols stay for profilers, line tables would only make the library larger.
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    if root.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    run(&mut cargo, &format!("building {package} for {target}"));
}

/// An ordinary static Linux program from one file.
fn compile(source: &Path, program: &Path) {
    let mut rustc = rustc();
    rustc.args(["--edition", "2024", "--target", MUSL, "-O", "-Cpanic=abort", "-Cstrip=symbols"]);
    run(rustc.arg("-o").arg(program).arg(source), &format!("compiling {}", source.display()));
}

fn run(command: &mut Command, what: &str) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("{what} failed ({status}); the compiler's words are below")),
        Err(error) => fail(&format!("{what} failed: {error}")),
    }
}

fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// Whether the inner cargo may see this variable. The outer cargo (or clippy, nextest, a coverage
/// tool) speaks to its compilers through variables that would change or poison the inner build;
/// where to find and how to fetch crates is the user's and stays.
fn is_kept(name: &OsString) -> bool {
    const DROPPED: [&str; 6] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC",
        "RUSTDOC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
    ];
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    let name = name.to_string_lossy();
    let is_cargo = name.starts_with("CARGO");
    !DROPPED.contains(&&*name) && (!is_cargo || KEPT.iter().any(|kept| name.starts_with(kept)))
}

fn is_installed(target: &str) -> bool {
    let output = rustc().args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Writes only what differs: an unchanged file makes no one rebuild.
fn write(path: &Path, bytes: &[u8]) {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return;
    }
    if let Err(error) = fs::write(path, bytes) {
        fail(&format!("{}: {error}", path.display()));
    }
}

fn folder(name: &str) -> PathBuf {
    env::var_os(name).map_or_else(|| fail(&format!("cargo sets {name}")), PathBuf::from)
}

fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    std::process::exit(1);
}
