//! A user's logging service as an invoke names it: address, protocol, credential files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use pilotlight::invoke::LogProtocol;
use pilotlight::socket::logging::{Credentials, Logging};

use super::rsyslog::{Authority, Identity, Rsyslog, SERVER_NAME};

/// A logging service.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) protocol: LogProtocol,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) server_name: String,
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
}

impl Service {
    /// Syslog over TCP, without credentials.
    pub(crate) fn tcp(host: &str, port: u16) -> Self {
        let (protocol, server_name) = (LogProtocol::SyslogTcp, String::new());
        Self { protocol, host: host.to_owned(), port, server_name, files: Vec::new() }
    }

    /// An rsyslogd that listens without TLS.
    pub(crate) fn of_tcp(rsyslog: &Rsyslog) -> Self {
        Self::tcp("127.0.0.1", rsyslog.address().port())
    }

    /// An rsyslogd that wants a client certificate, with this one.
    pub(crate) fn of_tls(rsyslog: &Rsyslog, authority: &Authority, identity: &Identity) -> Self {
        let mut service = Self::of_tcp(rsyslog);
        service.protocol = LogProtocol::SyslogTls;
        service.server_name = SERVER_NAME.to_owned();
        service
            .file("ca.pem", authority.pem.as_bytes())
            .file("cert.pem", identity.certificate.as_bytes())
            .file("key.pem", identity.key.as_bytes())
    }

    /// With one more credential file, or another content of it.
    pub(crate) fn file(mut self, name: &'static str, bytes: &[u8]) -> Self {
        self.files.retain(|(there, _)| *there != name);
        self.files.push((name, bytes.to_owned()));
        self
    }

    /// As a request carries it; `storage` holds the encoded credentials.
    pub(crate) fn logging<'a>(&'a self, storage: &'a mut Vec<u8>) -> Logging<'a> {
        let files: Vec<(&str, &[u8])> =
            self.files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        Logging {
            protocol: self.protocol,
            host: &self.host,
            port: self.port,
            server_name: &self.server_name,
            credentials: Credentials::encode(&files, storage).unwrap(),
        }
    }

    /// What nobody but its user's programs may see.
    pub(crate) fn secrets(&self) -> Vec<Vec<u8>> {
        let secret = |(name, _): &&(&str, Vec<u8>)| matches!(*name, "token" | "key.pem");
        self.files.iter().filter(secret).map(|(_, bytes)| bytes.clone()).collect()
    }
}
