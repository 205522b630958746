//! A logging service that is away, comes back or dies: records wait, in order and within bounds,
//! and what cannot be delivered is counted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/rsyslog.rs"]
mod rsyslog;

#[path = "support/relay.rs"]
mod relay;

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use pilotlight::log::{Account, Destination, Limits, Reason};

use self::relay::{delivered, destination_tls, line, origin, run, settle, until};
use self::rsyslog::{Authority, CLIENT_NAME, Record, Rsyslog, Validity};

/// Quick retries.
fn limits() -> Limits {
    let backoff_longest_nanos = Limits::default().backoff_first_nanos;
    Limits { backoff_longest_nanos, ..Limits::default() }
}

fn sequences(records: &[Record]) -> Vec<u64> {
    let sequence = |record: &Record| {
        let (_, rest) = record.structured_data.split_once("sequence=\"").unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    records.iter().map(sequence).collect()
}

#[test]
fn records_wait_for_a_service_that_is_down() {
    let authority = Authority::new("right");
    let mut rsyslog = Rsyslog::tls(&authority);
    let client = authority.sign(CLIENT_NAME, Validity::Current);
    rsyslog.kill();
    run(limits(), async |relay, news| {
        let destination = destination_tls(&rsyslog, &authority, Some(&client));
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        (0..5).for_each(|sequence| log.record(&line(sequence, "x"), false));
        until(|| !service.trouble().is_empty()).await;
        assert_eq!(log.account(), Account { produced: 5, pending: 5, ..Account::default() });
        rsyslog.start();
        settle(&log, &news).await;
        assert_eq!(log.account(), delivered(5));
        assert_eq!(sequences(&rsyslog.wait_for_records(5)), [0, 1, 2, 3, 4]);
        assert_eq!(service.trouble(), "");
    });
}

#[test]
fn a_service_that_is_killed_gets_the_rest_later_in_order() {
    const COUNT: u64 = 2_000;
    let authority = Authority::new("right");
    let mut rsyslog = Rsyslog::tls(&authority);
    let client = authority.sign(CLIENT_NAME, Validity::Current);
    run(limits(), async |relay, news| {
        let destination = destination_tls(&rsyslog, &authority, Some(&client));
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        for sequence in 0..COUNT {
            log.record(&line(sequence, "x"), false);
            if sequence == COUNT / 2 {
                until(|| log.account().handed_over > 0).await;
                rsyslog.kill();
            }
        }
        rsyslog.start();
        settle(&log, &news).await;
        assert_eq!(log.account(), delivered(COUNT));
    });
    // rsyslogd may have died with records in its memory, and those of the last moments are sent
    // again: but nothing overtakes, and what was written after the kill is all there.
    let mut highest = None;
    let all = || sequences(&rsyslog.records());
    rsyslog::wait_until("the last record", || all().last() == Some(&(COUNT - 1)));
    let first_seen: Vec<u64> = all()
        .into_iter()
        .filter(|sequence| {
            let is_first = highest.is_none_or(|highest| *sequence > highest);
            highest = highest.max(Some(*sequence));
            is_first
        })
        .collect();
    let after_the_kill = first_seen.iter().filter(|sequence| **sequence > COUNT / 2);
    assert!(after_the_kill.copied().eq(COUNT / 2 + 1..COUNT), "{first_seen:?}");
}

#[test]
fn a_full_spool_drops_the_oldest_and_counts_them() {
    let mut rsyslog = Rsyslog::tcp();
    rsyslog.kill();
    run(Limits { spool_records: 10, ..limits() }, async |relay, news| {
        let destination = Destination::syslog_tcp(rsyslog.address());
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        (0..25).for_each(|sequence| log.record(&line(sequence, "x"), false));
        rsyslog.start();
        settle(&log, &news).await;
        let account = log.account();
        assert_eq!((account.produced, account.handed_over, account.dropped), (25, 10, 15));
        assert_eq!(account.reason, Some(Reason::SpoolFull));
        assert_eq!(sequences(&rsyslog.wait_for_records(10)), (15..25).collect::<Vec<_>>());
    });
}

#[test]
fn records_for_a_service_that_stays_away_are_given_up_by_age() {
    // Nobody listens there once the listener is gone.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    run(Limits { age_nanos: 300_000_000, ..limits() }, async |relay, news| {
        let service = relay.service([1; 32], || Ok(Destination::syslog_tcp(address))).unwrap();
        let log = service.begin(origin());
        log.record(&line(0, "x"), false);
        settle(&log, &news).await;
        let reason = Some(Reason::Unreachable);
        assert_eq!(
            log.account(),
            Account { produced: 1, dropped: 1, reason, ..Account::default() }
        );
    });
}

#[test]
fn a_service_that_accepts_and_never_reads_does_not_hold_the_spool_forever() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Connections inherit it; with the usual megabytes the kernel would take everything.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4096).unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { stall_nanos: 200_000_000, attempts_max: 2, ..limits() };
    run(limits, async |relay, news| {
        let service = relay.service([1; 32], || Ok(Destination::syslog_tcp(address))).unwrap();
        let log = service.begin(origin());
        let text = "x".repeat(2000);
        for sequence in 0..6_000 {
            log.record(&line(sequence, &text), false);
        }
        // The kernel takes what its buffers hold, megabytes; the rest stalls until it counts as broken.
        until(|| service.trouble().contains("no more data")).await;
        relay.drain(Duration::from_millis(500)).await;
        settle(&log, &news).await;
        let account = log.account();
        assert!(account.dropped > 0, "{account:?}");
        assert_eq!(account.produced, account.handed_over + account.dropped);
    });
    drop(listener);
}

#[test]
fn the_end_of_the_node_counts_what_is_left() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    run(limits(), async |relay, _| {
        let service = relay.service([1; 32], || Ok(Destination::syslog_tcp(address))).unwrap();
        let log = service.begin(origin());
        log.record(&line(0, "x"), false);
        relay.drain(Duration::from_millis(300)).await;
        log.record(&line(1, "too late"), false);
        let account = log.account();
        assert_eq!((account.produced, account.dropped), (2, 2));
        assert_eq!(account.reason, Some(Reason::Stopped));
    });
}
