//! Memfds of fixed size: made here, or checked here when they come from elsewhere.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate};
use std::fs::File;
use std::io::{self, Error, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};

/// No byte is ever added or taken away, and no seal is added or removed any more.
const FIXED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);
/// As [`FIXED`], and the bytes stay what they are.
const FROZEN: SealFlags = FIXED.union(SealFlags::WRITE);

/// A new memfd of `bytes` zeros that stays this long and stays writable: for rings and status.
///
/// # Errors
/// What the kernel says when it has no memory, no descriptor or no memfds.
pub fn shared(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let memfd = unsealed(name)?;
    ftruncate(&memfd, bytes)?;
    fcntl_add_seals(&memfd, FIXED)?;
    Ok(memfd)
}

/// A new memfd that holds `contents` for ever.
///
/// # Errors
/// What the kernel says when it has no memory, no descriptor or no memfds.
pub fn frozen(name: &str, contents: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(unsealed(name)?);
    file.write_all(contents)?;
    freeze(&file)?;
    Ok(file.into())
}

/// A new memfd that holds a program for ever and may be executed.
///
/// # Errors
/// What the kernel says when it has no memory, no descriptor or no memfds.
pub fn executable(name: &str, program: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag and let every memfd be executed.
    let memfd = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = File::from(memfd);
    file.write_all(program)?;
    freeze(&file)?;
    Ok(file.into())
}

/// A new empty memfd that can still be written and sealed. Whoever fills it ends with [`freeze`].
///
/// # Errors
/// What the kernel says when it has no descriptor or no memfds.
pub fn unsealed(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know that a memfd may be barred from being executed.
    let memfd = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    Ok(memfd)
}

/// Fixes size and contents of a memfd for ever. Fails while a writable shared mapping exists.
///
/// # Errors
/// What the kernel says when a seal cannot be added.
pub fn freeze(memfd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_add_seals(memfd, FROZEN)?)
}

/// Length of a memfd whose size is fixed for ever.
///
/// # Errors
/// `PermissionDenied` when it lacks a seal, `InvalidInput` when it is no memfd.
pub fn check_shared(memfd: impl AsFd) -> io::Result<u64> {
    check(memfd.as_fd(), FIXED)
}

/// Length of a memfd whose size and contents are fixed for ever.
///
/// # Errors
/// `PermissionDenied` when it lacks a seal, `InvalidInput` when it is no memfd.
pub fn check_frozen(memfd: impl AsFd) -> io::Result<u64> {
    check(memfd.as_fd(), FROZEN)
}

fn check(memfd: impl AsFd, wanted: SealFlags) -> io::Result<u64> {
    let seals = fcntl_get_seals(&memfd)?;
    if !seals.contains(wanted) {
        return Err(Error::new(ErrorKind::PermissionDenied, "the memfd is not sealed"));
    }
    let bytes = rustix::fs::fstat(&memfd)?.st_size;
    u64::try_from(bytes).map_err(|_| ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_keeps_its_size_and_takes_writes() {
        let memfd = shared("test", 8192).unwrap();
        assert_eq!(check_shared(&memfd).unwrap(), 8192);
        assert!(check_frozen(&memfd).is_err());
        assert!(ftruncate(&memfd, 4096).is_err() && ftruncate(&memfd, 16384).is_err());
        assert!(fcntl_add_seals(&memfd, SealFlags::WRITE).is_err());
        assert_eq!(rustix::io::pwrite(&memfd, b"x", 8191).unwrap(), 1);
    }

    #[test]
    fn frozen_takes_nothing() {
        let memfd = frozen("test", b"contents").unwrap();
        assert_eq!(check_frozen(&memfd).unwrap(), 8);
        assert!(rustix::io::pwrite(&memfd, b"x", 0).is_err());
    }

    #[test]
    fn unsealed_and_foreign_descriptors_are_refused() {
        assert!(check_shared(unsealed("test").unwrap()).is_err());
        assert!(check_shared(crate::Doorbell::new().unwrap()).is_err());
    }
}
