//! Which node a command speaks to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use perf::Deadline;
use pilotlight::client::{Client, ClientError};
use pilotlight::code::Code;
use pilotlight::config::{HOST_SOCKET, default_socket};

use super::deploy::timeout;

/// Which node a command speaks to.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Target {
    /// Invoke socket of the node [default: $XDG_RUNTIME_DIR/pilotlight/node.sock, where there is none
    /// and as root the host's, /run/pilotlight/node.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Wait this long at most for a node to listen there: 10s [default: not at all]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    wait: Option<Duration>,
}

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Target {
    /// Connects to it, as soon as it is there if that is to be waited for.
    pub(crate) fn connect(&self) -> Result<Client, ClientError> {
        let deadline = Deadline::after(self.wait.unwrap_or_default());
        loop {
            let path = self.path();
            match Client::connect(&path) {
                Err(error) if self.may_come(&path, &error) && !deadline.has_passed() => {
                    std::thread::sleep(LOOK_AGAIN);
                }
                other => return other,
            }
        }
    }

    /// Whether a node may still come to listen. The host's, if that is for others, says nothing of one of
    /// the user's own.
    fn may_come(&self, path: &Path, error: &ClientError) -> bool {
        let is_hosts = self.socket.is_none() && path == Path::new(HOST_SOCKET);
        error.code() == Code::NoNode.as_str() || is_hosts && error.code() == Code::NoAccess.as_str()
    }

    /// Its socket: without one named, that of a node of the user's own, or else of the host's.
    pub(crate) fn path(&self) -> PathBuf {
        if let Some(socket) = &self.socket {
            return socket.clone();
        }
        let (own, host) = (default_socket(), Path::new(HOST_SOCKET));
        if !own.exists() && host.exists() { host.to_owned() } else { own }
    }
}
