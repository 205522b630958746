//! A fresh WebAssembly instance for each request, inside a process that is already there: the
//! cheapest wall that is not a virtual machine.
//!
//! Wasmtime takes minutes to compile, so it lives in a program of its own (package
//! `wasmtime-peer`, built by `scripts/bench` only), which measures inside itself and is asked over
//! its standard input and output:
//!
//! ```text
//!   ◄─ ready\n                                  it has compiled its module
//!   ─► COUNT LENGTH\n then LENGTH bytes         serve this request COUNT times
//!   ◄─ ok NANOS NANOS ...\n                     COUNT times, each checked
//!   ◄─ error WHY\n                              or this instead
//! ```
//! It ends when its input does. Numbers are decimal. Both ends are here, so that they agree.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::absent::{Absent, Remedy};
use crate::latency::Latencies;

/// File name of the program.
const EXECUTABLE: &str = "wasmtime-peer";
/// Names another place for it.
const VARIABLE: &str = "PILOTLIGHT_WASMTIME_PEER";
const READY: &str = "ready";
/// Most times one message asks for: bounds the answer's line.
const COUNT_MAX: u64 = 10_000;
/// Largest request: what the module has room for.
pub const WASMTIME_REQUEST_BYTES_MAX: usize = 32 * 1024;

/// The program, started and ready.
#[derive(Debug)]
pub struct Wasmtime {
    process: Child,
    /// None: it was told to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Wasmtime {
    /// Its name, for reports and `--without`.
    pub const NAME: &'static str = "wasmtime";

    /// Starts the program at `executable`; when that is none, at `PILOTLIGHT_WASMTIME_PEER`; when
    /// that is not set either, beside the executable of this process. It runs on the cores of the
    /// thread that starts it.
    ///
    /// # Errors
    /// It is not there, or does not become ready.
    pub fn find(executable: Option<&Path>) -> Result<Self, Absent> {
        let path = match executable {
            Some(path) => path.to_owned(),
            None => default_path(env::var_os(VARIABLE).as_deref(), env::current_exe().ok()),
        };
        let absent = |error: &io::Error| {
            let why = format!("{}: {error}", path.display());
            Absent::new(Self::NAME, Remedy::Build(why))
        };
        Self::start(&path).map_err(|error| absent(&error))
    }

    fn start(executable: &Path) -> io::Result<Self> {
        let mut command = Command::new(executable);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let output = BufReader::new(output.ok_or(io::ErrorKind::BrokenPipe)?);
        let mut started = Self { process, input, output };
        match started.line()?.as_str() {
            READY => Ok(started),
            _ => Err(io::Error::other("it is not ready")),
        }
    }

    /// Serves `request` (at most [`WASMTIME_REQUEST_BYTES_MAX`]) `count` times, each in a new
    /// instance, and records the time from before the instance is made until it is gone.
    ///
    /// # Errors
    /// The program's own: an instance failed, or its answer was not the request.
    pub fn measure(
        &mut self,
        request: &[u8],
        count: u64,
        latencies: &mut Latencies,
    ) -> io::Result<()> {
        let mut left = count;
        while left > 0 {
            let batch = left.min(COUNT_MAX);
            self.ask(request, batch)?.into_iter().for_each(|taken| latencies.record(taken));
            left -= batch;
        }
        Ok(())
    }

    /// As [`Wasmtime::measure`], once. The program has just been woken: rather measure several in
    /// a row.
    ///
    /// # Errors
    /// As for [`Wasmtime::measure`].
    pub fn once(&mut self, request: &[u8]) -> io::Result<Duration> {
        self.ask(request, 1)?.pop().ok_or_else(broken)
    }

