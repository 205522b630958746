//! A process started on this machine for one request: what a virtual machine that is already there
//! has to beat.

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::process::{check_length, exchange};

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
        check_length(&request)?;
        Ok(Self { program, request })
    }

    /// Starts the program (`posix_spawn` where the C library has a good one), gives it its
    /// request, takes its answer and waits for its end.
    ///
    /// # Errors
    /// The system's own, or the program failed or gave another answer.
    pub fn run(&self) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        // As bare as in a container: an environment costs copying.
        exchange(command.env_clear().stderr(Stdio::null()), &self.request)
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::REQUEST_BYTES_MAX;
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
