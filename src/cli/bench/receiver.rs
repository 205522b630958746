//! A syslog receiver on this machine: RFC 5424 records, counted by octets (RFC 6587). It counts
//! them too.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver as Arrivals, Sender, channel};
use std::time::Duration;

use perf::Deadline;

use super::super::fault::Fault;

/// Bytes a record may have here.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A running receiver; it lives as long as the process.
pub(super) struct Receiver {
    address: SocketAddr,
    arrivals: Arrivals<()>,
}

impl Receiver {
    /// Listens on a free port of this machine.
    pub(super) fn start() -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (sender, arrivals) = channel();
        std::thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                // What a connection that breaks does not bring is missed where it is waited for.
                std::thread::spawn(move || drop(receive(stream, &sender)));
            }
        })?;
        Ok(Self { address, arrivals })
    }

    /// Its port on 127.0.0.1.
    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Takes up to `count` records, waiting for them up to `patience`; returns how many there were.
    pub(super) fn take(&self, count: u64, patience: Duration) -> u64 {
        let deadline = Deadline::after(patience);
        let mut taken = 0;
        while taken < count && !deadline.has_passed() {
            if self.arrivals.recv_timeout(patience).is_ok() {
                taken += 1;
            }
        }
        taken
    }
}

fn receive(stream: TcpStream, arrivals: &Sender<()>) -> io::Result<()> {
    let mut input = BufReader::new(stream);
    let mut record = vec![0; RECORD_BYTES_MAX];
    let mut length = Vec::new();
    loop {
        length.clear();
        // A length has few digits; what has more is none.
        if (&mut input).take(16).read_until(b' ', &mut length)? == 0 {
            return Ok(());
        }
        let text = str::from_utf8(&length).unwrap_or_default().trim_end();
        let bytes = text.parse().ok().and_then(|bytes: usize| record.get_mut(..bytes));
        input.read_exact(bytes.ok_or(io::ErrorKind::InvalidData)?)?;
        if arrivals.send(()).is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn records_are_counted_by_octets() {
        let receiver = Receiver::start().unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, receiver.port())).unwrap();
        stream.write_all(b"5 <1>1 3 a b4 5 6\n").unwrap();
        assert_eq!(receiver.take(3, Duration::from_secs(60)), 3);
        assert_eq!(receiver.take(1, Duration::from_millis(1)), 0);
    }
}
