//! What the service manager that started a node is told of it (sd_notify(3), `Type=notify`): one
//! datagram for each change, to the socket it named in the environment. Such a socket may be
//! abstract, which the usual crate for this does not know.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The node answers at its socket.
pub(super) const READY: &str = "READY=1";
/// The node takes no more invokes and finishes those that run.
pub(super) const STOPPING: &str = "STOPPING=1";

/// Tells it, if there is one.
pub(super) fn tell(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return;
    };
    // A node that serves is not ended because nobody hears that it does.
    if let Err(error) = send(&name, state) {
        eprintln!("pilotlight: warning: {} does not hear {state}: {error}", name.display());
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
