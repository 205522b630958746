//! The blocking client against the node's side of the protocol, over a real socket.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use pilotlight::client::{Client, ClientError, Package};
use pilotlight::code::Code;
use pilotlight::config::Requests;
use pilotlight::invoke::{LogAccount, LogProtocol, Status, Timings};
use pilotlight::socket::answer::{Answer, Log, Outcome, Room};
use pilotlight::socket::logging::{Credentials, Logging};
use pilotlight::socket::request::{Invoke, OPTION_WANT_LOG, Request};
use pilotlight::socket::settings::Settings;
use pilotlight::socket::{Connection, Limits, Peer};

fn outcome(response: &[u8]) -> Outcome<'_> {
    Outcome {
        status: Status::Exited,
        detail: 0,
        container: 1,
        room: Room::Warming,
        vm: 1,
        invoke: 1,
        log: LogAccount::default(),
        run_nanos: 1,
        memory_peak_bytes: 1,
        timings: Timings::default(),
        reason: "",
        log_reason: "",
        response,
    }
}

/// What a request is, without what it borrows.
enum Asked {
    Invoke { body: Vec<u8>, wants_log: bool },
    Body(Vec<u8>),
    Cancel,
    Reply(String),
    Error(Code),
}

fn asked(request: &Request<'_>) -> Asked {
    match request {
        Request::Invoke(invoke) => Asked::Invoke {
            body: invoke.body.to_vec(),
            wants_log: invoke.options & OPTION_WANT_LOG != 0,
        },
        Request::Body(bytes) => Asked::Body(bytes.to_vec()),
        Request::Cancel => Asked::Cancel,
        Request::SetLogging(logging) => {
            let files: Vec<_> = logging.credentials.iter().map(|(name, _)| name).collect();
            assert_eq!((logging.host, files), ("logs", vec!["token"]));
            Asked::Reply("{}".into())
        }
        Request::Deploy(deploy) => {
            let settings: Settings = serde_json::from_str(deploy.settings).unwrap();
            let function = serde_json::json!({
                "user": deploy.user, "name": deploy.function, "package": "0".repeat(64),
                "package_bytes": 1, "entry": settings.entry, "arguments": [],
                "environment": [], "contract": settings.contract, "memory_mib": 1,
                "timeout_millis": 1,
            });
            Asked::Reply(function.to_string())
        }
        Request::Package(_) => Asked::Body(Vec::new()),
        Request::List(_) => Asked::Reply(r#"{"functions":[]}"#.into()),
        Request::Remove { .. } => Asked::Error(Code::UnknownFunction),
        // Larger than one frame may be.
        Request::Attach => Asked::Error(Code::Busy),
        Request::Status => Asked::Reply(format!("{{\"text\":\"{}\"}}", "x".repeat(300_000))),
    }
}

/// Answers one request, or keeps its body until that is complete.
fn answer(
    connection: &mut Connection,
    bodies: &mut Vec<(u64, Vec<u8>)>,
    (id, has_more): (u64, bool),
    asked: Asked,
) {
    match asked {
        Asked::Invoke { body, wants_log } => {
            if wants_log {
                let log = Log { realtime_nanos: 1, sequence: 0, text: b"line" };
                connection.log(id, log, false).unwrap();
            }
            bodies.push((id, body));
        }
        Asked::Body(bytes) => {
            if let Some((_, body)) = bodies.iter_mut().find(|body| body.0 == id) {
                body.extend(bytes);
            }
        }
        Asked::Cancel => {
            let cancelled = Outcome { status: Status::Cancelled, ..outcome(b"") };
            connection.outcome(id, &cancelled).unwrap();
        }
        Asked::Reply(json) if !has_more => connection.reply(id, json.as_bytes()).unwrap(),
        Asked::Reply(json) => bodies.push((id, json.into_bytes())),
        Asked::Error(code) => connection.error(id, code, "deploy it").unwrap(),
    }
    if let (false, Some(at)) = (has_more, bodies.iter().position(|body| body.0 == id)) {
        let (_, body) = bodies.swap_remove(at);
        if body.starts_with(b"{") {
            connection.reply(id, &body).unwrap();
        } else if body != b"hang" {
            connection.outcome(id, &outcome(&body)).unwrap();
        }
    }
}

/// A node without VMs: each invoke echoes its body once that is complete.
fn serve(mut stream: UnixStream) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let peer = Peer::new(1000, 0, &[], |_| Some("ada".to_owned()));
        let mut connection = Connection::new(peer, Limits::from(&Requests::default()));
        let mut bodies: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            match stream.read(connection.receive_space()) {
                Ok(0) | Err(_) => return,
                Ok(count) => connection.received(count),
            }
            while let Some(incoming) = connection.next_request() {
                let (id, has_more) = (incoming.id, incoming.has_more);
                let asked = asked(&incoming.request);
                answer(&mut connection, &mut bodies, (id, has_more), asked);
            }
            let sent = stream.write(connection.pending_output()).unwrap();
            connection.consume(sent);
            stream.write_all(connection.pending_output()).unwrap();
            connection.consume(usize::MAX);
            if connection.is_closing() {
                return;
            }
        }
    })
}

