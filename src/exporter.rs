//! The page of metrics over HTTP, if the operator wants one (`metrics.listen`).
//!
//! ```text
//!  GET /metrics ─► a thread ─► page, at most a second old ─ STATUS ─► shard
//! ```
//! HTTP/1.1 (RFC 9112) as far as a scrape needs it: one request per connection, without a body, its head
//! within [`HEAD_BYTES_MAX`]. Whoever reaches the address may ask, without a login: so the page names
//! nobody ([`prometheus`]), and however often it is asked for, a shard is asked once a second.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use region::clock::monotonic_nanos;

use crate::client::{Client, ClientError};
use crate::metrics::prometheus;
use crate::trace::Pace;

/// Bytes of a request up to the empty line; a scraper sends some 300.
const HEAD_BYTES_MAX: usize = 4096;
/// Header fields of it; a scraper sends five.
const FIELDS_MAX: usize = 32;
/// Connections at once, each a thread; a scraper makes one. More are closed unheard.
const CONNECTIONS_MAX: usize = 8;
/// How long a connection may take, from its start to the answer's end.
const CONNECTION_NANOS: u64 = 2_000_000_000;
/// How long a shard may take for its status.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// A page is as good as new for so long.
const FRESH_NANOS: u64 = 1_000_000_000;
/// Pause after a failed accept: a lack of descriptors passes, asking at once does not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A listening exporter; dropping it ends it.
pub(crate) struct Exporter {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl Exporter {
    /// Listens at `address`; `connect` makes a client of the node.
    ///
    /// # Errors
    /// What the host says to the address, or to another thread.
    pub(crate) fn open(
        address: SocketAddr,
        connect: impl Fn() -> Result<Client, ClientError> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(address)?);
        let address = listener.local_addr()?;
        let accepting = Arc::clone(&listener);
        let pages = Arc::new(Pages { connect, kept: Mutex::default() });
        let thread = std::thread::Builder::new()
            .name("exporter".to_owned())
            .spawn(move || accept_all(&accepting, &pages))?;
        Ok(Self { listener, thread: Some(thread), address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // Ends the accept that waits.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn accept_all<F>(listener: &TcpListener, pages: &Arc<Pages<F>>)
where
    F: Fn() -> Result<Client, ClientError> + Send + Sync + 'static,
{
    let mut open: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // It is being closed.
            Err(error) if error.kind() == ErrorKind::InvalidInput => break,
            Err(_) => {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        open.retain(|thread| !thread.is_finished());
        if open.len() == CONNECTIONS_MAX {
            continue;
        }
        let pages = Arc::clone(pages);
        // Whoever hangs up, or has no patience, has no answer to wait for.
        let serve = move || drop(serve(&stream, &pages));
        let thread = std::thread::Builder::new().name("scrape".to_owned()).spawn(serve);
        open.extend(thread);
    }
    for thread in open {
        drop(thread.join());
    }
}

fn serve<F>(mut stream: &TcpStream, pages: &Pages<F>) -> io::Result<()>
where
    F: Fn() -> Result<Client, ClientError>,
{
    let until = monotonic_nanos().saturating_add(CONNECTION_NANOS);
    let mut head = [0; HEAD_BYTES_MAX];
    let mut length = 0;
    let verdict = loop {
        let verdict = judge(&head[..length]);
        if verdict != Verdict::Incomplete {
            break verdict;
        }
        if length == head.len() {
            break Verdict::Refused("431 Request Header Fields Too Large");
        }
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(&mut head[length..]) {
            Ok(0) => return Ok(()),
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    let answer = match verdict {
        Verdict::Page => match pages.get() {
            Some(page) => answer("200 OK", prometheus::CONTENT_TYPE, &page),
            None => refusal("503 Service Unavailable"),
        },
        Verdict::Incomplete => refusal("400 Bad Request"),
        Verdict::Refused(status) => refusal(status),
    };
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(answer.as_bytes())?;
    // Closed with bytes unread, a connection loses what was sent last.
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(left(until)?))?;
    while stream.read(&mut head)? > 0 {
        stream.set_read_timeout(Some(left(until)?))?;
    }
    Ok(())
}

fn left(until: u64) -> io::Result<Duration> {
    match until.saturating_sub(monotonic_nanos()) {
        0 => Err(ErrorKind::TimedOut.into()),
        nanos => Ok(Duration::from_nanos(nanos)),
    }
}

/// What there is to say to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing before more of it is there.
    Incomplete,
    /// The page.
    Page,
    /// A status line.
    Refused(&'static str),
}

fn judge(head: &[u8]) -> Verdict {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Verdict::Incomplete,
        Err(httparse::Error::TooManyHeaders) => {
            return Verdict::Refused("431 Request Header Fields Too Large");
        }
        Err(httparse::Error::Version) => {
            return Verdict::Refused("505 HTTP Version Not Supported");
        }
        Err(_) => return Verdict::Refused("400 Bad Request"),
    }
    if request.version != Some(1) {
        return Verdict::Refused("505 HTTP Version Not Supported");
    }
    let count = |name: &str| {
        request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
    };
    // RFC 9112, section 3.2.
    if count("host") != 1 {
        return Verdict::Refused("400 Bad Request");
    }
    if count("content-length") + count("transfer-encoding") > 0 {
        return Verdict::Refused("413 Content Too Large");
    }
    match (request.method, request.path) {
        (Some("GET"), Some("/metrics")) => Verdict::Page,
        (_, Some("/metrics")) => Verdict::Refused("405 Method Not Allowed"),
        _ => Verdict::Refused("404 Not Found"),
    }
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    // RFC 9110, section 15.5.6, wants the methods with a 405.
    let allow = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}\
         Connection: close\r\n\r\n{body}"
    )
}

fn refusal(status: &str) -> String {
    answer(status, "text/plain", &format!("{status}\n"))
}

/// Pages as they are made.
struct Pages<F> {
    connect: F,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    client: Option<Client>,
    page: Option<(Arc<str>, u64)>,
    failures: Pace,
}

impl<F: Fn() -> Result<Client, ClientError>> Pages<F> {
    /// The last page if it is fresh, else a new one; nothing while the node does not answer.
    fn get(&self) -> Option<Arc<str>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = monotonic_nanos();
        if let Some((page, _)) =
            kept.page.as_ref().filter(|(_, made)| now.saturating_sub(*made) < FRESH_NANOS)
        {
            return Some(Arc::clone(page));
        }
        kept.page = None;
        match self.make(kept.client.take()) {
            Ok((client, page)) => {
                kept.client = Some(client);
                kept.page = Some((Arc::clone(&page), monotonic_nanos()));
                Some(page)
            }
            Err(error) => {
                if kept.failures.admit(now).is_some() {
                    tracing::warn!(error = error.to_string(), "no metrics");
                }
                None
            }
        }
    }

