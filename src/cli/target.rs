//! Which node a command speaks to.

use std::path::PathBuf;

use pilotlight::client::{Client, ClientError};
use pilotlight::config::default_socket;

/// Which node a command speaks to.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// Invoke socket of the node [default: $XDG_RUNTIME_DIR/pilotlight/node.sock, as root
    /// /run/pilotlight/node.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Target {
    /// Connects to it.
    pub(crate) fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.path())
    }

    /// Its socket.
    pub(crate) fn path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(default_socket)
    }
}
