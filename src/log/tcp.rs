//! Plain TCP to a logging service (RFC 6587): for services on this machine or behind a tunnel.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use glommio::net::TcpStream;

/// Connects, or gives up after `limit`.
pub(super) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, limit).await?;
    // Batches are written whole; waiting for more would only delay them.
    stream.set_nodelay(true)?;
    Ok(stream)
}
