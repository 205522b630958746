//! The kernel's random numbers: ChaCha20 (RFC 8439) with fast key erasure.
//!
//! Each refill turns the key into 512 bytes of output; the first 32 of them become the next key,
//! so what was handed out cannot be computed from a later state. The seed comes from the node with
//! every restore; before it arrives nothing may ask (a captured generator would repeat itself in
//! every VM restored from it).

/// Bytes produced by one refill: eight ChaCha20 blocks, so that a refill's cost is spread over a
/// few requests of 16 to 64 bytes.
const REFILL_BYTES: usize = 512;
const KEY_BYTES: usize = 32;
const BLOCK_BYTES: usize = 64;
/// `expand 32-byte k`.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The generator of one VM.
#[derive(Clone)]
pub struct Entropy {
    key: Option<[u8; KEY_BYTES]>,
    output: [u8; REFILL_BYTES],
    used: usize,
}

impl core::fmt::Debug for Entropy {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Entropy").field("is_seeded", &self.key.is_some()).finish()
    }
}

impl Entropy {
    /// A generator that gives nothing yet.
    #[must_use]
    pub const fn unseeded() -> Self {
        Self { key: None, output: [0; REFILL_BYTES], used: REFILL_BYTES }
    }

    /// Starts afresh from `seed`; earlier output is forgotten.
    pub fn seed(&mut self, seed: [u8; KEY_BYTES]) {
        *self = Self { key: Some(seed), ..Self::unseeded() };
    }

    /// Fills `bytes`.
    ///
    /// # Panics
    /// Before the first seed: a program with guessable numbers is worse than none.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.used == REFILL_BYTES {
                self.refill();
            }
            let count = rest.len().min(REFILL_BYTES - self.used);
            let (now, later) = rest.split_at_mut(count);
            let given = &mut self.output[self.used..self.used + count];
            now.copy_from_slice(given);
            given.fill(0);
            self.used += count;
            rest = later;
        }
    }

    fn refill(&mut self) {
        let Some(key) = self.key else { panic!("random numbers before the seed") };
        for (counter, chunk) in (0..).zip(self.output.chunks_exact_mut(BLOCK_BYTES)) {
            chunk.copy_from_slice(&block(&key, counter, [0; 3]));
        }
        let mut next = [0; KEY_BYTES];
        next.copy_from_slice(&self.output[..KEY_BYTES]);
        self.output[..KEY_BYTES].fill(0);
        self.key = Some(next);
        self.used = KEY_BYTES;
    }
}

/// One block of the key stream (RFC 8439, section 2.3).
fn block(key: &[u8; KEY_BYTES], counter: u32, nonce: [u32; 3]) -> [u8; BLOCK_BYTES] {
    let mut start = [0_u32; 16];
    start[..4].copy_from_slice(&CONSTANTS);
    for (word, bytes) in start[4..12].iter_mut().zip(key.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    start[12] = counter;
    start[13..].copy_from_slice(&nonce);
    let mut state = start;
    for _ in 0..10 {
        quarter(&mut state, 0, 4, 8, 12);
        quarter(&mut state, 1, 5, 9, 13);
        quarter(&mut state, 2, 6, 10, 14);
        quarter(&mut state, 3, 7, 11, 15);
        quarter(&mut state, 0, 5, 10, 15);
        quarter(&mut state, 1, 6, 11, 12);
        quarter(&mut state, 2, 7, 8, 13);
        quarter(&mut state, 3, 4, 9, 14);
    }
    let mut bytes = [0; BLOCK_BYTES];
    for ((out, word), first) in bytes.chunks_exact_mut(4).zip(state).zip(start) {
        out.copy_from_slice(&word.wrapping_add(first).to_le_bytes());
    }
    bytes
}

fn quarter(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(16);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(12);
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(8);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(7);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_that_of_rfc_8439_section_2_3_2() {
        let mut key = [0; KEY_BYTES];
        for (byte, value) in key.iter_mut().zip(0..) {
            *byte = value;
        }
        let bytes = block(&key, 1, [0x0900_0000, 0x4a00_0000, 0]);
        assert_eq!(bytes[..8], [0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15]);
        assert_eq!(bytes[56..], [0xcb, 0xd0, 0x83, 0xe8, 0xa2, 0x50, 0x3c, 0x4e]);
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_in_any_portions() {
        let (mut whole, mut parts) = (Entropy::unseeded(), Entropy::unseeded());
        whole.seed([7; 32]);
        parts.seed([7; 32]);
        let (mut left, mut right) = ([0; 1500], [0; 1500]);
        whole.fill(&mut left);
        for portion in right.chunks_mut(37) {
            parts.fill(portion);
        }
        assert_eq!(left, right);
        assert!(left.windows(8).all(|window| window != [0; 8]));
    }

    #[test]
    #[should_panic(expected = "before the seed")]
    fn nothing_is_given_before_the_seed() {
        Entropy::unseeded().fill(&mut [0; 1]);
    }
}
