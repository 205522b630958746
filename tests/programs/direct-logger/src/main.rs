//! Opens its own TLS connection to the logging service it was given and sends two syslog records
//! (RFC 5424 behind octet counts): one at once, then `sent` on stdout; one when stdin ends. Knows
//! of Pilotlight no more than the variables any program of it gets. Exit status 0 only if the
//! service kept the connection to its proper end.

use std::env::var;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Stream = StreamOwned<ClientConnection, TcpStream>;

fn main() -> Result<()> {
    let mut stream = connect()?;
    send(&mut stream, 0, "sent before the release")?;
    println!("sent");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    send(&mut stream, 1, "sent after the release")?;
    close(stream)
}

fn connect() -> Result<Stream> {
    let folder = var("PILOTLIGHT_LOG_CREDENTIALS")?;
    let folder = Path::new(&folder);
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(folder.join("ca.pem"))? {
        authorities.add(certificate?)?;
    }
    let builder = ClientConfig::builder().with_root_certificates(authorities);
    let config = if folder.join("cert.pem").exists() {
        let certificates = CertificateDer::pem_file_iter(folder.join("cert.pem"))?;
        let certificates = certificates.collect::<std::result::Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
        builder.with_client_auth_cert(certificates, key)?
    } else {
        builder.with_no_client_auth()
    };
    let name = ServerName::try_from(var("PILOTLIGHT_LOG_SERVER_NAME")?)?;
    let socket = TcpStream::connect(var("PILOTLIGHT_LOG_ADDRESS")?)?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket))
}

fn send(stream: &mut Stream, sequence: u32, text: &str) -> Result<()> {
    let (vm, invoke) = (var("PILOTLIGHT_VM_ID")?, var("PILOTLIGHT_INVOKE_ID")?);
    // The nil timestamp lets the service put its own.
    let record = format!(
        "<14>1 - {vm} direct-logger {invoke} - [direct@32473 sequence=\"{sequence}\"] {text}"
    );
    write!(stream, "{} {record}", record.len())?;
    Ok(stream.flush()?)
}

/// Says goodbye and waits for the service's: what it had to say against us comes before.
fn close(mut stream: Stream) -> Result<()> {
    stream.conn.send_close_notify();
    stream.flush()?;
    stream.sock.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0]) {
        // Many services leave out the goodbye of TLS.
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        Ok(_) => Err("the service said something".into()),
        Err(error) => Err(error.into()),
    }
}
