//! What a client sends: the same requests come out in whatever pieces the bytes arrive, each is
//! written again as it was, none is for a user the client may not act for, and what is answered
//! parses. Limits are small, so that they are reached.

use pilotlight::Config;
use pilotlight::code::Code;
use pilotlight::invoke::{LogAccount, Status, Timings};
use pilotlight::socket::answer::{Answer, Outcome, Room};
use pilotlight::socket::frame::Header;
use pilotlight::socket::peer::Host;
use pilotlight::socket::request::{Deploy, Hello, Invoke, Request};
use pilotlight::socket::{Connection, Incoming, Limits, Peer};

const LIMITS: Limits = Limits { body_bytes_max: 96, package_bytes_max: 160, requests_max: 3 };
const ADA: u32 = 1000;
/// Frames of the node in the output, at most: as many as a stream of the fuzzer's can ask for.
const ANSWERS_MAX: usize = 4096;

/// `data` is all a client sends, its hello first.
pub fn check(data: &[u8]) -> bool {
    codec(data);
    let whole = Session::new().run(data, usize::MAX);
    let pieces = Session::new().run(data, 1 + data.len() % 41);
    assert_eq!(whole, pieces, "pieces mean nothing");
    !whole.0.is_empty()
}

/// Every frame, without the rules of a connection: what is read is written as it was.
fn codec(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(header)) = Header::decode(rest) {
        let Some(payload) = rest.get(Header::BYTES..Header::BYTES + header.length) else { return };
        let mut again = Vec::new();
        if let Ok(hello) = Hello::decode(payload) {
            assert_eq!(hello.append(&mut again), Ok(()));
            assert_eq!(&again[Header::BYTES..], &payload[..again.len() - Header::BYTES]);
            again.clear();
        }
        let frame = &rest[..Header::BYTES + header.length];
        if let Ok(request) = Request::decode(header, payload) {
            assert_eq!(request.append(&mut again, header.id, header.has_more()), Ok(()));
            assert_eq!(again, frame, "a request has one form");
            if let Request::Invoke(Invoke { logging: Some(logging), .. })
            | Request::SetLogging(logging) = request
            {
                assert!(logging.credentials.iter().count() <= 8);
            }
        }
        rest = &rest[frame.len()..];
    }
}

/// A client's connection, and everything that came out of it.
struct Session {
    peer: Peer,
    connection: Connection,
    seen: Vec<String>,
}

impl Session {
    fn new() -> Self {
        let host = Host { node_uid: 999, overflow_uid: 65_534 };
        let login = |uid| (uid == ADA).then(|| "ada".to_owned());
        let peer = Peer::new(ADA, host, &Config::default(), login);
        let connection = Connection::new(peer.clone(), LIMITS);
        Self { peer, connection, seen: Vec::new() }
    }

    /// Feeds `data` in pieces and returns what was asked and answered, in order.
    fn run(mut self, data: &[u8], piece: usize) -> (Vec<String>, Vec<u8>) {
        let mut answered = Vec::new();
        let mut rest = data;
        while !rest.is_empty() {
            let space = self.connection.receive_space();
            if space.is_empty() {
                assert!(self.connection.is_closing(), "requests were taken, so there is room");
                break;
            }
            let count = rest.len().min(piece).min(space.len());
            space[..count].copy_from_slice(&rest[..count]);
            self.connection.received(count);
            rest = &rest[count..];
            self.take();
            // All of it is sent: what is held back for a slow client is not looked at here.
            answered.extend_from_slice(self.connection.pending_output());
            self.connection.consume(usize::MAX);
        }
        assert!(!self.connection.is_closing() || self.connection.next_request().is_none());
        answers(&answered);
        (self.seen, answered)
    }

    /// Takes the requests that are there. Each is put back once, and then comes again.
    fn take(&mut self) {
        while let Some(incoming) = self.connection.next_request() {
            let (id, tag) = (incoming.id, incoming.tag);
            permitted(&self.peer, &incoming);
            let is_cancel = incoming.request == Request::Cancel;
            let first = format!("{incoming:?}");
            // Nobody has to wait for room to withdraw a request.
            if !is_cancel {
                self.connection.put_back();
                let again = self.connection.next_request().map(|again| format!("{again:?}"));
                assert_eq!(again.as_ref(), Some(&first), "what was put back comes again");
            }
            assert!(self.connection.open_count() <= LIMITS.requests_max as usize);
            assert!(tag == 0 || tag == id ^ 1, "a tag is its request's");
            self.connection.set_tag(id, id ^ 1);
            self.answer(id);
            self.seen.push(first);
        }
    }

    /// As the request's number says; some are left open.
    fn answer(&mut self, id: u64) {
        let connection = &mut self.connection;
        let sent = match id % 6 {
            0 => connection.error(id, Code::BadRequest, "no"),
            1 => connection.outcome(id, &OUTCOME),
            2 => connection.reply(id, b"{}"),
            3 => connection.response(id, b"part"),
            _ => Ok(()),
        };
        assert_eq!(sent, Ok(()));
        let is_open = connection.open_requests().any(|(open, _)| open == id);
        assert!(!is_open || id % 6 > 2, "what is answered is over");
    }
}

const OUTCOME: Outcome<'static> = Outcome {
    status: Status::Exited,
    detail: 0,
    container: 1,
    room: Room::Active,
    vm: 1,
    invoke: 1,
    log: LogAccount { produced: 0, handed_over: 0, acknowledged: None, dropped: 0 },
    run_nanos: 1,
    memory_peak_bytes: 1,
    timings: Timings {
        accept_nanos: 0,
        route_nanos: 0,
        acquire_nanos: 0,
        load_nanos: 0,
        run_nanos: 0,
        reply_nanos: 0,
    },
    reason: "",
    log_reason: "",
    response: b"answer",
};

fn permitted(peer: &Peer, incoming: &Incoming<'_>) {
    assert_ne!(incoming.id, 0, "0 is the connection");
    match incoming.request {
        Request::Invoke(Invoke { user, body, .. }) => {
            assert!(peer.may_act_for(user) && body.len() as u64 <= LIMITS.body_bytes_max);
        }
        Request::Deploy(Deploy { user, package, .. }) => {
            assert!(peer.may_act_for(user) && package.len() as u64 <= LIMITS.package_bytes_max);
        }
        Request::List(user) | Request::Remove { user, .. } => assert!(peer.may_act_for(user)),
        Request::Body(bytes) => assert!(bytes.len() as u64 <= LIMITS.body_bytes_max),
        Request::Package(bytes) => assert!(bytes.len() as u64 <= LIMITS.package_bytes_max),
        Request::SetLogging(_) | Request::Cancel | Request::Status | Request::Attach => {}
    }
}

/// Whole frames of known kinds, and nothing behind them.
fn answers(output: &[u8]) {
    let mut rest = output;
    for _ in 0..ANSWERS_MAX {
        let Ok(Some(header)) = Header::decode(rest) else { break };
        let end = Header::BYTES + header.length;
        assert!(Answer::decode(header, &rest[Header::BYTES..end]).is_ok());
        rest = &rest[end..];
    }
    assert!(rest.is_empty() || output.len() > ANSWERS_MAX * Header::BYTES);
}
