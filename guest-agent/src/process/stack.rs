//! The stack a program finds when it starts (x86-64 psABI, section 3.4.1). Pure.
//!
//! ```text
//!   top    8 zero bytes
//!          strings: path, environment, arguments, platform; 16 random bytes
//!          auxiliary vector ... AT_NULL
//!          environment pointers, 0
//!          argument pointers, 0
//!   rsp ►  argument count
//! ```

use alloc::vec;
use alloc::vec::Vec;

/// Keys of the auxiliary vector (`elf.h`).
#[expect(missing_docs, reason = "the names are those of elf.h")]
pub mod key {
    pub const HEADERS: u64 = 3;
    pub const HEADER_BYTES: u64 = 4;
    pub const HEADER_COUNT: u64 = 5;
    pub const PAGE_BYTES: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const USER: u64 = 11;
    pub const EFFECTIVE_USER: u64 = 12;
    pub const GROUP: u64 = 13;
    pub const EFFECTIVE_GROUP: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HARDWARE: u64 = 16;
    pub const CLOCK_TICKS: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HARDWARE_2: u64 = 26;
    pub const PATH: u64 = 31;
    pub const VDSO: u64 = 33;
    pub const SIGNAL_STACK_BYTES: u64 = 51;
}

/// What goes on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// Path of the program.
    pub path: &'a [u8],
    /// Arguments.
    pub arguments: &'a [Vec<u8>],
    /// `NAME=VALUE` entries.
    pub environment: &'a [Vec<u8>],
    /// Where `AT_RANDOM` points.
    pub random: [u8; 16],
    /// The rest of the auxiliary vector.
    pub auxiliary: &'a [(u64, u64)],
    /// What lies in pages above the stack.
    pub held: Option<Held<'a>>,
}

/// What is kept apart from the stack, because it differs from request to request.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// `NAME=` of the variable whose value starts at the top of the stack; empty for none.
    pub name: &'a [u8],
    /// Where `AT_RANDOM` points instead.
    pub random: u64,
}

/// The finished stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The program's first stack pointer; a multiple of 16, and where `bytes` start.
    pub stack_pointer: u64,
    /// Bytes up to the top of the stack.
    pub bytes: Vec<u8>,
}

/// Entries of the auxiliary vector added here: random, path, platform, end.
const AUXILIARY_OWN: usize = 4;

/// Builds the stack below `top`, a multiple of 16. `None` when it would not fit above address 0.
#[must_use]
pub fn build(top: u64, contents: &Contents<'_>) -> Option<Image> {
    let mut strings = Strings { top, bytes: Vec::new() };
    let mut own = None;
    match contents.held {
        Some(held) if !held.name.is_empty() => own = Some(strings.push_raw(held.name)?),
        _ => _ = strings.push_raw(&[0; 8])?,
    }
    let path = strings.push(contents.path)?;
    let mut environment = strings.push_all(contents.environment)?;
    environment.extend(own);
    let arguments = strings.push_all(contents.arguments)?;
    let platform = strings.push(b"x86_64")?;
    let lowest = match contents.held {
        Some(_) => platform,
        None => strings.push_raw(&contents.random)?,
    };
    let random = contents.held.map_or(lowest, |held| held.random);
    let words = 1
        + arguments.len()
        + 1
        + environment.len()
        + 1
        + (contents.auxiliary.len() + AUXILIARY_OWN) * 2;
    let floor = lowest.checked_sub(words as u64 * 8)?;
    let stack_pointer = floor & !15;
    let mut bytes = vec![];
    let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
    put(arguments.len() as u64);
    arguments.iter().for_each(|address| put(*address));
    put(0);
    environment.iter().for_each(|address| put(*address));
    put(0);
    let own = [(key::RANDOM, random), (key::PATH, path), (key::PLATFORM, platform), (0, 0)];
    for (key, value) in contents.auxiliary.iter().chain(&own) {
        put(*key);
        put(*value);
    }
    let padding = usize::try_from(lowest - stack_pointer).ok()?;
    bytes.resize(padding, 0);
    bytes.extend(strings.bytes.iter().rev());
    Some(Image { stack_pointer, bytes })
}

/// Bytes laid down from the top, kept in reverse.
struct Strings {
    top: u64,
    bytes: Vec<u8>,
}

impl Strings {
    fn push_raw(&mut self, bytes: &[u8]) -> Option<u64> {
        self.bytes.extend(bytes.iter().rev());
        self.top.checked_sub(self.bytes.len() as u64)
    }

    fn push(&mut self, text: &[u8]) -> Option<u64> {
        self.bytes.push(0);
        self.push_raw(text)
    }

    fn push_all(&mut self, texts: &[Vec<u8>]) -> Option<Vec<u64>> {
        texts.iter().map(|text| self.push(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(image: &Image, at: usize) -> u64 {
        u64::from_le_bytes(image.bytes[at * 8..at * 8 + 8].try_into().unwrap())
    }

    fn text(image: &Image, address: u64) -> &[u8] {
        let start = usize::try_from(address - image.stack_pointer).unwrap();
        let rest = &image.bytes[start..];
        &rest[..rest.iter().position(|byte| *byte == 0).unwrap()]
    }

    #[test]
    fn a_program_finds_what_it_was_given() {
        for extra in 0..16 {
            let arguments = [b"name".to_vec(), vec![b'x'; extra], vec![]];
            let environment = [b"A=1".to_vec()];
            let contents = Contents {
                path: b"/var/task/name",
                arguments: &arguments,
                environment: &environment,
                random: [9; 16],
                auxiliary: &[(key::PAGE_BYTES, 4096)],
                held: None,
            };
            let image = build(0x7000_0000, &contents).unwrap();
            assert_eq!(image.stack_pointer % 16, 0);
            assert_eq!(image.stack_pointer + image.bytes.len() as u64, 0x7000_0000);
            assert_eq!(word(&image, 0), 3);
            assert_eq!(text(&image, word(&image, 1)), b"name");
            assert_eq!(text(&image, word(&image, 2)), vec![b'x'; extra]);
            assert_eq!(text(&image, word(&image, 3)), b"");
            assert_eq!((word(&image, 4), word(&image, 6)), (0, 0));
            assert_eq!(text(&image, word(&image, 5)), b"A=1");
            assert_eq!((word(&image, 7), word(&image, 8)), (key::PAGE_BYTES, 4096));
            assert_eq!(word(&image, 9), key::RANDOM);
            let random = usize::try_from(word(&image, 10) - image.stack_pointer).unwrap();
            assert_eq!(image.bytes[random..random + 16], [9; 16]);
            assert_eq!((word(&image, 11), word(&image, 15)), (key::PATH, 0));
            assert_eq!(text(&image, word(&image, 12)), b"/var/task/name");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let arguments = [vec![1; 5000]];
        let contents = Contents {
            path: b"",
            arguments: &arguments,
            environment: &[],
            random: [0; 16],
            auxiliary: &[],
            held: None,
        };
        assert_eq!(build(4096, &contents), None);
    }
}
