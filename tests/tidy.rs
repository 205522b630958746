//! Rules of this repository that no compiler checks.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of ours below `folder`: no build results, nothing hidden.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    let mut found = Vec::new();
    for entry in entries.map(|entry| entry.expect("a readable folder")) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = !name.starts_with('.') && name != "target" && name != "corpus";
        match entry.file_type().expect("a readable folder") {
            kind if kind.is_dir() && is_ours => found.extend(files(&entry.path())),
            kind if kind.is_file() && is_ours => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn rust_files() -> Vec<PathBuf> {
    let mut files = files(root());
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    assert!(files.len() > 30, "the walk finds the sources");
    files
}

#[test]
fn every_path_on_the_map_exists() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the map");
    let mut count = 0;
    let mut lost = Vec::new();
    for quoted in map.split('`').skip(1).step_by(2).filter(|quoted| is_path(quoted)) {
        count += 1;
        for path in alternatives(quoted) {
            if !root().join(&path).exists() {
                lost.push(path);
            }
        }
    }
    assert!(count > 20, "the map names paths in backquotes");
    assert!(lost.is_empty(), "ARCHITECTURE.md names what is not there: {lost:#?}");
}

/// Whether words in backquotes name a path of this repository: one of its folders and a slash, or
/// a document at its top. (`shard.rs` alone is a name within a folder named before.)
fn is_path(quoted: &str) -> bool {
    let is_plain =
        !quoted.contains([' ', '\n', '*', ':', '(', '<', '=']) && !quoted.starts_with('/');
    let top = quoted.split('/').next().unwrap_or("");
    let in_folder = quoted.contains('/') && !top.is_empty() && root().join(top).is_dir();
    is_plain && (in_folder || !quoted.contains('/') && quoted.ends_with(".md"))
}

/// `a/{b,c}.rs` names two files.
fn alternatives(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((names, after)) = rest.split_once('}') else { return vec![path.to_owned()] };
    names.split(',').map(|name| format!("{before}{name}{after}")).collect()
}

#[test]
fn every_file_is_one_noun() {
    const VAGUE: [&str; 9] = [
        "utils",
        "util",
        "helpers",
        "helper",
        "common",
        "misc",
        "types",
        "prelude",
        "shared_types",
    ];
    for path in files(root()) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        assert!(!VAGUE.contains(&stem.as_ref()), "{} names no thing", path.display());
    }
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).expect("a text");
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        if lines > LINES_MAX {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "longer than {LINES_MAX} lines before tests: {long:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let words =
        [["to", "do!"], ["unimple", "mented!"], ["FIX", "ME"], ["XX", "X"], ["#[ig", "nore"]];
    let words = words.map(|halves| halves.concat());
    let mut found = Vec::new();
    for path in rust_files() {
        let text = fs::read_to_string(&path).expect("a text");
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "left for later: {found:#?}");
}

#[test]
fn scripts_explain_themselves() {
    for folder in ["scripts", ".ci"] {
        for path in files(&root().join(folder)) {
            let text = fs::read_to_string(&path).expect("a text");
            assert!(text.starts_with("#!/bin/sh\n# "), "{} says what it is", path.display());
            let has_help = folder == ".ci" || text.contains("--help");
            assert!(has_help, "{} answers --help", path.display());
        }
    }
}
