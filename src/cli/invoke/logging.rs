//! A user's logging service and the credentials for it, as the command line names them.

use std::path::Path;

use pilotlight::client::ClientError;
use pilotlight::credential::Credential;
use pilotlight::invoke::{LogProtocol, LoggingService};
use pilotlight::socket::logging::{Credentials, Logging};
use zeroize::Zeroizing;

use super::super::fault::Fault;

/// A logging service, ready to be named in a request. The encoded credentials are wiped with it.
pub(super) struct Service {
    protocol: LogProtocol,
    host: String,
    port: u16,
    /// Name its certificate is checked against; empty: the host.
    pub(super) server_name: String,
    credential: Credential,
    encoded: Zeroizing<Vec<u8>>,
}

impl Service {
    /// Checks the address and reads the credentials.
    pub(super) fn new(
        protocol: LogProtocol,
        address: &str,
        credentials: Option<&Path>,
    ) -> Result<Self, Fault> {
        let service = LoggingService::new(protocol, address)?;
        let credential = credentials.map_or_else(|| Ok(Credential::none()), Credential::load)?;
        let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
        Ok(Self {
            protocol,
            host: service.server_name,
            port: port.unwrap_or(0),
            server_name: String::new(),
            credential,
            encoded: Zeroizing::new(Vec::new()),
        })
    }

    /// As a request carries it.
    pub(super) fn encode(&mut self) -> Result<Logging<'_>, Fault> {
        let files: Vec<_> = self.credential.files().collect();
        // All room at once: growing would leave copies behind that nobody wipes.
        let bytes = files.iter().map(|(name, content)| name.len() + content.len() + 8).sum();
        self.encoded.reserve(bytes);
        Ok(Logging {
            protocol: self.protocol,
            host: &self.host,
            port: self.port,
            server_name: &self.server_name,
            credentials: Credentials::encode(&files, &mut self.encoded)
                .map_err(ClientError::from)?,
        })
    }
}
