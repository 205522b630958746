//! Claim c: a request names user, program code, trusted credentials for the user's logging
//! service, and its network address. Its program sees them exactly as given; nobody else sees the
//! credentials at all. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use pilotlight::client::Client;
use pilotlight::invoke::{LogProtocol, Status};
use pilotlight::socket::request::Invoke;

use self::support::node::{
    TestNode, assert_success, invoke, log_text, package, refusal, run, text,
};
use self::support::region::holds;
use self::support::rsyslog::{Authority, CLIENT_NAME, Validity};
use self::support::service::Service;

const FOLDER: &str = "/run/credentials/logging";
/// Bytes that no text has, with everything that is easily lost on the way.
const TOKEN: &[u8] = b"\x00s3cr3t-\xff\xfe of ada\r\n\n\t \x00";

/// The function `cat-FILE` prints a credential file.
fn deploy_readers(client: &mut Client, user: &str) {
    for file in ["token", "ca.pem", "cert.pem", "key.pem"] {
        let package = package("busybox", &["cat", &format!("{FOLDER}/{file}")]);
        client.deploy((user, &format!("cat-{file}")), &package).unwrap();
    }
    client.deploy((user, "ls"), &package("busybox", &["ls", "-A", FOLDER])).unwrap();
    client.deploy((user, "env"), &package("busybox", &["env"])).unwrap();
}

/// A service nobody listens at, with every kind of credential.
fn service(authority: &Authority) -> Service {
    let identity = authority.sign(CLIENT_NAME, Validity::Current);
    let mut service = Service::tcp("127.0.0.1", 6514);
    service.protocol = LogProtocol::SyslogTls;
    service.server_name = "logs.example".to_owned();
    service
        .file("token", TOKEN)
        .file("ca.pem", authority.pem.as_bytes())
        .file("cert.pem", identity.certificate.as_bytes())
        .file("key.pem", identity.key.as_bytes())
}

#[test]
fn claim_c_the_program_sees_what_the_request_names() {
    let node = TestNode::new();
    let mut client = node.client();
    deploy_readers(&mut client, "ada");
    let service = service(&Authority::new("right"));
    let mut storage = Vec::new();
    let logging = service.logging(&mut storage);
    let with = |function| Invoke { logging: Some(logging), ..invoke("ada", function, b"") };

    for (file, content) in logging.credentials.iter() {
        let reader = format!("cat-{file}");
        let done = client.invoke(&Invoke { function: &reader, ..with("") }).unwrap();
        assert_success(&done);
        assert!(done.response == content, "{file} is as it was given");
    }
    let files = client.invoke(&with("ls")).unwrap();
    assert_eq!(text(&files), "ca.pem\ncert.pem\nkey.pem\ntoken\n");
    let environment = text(&client.invoke(&with("env")).unwrap());
    for line in [
        "PILOTLIGHT_LOG_ADDRESS=127.0.0.1:6514",
        "PILOTLIGHT_LOG_SERVER_NAME=logs.example",
        "PILOTLIGHT_LOG_PROTOCOL=syslog-tls",
        "PILOTLIGHT_LOG_CREDENTIALS=/run/credentials/logging",
    ] {
        assert!(environment.lines().any(|it| it == line), "{line} is in {environment}");
    }
    let done = client.invoke(&with("env")).unwrap();
    let (vm, number) = (done.outcome.vm, done.invoke);
    assert!(text(&done).contains(&format!("PILOTLIGHT_VM_ID={vm}\n")));
    assert!(text(&done).contains(&format!("PILOTLIGHT_INVOKE_ID={number}\n")));
}

