//! TLS to a logging service (RFC 5425), with the user's client certificate.
//!
//! With TLS 1.3 a client is done with its handshake before the server has looked at the client's
//! certificate, and a server may refuse it at any time after: an open connection proves nothing
//! yet. What is known when is [`super::delivery`]'s business.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use glommio::net::TcpStream;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// A credential's files, as text between `-----BEGIN` and `-----END`.
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// Certificates that sign the service's: `ca.pem`.
    pub ca: &'a [u8],
    /// The client's certificate and those that sign it: `cert.pem`. Without it the connection is
    /// not authenticated.
    pub cert: Option<&'a [u8]>,
    /// Its private key: `key.pem`.
    pub key: Option<&'a [u8]>,
}

/// Why a credential cannot be used for delivery over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// `ca.pem` is missing or holds no certificate.
    NoAuthority,
    /// Only one of `cert.pem` and `key.pem` is there.
    HalfIdentity,
    /// A file does not parse; which, and why.
    Malformed(&'static str, String),
    /// Key and certificate do not fit each other, or their kind is not supported.
    Identity(String),
    /// The name to check the service's certificate against is no DNS name and no IP address.
    ServerName(String),
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoAuthority => f.write_str("ca.pem is missing or holds no certificate"),
            Self::HalfIdentity => f.write_str("cert.pem and key.pem need each other"),
            Self::Malformed(file, why) => write!(f, "{file} does not parse: {why}"),
            Self::Identity(why) => write!(f, "cert.pem and key.pem cannot be used: {why}"),
            Self::ServerName(name) => write!(f, "{name:?} is neither a DNS name nor an IP address"),
        }
    }
}

impl std::error::Error for Unusable {}

/// How to open TLS connections to one service.
#[derive(Clone)]
pub(super) struct Client {
    connector: TlsConnector,
    server_name: ServerName<'static>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Client {
    /// Checks the credential's files. The service's certificate has to be for `server_name`, or
    /// for the address if that is empty.
    pub(super) fn new(
        address: SocketAddr,
        server_name: &str,
        pem: Pem<'_>,
    ) -> Result<Self, Unusable> {
        let server_name = match server_name {
            "" => ServerName::IpAddress(address.ip().into()),
            name => ServerName::try_from(name.to_owned())
                .map_err(|_| Unusable::ServerName(name.to_owned()))?,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Unusable::Identity(error.to_string()))?
            .with_root_certificates(authorities(pem.ca)?);
        let mut config = match identity(pem)? {
            None => builder.with_no_client_auth(),
            Some((certificates, key)) => builder
                .with_client_auth_cert(certificates, key)
                .map_err(|error| Unusable::Identity(error.to_string()))?,
        };
        // A resumed session skips the check of the client's certificate; every connection is to
        // be checked.
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// The client's side of the handshake.
    pub(super) async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.server_name.clone(), stream).await
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, Unusable> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("ca.pem", pem)? {
        let malformed = |error: rustls::Error| Unusable::Malformed("ca.pem", error.to_string());
        store.add(certificate).map_err(malformed)?;
    }
    if store.is_empty() { Err(Unusable::NoAuthority) } else { Ok(store) }
}

fn identity(pem: Pem<'_>) -> Result<Option<Identity>, Unusable> {
    let (certificate, key) = match (pem.cert, pem.key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) | (None, Some(_)) => return Err(Unusable::HalfIdentity),
    };
    let certificates = certificates("cert.pem", certificate)?;
    if certificates.is_empty() {
        return Err(Unusable::Malformed("cert.pem", "it holds no certificate".to_owned()));
    }
    // The parser's error could quote the file; it is a secret.
    let malformed = |_| Unusable::Malformed("key.pem", "it holds no private key".to_owned());
    Ok(Some((certificates, PrivateKeyDer::from_pem_slice(key).map_err(malformed)?)))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| Unusable::Malformed(file, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: SocketAddr =
        SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 6514));

    fn own() -> (String, String) {
        let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        (own.cert.pem(), own.signing_key.serialize_pem())
    }

    #[test]
    fn a_whole_credential_is_usable_with_name_or_address() {
        let (certificate, key) = own();
        let (certificate, key) = (certificate.as_bytes(), key.as_bytes());
        let pem = Pem { ca: certificate, cert: Some(certificate), key: Some(key) };
        for name in ["logs.example", "10.0.0.1", ""] {
            Client::new(ADDRESS, name, pem).unwrap();
        }
        Client::new(ADDRESS, "", Pem { cert: None, key: None, ..pem }).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said() {
        let (certificate, key) = own();
        let (certificate, key) = (certificate.as_bytes(), key.as_bytes());
        let (_, stranger) = own();
        let whole = Pem { ca: certificate, cert: Some(certificate), key: Some(key) };
        let fault = |name, pem| Client::new(ADDRESS, name, pem).unwrap_err();
        assert_eq!(fault("", Pem { ca: b"", ..whole }), Unusable::NoAuthority);
        assert_eq!(fault("", Pem { key: None, ..whole }), Unusable::HalfIdentity);
        assert!(matches!(fault("not a name", whole), Unusable::ServerName(_)));
        let no_key = Pem { key: Some(certificate), ..whole };
        assert!(matches!(fault("", no_key), Unusable::Malformed("key.pem", _)));
        let no_certificate = Pem { cert: Some(key), ..whole };
        assert!(matches!(fault("", no_certificate), Unusable::Malformed("cert.pem", _)));
        let foreign = Pem { key: Some(stranger.as_bytes()), ..whole };
        assert!(matches!(fault("", foreign), Unusable::Identity(_)));
    }
}
