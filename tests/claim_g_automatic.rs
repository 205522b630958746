//! Claim g, automatic: what a program writes to its log reaches the user's logging service, with
//! the credentials and the address of the request, however the program ends; the account in the
//! outcome is true. The service is a real rsyslogd, with TLS and client certificates or over TCP.
//! Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::thread;

use pilotlight::client::{Client, ClientError, Completed};
use pilotlight::invoke::{LogAccount, Status};
use pilotlight::socket::answer::Answer;
use pilotlight::socket::request::{Invoke, OPTION_SETTLE_LOGS, OPTION_WANT_LOG};

use self::support::node::{TestNode, invoke, log_text, package, process_of, wait_until};
use self::support::rsyslog::{Authority, CLIENT_NAME, Record, Rsyslog, Validity};
use self::support::service::Service;

/// Runs a function of user ada and waits for its log to be delivered or given up.
fn run(client: &mut Client, function: &str, service: &Service) -> Completed {
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let options = OPTION_SETTLE_LOGS | OPTION_WANT_LOG;
    client.invoke(&Invoke { logging, options, ..invoke("ada", function, b"") }).unwrap()
}

fn delivered(count: u64) -> LogAccount {
    LogAccount { produced: count, handed_over: count, acknowledged: None, dropped: 0 }
}

fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.message.trim_start()).collect()
}

/// Checks the fields of the records of one invoke.
fn assert_origin(records: &[Record], done: &Completed, function: &str) {
    for (sequence, record) in records.iter().enumerate() {
        assert_eq!(record.hostname, done.outcome.vm.to_string());
        assert_eq!(record.app_name, function);
        assert_eq!(record.process_id, done.invoke.to_string());
        assert_eq!(
            record.structured_data,
            format!(r#"[pilotlight@32473 user="ada" function="{function}" sequence="{sequence}"]"#)
        );
    }
}

#[test]
fn claim_g_the_log_arrives_over_tls_with_client_certificates() {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let identity = authority.sign(CLIENT_NAME, Validity::Current);
    let service = Service::of_tls(&rsyslog, &authority, &identity);
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "lines"), &package("log-lines", &["3"])).unwrap();
    let done = run(&mut client, "lines", &service);
    assert_eq!((done.outcome.status, done.outcome.detail), (Status::Exited, 0));
    assert_eq!(done.response, b"done\n");
    assert_eq!(done.outcome.log, delivered(3), "{}", done.log_reason);
    let records = rsyslog.wait_for_records(3);
    assert_eq!(texts(&records), ["line 1 of 3", "line 2 of 3", "line 3 of 3"]);
    assert_origin(&records, &done, "lines");
    // What the client was sent is the same log.
    assert_eq!(log_text(&done), "line 1 of 3\nline 2 of 3\nline 3 of 3");
}

#[test]
fn claim_g_the_log_arrives_over_tcp_in_order_and_once() {
    const COUNT: usize = 5_000;
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let node = TestNode::new();
    let mut client = node.client();
    let lines = package("log-lines", &[&COUNT.to_string(), "100"]);
    client.deploy(("ada", "lines"), &lines).unwrap();
    let done = run(&mut client, "lines", &service);
    assert_eq!(done.outcome.log, delivered(COUNT as u64), "{}", done.log_reason);
    let records = rsyslog.wait_for_records(COUNT);
    assert_eq!(records.len(), COUNT);
    for (number, text) in (1..).zip(texts(&records)) {
        let line = format!("line {number} of {COUNT}");
        assert_eq!((text.len(), text.trim_end_matches('.')), (100, &*line));
    }
    assert_origin(&records, &done, "lines");
}

#[test]
fn claim_g_records_over_tcp_are_framed_by_their_octets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = Service::tcp("127.0.0.1", listener.local_addr().unwrap().port());
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "lines"), &package("log-lines", &["3"])).unwrap();
    let receiver = thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let messages = [(); 3].map(|()| {
            let (mut length, mut message) = (Vec::new(), Vec::new());
            stream.read_until(b' ', &mut length).unwrap();
            let length = String::from_utf8(length).unwrap();
            message.resize(length.trim_end().parse().unwrap(), 0);
            stream.read_exact(&mut message).unwrap();
            String::from_utf8(message).unwrap()
        });
        (messages, stream)
    });
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let options = OPTION_SETTLE_LOGS;
    let done = client.invoke(&Invoke { logging, options, ..invoke("ada", "lines", b"") }).unwrap();
    // Its end of the connection stays open: what is taken is handed over.
    let (messages, _stream) = receiver.join().unwrap();
    assert_eq!(done.outcome.log, delivered(3));
    // RFC 6587, section 3.4.1: MSG-LEN SP SYSLOG-MSG, and nothing between two of them.
    for (message, number) in messages.iter().zip(1..) {
        assert!(message.starts_with("<14>1 "), "{message}");
        assert!(message.contains(&format!(" {} lines {} - ", done.outcome.vm, done.invoke)));
        assert!(message.ends_with(&format!("line {number} of 3")), "{message}");
    }
}

