//! The programs tests deploy: ordinary ELF files, built from `tests/programs` when a test first
//! asks for one and kept until its source changes. `busybox` is Debian's own file.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Path of an executable, in the folder `PROGRAMS` names on a machine without this source tree: a name as `tests/programs/build` takes it, or `busybox`.
///
/// Tests run in processes or threads of their own, several at once: each builds to a name of its own and
/// renames, so that nobody sees half a program.
pub(crate) fn program(name: &str) -> PathBuf {
    if name == "busybox" {
        return PathBuf::from("/bin/busybox");
    }
    if let Some(folder) = std::env::var_os("PROGRAMS") {
        return Path::new(&folder).join(name);
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    let folder = folder.join(format!("{name}-{:016x}", digest(&sources, name)));
    // The file's own name is what the guest shows as argv[0].
    let path = folder.join(name);
    if path.exists() {
        return path;
    }
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let unfinished = folder.join(format!("{process}-{thread:?}.new"));
    let output = Command::new(sources.join("build")).arg(name).arg(&unfinished).output();
    let output = output.expect("the build script is executable");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "building {name} failed (see scripts/setup test): {words}");
    fs::rename(&unfinished, &path).expect("both are in one folder");
    path
}

/// A folder to deploy whose `bootstrap` is Debian's Lua beside the script `main.lua`.
pub(crate) fn lua_package(folder: &Path, script: &str) {
    fs::copy(program("lua"), folder.join("bootstrap")).expect("the folder is writable");
    fs::write(folder.join("main.lua"), script).expect("the folder is writable");
}

/// Changes when the program's sources or the way it is built do.
fn digest(sources: &Path, name: &str) -> u64 {
    let stem = name.trim_end_matches("-glibc").trim_end_matches("-pie");
    let mut files = vec![sources.join("build")];
    files.extend(["c", "cc", "rs"].map(|kind| sources.join(format!("{stem}.{kind}"))));
    let package = sources.join(stem);
    files.extend(["Cargo.toml", "Cargo.lock", "build.rs"].map(|file| package.join(file)));
    files_below(&package.join("src"), &mut files);
    if name == "hostile-guest" {
        // Made of the real one.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let parts = ["vmm/abi", "guest-agent", "Cargo.lock"];
        parts.iter().for_each(|part| files_below(&root.join(part), &mut files));
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    files.iter().for_each(|file| fs::read(file).ok().hash(&mut hasher));
    hasher.finish()
}

/// A file, or all files in a folder and in its folders.
fn files_below(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_file() {
        files.push(path.to_owned());
    }
    for entry in fs::read_dir(path).into_iter().flatten() {
        files_below(&entry.expect("a readable folder").path(), files);
    }
}
