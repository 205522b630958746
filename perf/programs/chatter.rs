//! Contract `stream`: a request is a number; that many lines go to the log before the number comes
//! back.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
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
        let count = str::from_utf8(&frame[4..]).ok().and_then(|text| text.parse().ok());
        let count: u64 = count.ok_or(ErrorKind::InvalidInput)?;
        let mut log = BufWriter::new(io::stderr().lock());
        for line in 1..=count {
            writeln!(log, "line {line} of {count}: what a program might say of its work")?;
        }
        log.flush()?;
        responses.write_all(&frame)?;
    }
}
