//! Whatever a client sends, in whatever pieces: the same requests come out, or one error and the
//! end of the connection; never a panic, never more memory than the limits say.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use pilotlight::code::Code;
use pilotlight::config::Requests;
use pilotlight::invoke::LogProtocol;
use pilotlight::socket::answer::{Answer, Log};
use pilotlight::socket::frame::{FRAME_BYTES_MAX, Header};
use pilotlight::socket::logging::{Credentials, Logging};
use pilotlight::socket::request::{Deploy, Hello, Invoke, Request};
use pilotlight::socket::{Connection, Limits, Peer};
use proptest::prelude::*;

const ADA: u32 = 1000;

fn connection(uid: u32) -> Connection {
    let peer = Peer::new(uid, 999, &[], |uid| (uid == ADA).then(|| "ada".to_owned()));
    Connection::new(peer, Limits::from(&Requests::default()))
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    Hello { version_min: 1, version_max: 9 }.append(&mut bytes).unwrap();
    bytes
}

/// Feeds `bytes` in pieces of `piece`, and lists what comes out. Each request is put back once.
fn requests_from(connection: &mut Connection, bytes: &[u8], piece: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = connection.receive_space();
        if space.is_empty() {
            break;
        }
        let count = rest.len().min(piece).min(space.len());
        space[..count].copy_from_slice(&rest[..count]);
        connection.received(count);
        rest = &rest[count..];
        while let Some(incoming) = connection.next_request() {
            let first = format!("{incoming:?}");
            // Nobody has to wait for room to withdraw a request.
            if !first.contains("Cancel") {
                connection.put_back();
                let again = connection.next_request().map(|incoming| format!("{incoming:?}"));
                assert_eq!(again.as_ref(), Some(&first));
            }
            seen.push(first);
        }
    }
    seen
}

/// The frames in a connection's output.
fn answers(connection: &mut Connection) -> Vec<(u64, String)> {
    let output = connection.pending_output().to_vec();
    connection.consume(output.len());
    let mut rest = output.as_slice();
    let mut answers = Vec::new();
    while let Some(header) = Header::decode(rest).unwrap() {
        let (frame, later) = rest.split_at(Header::BYTES + header.length);
        let answer = match Answer::decode(header, &frame[Header::BYTES..]).unwrap() {
            Answer::Error { code, .. } => code.to_owned(),
            Answer::Response(bytes) => format!("response {}", bytes.len()),
            answer @ (Answer::Hello(_)
            | Answer::Log(_)
            | Answer::Outcome(_)
            | Answer::Reply(_)
            | Answer::Attached(_)) => {
                format!("{answer:?}")
            }
        };
        answers.push((header.id, answer));
        rest = later;
    }
    assert!(rest.is_empty());
    answers
}

fn greeted(uid: u32) -> Connection {
    let mut connection = connection(uid);
    assert!(requests_from(&mut connection, &hello(), 1).is_empty());
    let answers = answers(&mut connection);
    assert!(answers.len() == 1 && answers[0].1.contains("version: 2"), "{answers:?}");
    connection
}

fn send(connection: &mut Connection, id: u64, request: &Request<'_>, more: bool) -> Vec<String> {
    let mut bytes = Vec::new();
    request.append(&mut bytes, id, more).unwrap();
    requests_from(connection, &bytes, usize::MAX)
}

proptest! {
    #[test]
    fn any_request_survives_the_wire(
        (user, function, body) in ("[a-z]{0,20}", "[a-z]{0,20}", any::<Vec<u8>>()),
        (options, timeout_nanos, id) in (0_u8..4, any::<u64>(), 1_u64..),
        files in proptest::collection::vec(("[a-z.]{1,9}", any::<Vec<u8>>()), 0..4),
        has_logging in any::<bool>(),
        more in any::<bool>(),
    ) {
        let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        let mut storage = Vec::new();
        let credentials = Credentials::encode(&files, &mut storage).unwrap();
        prop_assert_eq!(credentials.iter().collect::<Vec<_>>(), files);
        let logging = Logging {
            protocol: LogProtocol::SyslogTcp, host: "h", port: 1, server_name: "s", credentials,
        };
        let invoke = Invoke {
            user: &user, function: &function, options, timeout_nanos,
            logging: has_logging.then_some(logging), body: &body,
        };
        let deploy = Deploy {
            user: &user, function: &function, settings: "{}", package: &body,
        };
        for request in [
            Request::Invoke(invoke), Request::Deploy(deploy), Request::Body(&body),
            Request::SetLogging(logging), Request::List(&user), Request::Cancel, Request::Status,
            Request::Attach,
            Request::Remove { user: &user, function: &function },
        ] {
            let takes_more = matches!(
                request, Request::Invoke(_) | Request::Deploy(_) | Request::Body(_)
            );
            let mut bytes = Vec::new();
            request.append(&mut bytes, id, more && takes_more).unwrap();
            let header = Header::decode(&bytes).unwrap().unwrap();
            prop_assert_eq!(Request::decode(header, &bytes[Header::BYTES..]), Ok(request));
        }
    }

    #[test]
    fn random_bytes_end_in_an_error_or_wait_for_more(
        bytes in proptest::collection::vec(any::<u8>(), 0..4096),
        piece in 1_usize..700,
        greets in any::<bool>(),
    ) {
        let mut connection = if greets { greeted(ADA) } else { connection(ADA) };
        requests_from(&mut connection, &bytes, piece);
        let answers = answers(&mut connection);
        if connection.is_closing() {
            prop_assert_eq!(answers.last().map(|answer| answer.0), Some(0));
            prop_assert!(connection.receive_space().is_empty());
        }
    }

    #[test]
    fn almost_frames_never_panic(
        mut bytes in (0_u64..4, any::<Vec<u8>>()).prop_map(|(id, body)| {
            let mut bytes = hello();
            for (number, request) in [
                Request::Invoke(Invoke::new("echo", &body)), Request::Body(&body), Request::Cancel,
                Request::SetLogging(Logging::NONE), Request::Status, Request::Attach,
            ].iter().enumerate() {
                request.append(&mut bytes, id + number as u64 / 3, number == 0).unwrap();
            }
            bytes
        }),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        piece in 1_usize..100,
    ) {
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let mut whole = connection(ADA);
        let mut pieces = connection(ADA);
        let at_once = requests_from(&mut whole, &bytes, usize::MAX);
        let piecewise = requests_from(&mut pieces, &bytes, piece);
        prop_assert_eq!(at_once, piecewise);
        prop_assert_eq!(answers(&mut whole), answers(&mut pieces));
    }
}

