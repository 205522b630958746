//! Connections that leave a VM: bytes both ways with back-pressure, ends, breaks and limits. The
//! guest is played by the test, the other side is an ordinary TCP server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use abi::frame::Header;
use abi::frame::stream::{self, Address, WINDOW_BYTES};
use futures_lite::future::or;
use glommio::LocalExecutorBuilder;
use glommio::timer::sleep;
use pilotlight::egress::{Egress, Fault, Limits, Policy};
use pilotlight::signal::Signal;

const WINDOW: usize = WINDOW_BYTES as usize;

/// The agent's end of the stream rings.
struct Guest {
    egress: Egress,
    news: Rc<Signal>,
    received: VecDeque<(u8, u32, Vec<u8>)>,
}

impl Guest {
    fn new(limits: Limits, allowed: &[SocketAddr]) -> Self {
        let news = Rc::new(Signal::default());
        let mut egress = Egress::new(limits, Rc::clone(&news));
        egress.assign(Policy { assigned: None, allowed: allowed.into() });
        Self { egress, news, received: VecDeque::new() }
    }

    fn send(&mut self, kind: u8, channel: u32, payload: &[u8]) {
        self.egress.on_frame(Header { kind, flags: 0, channel, id: 0 }, payload).unwrap();
    }

    fn open(&mut self, channel: u32, address: SocketAddr) {
        let SocketAddr::V4(address) = address else { panic!("the tests use IPv4") };
        let ip = address.ip().to_ipv6_mapped().octets();
        self.send(stream::OPEN, channel, &Address { ip, port: address.port() }.encode());
    }

    /// The next frame from the node.
    async fn next(&mut self) -> (u8, u32, Vec<u8>) {
        loop {
            let received = &mut self.received;
            self.egress.drain(1, |header, payload| {
                received.push_back((header.kind, header.channel, payload.to_vec()));
            });
            if let Some(frame) = received.pop_front() {
                return frame;
            }
            patiently(self.news.wait()).await;
        }
    }

    async fn expect(&mut self, kind: u8, channel: u32) -> Vec<u8> {
        let (got, number, payload) = self.next().await;
        assert_eq!((got, number), (kind, channel), "{payload:?}");
        payload
    }

    /// The next frame that is not credit.
    async fn expect_past_credit(&mut self, kind: u8, channel: u32) -> Vec<u8> {
        loop {
            let (got, number, payload) = self.next().await;
            if got != stream::CREDIT {
                assert_eq!((got, number), (kind, channel), "{payload:?}");
                return payload;
            }
        }
    }
}

async fn patiently<T>(future: impl Future<Output = T>) -> T {
    let too_late = async {
        sleep(Duration::from_secs(30)).await;
        panic!("waited in vain")
    };
    or(future, too_late).await
}

fn run(test: impl Future<Output = ()>) {
    LocalExecutorBuilder::default().make().unwrap().run(test);
}

/// A server that serves one connection with `serve`, whose result `mpsc` brings.
fn serve<T: Send + 'static>(
    serve: impl FnOnce(TcpStream) -> T + Send + 'static,
) -> (SocketAddr, mpsc::Receiver<T>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(serve(listener.accept().unwrap().0)));
    (address, receiver)
}

async fn result<T>(receiver: mpsc::Receiver<T>) -> T {
    patiently(async {
        loop {
            match receiver.try_recv() {
                Ok(result) => return result,
                Err(mpsc::TryRecvError::Empty) => sleep(Duration::from_millis(2)).await,
                Err(mpsc::TryRecvError::Disconnected) => panic!("the server failed"),
            }
        }
    })
    .await
}

fn errno(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload.try_into().unwrap())
}