#[test]
fn claim_g_the_logs_of_crashed_and_overdue_programs_arrive_too() {
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let node = TestNode::new();
    let mut client = node.client();
    let mut crash = package("log-lines", &["2", "0", "crash"]);
    client.deploy(("ada", "crash"), &crash).unwrap();
    crash.settings.arguments[2] = "loop".to_owned();
    crash.settings.timeout_millis = 400;
    client.deploy(("ada", "loop"), &crash).unwrap();

    let crashed = run(&mut client, "crash", &service);
    assert_eq!((crashed.outcome.status, crashed.outcome.detail), (Status::Signalled, 6));
    assert_eq!(crashed.outcome.log, delivered(2), "{}", crashed.log_reason);
    let overdue = run(&mut client, "loop", &service);
    assert_eq!(overdue.outcome.status, Status::DeadlineExceeded, "{:?}", overdue.outcome);
    assert_eq!(overdue.outcome.log, delivered(2), "{}", overdue.log_reason);
    assert_eq!(overdue.outcome.vm, crashed.outcome.vm, "the VM lived on");
    let records = rsyslog.wait_for_records(4);
    assert_eq!(texts(&records), ["line 1 of 2", "line 2 of 2"].repeat(2));
    assert_origin(&records[..2], &crashed, "crash");
    assert_origin(&records[2..], &overdue, "loop");
}

#[test]
fn claim_g_the_log_of_a_vm_that_is_killed_arrives_too() {
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "lines"), &package("log-lines", &["2", "0", "loop"])).unwrap();
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let id = client.submit(&Invoke { logging, ..invoke("ada", "lines", b"") }).unwrap();
    let mut lines = 0;
    while lines < 2 {
        lines += usize::from(matches!(client.receive().unwrap().answer, Answer::Log(_)));
    }
    let records = rsyslog.wait_for_records(2);
    let vm = records[0].hostname.strip_prefix("vm-").unwrap().parse().unwrap();
    let status = node.client().status().unwrap();
    kill(process_of(&status, pilotlight::invoke::VmId(vm)));
    match client.complete(id) {
        Err(ClientError::Refused { code, .. }) => assert_eq!(code, "vm-lost"),
        other => panic!("lost is not {other:?}"),
    }
    assert_eq!(texts(&rsyslog.records()), ["line 1 of 2", "line 2 of 2"]);
}

fn kill(process: u32) {
    let process = rustix::process::Pid::from_raw(process.try_into().unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn claim_g_a_refused_certificate_gives_no_record_and_a_true_account() {
    let (authority, other) = (Authority::new("right"), Authority::new("wrong"));
    let rsyslog = Rsyslog::tls(&authority);
    let refused = [
        other.sign(CLIENT_NAME, Validity::Current),
        authority.sign(CLIENT_NAME, Validity::Expired),
        authority.sign("mallory.example", Validity::Current),
    ];
    // Tried again soon: being refused as often as it takes is over within the wait for the log.
    let node = TestNode::with(|config| {
        (config.log.retry_min_millis, config.log.retry_max_millis) = (10, 20);
    });
    let mut client = node.client();
    client.deploy(("ada", "lines"), &package("log-lines", &["3"])).unwrap();
    for identity in &refused {
        let done = run(&mut client, "lines", &Service::of_tls(&rsyslog, &authority, identity));
        assert_eq!(done.response, b"done\n", "the program is not to blame");
        let account = done.outcome.log;
        assert_eq!((account.produced, account.handed_over), (3, 0), "{account:?}");
        assert_eq!(account.dropped, 3, "{account:?} {}", done.log_reason);
        assert!(done.log_reason.contains("refused"), "{:?}", done.log_reason);
    }
    assert_eq!(rsyslog.records(), [], "{}", rsyslog.diagnostics());
    let accepted = authority.sign(CLIENT_NAME, Validity::Current);
    let done = run(&mut client, "lines", &Service::of_tls(&rsyslog, &authority, &accepted));
    assert_eq!(done.outcome.log, delivered(3));
    assert_eq!(rsyslog.wait_for_records(3).len(), 3, "and none of before");
}

#[test]
fn claim_g_a_service_that_is_down_gets_the_log_once_it_is_up() {
    let mut rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    rsyslog.kill();
    let node = TestNode::with(|config| config.log.retry_max_millis = 200);
    let mut client = node.client();
    client.deploy(("ada", "lines"), &package("log-lines", &["3"])).unwrap();
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let done = client.invoke(&Invoke { logging, ..invoke("ada", "lines", b"") }).unwrap();
    // Not waited for: neither handed over nor dropped yet, and the account says just that.
    let waiting = LogAccount { produced: 3, ..LogAccount::default() };
    assert_eq!(done.outcome.log, waiting);
    rsyslog.start();
    assert_eq!(texts(&rsyslog.wait_for_records(3)), ["line 1 of 3", "line 2 of 3", "line 3 of 3"]);
}

#[test]
fn claim_g_users_of_one_service_do_not_share_a_connection() {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let node = TestNode::new();
    let mut client = node.client();
    for user in ["ada", "grace"] {
        client.deploy((user, "lines"), &package("log-lines", &["1"])).unwrap();
        let identity = authority.sign(CLIENT_NAME, Validity::Current);
        let service = Service::of_tls(&rsyslog, &authority, &identity);
        let mut storage = Vec::new();
        let logging = Some(service.logging(&mut storage));
        let options = OPTION_SETTLE_LOGS;
        let request = Invoke { logging, options, ..invoke(user, "lines", b"") };
        assert_eq!(client.invoke(&request).unwrap().outcome.log, delivered(1));
    }
    assert_eq!(rsyslog.wait_for_records(2).len(), 2);
    wait_until("a connection for each", || rsyslog.connections() == 2);
}