#[test]
fn a_stranger_acts_for_itself_only() {
    let mut ada = greeted(ADA);
    let own = Request::Invoke(Invoke::new("echo", b""));
    assert!(send(&mut ada, 1, &own, false)[0].contains("user: \"ada\""));
    let other = Request::List("bob");
    assert!(send(&mut ada, 2, &other, false).is_empty());
    assert_eq!(answers(&mut ada), [(2, Code::NotAllowed.to_string())]);
    assert_eq!(ada.open_count(), 1);
    assert_eq!(send(&mut greeted(0), 1, &other, false).len(), 1);
}

#[test]
fn a_body_has_a_limit_and_the_shard_hears_of_it() {
    let mut ada = greeted(ADA);
    let chunk = vec![0; FRAME_BYTES_MAX];
    send(&mut ada, 7, &Request::Invoke(Invoke::new("echo", b"")), true);
    ada.set_tag(7, 42);
    for _ in 0..(6 * 1024 * 1024 / FRAME_BYTES_MAX) {
        assert_eq!(send(&mut ada, 7, &Request::Body(&chunk), true).len(), 1);
    }
    let last = send(&mut ada, 7, &Request::Body(b"x"), false);
    assert!(last[0].contains("Cancel") && last[0].contains("tag: 42"), "{last:?}");
    assert_eq!(answers(&mut ada), [(7, Code::TooLarge.to_string())]);
    assert!(send(&mut ada, 7, &Request::Body(b"late"), false).is_empty());
    assert!(!ada.is_closing());
}

#[test]
fn answers_to_requests_that_are_not_open_go_nowhere() {
    let mut ada = greeted(ADA);
    send(&mut ada, 1, &Request::Status, false);
    ada.reply(1, b"{}").unwrap();
    ada.reply(1, b"{}").unwrap();
    ada.response(5, b"x").unwrap();
    assert_eq!(answers(&mut ada).len(), 1);
}

#[test]
fn a_number_in_use_ends_the_connection() {
    let mut ada = greeted(ADA);
    send(&mut ada, 1, &Request::Status, false);
    send(&mut ada, 1, &Request::Status, false);
    assert_eq!(answers(&mut ada), [(0, Code::DuplicateRequest.to_string())]);
    assert!(ada.is_closing());
}

#[test]
fn open_requests_are_limited() {
    let mut ada = greeted(ADA);
    for id in 1..=257 {
        send(&mut ada, id, &Request::Status, false);
    }
    assert_eq!(answers(&mut ada), [(257, Code::TooManyRequests.to_string())]);
}

#[test]
fn an_old_client_is_told_so() {
    let mut connection = connection(ADA);
    let mut bytes = Vec::new();
    Hello { version_min: 0, version_max: 0 }.append(&mut bytes).unwrap();
    requests_from(&mut connection, &bytes, usize::MAX);
    assert_eq!(answers(&mut connection), [(0, Code::UnsupportedVersion.to_string())]);
    assert!(connection.is_closing());
}

#[test]
fn a_client_that_never_reads_is_held_to_a_limit() {
    let mut ada = greeted(ADA);
    send(&mut ada, 1, &Request::Invoke(Invoke::new("echo", b"")), false);
    let chunk = vec![0; 1024 * 1024];
    let sent = (0..64).take_while(|_| ada.response(1, &chunk).is_ok()).count();
    assert!((12..=16).contains(&sent), "{sent} MiB");
    assert!(ada.is_congested());
    assert!(send(&mut ada, 2, &Request::Status, false).is_empty());
    let log = Log { realtime_nanos: 0, sequence: 0, text: &chunk };
    answers(&mut ada);
    ada.log(1, log, false).unwrap();
    assert!(ada.next_request().is_some());
}