#[test]
fn bytes_travel_both_ways_within_the_windows() {
    const TOTAL: usize = 20 * WINDOW;
    let (address, served) = serve(|mut stream| {
        let mut echoed = Vec::new();
        let mut buffer = vec![0; 7000];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).unwrap();
            echoed.extend_from_slice(&buffer[..length]);
        }
        echoed
    });
    run(async move {
        let mut guest = Guest::new(Limits::default(), &[address]);
        guest.open(3, address);
        let local = Address::decode(&guest.expect(stream::OPENED, 3).await).unwrap();
        assert_eq!(local.ip, Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        assert_ne!(local.port, 0);
        let bytes: Vec<u8> = (0..=250).cycle().take(TOTAL).collect();
        let (mut sent, mut credit, mut echoed) = (0, WINDOW, Vec::new());
        while echoed.len() < TOTAL {
            let now = credit.min(TOTAL - sent).min(5000);
            if now > 0 {
                guest.send(stream::DATA, 3, &bytes[sent..sent + now]);
                (sent, credit) = (sent + now, credit - now);
                continue;
            }
            match guest.next().await {
                (stream::CREDIT, 3, payload) => credit += errno(&payload) as usize,
                (stream::DATA, 3, payload) => {
                    let taken = u32::try_from(payload.len()).unwrap().to_le_bytes();
                    echoed.extend_from_slice(&payload);
                    guest.send(stream::CREDIT, 3, &taken);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(echoed == bytes, "the bytes come back as they went");
        guest.send(stream::FIN, 3, &[]);
        guest.expect_past_credit(stream::FIN, 3).await;
        guest.send(stream::CLOSE, 3, &[]);
        guest.expect_past_credit(stream::CLOSE, 3).await;
        assert!(result(served).await == bytes);
        assert_eq!(guest.egress.counts().opened, 1);
    });
}

#[test]
fn a_guest_that_takes_nothing_holds_back_the_other_side() {
    let (address, _served) = serve(|mut stream| {
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        while stream.write_all(&[1; 4096]).is_ok() {}
        stream
    });
    run(async move {
        let mut guest = Guest::new(Limits::default(), &[address]);
        guest.open(1, address);
        guest.expect(stream::OPENED, 1).await;
        let mut length = 0;
        while length < WINDOW {
            length += guest.expect(stream::DATA, 1).await.len();
        }
        assert_eq!(length, WINDOW);
        sleep(Duration::from_millis(100)).await;
        let more = guest.egress.drain(100, |header, _| panic!("{header:?} beyond the window"));
        assert!(!more);
        guest.send(stream::CREDIT, 1, &10_u32.to_le_bytes());
        assert_eq!(guest.expect(stream::DATA, 1).await.len(), 10);
    });
}

#[test]
fn either_side_may_end_first() {
    let (address, served) = serve(|mut stream| {
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        stream.write_all(b"answer behind your end").unwrap();
        request
    });
    run(async move {
        let mut guest = Guest::new(Limits::default(), &[address]);
        guest.open(1, address);
        guest.expect(stream::OPENED, 1).await;
        guest.send(stream::DATA, 1, b"request");
        guest.send(stream::FIN, 1, &[]);
        let answer = guest.expect_past_credit(stream::DATA, 1).await;
        assert_eq!(answer, b"answer behind your end");
        guest.expect_past_credit(stream::FIN, 1).await;
        assert_eq!(result(served).await, b"request");
    });
}

#[test]
fn what_was_sent_before_a_close_arrives() {
    let (address, served) = serve(|mut stream| {
        stream.write_all(b"nobody reads this").unwrap();
        let mut request = Vec::new();
        stream.read_to_end(&mut request).unwrap();
        request
    });
    run(async move {
        let mut guest = Guest::new(Limits::default(), &[address]);
        guest.open(1, address);
        guest.expect(stream::OPENED, 1).await;
        guest.send(stream::DATA, 1, &[9; WINDOW]);
        guest.send(stream::CLOSE, 1, &[]);
        guest.expect_past_credit(stream::CLOSE, 1).await;
        assert_eq!(result(served).await, vec![9; WINDOW]);
        patiently(async {
            while guest.egress.live() > 0 {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    });
}

#[test]
fn a_connection_that_breaks_says_so_after_its_last_bytes() {
    let (address, _served) = serve(|mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        // A close with bytes unread is a reset.
        stream.peek(&mut [0]).unwrap();
    });
    run(async move {
        let mut guest = Guest::new(Limits::default(), &[address]);
        guest.open(1, address);
        guest.expect(stream::OPENED, 1).await;
        guest.send(stream::DATA, 1, b"12345");
        let error = errno(&guest.expect_past_credit(stream::FAILED, 1).await);
        assert_eq!(error, 104, "ECONNRESET");
        // The guest may not have seen it yet: what it says is no fault, and goes nowhere.
        guest.send(stream::DATA, 1, b"more");
        guest.send(stream::FIN, 1, &[]);
        guest.send(stream::CLOSE, 1, &[]);
        guest.expect_past_credit(stream::CLOSE, 1).await;
        assert_eq!((guest.egress.counts().failed, guest.egress.live()), (1, 0));
    });
}

#[test]
fn addresses_that_are_not_allowed_or_not_there_fail() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    run(async move {
        let mut guest = Guest::new(Limits::default(), &[closed]);
        guest.open(1, closed);
        assert_eq!(errno(&guest.expect(stream::FAILED, 1).await), 111, "ECONNREFUSED");
        let other = SocketAddr::new(closed.ip(), closed.port() ^ 1);
        guest.open(2, other);
        assert_eq!(errno(&guest.expect(stream::FAILED, 2).await), 13, "EACCES");
        let counts = guest.egress.counts();
        assert_eq!((counts.opened, counts.failed, counts.refused), (0, 1, 1));
    });
}

#[test]
fn connections_are_bounded_and_end_with_their_vm() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    run(async move {
        let limits = Limits { connections: 2, ..Limits::default() };
        let mut guest = Guest::new(limits, &[address]);
        for number in 0..3 {
            guest.open(number, address);
        }
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let (kind, number, payload) = guest.next().await;
            kinds.push((number, kind));
            assert!(kind == stream::OPENED || errno(&payload) == 105, "ENOBUFS");
        }
        kinds.sort_unstable();
        assert_eq!(kinds, [(0, stream::OPENED), (1, stream::OPENED), (2, stream::FAILED)]);
        assert_eq!(guest.egress.live(), 2);
        let ends = thread::spawn(move || {
            [(); 2].map(|()| listener.accept().unwrap().0.read(&mut [0]).unwrap_or(0))
        });
        drop(guest);
        patiently(async {
            while !ends.is_finished() {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        assert_eq!(ends.join().unwrap(), [0, 0]);
    });
}

#[test]
fn a_connection_closed_before_it_came_about_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    run(async move {
        let mut guest = Guest::new(Limits::default(), &[address]);
        for _ in 0..100 {
            guest.open(1, address);
            guest.send(stream::CLOSE, 1, &[]);
            guest.expect(stream::CLOSE, 1).await;
        }
        let again = Header { kind: stream::CLOSE, flags: 0, channel: 1, id: 0 };
        assert_eq!(guest.egress.on_frame(again, &[]), Err(Fault::Stranger));
        patiently(async {
            while guest.egress.live() > 0 {
                sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    });
}
