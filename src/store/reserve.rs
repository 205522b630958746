//! Room on the disk that is given up when there is no other: removing a function has to write too,
//! and who removes something because the disk is full must be able to.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};

/// More than the database of a thousand functions needs for a change.
const BYTES: u64 = 1 << 20;

/// A file that holds nothing but room.
#[derive(Debug)]
pub(super) struct Reserve(PathBuf);

impl Reserve {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Sets the room aside, if it is not yet and there is any.
    pub(super) fn keep(&self) {
        let is_kept = fs::metadata(&self.0).is_ok_and(|file| file.len() == BYTES);
        let set_aside = || -> io::Result<()> {
            let file = File::create(&self.0)?;
            Ok(fallocate(&file, FallocateFlags::empty(), 0, BYTES)?)
        };
        // Part of it is of no use to anybody.
        if !is_kept && set_aside().is_err() {
            drop(fs::remove_file(&self.0));
        }
    }

    /// Gives the room up; whether there was some.
    pub(super) fn spend(&self) -> bool {
        fs::remove_file(&self.0).is_ok()
    }
}
