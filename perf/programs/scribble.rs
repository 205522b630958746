//! Contract `stream`: as echo-stream, and writes to 64 pages of its memory for each request.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

const PAGES: usize = 64;
const PAGE_BYTES: usize = 4096;

fn main() -> io::Result<()> {
    let mut requests = io::stdin().lock();
    // Standard output cuts what it writes behind the last line end; a response is one write.
    let mut responses = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // They are there before the first request; the first is as large as those behind it.
    let mut pages = vec![1_u8; PAGES * PAGE_BYTES];
    let mut frame = Vec::with_capacity(PAGE_BYTES);
    frame.resize(4, 0);
    loop {
        match requests.read_exact(&mut frame[..4]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        frame.resize(4 + length, 0);
        requests.read_exact(&mut frame[4..])?;
        for page in pages.chunks_mut(PAGE_BYTES) {
            page[0] = page[0].wrapping_add(1);
        }
        black_box(&mut pages);
        responses.write_all(&frame)?;
    }
}
