//! A certificate that the logging service refuses gives no record and a truthful account: with
//! TLS 1.3 the client's handshake is over and its records are sent before the refusal comes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/rsyslog.rs"]
mod rsyslog;

#[path = "support/relay.rs"]
mod relay;

use std::rc::Rc;

use pilotlight::log::{Account, Destination, Limits, Pem, Reason, Relay};

use self::relay::{delivered, destination_tls, line, origin, run, settle};
use self::rsyslog::{Authority, CLIENT_NAME, Identity, Rsyslog, SERVER_NAME, Validity};

const COUNT: u64 = 20;

/// Few attempts, quickly after one another; how long a batch has to wait stays as it is.
fn limits() -> Limits {
    let backoff_longest_nanos = Limits::default().backoff_first_nanos;
    Limits { attempts_max: 4, backoff_longest_nanos, ..Limits::default() }
}

/// Sends records with `identity`, trusting `trusted`, and returns the account and what is said.
fn send(rsyslog: &Rsyslog, trusted: &Authority, identity: Option<&Identity>) -> (Account, String) {
    let mut end = (Account::default(), String::new());
    run(limits(), async |relay, news| {
        let destination = destination_tls(rsyslog, trusted, identity);
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        for sequence in 0..COUNT {
            log.record(&line(sequence, "must not arrive"), false);
        }
        settle(&log, &news).await;
        end = (log.account(), service.trouble());
    });
    end
}

fn assert_refused(identity: impl FnOnce(&Authority) -> Option<Identity>) {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let (account, trouble) = send(&rsyslog, &authority, identity(&authority).as_ref());
    let refused = Account {
        produced: COUNT,
        dropped: COUNT,
        reason: Some(Reason::Refused),
        ..Account::default()
    };
    assert_eq!(account, refused, "{trouble}\n{}", rsyslog.diagnostics());
    assert_ne!(trouble, "");
    // What comes next arrives: the service was up and its file is whole.
    let accepted = authority.sign(CLIENT_NAME, Validity::Current);
    assert_eq!(send(&rsyslog, &authority, Some(&accepted)).0, delivered(COUNT));
    rsyslog.wait_for_records(20);
    assert_eq!(rsyslog.records().len() as u64, COUNT);
}

#[test]
fn signed_by_another_authority() {
    let other = Authority::new("wrong");
    assert_refused(|_| Some(other.sign(CLIENT_NAME, Validity::Current)));
}

#[test]
fn signed_by_another_authority_of_the_same_name() {
    let other = Authority::new("right");
    assert_refused(|_| Some(other.sign(CLIENT_NAME, Validity::Current)));
}

#[test]
fn expired() {
    assert_refused(|authority| Some(authority.sign(CLIENT_NAME, Validity::Expired)));
}

#[test]
fn of_another_name() {
    assert_refused(|authority| Some(authority.sign("mallory.example", Validity::Current)));
}

#[test]
fn none_at_all() {
    assert_refused(|_| None);
}

#[test]
fn a_service_that_we_do_not_trust_gets_nothing() {
    let (authority, other) = (Authority::new("right"), Authority::new("other"));
    let rsyslog = Rsyslog::tls(&authority);
    let accepted = authority.sign(CLIENT_NAME, Validity::Current);
    let (account, trouble) = send(&rsyslog, &other, Some(&accepted));
    assert_eq!((account.handed_over, account.dropped), (0, COUNT));
    assert!(trouble.contains("certificate"), "{trouble}");
    assert_eq!(rsyslog.records(), []);
}

#[test]
fn a_service_of_another_name_gets_nothing() {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let accepted = authority.sign(CLIENT_NAME, Validity::Current);
    run(limits(), async |relay, news| {
        let pem = Pem {
            ca: authority.pem.as_bytes(),
            cert: Some(accepted.certificate.as_bytes()),
            key: Some(accepted.key.as_bytes()),
        };
        let name = format!("not.{SERVER_NAME}");
        let destination = Destination::syslog_tls(rsyslog.address(), &name, pem).unwrap();
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        log.record(&line(0, "must not arrive"), false);
        settle(&log, &news).await;
        assert_eq!((log.account().handed_over, log.account().dropped), (0, 1));
    });
    assert_eq!(rsyslog.records(), []);
}

#[test]
fn a_credential_that_cannot_be_used_is_counted_as_such() {
    let pem = Pem { ca: b"", cert: None, key: None };
    let address = ([127, 0, 0, 1], 6514).into();
    let relay = Relay::new(limits(), || 0, 1, Rc::default());
    let service = relay.unusable(Destination::syslog_tls(address, "", pem).unwrap_err());
    let log = service.begin(origin());
    log.record(&line(0, "x"), false);
    let reason = Some(Reason::Unusable);
    assert_eq!(log.account(), Account { produced: 1, dropped: 1, reason, ..Account::default() });
    assert!(log.is_settled());
    assert_eq!(relay.dropped(), 1);
    assert_eq!(service.trouble(), "ca.pem is missing or holds no certificate");
}
