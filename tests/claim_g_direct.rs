//! Claim g, direct: during execution the program itself connects over the network to the logging
//! service, with the credentials and the address it was given, and to nothing else. The service is
//! a real rsyslogd with TLS and client certificates. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use pilotlight::client::{Client, Completed};
use pilotlight::invoke::Status;
use pilotlight::socket::request::Invoke;

use self::support::node::{TestNode, assert_success, invoke, log_text, package, text, wait_until};
use self::support::rsyslog::{Authority, CLIENT_NAME, Rsyslog, Validity};
use self::support::service::Service;

/// Runs `net-probe` of user ada: one line per address it tried.
fn probe(client: &mut Client, service: Option<&Service>, addresses: &[String]) -> Vec<String> {
    let mut storage = Vec::new();
    let logging = service.map(|service| service.logging(&mut storage));
    let body = addresses.join("\n") + "\n";
    let done = client.invoke(&Invoke { logging, ..invoke("ada", "probe", body.as_bytes()) });
    let done = done.unwrap();
    assert_success(&done);
    let said = text(&done);
    let lines = said.lines().zip(addresses).map(|(line, address)| {
        line.strip_prefix(&format!("{address} ")).unwrap_or_else(|| panic!("{said}")).to_owned()
    });
    lines.collect()
}

#[test]
fn claim_g_the_program_connects_itself_while_it_runs() {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let identity = authority.sign(CLIENT_NAME, Validity::Current);
    let service = Service::of_tls(&rsyslog, &authority, &identity);
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "direct"), &package("direct-logger", &[])).unwrap();
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let id = client.submit_open(&Invoke { logging, ..invoke("ada", "direct", b"") }).unwrap();

    // It runs, and holds until its request ends: what rsyslog has now, it has from a running one.
    let before = rsyslog.wait_for_records(1);
    assert_eq!(rsyslog.connections(), 1, "its connection is open");
    assert_eq!(client.status().unwrap()["pools"]["running"], 1);
    assert_eq!(before.len(), 1);
    assert_eq!(before[0].app_name, "direct-logger");
    assert_eq!(before[0].message.trim_start(), "sent before the release");

    client.send_body(id, b"go", false).unwrap();
    let done = client.complete(id).unwrap();
    assert_success(&done);
    let records = rsyslog.wait_for_records(2);
    assert_eq!(records[1].message.trim_start(), "sent after the release");
    for record in &records {
        // The record says of itself which invoke in which VM wrote it; so does the answer.
        assert_eq!(record.hostname, done.outcome.vm.to_string());
        assert_eq!(record.process_id, done.invoke.to_string());
    }
    wait_until("its connection is gone with it", || rsyslog.connections() == 0);
    assert_eq!(done.outcome.log.produced, 0, "nothing of this was delivered for it");
}

#[test]
fn claim_g_a_certificate_that_is_refused_gives_no_record() {
    let (authority, other) = (Authority::new("right"), Authority::new("wrong"));
    let rsyslog = Rsyslog::tls(&authority);
    let refused = [
        other.sign(CLIENT_NAME, Validity::Current),
        authority.sign(CLIENT_NAME, Validity::Expired),
        authority.sign("mallory.example", Validity::Current),
    ];
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "direct"), &package("direct-logger", &[])).unwrap();
    let mut run = |identity| -> Completed {
        let service = Service::of_tls(&rsyslog, &authority, identity);
        let mut storage = Vec::new();
        let logging = Some(service.logging(&mut storage));
        client.invoke(&Invoke { logging, ..invoke("ada", "direct", b"") }).unwrap()
    };
    for identity in &refused {
        let done = run(identity);
        // The program says so, by its status and on its log; the outcome does not gloss it over.
        assert_eq!((done.outcome.status, done.outcome.detail), (Status::Exited, 1));
        assert!(log_text(&done).contains("Error"), "{}", log_text(&done));
        assert_eq!(done.outcome.log.handed_over, 0, "nor did its own log get through");
    }
    assert_eq!(rsyslog.records(), [], "{}", rsyslog.diagnostics());
    assert_success(&run(&authority.sign(CLIENT_NAME, Validity::Current)));
    assert_eq!(rsyslog.wait_for_records(2).len(), 2);
}

#[test]
fn claim_g_any_other_address_is_refused() {
    let rsyslog = Rsyslog::tcp();
    // The host has something at each of these that would take a connection.
    let others = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let any = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = any.local_addr().unwrap().port();
    let own = rsyslog.address().to_string();
    let mut addresses: Vec<_> =
        others.iter().map(|other| other.local_addr().unwrap().to_string()).collect();
    addresses.extend(["127.0.0.1", "127.0.0.2", "10.0.0.1"].map(|ip| format!("{ip}:{port}")));
    // What attackers try first, the service's port elsewhere, and another port of its host.
    addresses.extend(["169.254.169.254:80", "192.0.2.1:443", "0.0.0.0:80"].map(str::to_owned));
    addresses.push(format!("127.0.0.2:{}", rsyslog.address().port()));
    addresses.push("127.0.0.1:22".to_owned());

    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "probe"), &package("net-probe", &[])).unwrap();
    let service = Service::of_tcp(&rsyslog);
    let refused = probe(&mut client, Some(&service), &addresses);
    assert_eq!(refused.len(), addresses.len());
    for (said, address) in refused.iter().zip(&addresses) {
        assert_ne!(said, "connected", "{address}");
    }
    assert_eq!(probe(&mut client, Some(&service), std::slice::from_ref(&own)), ["connected"]);
    // Without a logging service not even that one.
    assert_ne!(probe(&mut client, None, &[own]), ["connected"]);
    for listener in others.iter().chain([&any]) {
        listener.set_nonblocking(true).unwrap();
        let nobody = listener.accept().map(|(_, peer)| peer).unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "nobody ever connected");
    }
}

#[test]
fn claim_g_an_operator_may_allow_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let allowed = listener.local_addr().unwrap();
    let node = TestNode::with(|config| config.egress.allow = vec![allowed]);
    let mut client = node.client();
    client.deploy(("ada", "probe"), &package("net-probe", &[])).unwrap();
    let addresses = [allowed.to_string(), other.local_addr().unwrap().to_string()];
    let said = probe(&mut client, None, &addresses);
    assert_eq!(said[0], "connected");
    assert_ne!(said[1], "connected");
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut line = String::new();
    std::io::Read::read_to_string(&mut stream, &mut line).unwrap();
    assert_eq!(line, "hello from net-probe\n");
}