    fn ask(&mut self, request: &[u8], count: u64) -> io::Result<Vec<Duration>> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(input, "{count} {}", request.len())?;
        input.write_all(request)?;
        input.flush()?;
        let line = self.line()?;
        let times = match line.split_once(' ') {
            Some(("ok", times)) => times,
            Some(("error", why)) => return Err(io::Error::other(why.to_owned())),
            _ => return Err(broken()),
        };
        let times = times.split(' ').map(|time| time.parse().map(Duration::from_nanos));
        let times: Vec<_> = times.collect::<Result<_, _>>().map_err(|_| broken())?;
        if times.len() as u64 == count { Ok(times) } else { Err(broken()) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Wasmtime {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that cannot be waited for is gone.
        let _ = self.process.wait();
    }
}

fn default_path(variable: Option<&OsStr>, this: Option<PathBuf>) -> PathBuf {
    match (variable, this) {
        (Some(path), _) => path.into(),
        (None, Some(this)) => this.with_file_name(EXECUTABLE),
        (None, None) => EXECUTABLE.into(),
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its answer is none")
}

/// Is the program's side until `input` ends: `act` serves a request, appends the answer to the
/// buffer it is given, and says how long that took.
///
/// # Errors
/// `input` or `output` failed, or what came in is no message. An error of `act` is told to the
/// other side.
pub fn serve_wasmtime(
    mut input: impl BufRead,
    mut output: impl Write,
    mut act: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<Duration>,
) -> io::Result<()> {
    writeln!(output, "{READY}")?;
    output.flush()?;
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let (count, length) = parse(line.trim_end()).ok_or(io::ErrorKind::InvalidData)?;
        let mut request = vec![0; length];
        input.read_exact(&mut request)?;
        match serve(&request, count, &mut act) {
            Ok(times) => writeln!(output, "ok {}", times.join(" "))?,
            Err(error) => writeln!(output, "error {}", error.to_string().replace('\n', "; "))?,
        }
        output.flush()?;
        line.clear();
    }
    Ok(())
}

fn parse(line: &str) -> Option<(u64, usize)> {
    let (count, length) = line.split_once(' ')?;
    let (count, length) = (count.parse().ok()?, length.parse().ok()?);
    let is_allowed = (1..=COUNT_MAX).contains(&count) && length <= WASMTIME_REQUEST_BYTES_MAX;
    is_allowed.then_some((count, length))
}

fn serve(
    request: &[u8],
    count: u64,
    act: &mut impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<Duration>,
) -> io::Result<Vec<String>> {
    let mut answer = Vec::with_capacity(request.len());
    let mut times = Vec::new();
    for _ in 0..count {
        answer.clear();
        let took = act(request, &mut answer)?;
        if answer != request {
            return Err(io::Error::other("the answer is not the request"));
        }
        times.push(took.as_nanos().to_string());
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program says to these bytes when `act` serves.
    fn said(
        input: &[u8],
        act: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<Duration>,
    ) -> io::Result<String> {
        let mut output = Vec::new();
        serve_wasmtime(input, &mut output, act)?;
        Ok(String::from_utf8(output).unwrap())
    }

    fn echo(request: &[u8], answer: &mut Vec<u8>) -> io::Result<Duration> {
        answer.extend_from_slice(request);
        Ok(Duration::from_micros(3))
    }

    #[test]
    fn each_request_is_served_as_often_as_asked() {
        let said = said(b"3 2\nab1 0\n", echo).unwrap();
        assert_eq!(said, "ready\nok 3000 3000 3000\nok 3000\n");
    }

    #[test]
    fn wrong_answers_and_failures_are_told() {
        let wrong = said(b"2 2\nab", |_, answer| echo(b"ba", answer)).unwrap();
        assert_eq!(wrong, "ready\nerror the answer is not the request\n");
        let failed = said(b"2 2\nab", |_, _| Err(io::Error::other("a\nb"))).unwrap();
        assert_eq!(failed, "ready\nerror a; b\n");
    }

    #[test]
    fn what_is_no_message_is_not_served() {
        for input in ["x 1\n", "1\n", "0 1\na", "10001 1\na", "1 32769\n", "1 2\na"] {
            assert!(said(input.as_bytes(), echo).is_err(), "{input}");
        }
    }

    #[test]
    fn the_program_is_looked_for_beside_this_one() {
        let here = Some(PathBuf::from("/a/pilotlight"));
        assert_eq!(default_path(None, here.clone()), Path::new("/a/wasmtime-peer"));
        assert_eq!(default_path(Some("/b".as_ref()), here), Path::new("/b"));
    }
}