fn client() -> (Client, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let node = serve(theirs);
    (Client::over(ours).unwrap(), node)
}

#[test]
fn bodies_of_any_size_come_back() {
    let (mut client, node) = client();
    assert_eq!(client.login(), "ada");
    for length in [0, 1, 65_536, 65_537, 6 * 1024 * 1024] {
        let body: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
        let completed = client.invoke(&Invoke::new("echo", &body)).unwrap();
        assert_eq!(completed.response, body, "{length} bytes");
    }
    let large = vec![0; 6 * 1024 * 1024 + 1];
    let refused = client.invoke(&Invoke::new("echo", &large)).unwrap_err();
    assert!(matches!(refused, ClientError::BodyTooLarge { bytes_max: 6_291_456 }));
    drop(client);
    node.join().unwrap();
}

#[test]
fn a_body_is_streamed_and_the_log_comes_along() {
    let (mut client, node) = client();
    let invoke = Invoke { options: OPTION_WANT_LOG, ..Invoke::new("echo", b"first ") };
    let id = client.submit_open(&invoke).unwrap();
    client.send_body(id, b"second ", true).unwrap();
    client.send_body(id, b"third", false).unwrap();
    let completed = client.complete(id).unwrap();
    assert_eq!(completed.response, b"first second third");
    assert_eq!(completed.log.len(), 1);
    assert_eq!(completed.log[0].text, b"line");
    assert_eq!(completed.room, Room::Warming);
    drop(client);
    node.join().unwrap();
}

#[test]
fn requests_are_pipelined_and_cancelled() {
    let (mut client, node) = client();
    let hanging = client.submit(&Invoke::new("echo", b"hang")).unwrap();
    let ids: Vec<u64> =
        (0..100).map(|_| client.submit(&Invoke::new("echo", b"x")).unwrap()).collect();
    for id in ids {
        assert_eq!(client.receive().unwrap().id, id);
    }
    assert!(client.receive_within(Duration::from_millis(10)).unwrap().is_none());
    client.cancel(hanging).unwrap();
    let received = client.receive().unwrap();
    let Answer::Outcome(outcome) = received.answer else { panic!("{received:?}") };
    assert_eq!((received.id, outcome.status), (hanging, Status::Cancelled));
    drop(client);
    node.join().unwrap();
}

#[test]
fn functions_are_deployed_listed_and_removed() {
    let (mut client, node) = client();
    let package = Package::of_elf("greet", &vec![1; 200_000]);
    let function = client.deploy(("ada", "greet"), &package).unwrap();
    assert_eq!((function.name.as_str(), function.entry.as_str()), ("greet", "greet"));
    assert!(client.list("").unwrap().is_empty());
    let refused = client.remove("", "greet").unwrap_err();
    assert_eq!(refused.code(), "unknown-function");
    assert_eq!(client.status().unwrap()["text"].as_str().map(str::len), Some(300_000));
    let mut storage = Vec::new();
    let logging = Logging {
        protocol: LogProtocol::SyslogTls,
        host: "logs",
        port: 1,
        server_name: "",
        credentials: Credentials::encode(&[("token", b"t")], &mut storage).unwrap(),
    };
    client.set_logging(&logging).unwrap();
    assert!(!format!("{logging:?}").contains("116"), "no byte of a credential is printed");
    drop(client);
    node.join().unwrap();
}

#[test]
fn a_missing_node_says_how_to_start_one() {
    let error = Client::connect("/nonexistent/node.sock".as_ref()).unwrap_err();
    assert_eq!(error.code(), "no-node");
    assert!(error.to_string().contains("pilotlight serve"), "{error}");
}

#[test]
fn a_foreign_protocol_is_recognised() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    let error = Client::over(ours).unwrap_err();
    assert_eq!(error.code(), "protocol-broken");
}
