//! The test vectors in `docs/protocol.md` are what the codec writes, and it reads them back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use pilotlight::code::Code;
use pilotlight::invoke::{LogAccount, LogProtocol, Status, Timings};
use pilotlight::socket::answer::{self, Answer, Attached, Log, Outcome, Room};
use pilotlight::socket::frame::Header;
use pilotlight::socket::logging::{Credentials, Logging};
use pilotlight::socket::request::{
    self, Deploy, Invoke, OPTION_SETTLE_LOGS, OPTION_WANT_LOG, Request,
};

/// What `src/bridge.rs` makes.
const ATTACHED: Attached = Attached { bytes: 1_056_768, slots: 64, slot_bytes: 8192 };
const DOCUMENT: &str = include_str!("../docs/protocol.md");

/// Each block that starts with ```` ```vector NAME ````: its name and its bytes. What follows `|`
/// in a line is a remark.
fn documented() -> BTreeMap<&'static str, Vec<u8>> {
    let mut vectors = BTreeMap::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```vector ") else { continue };
        let mut bytes = Vec::new();
        for line in lines.by_ref().take_while(|line| !line.starts_with("```")) {
            let digits = line.split('|').next().unwrap_or("");
            bytes.extend(
                digits.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()),
            );
        }
        assert!(vectors.insert(name, bytes).is_none(), "{name} twice");
    }
    vectors
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// Compares a frame with the document and takes it off the list of those nobody has looked at.
fn check(vectors: &mut BTreeMap<&'static str, Vec<u8>>, name: &str, frame: &[u8]) -> Header {
    let documented = vectors.remove(name).unwrap_or_else(|| panic!("{name}:\n{}", hex(frame)));
    assert_eq!(documented, frame, "{name} is now:\n{}", hex(frame));
    let header = Header::decode(frame).unwrap().unwrap();
    assert_eq!(frame.len(), Header::BYTES + header.length, "{name}");
    header
}

fn requests<'a>(credentials: Credentials<'a>) -> Vec<(&'static str, u64, bool, Request<'a>)> {
    let logging = Logging {
        protocol: LogProtocol::SyslogTls,
        host: "logs.example",
        port: 6514,
        server_name: "",
        credentials,
    };
    let deploy = Deploy {
        user: "ada",
        function: "greet",
        settings: r#"{"entry":"greet"}"#,
        package: b"\x7fELF",
    };
    vec![
        ("invoke", 1, false, Request::Invoke(Invoke::new("greet", b"Ada"))),
        (
            "invoke-open",
            2,
            true,
            Request::Invoke(Invoke {
                user: "ada",
                function: "greet",
                options: OPTION_SETTLE_LOGS | OPTION_WANT_LOG,
                timeout_nanos: 1_500_000_000,
                logging: Some(logging),
                body: b"A",
            }),
        ),
        ("body", 2, false, Request::Body(b"da")),
        ("cancel", 2, false, Request::Cancel),
        ("set-logging", 3, false, Request::SetLogging(logging)),
        ("deploy", 4, true, Request::Deploy(deploy)),
        ("list", 5, false, Request::List("")),
        ("remove", 6, false, Request::Remove { user: "", function: "greet" }),
        ("status", 7, false, Request::Status),
        ("attach", 8, false, Request::Attach),
    ]
}

fn answers() -> Vec<(&'static str, u64, bool, Answer<'static>)> {
    let outcome = Outcome {
        status: Status::Exited,
        detail: 3,
        container: 1,
        room: Room::Active,
        vm: 9,
        invoke: 0x1122,
        log: LogAccount { produced: 2, handed_over: 1, acknowledged: None, dropped: 1 },
        run_nanos: 1000,
        memory_peak_bytes: 65536,
        timings: Timings {
            accept_nanos: 1,
            route_nanos: 2,
            acquire_nanos: 3,
            load_nanos: 0,
            run_nanos: 4,
            reply_nanos: 5,
        },
        reason: "",
        log_reason: "refused",
        response: b"da.\n",
    };
    let hello = answer::Hello {
        version: 2,
        version_min: 1,
        version_max: 2,
        frame_bytes_max: 262_144,
        payload_bytes_max: 6_291_456,
        requests_max: 256,
        login: "ada",
    };
    let log = Log { realtime_nanos: 1_700_000_000_000_000_000, sequence: 0, text: b"hi" };
    vec![
        ("node-hello", 0, false, Answer::Hello(hello)),
        ("response", 1, true, Answer::Response(b"Hello, A")),
        ("log", 1, false, Answer::Log(log)),
        ("outcome", 1, false, Answer::Outcome(outcome)),
        ("error", 2, false, Answer::Error { code: Code::NotAllowed.as_str(), message: "no" }),
        ("reply", 5, false, Answer::Reply(b"{}")),
        ("attached", 8, false, Answer::Attached(ATTACHED)),
    ]
}

#[test]
fn every_documented_vector_is_what_the_codec_writes_and_reads() {
    let mut vectors = documented();
    let mut frame = Vec::new();
    let hello = request::Hello { version_min: 1, version_max: 2 };
    hello.append(&mut frame).unwrap();
    check(&mut vectors, "client-hello", &frame);
    assert_eq!(request::Hello::decode(&frame[Header::BYTES..]), Ok(hello));

    let mut storage = Vec::new();
    let credentials = Credentials::encode(&[("token", b"s3cret")], &mut storage).unwrap();
    for (name, id, has_more, request) in requests(credentials) {
        frame.clear();
        request.append(&mut frame, id, has_more).unwrap();
        let header = check(&mut vectors, name, &frame);
        assert_eq!((header.id, header.has_more()), (id, has_more), "{name}");
        assert_eq!(Request::decode(header, &frame[Header::BYTES..]), Ok(request), "{name}");
    }
    for (name, id, has_more, answer) in answers() {
        frame.clear();
        answer.append(&mut frame, id, has_more).unwrap();
        let header = check(&mut vectors, name, &frame);
        assert_eq!((header.id, header.has_more()), (id, has_more), "{name}");
        assert_eq!(Answer::decode(header, &frame[Header::BYTES..]), Ok(answer), "{name}");
    }
    assert!(vectors.is_empty(), "documented, but of no known kind: {vectors:?}");
}
