//! Where clients come in: one shard accepts, all of them get some.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use glommio::net::UnixListener;

use super::Letter;
use crate::inbox::Inbox;
use crate::socket::{Connection, Peer, peer};
use crate::wait;

/// Who may connect: the node's user and group. Whoever connects acts for their own login only.
const SOCKET_MODE: u32 = 0o660;

/// Pause after a failed accept: a lack of descriptors passes, asking at once does not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Listens at `path` and deals connections to the shards in turn.
///
/// # Errors
/// What the host says to the path.
pub(super) fn open(path: &Path, inboxes: Arc<[Arc<Inbox<Letter>>]>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    glommio::spawn_local(async move {
        let mut turn = inboxes.iter().cycle();
        loop {
            let Ok(accepted) = listener.accept().await else {
                // The client's loss, or a passing lack of descriptors.
                glommio::timer::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let client = wait::adopt(&accepted).and_then(|stream| greet(&stream).map(|c| (stream, c)));
            drop(accepted);
            match (client, turn.next()) {
                (Ok((stream, connection)), Some(inbox)) => {
                    // A full mailbox closes the connection: the client is told by that.
                    drop(inbox.post(Letter::Client(stream, Box::new(connection))));
                }
                (Err(error), _) => eprintln!("pilotlight: a client was turned away: {error}"),
                (Ok(_), None) => {}
            }
        }
    })
    .detach();
    Ok(())
}

/// The connection of a peer the kernel vouches for.
///
/// # Errors
/// The kernel does not know who it is.
pub(crate) fn greet(stream: &UnixStream) -> io::Result<Connection> {
    let credentials = rustix::net::sockopt::socket_peercred(stream)?;
    let uid = credentials.uid.as_raw();
    let node_uid = rustix::process::geteuid().as_raw();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Ok(Connection::new(Peer::new(uid, node_uid, |uid| peer::login_in(&passwd, uid))))
}
