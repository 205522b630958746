//! A user's logging service: where it is, how it is spoken to, and what became of records for it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ClientFault;

/// How log records reach a logging service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogProtocol {
    /// RFC 5424 over TLS (RFC 5425).
    #[serde(rename = "syslog-tls")]
    SyslogTls,
    /// RFC 5424 over TCP, octet-counted (RFC 6587).
    #[serde(rename = "syslog-tcp")]
    SyslogTcp,
    /// Nowhere but back to the client.
    #[default]
    #[serde(rename = "none")]
    None,
}

impl LogProtocol {
    /// `syslog-tls`, `syslog-tcp` or `none`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SyslogTls => "syslog-tls",
            Self::SyslogTcp => "syslog-tcp",
            Self::None => "none",
        }
    }
}

impl fmt::Display for LogProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for LogProtocol {
    type Err = ClientFault;
    fn from_str(text: &str) -> Result<Self, ClientFault> {
        match text {
            "syslog-tls" => Ok(Self::SyslogTls),
            "syslog-tcp" => Ok(Self::SyslogTcp),
            "none" => Ok(Self::None),
            _ => Err(ClientFault::BadLogging {
                what: format!("protocol {text:?}: use syslog-tls, syslog-tcp or none"),
            }),
        }
    }
}

/// A user's logging service, without the credential for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggingService {
    /// `host:port` as given; empty for protocol `none`.
    pub address: String,
    /// What the host resolved to; `None` until it is looked up, and for protocol `none`.
    pub resolved: Option<SocketAddr>,
    /// Name the service's certificate is checked against: the host as given.
    pub server_name: String,
    /// How it is spoken to.
    pub protocol: LogProtocol,
}

impl LoggingService {
    /// No logging service: records go back to the client only.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Checks an address; it is resolved only if it is an IP address already.
    ///
    /// # Errors
    /// [`ClientFault::BadLogging`] when it is not `host:port`, missing, or given with `none`.
    pub fn new(protocol: LogProtocol, address: &str) -> Result<Self, ClientFault> {
        let bad = |what: &str| ClientFault::BadLogging { what: what.to_owned() };
        if protocol == LogProtocol::None {
            return match address {
                "" => Ok(Self::none()),
                _ => Err(bad("an address needs a protocol: syslog-tls or syslog-tcp")),
            };
        }
        let form = "the address is HOST:PORT, as in logs.example.com:6514 or [::1]:6514";
        let (host, port) = address.rsplit_once(':').ok_or_else(|| bad(form))?;
        let port: u16 = port.parse().map_err(|_| bad(form))?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // Without brackets nobody could tell where an IPv6 address ends and the port begins.
        if inner.is_none() && host.contains(':') {
            return Err(bad(form));
        }
        let host = inner.unwrap_or(host);
        let is_plain = host.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.len() > 253 || port == 0 || !is_plain {
            return Err(bad(form));
        }
        let resolved = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        if resolved.is_none() && host.contains(':') {
            return Err(bad(form));
        }
        Ok(Self { address: address.to_owned(), resolved, server_name: host.to_owned(), protocol })
    }
}

/// What became of an invoke's log records. For one invoke:
/// `produced = handed_over + dropped + still waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAccount {
    /// Records the program wrote.
    pub produced: u64,
    /// Given to the transport of the logging service.
    pub handed_over: u64,
    /// Confirmed by the logging service; `None` when its protocol cannot.
    pub acknowledged: Option<u64>,
    /// Given up: spool full, service refused or out of reach.
    pub dropped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        let service = |text| LoggingService::new(LogProtocol::SyslogTls, text);
        let named = service("logs.example.com:6514").unwrap();
        assert_eq!((named.server_name.as_str(), named.resolved), ("logs.example.com", None));
        let v6 = service("[::1]:6514").unwrap();
        assert_eq!(v6.resolved, Some("[::1]:6514".parse().unwrap()));
        assert_eq!(v6.server_name, "::1");
        for bad in ["", "host", "host:", "host:0", ":1", "host:70000", "::1:5", "a b:1"] {
            assert!(service(bad).is_err(), "{bad:?}");
        }
        assert!(LoggingService::new(LogProtocol::None, "a:1").is_err());
        assert_eq!(LoggingService::new(LogProtocol::None, "").unwrap(), LoggingService::none());
    }

    #[test]
    fn protocols_read_back() {
        for protocol in [LogProtocol::SyslogTls, LogProtocol::SyslogTcp, LogProtocol::None] {
            assert_eq!(protocol.to_string().parse::<LogProtocol>().unwrap(), protocol);
        }
        assert!("syslog".parse::<LogProtocol>().is_err());
    }
}
