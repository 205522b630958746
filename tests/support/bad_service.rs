//! Logging services as none should be: they refuse, hang, close and lie. All are to be reached over
//! TLS, so that nothing counts as handed over before they have shown who they are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use pilotlight::invoke::LogProtocol;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

use super::rsyslog::{Authority, SERVER_NAME};
use super::service::Service;

/// Some of each kind.
pub(crate) struct BadServices {
    /// How each behaves, and where it is.
    pub(crate) services: Vec<(&'static str, Service)>,
    /// Nobody else gets the port at which nobody listens.
    _silent: OwnedFd,
    /// Nobody takes what comes in here.
    _deaf: TcpListener,
}

impl BadServices {
    pub(crate) fn start() -> Self {
        let authority = Authority::new("an authority of theirs");
        let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let silent = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&silent, &any).unwrap();
        let refusing = SocketAddrV4::try_from(getsockname(&silent).unwrap()).unwrap();
        let deaf = TcpListener::bind(any).unwrap();
        let services = [
            ("refuses", refusing.port()),
            ("hangs", deaf.local_addr().unwrap().port()),
            ("closes", serve(drop)),
            ("lies", serve(lie)),
        ];
        let service = |port| {
            let mut service = Service::tcp("127.0.0.1", port);
            service.protocol = LogProtocol::SyslogTls;
            service.server_name = SERVER_NAME.to_owned();
            service.file("ca.pem", authority.pem.as_bytes())
        };
        let services = services.map(|(name, port)| (name, service(port)));
        Self { services: services.into(), _silent: silent, _deaf: deaf }
    }
}

/// Answers each connection, one after another, until the test ends.
fn serve(answer: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    port
}

/// The head of a TLS record with a server's first words, which are none.
fn lie(mut stream: TcpStream) {
    let mut hello = [0; 512];
    // Whoever is lied to may hang up at any time.
    let _ = stream.read(&mut hello);
    let _ = stream.write_all(&[0x16, 3, 3, 0x3f, 0xff, 2, 0, 0x3f, 0xfb]);
    let _ = stream.write_all(&hello.repeat(40));
}
