//! A logging service with its credential and its key, as a request or a connection gave it.

use std::cell::RefCell;
use std::net::SocketAddr;

use crate::credential::{ActiveKey, Credential, NodeKey};
use crate::invoke::{ClientFault, LogProtocol, LoggingService, User};
use crate::socket::logging as wire;

/// Where the log of a request goes. A connection's default is shared by its requests.
pub(super) struct Logging {
    service: RefCell<LoggingService>,
    credential: Credential,
    /// The key for the user who asked last: one connection mostly acts for one user.
    key: RefCell<Option<ActiveKey>>,
}

impl Logging {
    /// Checks what a client sent.
    ///
    /// # Errors
    /// [`ClientFault::BadLogging`] saying what is wrong with it.
    pub(super) fn new(sent: wire::Logging<'_>) -> Result<Self, ClientFault> {
        let protocol = sent.protocol;
        let host = if sent.host.contains(':') && !sent.host.starts_with('[') {
            format!("[{}]", sent.host)
        } else {
            sent.host.to_owned()
        };
        let address =
            if protocol == LogProtocol::None { host } else { format!("{host}:{}", sent.port) };
        let mut service = LoggingService::new(protocol, &address)?;
        if !sent.server_name.is_empty() {
            sent.server_name.clone_into(&mut service.server_name);
        }
        let files = sent.credentials.iter().map(|(name, bytes)| (name, bytes.to_vec()));
        let credential = Credential::new(files)
            .map_err(|error| ClientFault::BadLogging { what: error.to_string() })?;
        Ok(Self { service: RefCell::new(service), credential, key: RefCell::new(None) })
    }

    /// No logging service.
    pub(super) fn none() -> Self {
        Self {
            service: RefCell::new(LoggingService::none()),
            credential: Credential::none(),
            key: RefCell::new(None),
        }
    }

    /// Which VMs this user may use with it.
    pub(super) fn key(&self, node_key: &NodeKey, user: User) -> ActiveKey {
        let mut known = self.key.borrow_mut();
        match *known {
            Some(key) if key.user == user => key,
            _ => {
                let key = node_key.active_key(user, &self.service.borrow(), &self.credential);
                *known = Some(key);
                key
            }
        }
    }

    /// Host and port to look up, if that is still to be done.
    pub(super) fn unresolved(&self) -> Option<String> {
        let service = self.service.borrow();
        let is_open = service.protocol != LogProtocol::None && service.resolved.is_none();
        is_open.then(|| service.address.clone())
    }

    /// What the host resolved to.
    pub(super) fn resolve(&self, address: SocketAddr) {
        self.service.borrow_mut().resolved = Some(address);
    }

    /// The same as a request carries it, for another shard. `secrets` holds the credential's
    /// files meanwhile.
    pub(super) fn as_sent<T>(
        &self,
        secrets: &mut Vec<u8>,
        send: impl FnOnce(wire::Logging<'_>) -> T,
    ) -> T {
        let service = self.service.borrow();
        if service.protocol == LogProtocol::None {
            return send(wire::Logging::NONE);
        }
        // Both were checked when they came in.
        let (host, port) = service.address.rsplit_once(':').unwrap_or_default();
        let files: Vec<_> = self.credential.files().collect();
        let credentials = wire::Credentials::encode(&files, secrets);
        send(wire::Logging {
            protocol: service.protocol,
            host,
            port: port.parse().unwrap_or_default(),
            server_name: &service.server_name,
            credentials: credentials.unwrap_or(wire::Credentials::NONE),
        })
    }

    /// The service and a copy of the credential, to be spent on a VM.
    pub(super) fn to_assign(&self) -> (LoggingService, Credential) {
        (self.service.borrow().clone(), self.credential.duplicate())
    }
}