    fn make(&self, client: Option<Client>) -> Result<(Client, Arc<str>), ClientError> {
        let mut client = match client {
            Some(client) => client,
            None => (self.connect)()?,
        };
        client.set_patience(Some(STATUS_PATIENCE));
        let page = prometheus::page(&client.status()?).into();
        Ok((client, page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(head: &str) -> Verdict {
        judge(head.as_bytes())
    }

    #[test]
    fn a_scrape_gets_the_page() {
        let head = "GET /metrics HTTP/1.1\r\nHost: a:9464\r\nAccept: text/plain\r\n\r\n";
        assert_eq!(of(head), Verdict::Page);
        for end in 0..head.len() {
            assert_eq!(of(&head[..end]), Verdict::Incomplete, "{:?}", &head[..end]);
        }
    }

    #[test]
    fn whatever_else_is_asked_has_its_refusal() {
        let many: String = (0..FIELDS_MAX).map(|number| format!("X-{number}: 1\r\n")).collect();
        let cases = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            ("GET /metrics/ HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            ("GET /metrics?a=b HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
            ("HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", "413"),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "413"),
            ("GET /metrics HTTP/1.1\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.0\r\nHost: a\r\n\r\n", "505"),
            ("GET /metrics HTTP/2.0\r\n\r\n", "505"),
            ("\0\0\0\0", "400"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
            (&format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{many}\r\n"), "431"),
        ];
        for (head, status) in cases {
            let verdict = of(head);
            let is_it = matches!(verdict, Verdict::Refused(line) if line.starts_with(status));
            assert!(is_it, "{verdict:?} is not {status} for {head:?}");
        }
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_that_it_is_the_last() {
        let text = answer("200 OK", "text/plain", "a\n");
        assert!(text.contains("\r\nContent-Length: 2\r\n"), "{text}");
        assert!(text.ends_with("\r\nConnection: close\r\n\r\na\n"), "{text}");
        assert!(refusal("405 Method Not Allowed").contains("\r\nAllow: GET\r\n"));
    }
}
