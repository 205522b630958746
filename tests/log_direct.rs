//! The program that opens its own connection to the logging service (`direct-logger`), on the
//! host: what it does inside a VM must not depend on anything but what it does here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use self::support::programs::program;
use self::support::rsyslog::{Authority, CLIENT_NAME, Identity, Rsyslog, SERVER_NAME, Validity};

fn start(rsyslog: &Rsyslog, authority: &Authority, identity: &Identity) -> (Child, TempDir) {
    let credentials = tempfile::tempdir().unwrap();
    let folder = credentials.path();
    fs::write(folder.join("ca.pem"), &authority.pem).unwrap();
    fs::write(folder.join("cert.pem"), &identity.certificate).unwrap();
    fs::write(folder.join("key.pem"), &identity.key).unwrap();
    let child = Command::new(program("direct-logger"))
        .env_clear()
        .env("PILOTLIGHT_LOG_ADDRESS", rsyslog.address().to_string())
        .env("PILOTLIGHT_LOG_SERVER_NAME", SERVER_NAME)
        .env("PILOTLIGHT_LOG_PROTOCOL", "syslog-tls")
        .env("PILOTLIGHT_LOG_CREDENTIALS", folder)
        .env("PILOTLIGHT_VM_ID", "vm-7")
        .env("PILOTLIGHT_INVOKE_ID", "00000000000004d2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (child, credentials)
}

#[test]
fn its_record_is_there_before_it_is_released() {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let identity = authority.sign(CLIENT_NAME, Validity::Current);
    let (mut program, _credentials) = start(&rsyslog, &authority, &identity);
    let mut said = [0; 5];
    program.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"sent\n");
    let before = rsyslog.wait_for_records(1);
    assert_eq!(rsyslog.connections(), 1);
    assert_eq!((&*before[0].hostname, &*before[0].process_id), ("vm-7", "00000000000004d2"));
    assert!(program.try_wait().unwrap().is_none(), "it waits for its release");

    program.stdin.take().unwrap().write_all(b"go").unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let texts = rsyslog.wait_for_records(2).into_iter().map(|record| record.message);
    let texts: Vec<_> = texts.map(|text| text.trim_start().to_owned()).collect();
    assert_eq!(texts, ["sent before the release", "sent after the release"]);
}

#[test]
fn it_says_so_when_it_is_refused() {
    let (authority, other) = (Authority::new("right"), Authority::new("wrong"));
    let rsyslog = Rsyslog::tls(&authority);
    let identity = other.sign(CLIENT_NAME, Validity::Current);
    let (program, _credentials) = start(&rsyslog, &authority, &identity);
    let output = program.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert_ne!(output.stderr, b"");
    assert_eq!(rsyslog.records(), []);
}