#[test]
fn claim_c_a_host_name_is_resolved_and_kept_for_certificates() {
    let node = TestNode::new();
    let mut client = node.client();
    deploy_readers(&mut client, "ada");
    // Something listens: records must not be what this test waits for.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = Service::tcp("localhost", port).file("token", b"t");
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let done = client.invoke(&Invoke { logging, ..invoke("ada", "env", b"") }).unwrap();
    let environment = text(&done);
    let address = environment.lines().find_map(|it| it.strip_prefix("PILOTLIGHT_LOG_ADDRESS="));
    let address: std::net::SocketAddr = address.unwrap().parse().unwrap();
    assert!(address.ip().is_loopback() && address.port() == port, "{address}");
    assert!(environment.contains("PILOTLIGHT_LOG_SERVER_NAME=localhost\n"));
    assert!(environment.contains("PILOTLIGHT_LOG_PROTOCOL=syslog-tcp\n"));

    let nowhere = Service::tcp("no-such-host.invalid", 514);
    let logging = Some(nowhere.logging(&mut storage));
    let refused = client.invoke(&Invoke { logging, ..invoke("ada", "env", b"") });
    let (code, message) = refusal(refused);
    assert_eq!(code, "bad-logging");
    assert!(message.contains("no-such-host.invalid"), "{message}");
}

#[test]
fn claim_c_credentials_are_only_where_they_belong() {
    let node = TestNode::new();
    let mut client = node.client();
    for user in ["ada", "mallory"] {
        deploy_readers(&mut client, user);
    }
    let authority = Authority::new("right");
    let service = service(&authority);
    let mut storage = Vec::new();
    let logging = service.logging(&mut storage);
    let with = Invoke { logging: Some(logging), ..invoke("ada", "cat-token", b"") };
    let done = client.invoke(&with).unwrap();
    assert_eq!(done.response, TOKEN);

    // Another user, and the same one without a logging service, find no file and no variable.
    for user in ["mallory", "ada"] {
        let files = client.invoke(&invoke(user, "cat-token", b"")).unwrap();
        assert_eq!((files.outcome.status, files.response.len()), (Status::Exited, 0));
        assert_ne!(files.outcome.detail, 0);
        assert!(log_text(&files).contains("No such file"), "{}", log_text(&files));
        assert_ne!(files.outcome.vm, done.outcome.vm);
        let listing = client.invoke(&invoke(user, "ls", b"")).unwrap();
        assert_eq!(text(&listing), "");
        let environment = text(&run(&mut client, user, "env", b""));
        assert!(!environment.contains("PILOTLIGHT_LOG"), "{environment}");
    }
    // Another user's own credentials for the same service are that user's.
    let own = service.clone().file("token", b"mallory's");
    let mut own_storage = Vec::new();
    let logging = Some(own.logging(&mut own_storage));
    let theirs = client.invoke(&Invoke { logging, ..invoke("mallory", "cat-token", b"") });
    assert_eq!(theirs.unwrap().response, b"mallory's");

    let secrets = service.secrets();
    let status = client.status().unwrap().to_string();
    let printed = format!("{with:?} {service:?} {done:?}", service = with.logging);
    for secret in &secrets {
        assert!(!holds(status.as_bytes(), secret), "no status shows it");
        // The program's own answer is the one place where it put it.
        let printed = printed.replace(&format!("{:?}", done.response), "");
        assert!(!printed.contains(&format!("{secret:?}")), "{printed}");
        assert!(!printed.contains(&*String::from_utf8_lossy(secret)), "{printed}");
        assert!(!is_below(node.state(), secret), "no file of the node holds it");
    }
    assert!(printed.contains("redacted"), "{printed}");
}

/// Whether a file below `folder` holds these bytes.
fn is_below(folder: &Path, secret: &[u8]) -> bool {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            is_below(&path, secret)
        } else {
            holds(&fs::read(path).unwrap(), secret)
        }
    })
}

#[test]
fn claim_c_what_makes_no_sense_is_refused_without_repeating_it() {
    let node = TestNode::new();
    let mut client = node.client();
    deploy_readers(&mut client, "ada");
    let mut storage = Vec::new();
    let plain = || Service::tcp("127.0.0.1", 514);
    let unknown = plain().file("password", b"hunter2");
    let unpaired = plain().file("key.pem", b"hunter2");
    let too_large = plain().file("token", &b"hunter2".repeat(10_000));
    let no_port = Service::tcp("127.0.0.1", 0).file("token", b"hunter2");
    for service in [unknown, unpaired, too_large, no_port] {
        let logging = Some(service.logging(&mut storage));
        let refused = client.invoke(&Invoke { logging, ..invoke("ada", "env", b"") });
        let (code, message) = refusal(refused);
        assert_eq!(code, "bad-logging", "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}
