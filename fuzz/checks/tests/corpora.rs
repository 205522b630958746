//! Every file the fuzzers were given or found passes the checks on the toolchain everything else is
//! built with, and the corpora fit their targets.

use std::fs;
use std::path::{Path, PathBuf};

/// Files a corpus may have, and bytes one of them may have: they are read by everybody's tests.
const FILES_MAX: usize = 64;
const FILE_BYTES_MAX: usize = 16 * 1024;

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("a readable folder").path()).collect()
}

fn names(folder: &str) -> Vec<String> {
    let stem = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<_> = files(&fuzz().join(folder)).iter().filter_map(stem).collect();
    names.sort();
    names
}

#[test]
fn every_file_of_every_corpus_passes_its_check() {
    for (name, check) in checks::ALL {
        let files = files(&fuzz().join("corpus").join(name));
        assert!((1..=FILES_MAX).contains(&files.len()), "{name} has {} files", files.len());
        let mut accepted = 0;
        for path in files {
            let bytes = fs::read(&path).expect("a readable file");
            assert!(bytes.len() <= FILE_BYTES_MAX, "{} is too long", path.display());
            // Shown with a failure, so that one knows which file it was.
            eprintln!("{}", path.display());
            accepted += usize::from(check(&bytes));
        }
        assert!(accepted > 0, "nothing of {name} is accepted any more: make its corpus anew");
    }
}

#[test]
fn checks_targets_and_corpora_have_the_same_names() {
    let checks: Vec<_> = checks::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), checks);
    assert_eq!(names("corpus"), checks);
}
