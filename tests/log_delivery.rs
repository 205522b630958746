//! What programs log reaches a real rsyslogd, field by field and in order, over TLS with client
//! certificates and over TCP; and the account says so.

#[path = "support/rsyslog.rs"]
mod rsyslog;

#[path = "support/relay.rs"]
mod relay;

use std::time::Duration;

use pilotlight::log::{Account, Destination, Limits, Service};

use self::relay::{delivered, destination_tls, line, origin, run};
use self::rsyslog::{Authority, CLIENT_NAME, Rsyslog, Validity};

#[test]
fn every_field_arrives_over_tls() {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let client = authority.sign(CLIENT_NAME, Validity::Current);
    run(Limits::default(), async move |relay, news| {
        let destination = destination_tls(&rsyslog, &authority, Some(&client));
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        for (sequence, text) in (0..).zip(["first", "caf\u{e9} \u{2713}", "with \"]\" in it", ""]) {
            log.record(&line(sequence, text), false);
        }
        relay::settle(&log, &news).await;
        assert_eq!(log.account(), delivered(4));
        assert_eq!(service.trouble(), "");

        let records = rsyslog.wait_for_records(4);
        let first = &records[0];
        assert_eq!(first.priority, "14");
        assert_eq!(first.timestamp, "2026-11-24T00:12:01.000345Z");
        assert_eq!(first.hostname, "vm-7");
        assert_eq!(first.app_name, "thumbnail");
        assert_eq!(first.process_id, "00000000000004d2");
        assert_eq!(first.message_id, "-");
        assert_eq!(
            first.structured_data,
            r#"[pilotlight@32473 user="ada" function="thumbnail" sequence="0"]"#
        );
        let texts: Vec<_> = records.iter().map(|record| record.message.trim_start()).collect();
        assert_eq!(texts[..3], ["first", "caf\u{e9} \u{2713}", "with \"]\" in it"]);
        assert!(records[3].structured_data.contains("sequence=\"3\""));
        assert_eq!(records.len(), 4);
    });
}

#[test]
fn ten_thousand_records_arrive_once_and_in_order_over_tcp() {
    const COUNT: usize = 10_000;
    let rsyslog = Rsyslog::tcp();
    run(Limits::default(), async move |relay, news| {
        let destination = Destination::syslog_tcp(rsyslog.address());
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        for sequence in 0..COUNT as u64 {
            log.record(&line(sequence, &format!("line {sequence}")), false);
        }
        relay::settle(&log, &news).await;
        assert_eq!(log.account(), delivered(COUNT as u64));
        let records = rsyslog.wait_for_records(COUNT);
        let expected = (0..COUNT).map(|sequence| format!("line {sequence}"));
        assert!(records.iter().map(|record| record.message.trim_start().to_owned()).eq(expected));
    });
}

#[test]
fn vms_with_one_key_share_a_connection_and_others_do_not() {
    let rsyslog = Rsyslog::tcp();
    run(Limits::default(), async move |relay, news| {
        let destination = || Ok(Destination::syslog_tcp(rsyslog.address()));
        let services = [1, 1, 2].map(|key| relay.service([key; 32], destination).unwrap());
        let logs = services.each_ref().map(|service| service.begin(origin()));
        for log in &logs {
            log.record(&line(0, "x"), false);
            relay::settle(log, &news).await;
        }
        assert_eq!(rsyslog.wait_for_records(3).len(), 3);
        assert_eq!(rsyslog.connections(), 2);
    });
}

#[test]
fn a_long_line_is_put_together_and_counted_in_records() {
    let rsyslog = Rsyslog::tcp();
    run(Limits::default(), async move |relay, news| {
        let destination = Destination::syslog_tcp(rsyslog.address());
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        let part = "p".repeat(2000);
        for sequence in 0..5 {
            log.record(&line(sequence, &part), sequence < 4);
        }
        log.record(&line(5, "cut off"), true);
        log.finish();
        relay::settle(&log, &news).await;
        assert_eq!(log.account(), delivered(6));
        let records = rsyslog.wait_for_records(3);
        let lengths = records.iter().map(|record| record.message.trim_start().len());
        assert_eq!(lengths.collect::<Vec<_>>(), [6000, 4000, 7]);
        assert!(records[0].structured_data.contains("more=\"1\""));
        assert!(records[1].structured_data.contains("sequence=\"3\"]"));
    });
}

#[test]
fn a_service_whose_vm_is_gone_still_gets_its_records_and_then_a_goodbye() {
    let authority = Authority::new("right");
    let rsyslog = Rsyslog::tls(&authority);
    let client = authority.sign(CLIENT_NAME, Validity::Current);
    run(Limits::default(), async move |relay, _| {
        let destination = destination_tls(&rsyslog, &authority, Some(&client));
        let service = relay.service([1; 32], || Ok(destination)).unwrap();
        let log = service.begin(origin());
        log.record(&line(0, "last words"), false);
        drop(log);
        drop(service);
        relay.drain(Duration::from_secs(10)).await;
        assert_eq!(rsyslog.wait_for_records(1)[0].message.trim_start(), "last words");
        relay::until(|| rsyslog.connections() == 0).await;
    });
}

#[test]
fn without_a_service_records_are_only_counted() {
    let log = Service::none().begin(origin());
    log.record(&line(0, "x"), false);
    assert!(log.is_settled());
    assert_eq!(log.account(), Account { produced: 1, ..Account::default() });
}
