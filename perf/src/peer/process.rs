//! What all peers that are started for each request have in common: a process is given its
//! request, its answer is taken and checked, and it is waited for.

use std::env;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Largest request a program is given here: it is written in one go before anything is read, so
/// it and its answer have to fit a pipe.
pub(super) const REQUEST_BYTES_MAX: usize = 4096;

/// Refuses a request that does not fit.
pub(super) fn check_length(request: &[u8]) -> io::Result<()> {
    match request.len() <= REQUEST_BYTES_MAX {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "a longer request than fits")),
    }
}

/// Starts what `command` says, gives it `request`, takes its answer and waits for its end. With an
/// empty request it gets neither. One that failed or gave another answer than the request's own
/// bytes is an error: what does not work must not count as fast.
pub(super) fn exchange(command: &mut Command, request: &[u8]) -> io::Result<()> {
    check_length(request)?;
    if request.is_empty() {
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        return check(status.success());
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let mut answer = Vec::with_capacity(request.len() + 1);
    let told = input.map_or(Ok(()), |mut input| input.write_all(request));
    let heard = output.map_or(Ok(0), |mut output| output.read_to_end(&mut answer));
    let status = child.wait()?;
    told?;
    heard?;
    check(status.success() && answer == request)
}

fn check(is_right: bool) -> io::Result<()> {
    match is_right {
        true => Ok(()),
        false => Err(io::Error::other("the program did not do what it does")),
    }
}

/// An executable by its name: in `PATH`, or where a system's own commands are, which `PATH` leaves
/// out for many users.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let is_executable = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    folders.map(|folder| folder.join(name)).find(is_executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_by_name() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find("no-such-command"), None);
    }

    #[test]
    fn an_answer_that_is_not_the_request_is_an_error() {
        let run = |shell: &str| exchange(Command::new("/bin/sh").args(["-c", shell]), b"request");
        run("cat").unwrap();
        run("cat; exit 1").unwrap_err();
        run("cat >/dev/null; printf Request").unwrap_err();
        run("cat; printf more").unwrap_err();
    }
}
