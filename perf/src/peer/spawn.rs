//! A process started on this machine for one request: what a virtual machine that is already there
//! has to beat.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Largest request a program is given here: it is written in one go before anything is read, so
/// it and its answer have to fit a pipe.
const REQUEST_BYTES_MAX: usize = 4096;

/// A program to start, and what it is asked.
#[derive(Debug)]
pub struct Spawn {
    program: PathBuf,
    request: Vec<u8>,
}

impl Spawn {
    /// `program` answers `request` on its standard input with the same bytes on its standard
    /// output; with an empty request it gets neither.
    ///
    /// # Errors
    /// The request is too long.
    pub fn new(program: PathBuf, request: Vec<u8>) -> io::Result<Self> {
        match request.len() <= REQUEST_BYTES_MAX {
            true => Ok(Self { program, request }),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "a longer request than fits")),
        }
    }

    /// Starts the program (`posix_spawn` where the C library has a good one), gives it its
    /// request, takes its answer and waits for its end.
    ///
    /// # Errors
    /// The system's own, or the program failed or gave another answer.
    pub fn run(&self) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        // As bare as in a container: an environment costs copying.
        command.env_clear().stderr(Stdio::null());
        if self.request.is_empty() {
            let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
            return check(status.success());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut answer = Vec::with_capacity(self.request.len() + 1);
        let told = input.map_or(Ok(()), |mut input| input.write_all(&self.request));
        let heard = output.map_or(Ok(0), |mut output| output.read_to_end(&mut answer));
        let status = child.wait()?;
        told?;
        heard?;
        check(status.success() && answer == self.request)
    }
}

fn check(is_right: bool) -> io::Result<()> {
    match is_right {
        true => Ok(()),
        false => Err(io::Error::other("the program did not do what it does")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_run_and_its_answer_checked() {
        let run = |program: &str, request: &[u8]| {
            Spawn::new(program.into(), request.to_vec()).unwrap().run()
        };
        run("/bin/true", b"").unwrap();
        run("/bin/cat", &[7; 1024]).unwrap();
        assert!(run("/bin/false", b"").is_err());
        assert!(run("/bin/true", b"no answer comes").is_err());
        assert!(run("/nonexistent", b"").is_err());
        assert!(Spawn::new("/bin/cat".into(), vec![0; REQUEST_BYTES_MAX + 1]).is_err());
    }
}
