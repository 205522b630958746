//! Packages by digest, a file each. Invariants: a file under its final name is whole (written aside,
//! synced, renamed, directory synced); a package is used only as a sealed copy whose digest was
//! computed from the very bytes that went into it, so whatever happens to the file later changes
//! nothing.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use super::{StoreError, entries, exists, failed, make_directory};
use crate::invoke::Digest;

/// Bytes copied and hashed at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// The folder with the packages.
#[derive(Debug)]
pub(super) struct Packages {
    folder: PathBuf,
    aside: PathBuf,
    bytes_max: u64,
    /// Numbers the files aside.
    written: AtomicU64,
}

impl Packages {
    pub(super) fn new(folder: PathBuf, aside: PathBuf, bytes_max: u64) -> Self {
        Self { folder, aside, bytes_max, written: AtomicU64::new(0) }
    }

    /// Stores a package under its digest; does nothing when it is there.
    pub(super) fn put(&self, package: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest(Sha256::digest(package).into());
        let path = self.path(&digest);
        // A damaged one is written again.
        let is_there = exists(&path)?
            && fs::read(&path).map(|found| found == package).map_err(|it| failed(&path, it))?;
        if !is_there {
            self.write(&path, package)?;
        }
        Ok(digest)
    }

    /// Writes a file so that under `path` there is at any time the old one or the new one, whole.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let folder = path.parent().unwrap_or(path);
        make_directory(folder)?;
        // Relaxed: the number only has to differ from others.
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let aside = self.aside.join(format!("{}-{number}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&aside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&aside, path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| {
            // Best effort: the next start sweeps what is left.
            let _ = fs::remove_file(&aside);
            failed(path, source)
        })
    }

    /// Opens a package: a sealed memfd with exactly the bytes its digest names.
    pub(super) fn open(&self, digest: &Digest) -> Result<OwnedFd, StoreError> {
        let path = self.path(digest);
        let file = File::open(&path).map_err(|source| match source {
            missing if missing.kind() == ErrorKind::NotFound => {
                StoreError::NoSuchPackage { digest: *digest }
            }
            source => failed(&path, source),
        })?;
        let memfd = region::sealed::unsealed("pilotlight-package");
        let mut memfd = File::from(memfd.map_err(|source| failed(&path, source))?);
        let found = copy_hashed(file, &mut memfd, self.bytes_max);
        if found.map_err(|source| failed(&path, source))? != Some(*digest) {
            return Err(StoreError::Damaged { path });
        }
        region::sealed::freeze(&memfd).map_err(|source| failed(&path, source))?;
        Ok(memfd.into())
    }

    /// Removes a package; nothing when there is none.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(failed(&path, source)),
            _ => Ok(()),
        }
    }

    /// Removes all packages but these.
    pub(super) fn keep_only<'d>(
        &self,
        used: impl Iterator<Item = &'d Digest>,
    ) -> Result<(), StoreError> {
        let used: HashSet<_> = used.map(|digest| self.path(digest)).collect();
        for folder in entries(&self.folder)? {
            for path in entries(&folder)?.into_iter().filter(|path| !used.contains(path)) {
                fs::remove_file(&path).map_err(|source| failed(&path, source))?;
            }
        }
        Ok(())
    }

    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.folder.join(&name[..2]).join(name)
    }
}

/// Copies a file and says what the digest of the copied bytes is; `None`: more than there may be.
fn copy_hashed(mut from: File, to: &mut File, bytes_max: u64) -> io::Result<Option<Digest>> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut left = bytes_max;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => return Ok(Some(Digest(hash.finalize().into()))),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let Some(rest) = left.checked_sub(u64::try_from(count).unwrap_or(u64::MAX)) else {
            return Ok(None);
        };
        left = rest;
        hash.update(&chunk[..count]);
        to.write_all(&chunk[..count])?;
    }
}
