//! A small syslog receiver: RFC 5424 records, counted by octets (RFC 6587), over TLS with client
//! certificates (RFC 5425). It keeps what arrives.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Arrivals, Sender, channel};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::super::fault::Fault;
use super::authority::{Authority, Identity};

/// Bytes a record may have here.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A record and who brought it.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The client's certificate, checked against the receiver's authority.
    pub(super) certificate: CertificateDer<'static>,
    /// The record as it was on the wire, without its length.
    pub(super) record: String,
}

/// A running receiver; it lives as long as the process.
pub(super) struct Receiver {
    address: SocketAddr,
    arrivals: Arrivals<Arrival>,
}

impl Receiver {
    /// Listens on a free port of this machine. Clients need a certificate signed by `authority`.
    pub(super) fn start(authority: &Authority, identity: &Identity) -> Result<Self, Fault> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                .build()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![identity.certificate.clone()], identity.key())?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (sender, arrivals) = channel();
        let config = Arc::new(config);
        std::thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, sender) = (Arc::clone(&config), sender.clone());
                std::thread::spawn(move || {
                    // A client that is refused, or leaves, is none of the others' matter; that
                    // its records are missing is noticed where they are waited for.
                    drop(receive(config, stream, &sender));
                });
            }
        })?;
        Ok(Self { address, arrivals })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next record, if one comes within `patience`.
    pub(super) fn next(&self, patience: Duration) -> Option<Arrival> {
        self.arrivals.recv_timeout(patience).ok()
    }
}

fn receive(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    arrivals: &Sender<Arrival>,
) -> Result<(), Fault> {
    let connection = ServerConnection::new(config)?;
    let mut input = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let mut length = Vec::new();
        if input.read_until(b' ', &mut length)? == 0 {
            return Ok(());
        }
        let length = str::from_utf8(&length).ok().and_then(|text| text.trim_end().parse().ok());
        let length = length.filter(|length| *length <= RECORD_BYTES_MAX);
        let mut record =
            vec![0; length.ok_or(io::ErrorKind::InvalidData).map_err(io::Error::from)?];
        input.read_exact(&mut record)?;
        let certificates = input.get_ref().conn.peer_certificates();
        let certificate = certificates.and_then(|chain| chain.first()).cloned();
        let certificate = certificate.ok_or_else(|| Fault::new("no client certificate"))?;
        let record = String::from_utf8_lossy(&record).into_owned();
        if arrivals.send(Arrival { certificate, record }).is_err() {
            return Ok(());
        }
    }
}
