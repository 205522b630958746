//! A histogram as text: HdrHistogram's V2 format, deflated, in base64. It is one word of a JSON
//! line or an interval log, and HdrHistogram reads it in any language.

use std::fmt;
use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::Latencies;

/// Why a text is no histogram.
#[derive(Debug)]
pub struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "not a histogram in HdrHistogram's V2 format, deflated, in base64: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

impl Latencies {
    /// The histogram as one word.
    ///
    /// # Panics
    /// Never: a vector takes all bytes, and no count is beyond 63 bits.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(self.histogram(), &mut bytes)
            .expect("a vector and counts that fit");
        STANDARD.encode(bytes)
    }

    /// What [`Self::encode`], or HdrHistogram elsewhere, made of nanoseconds.
    ///
    /// # Errors
    /// If the text is something else, or holds latencies of more than an hour.
    pub fn decode(text: &str) -> Result<Self, Unreadable> {
        let bytes = STANDARD.decode(text.trim()).map_err(|error| Unreadable(error.to_string()))?;
        let histogram: Histogram<u64> = Deserializer::new()
            .deserialize(&mut Cursor::new(bytes))
            .map_err(|error| Unreadable(error.to_string()))?;
        Self::of(&histogram)
            .ok_or_else(|| Unreadable("it counts latencies of more than an hour".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::serialization::V2Serializer;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let mut latencies = Latencies::new();
        (1..5000).for_each(|number| latencies.record(Duration::from_nanos(number * number)));
        latencies.record(Duration::from_secs(7200));
        let word = latencies.encode();
        assert!(word.starts_with("HISTFA"), "{word}");
        let again = Latencies::decode(&format!(" {word}\n")).unwrap();
        assert_eq!((again.count(), again.summary()), (latencies.count(), latencies.summary()));
        assert_eq!(again.encode(), word);
    }

    #[test]
    fn what_is_no_histogram_is_said() {
        let mut latencies = Latencies::new();
        (1..1000).for_each(|micros| latencies.record(Duration::from_micros(micros * micros)));
        let word = latencies.encode();
        for text in ["", "not base64!", "aGVsbG8=", &word[..word.len() / 8 * 4]] {
            let error = Latencies::decode(text).unwrap_err().to_string();
            assert!(error.starts_with("not a histogram in HdrHistogram's V2"), "{text}: {error}");
        }
    }

    #[test]
    fn latencies_beyond_an_hour_are_refused() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record(10_000_000_000_000).unwrap();
        let mut bytes = Vec::new();
        V2DeflateSerializer::new().serialize(&histogram, &mut bytes).unwrap();
        let error = Latencies::decode(&STANDARD.encode(bytes)).unwrap_err().to_string();
        assert!(error.contains("more than an hour"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_ones_are_refused_or_read(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut latencies = Latencies::new();
            (1..200).for_each(|micros| latencies.record(Duration::from_micros(micros * micros)));
            // Within the deflated part damage shows at once; in the clear it has to be checked.
            let mut bytes = Vec::new();
            V2Serializer::new().serialize(latencies.histogram(), &mut bytes).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Latencies::decode(&STANDARD.encode(bytes));
        }
    }
}
