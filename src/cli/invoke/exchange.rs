//! One invoke as it goes on: the body out as it comes in, the answer in as it is made, and Ctrl-C
//! in between.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pilotlight::client::{Client, ClientError, Completed, LogRecord};
use pilotlight::socket::answer::Answer;
use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::signal::SIGINT;

use super::super::fault::Fault;
use super::super::report;

/// Bytes of standard input sent at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a second Ctrl-C ends with: 128 and SIGINT's number.
const INTERRUPTED: i32 = 130;

/// From now on Ctrl-C makes this readable; a second one ends the process.
pub(super) fn interrupts() -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    let was_interrupted = Arc::new(AtomicBool::new(false));
    // In this order: the first signal finds the flag down and puts it up.
    signal_hook::flag::register_conditional_shutdown(
        SIGINT,
        INTERRUPTED,
        Arc::clone(&was_interrupted),
    )?;
    signal_hook::flag::register(SIGINT, was_interrupted)?;
    signal_hook::low_level::pipe::register(SIGINT, sender)?;
    Ok(receiver)
}

/// Who takes what comes before the outcome.
pub(super) trait Sink {
    fn response(&mut self, bytes: &[u8]) -> Result<(), Fault>;
    fn log(&mut self, record: LogRecord);
}

/// Passes the response to standard output and the log to standard error.
#[derive(Debug, Default)]
pub(super) struct Passing {
    is_line_open: bool,
}

impl Sink for Passing {
    fn response(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        Ok(report::write(bytes)?)
    }

    fn log(&mut self, record: LogRecord) {
        self.is_line_open = record.has_more;
        let mut text = record.text;
        if !record.has_more {
            text.push(b'\n');
        }
        // Without a standard error there is nobody to tell.
        drop(io::Write::write_all(&mut io::stderr(), &text));
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        if self.is_line_open {
            eprintln!();
        }
    }
}

/// Keeps everything.
#[derive(Default)]
struct Kept {
    response: Vec<u8>,
    log: Vec<LogRecord>,
}

impl Sink for Kept {
    fn response(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.response.extend_from_slice(bytes);
        Ok(())
    }

    fn log(&mut self, record: LogRecord) {
        self.log.push(record);
    }
}

/// An invoke that was sent.
pub(super) struct Exchange<'a> {
    client: &'a mut Client,
    id: u64,
    interrupts: &'a UnixStream,
    has_input: bool,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(client: &'a mut Client, id: u64, interrupts: &'a UnixStream) -> Self {
        Self { client, id, interrupts, has_input: false }
    }

    /// The body goes on in standard input.
    pub(super) fn with_input(self) -> Self {
        Self { has_input: true, ..self }
    }

    /// Waits for the whole answer.
    pub(super) fn collect(self) -> Result<Completed, Fault> {
        let mut kept = Kept::default();
        let completed = self.pass(&mut kept)?;
        Ok(Completed { response: kept.response, log: kept.log, ..completed })
    }

    /// Passes on what comes until the outcome, which it returns without the response.
    pub(super) fn pass(mut self, sink: &mut impl Sink) -> Result<Completed, Fault> {
        loop {
            if let Some(completed) = self.receive(sink)? {
                return Ok(completed);
            }
            let (is_interrupted, has_body) = self.wait()?;
            if is_interrupted {
                let mut signals = [0; 16];
                while matches!(self.interrupts.read(&mut signals), Ok(1..)) {}
                self.client.cancel(self.id)?;
            }
            if has_body {
                self.send()?;
            }
        }
    }

    fn receive(&mut self, sink: &mut impl Sink) -> Result<Option<Completed>, Fault> {
        while let Some(received) = self.client.try_receive()? {
            if received.id != self.id {
                continue;
            }
            match received.answer {
                Answer::Response(bytes) => sink.response(bytes)?,
                Answer::Log(log) => sink.log(LogRecord {
                    realtime_nanos: log.realtime_nanos,
                    sequence: log.sequence,
                    text: log.text.to_owned(),
                    has_more: received.has_more,
                }),
                Answer::Outcome(outcome) => {
                    sink.response(outcome.response)?;
                    return Ok(Some(Completed::of(&outcome)));
                }
                Answer::Error { code, message } => {
                    let (code, message) = (code.to_owned(), message.to_owned());
                    return Err(ClientError::Refused { code, message }.into());
                }
                Answer::Hello(_) | Answer::Reply(_) | Answer::Attached(_) => {
                    return Err(super::out_of_turn().into());
                }
            }
        }
        Ok(None)
    }

    /// Waits until the node, Ctrl-C or the body has something; the latter two are returned.
    fn wait(&self) -> io::Result<(bool, bool)> {
        let input = io::stdin();
        let (client, interrupts) = (self.client.as_fd(), self.interrupts.as_fd());
        let mut entries = vec![
            PollFd::from_borrowed_fd(client, PollFlags::IN),
            PollFd::from_borrowed_fd(interrupts, PollFlags::IN),
        ];
        if self.has_input {
            entries.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
        }
        match rustix::event::poll(&mut entries, None) {
            Err(rustix::io::Errno::INTR) => {}
            result => drop(result?),
        }
        let is_ready = |index: usize| entries.get(index).is_some_and(|e| !e.revents().is_empty());
        Ok((is_ready(1), is_ready(2)))
    }

    fn send(&mut self) -> Result<(), Fault> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = match rustix::io::read(io::stdin(), &mut chunk) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(()),
            count => count.map_err(|error| {
                Fault::new(format!("standard input cannot be read: {}", io::Error::from(error)))
            })?,
        };
        self.has_input = count > 0;
        Ok(self.client.send_body(self.id, &chunk[..count], self.has_input)?)
    }
}
