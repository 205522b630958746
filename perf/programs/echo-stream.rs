//! Contract `stream`: reads requests framed by their length (u32, little-endian) on standard
//! input and answers each with the same bytes, framed alike. Ends when its input does.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

fn main() -> io::Result<()> {
    let mut requests = io::stdin().lock();
    // Standard output cuts what it writes behind the last line end; a response is one write.
    let mut responses = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut frame = vec![0; 4];
    loop {
        match requests.read_exact(&mut frame[..4]) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        frame.resize(4 + length, 0);
        requests.read_exact(&mut frame[4..])?;
        responses.write_all(&frame)?;
    }
}
