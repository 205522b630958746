//! The state directory as a whole: whose it is, and that one node at a time uses it.
//!
//! Invariant: who holds a [`StateLock`] is the only process that changes what is in the directory; the
//! lock ends with the process, however that ends.

use std::fmt;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Programs, settings and environments of several users: nobody else's business.
const MODE: u32 = 0o700;
/// The file in it that is locked.
const LOCK: &str = "lock";

/// Attempts to lock, for 2 s together: a node that was killed may have been starting a VMM, and a process
/// has its parent's lock until it executes its own program.
const ATTEMPTS_MAX: u32 = 200;
/// Pause between two of them.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The right to use a state directory.
#[derive(Debug)]
pub struct StateLock {
    /// Locked as long as it is open.
    _file: File,
}

/// Why a state directory cannot be used.
#[derive(Debug)]
pub enum StateError {
    /// Another node uses it.
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that says so in the lock.
        holder: String,
    },
    /// It is another user's.
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who the node is.
        node: u32,
    },
    /// The file system did not do it.
    Io {
        /// On which path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl StateLock {
    /// Makes the directory if it is missing, for its owner only, and locks it.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn take(state: &Path) -> Result<Self, StateError> {
        let failed = |path: &Path, source| StateError::Io { path: path.to_owned(), source };
        DirBuilder::new()
            .recursive(true)
            .mode(MODE)
            .create(state)
            .map_err(|source| failed(state, source))?;
        let metadata = state.metadata().map_err(|source| failed(state, source))?;
        let node = rustix::process::geteuid().as_raw();
        if metadata.uid() != node {
            let owner = metadata.uid();
            return Err(StateError::NotOurs { path: state.to_owned(), owner, node });
        }
        // It may have been made by hand.
        if metadata.permissions().mode() & 0o777 != MODE {
            std::fs::set_permissions(state, Permissions::from_mode(MODE))
                .map_err(|source| failed(state, source))?;
        }
        let path = state.join(LOCK);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(|source| failed(&path, source))?;
        match lock(&file) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Only for the message.
                let _ = file.take(16).read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                return Err(StateError::InUse { path: state.to_owned(), holder });
            }
            Err(error) => return Err(failed(&path, error.into())),
        }
        let note = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(|source| failed(&path, source))?;
        Ok(Self { _file: file })
    }
}

/// Locks the file, or finds that another process keeps it.
fn lock(file: &File) -> rustix::io::Result<()> {
    let mut attempts = 0;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if attempts < ATTEMPTS_MAX => {
                attempts += 1;
                sleep(LOOK_AGAIN);
            }
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path, holder } => write!(
                formatter,
                "another node (process {holder}) uses {}; stop it, or use another --state",
                path.display()
            ),
            Self::NotOurs { path, owner, node } => write!(
                formatter,
                "{} belongs to user {owner}, the node is user {node}; run it as that user, or use another \
                 --state",
                path.display()
            ),
            Self::Io { path, source } => write!(
                formatter,
                "cannot use {}: {source}; does the node's user own it, and is there room?",
                path.display()
            ),
        }
    }
}

impl std::error::Error for StateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::InUse { .. } | Self::NotOurs { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("new/state");
        let held = StateLock::take(&state).unwrap();
        let error = StateLock::take(&state).unwrap_err();
        assert!(matches!(error, StateError::InUse { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains(&std::process::id().to_string()), "{said}");
        assert!(said.contains(state.to_str().unwrap()), "{said}");
        drop(held);
        StateLock::take(&state).unwrap();
    }

    #[test]
    fn who_is_about_to_let_go_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateLock::take(folder.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sleep(5 * LOOK_AGAIN);
                drop(held);
            });
            StateLock::take(folder.path()).unwrap();
        });
    }

    #[test]
    fn nobody_else_may_look_in() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let state = folder.path().join("state");
        drop(StateLock::take(&state).unwrap());
        assert_eq!(mode(&state), MODE);
        std::fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
        drop(StateLock::take(&state).unwrap());
        assert_eq!(mode(&state), MODE, "made by hand");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = StateLock::take(Path::new("/proc/nowhere")).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
