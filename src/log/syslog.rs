//! A record as a syslog message: RFC 5424 behind its length (octet counting, RFC 6587 section
//! 3.4.1 and RFC 5425 section 4.3). Pure; the transports are [`super::tcp`] and [`super::tls`].
//!
//! ```text
//! 144 <14>1 2026-11-24T00:12:01.000345Z vm-7 thumbnail 00000000000004d2 - [pilotlight@32473
//!     user="ada" function="thumbnail" sequence="0"] made 3 sizes
//! ```
//! | field | value |
//! |---|---|
//! | PRI | 14: facility user, severity info; a line says nothing of its weight |
//! | TIMESTAMP | when the program wrote the line, by the guest's clock, microseconds |
//! | HOSTNAME | the VM |
//! | APP-NAME | the function, cut to the 48 characters the RFC allows |
//! | PROCID | the invoke |
//! | MSGID | nil |
//! | `user`, `function` | whose, which (uncut) |
//! | `sequence` | position among the invoke's records, from 0; a record that was sent again after a broken connection has the same |
//! | `more` | present when the line goes on in the next message |
//!
//! The text is the program's bytes as they are (MSG-ANY): what encoding they are in is not known
//! here, and a byte order mark in front of those that happen to be UTF-8 (section 6.4) would stay
//! in the receiver's text: rsyslog 8.2302 keeps it, and JSON behind it no longer parses.

use std::io::Write;
use std::rc::Rc;

use crate::invoke::InvokeId;

/// SD-ID of our structured data. 32473 is the enterprise number for documentation (RFC 5612):
/// there is none of our own.
const STRUCTURED_DATA: &str = "pilotlight@32473";
const PRIORITY: u8 = 14;
const APP_NAME_CHARS_MAX: usize = 48;

/// What the messages of one invoke have in common: HOSTNAME up to the value of `sequence`.
#[derive(Clone, Debug)]
pub(super) struct Head(Rc<str>);

impl Head {
    /// Of an invoke of this user's function.
    pub(super) fn new((user, function): (&str, &str), vm: u64, invoke: u64) -> Self {
        // One text for one invoke wherever it is shown.
        let invoke = InvokeId(invoke);
        let app_name: String = function.chars().map(graphic).take(APP_NAME_CHARS_MAX).collect();
        let app_name = if app_name.is_empty() { "-" } else { &app_name };
        let (user, function) = (escaped(user), escaped(function));
        Self(Rc::from(format!(
            "vm-{vm} {app_name} {invoke} - [{STRUCTURED_DATA} user=\"{user}\" \
             function=\"{function}\" sequence=\""
        )))
    }
}

/// One message.
pub(super) struct Message<'a> {
    pub(super) head: &'a Head,
    pub(super) realtime_nanos: u64,
    pub(super) sequence: u64,
    pub(super) has_more: bool,
    pub(super) text: &'a [u8],
}

impl Message<'_> {
    /// Appends the message behind its length.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.encode_uncounted(out);
        let count = format!("{} ", out.len() - start);
        out.splice(start..start, count.bytes());
    }

    fn encode_uncounted(&self, out: &mut Vec<u8>) {
        let more = if self.has_more { "\" more=\"1" } else { "" };
        let (time, head, sequence) = (timestamp(self.realtime_nanos), &self.head.0, self.sequence);
        write!(out, "<{PRIORITY}>1 {time} {head}{sequence}{more}\"]").expect("a Vec takes all");
        if !self.text.is_empty() {
            out.push(b' ');
            out.extend_from_slice(self.text);
        }
    }
}

/// A header field is printable ASCII without spaces (PRINTUSASCII).
fn graphic(character: char) -> char {
    if character.is_ascii_graphic() { character } else { '?' }
}

/// A value of structured data: `"`, `\` and `]` are escaped (RFC 5424 section 6.3.3).
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if matches!(character, '"' | '\\' | ']') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// RFC 3339 in UTC with microseconds. The date by Howard Hinnant's `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for days since the epoch.
fn timestamp(realtime_nanos: u64) -> String {
    let (seconds, micros) = (realtime_nanos / 1_000_000_000, realtime_nanos / 1_000 % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(function: &str, user: &str, has_more: bool, text: &[u8]) -> Vec<u8> {
        let head = Head::new((user, function), 7, 0x4d2);
        let realtime_nanos = 1_795_479_121_000_345_678;
        let mut out = Vec::new();
        Message { head: &head, realtime_nanos, sequence: 3, has_more, text }.encode(&mut out);
        out
    }

    #[test]
    fn a_message_byte_by_byte() {
        let expected = "134 <14>1 2026-11-24T00:12:01.000345Z vm-7 thumbnail 00000000000004d2 - \
                        [pilotlight@32473 user=\"ada\" function=\"thumbnail\" sequence=\"3\"] hi";
        assert_eq!(String::from_utf8_lossy(&encode("thumbnail", "ada", false, b"hi")), expected);
    }

    #[test]
    fn the_length_counts_bytes_behind_the_space() {
        for text in [&b""[..], b"x", "caf\u{e9}".as_bytes(), b"\xff\n\0", &[b'a'; 9000]] {
            let out = encode("f", "u", true, text);
            let space = out.iter().position(|byte| *byte == b' ').unwrap();
            let count: usize = std::str::from_utf8(&out[..space]).unwrap().parse().unwrap();
            assert_eq!(count, out.len() - space - 1);
        }
    }

    #[test]
    fn text_of_any_encoding_stays_as_it_is() {
        for text in ["na\u{ef}ve".as_bytes(), b"plain", b"\xe9 in latin-1", b"\0\r\x1b"] {
            assert!(encode("f", "u", false, text).ends_with(&[b"\"] ", text].concat()));
        }
    }

    #[test]
    fn structured_data_is_escaped_and_names_are_cut() {
        let out = encode(&"f".repeat(63), "a\"b\\c]d", true, b"x");
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(r#"user="a\"b\\c\]d""#), "{out}");
        assert!(out.contains(&format!(" vm-7 {} 0", "f".repeat(48))), "{out}");
        assert!(out.contains(&format!("function=\"{}\"", "f".repeat(63))), "{out}");
        assert!(out.contains("sequence=\"3\" more=\"1\"] x"), "{out}");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_field() {
        let out = String::from_utf8(encode("a b\nc", "u", false, b"x")).unwrap();
        assert!(out.contains(" vm-7 a?b?c 0"), "{out}");
    }

    #[test]
    fn timestamps() {
        let day = 86_400_000_000_000;
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(timestamp(951_782_400_000_000_000), "2000-02-29T00:00:00.000000Z");
        assert_eq!(timestamp(951_782_400_000_000_000 + day), "2000-03-01T00:00:00.000000Z");
        assert_eq!(timestamp(1_709_251_199_999_999_999), "2024-02-29T23:59:59.999999Z");
        assert_eq!(timestamp(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000Z");
        assert_eq!(timestamp(u64::MAX), "2554-07-21T23:34:33.709551Z");
    }
}
