//! Finds the response in what a `stream` program writes: a length (u32, little-endian), then that
//! many bytes. Pure.

/// Bytes of the length.
const LENGTH_BYTES: usize = 4;

/// How far the response to one request has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    length: [u8; LENGTH_BYTES],
    length_taken: usize,
    body_taken: u32,
}

impl Framing {
    /// Takes bytes of the length from `output` and returns how many it took.
    pub fn take_length(&mut self, output: &[u8]) -> usize {
        let count = (LENGTH_BYTES - self.length_taken).min(output.len());
        let into = &mut self.length[self.length_taken..self.length_taken + count];
        into.copy_from_slice(&output[..count]);
        self.length_taken += count;
        count
    }

    /// Bytes of the length that have not been taken.
    #[must_use]
    pub fn length_missing(&self) -> usize {
        LENGTH_BYTES - self.length_taken
    }

    /// Bytes of the response that have not been taken; `None` while its length is not known.
    #[must_use]
    pub fn missing(&self) -> Option<usize> {
        if self.length_taken < LENGTH_BYTES {
            return None;
        }
        let length = u32::from_le_bytes(self.length);
        usize::try_from(length - self.body_taken).ok()
    }

    /// Notes that `count` of the missing bytes were taken.
    pub fn take_body(&mut self, count: usize) {
        self.body_taken += u32::try_from(count).unwrap_or(0);
    }

    /// Whether all of the response was taken.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missing() == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_found_however_it_is_cut() {
        let bytes = [3, 0, 0, 0, b'a', b'b', b'c', 9, 9];
        for portion in 1..bytes.len() {
            let (mut framing, mut at, mut body) = (Framing::default(), 0, std::vec::Vec::new());
            while !framing.is_complete() {
                let part = &bytes[at..(at + portion).min(bytes.len())];
                let taken = framing.take_length(part);
                at += taken;
                let rest = &part[taken..];
                let count = framing.missing().unwrap_or(0).min(rest.len());
                body.extend_from_slice(&rest[..count]);
                framing.take_body(count);
                at += count;
            }
            assert_eq!((body.as_slice(), at), (&b"abc"[..], 7));
        }
    }
}
