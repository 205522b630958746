//! Where clients come in: a side thread accepts, the shards get the connections in turn.
//!
//! Accepting is not on the path of an invoke, and the runtime's listener does not give its
//! sockets away, so this blocks on a thread of its own.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{Uid, User};
use region::clock::monotonic_nanos;
use rustix::net::Shutdown;

use crate::config::Config;
use crate::inbox::Inbox;
use crate::shard::Letter;
use crate::socket::peer::Host;
use crate::socket::{Connection, Limits, Peer};
use crate::trace::Pace;

/// Who may connect: the node's user and group. Whoever connects acts for their own login only.
const SOCKET_MODE: u32 = 0o660;
/// Pause after a failed accept: a lack of descriptors passes, asking at once does not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// An open door; dropping it closes it and takes its path away.
pub(crate) struct Door {
    listener: Arc<UnixListener>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    inode: u64,
}

impl Door {
    /// Listens at `path` and deals connections to the shards in turn.
    ///
    /// # Errors
    /// What the host says to the path.
    pub(crate) fn open(
        path: &Path,
        inboxes: Arc<[Arc<Inbox<Letter>>]>,
        config: Arc<Config>,
    ) -> io::Result<Self> {
        // Bound aside, so that nobody can connect before its mode is what it is to be.
        let aside = path.with_file_name(format!(".{}", std::process::id()));
        let _ = std::fs::remove_file(&aside);
        let listener = Arc::new(UnixListener::bind(&aside)?);
        let place = || -> io::Result<u64> {
            std::fs::set_permissions(&aside, Permissions::from_mode(SOCKET_MODE))?;
            let inode = std::fs::metadata(&aside)?.ino();
            std::fs::rename(&aside, path)?;
            Ok(inode)
        };
        let inode = place().inspect_err(|_| drop(std::fs::remove_file(&aside)))?;
        let accepting = Arc::clone(&listener);
        let thread = std::thread::Builder::new()
            .name("door".to_owned())
            .spawn(move || accept_all(&accepting, &inboxes, &config))?;
        Ok(Self { listener, thread: Some(thread), path: path.to_owned(), inode })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Ends the accept that waits.
        let _ = rustix::net::shutdown(&*self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        // Another node may have taken the place meanwhile.
        if std::fs::metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn accept_all(listener: &UnixListener, inboxes: &[Arc<Inbox<Letter>>], config: &Config) {
    let mut turn = inboxes.iter().cycle();
    let mut refused = Pace::default();
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // The door is being closed.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            Err(_) => {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        match (greet(&stream, config), turn.next()) {
            (Ok(connection), Some(inbox)) => {
                inbox.post_blocking(Letter::Client(stream, Box::new(connection)));
            }
            (Err(error), _) => {
                if let Some(untold) = refused.admit(monotonic_nanos()) {
                    tracing::warn!(why = error.to_string(), untold, "client refused");
                }
            }
            (Ok(_), None) => return,
        }
    }
}

/// The connection of a peer the kernel vouches for.
///
/// # Errors
/// The kernel does not know who it is.
fn greet(stream: &UnixStream, config: &Config) -> io::Result<Connection> {
    let credentials = rustix::net::sockopt::socket_peercred(stream)?;
    let host = Host { node_uid: rustix::process::geteuid().as_raw(), overflow_uid: overflow_uid() };
    let peer = Peer::new(credentials.uid.as_raw(), host, config, login_of);
    Ok(Connection::new(peer, Limits::from(&config.requests)))
}

/// The connection of the node's own process.
pub(crate) fn greet_self(config: &Config) -> Connection {
    let uid = rustix::process::geteuid().as_raw();
    let peer = Peer::node(login_of(uid).unwrap_or_else(|| format!("uid-{uid}")));
    Connection::new(peer, Limits::from(&config.requests))
}

/// The login of a user id, as every program of the host finds it: files, LDAP, whatever is configured.
fn login_of(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

/// Which user id stands for those the kernel cannot translate.
fn overflow_uid() -> u32 {
    const USUAL: u32 = 65_534;
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL)
}
