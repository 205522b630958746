//! Two processes and a Unix stream socket between them: what any answer from another process costs.
//!
//! The client blocks in its read. The server blocks too ([`EchoKind::Blocking`]), or it is a task
//! on the runtime a shard uses ([`EchoKind::Runtime`]): the difference is the runtime's price.
//! A server is a process of the caller's making that calls [`EchoKind::serve`]; it says one line
//! when it listens, serves one connection, and ends with that, or with its parent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::placement::pin;

/// What a server says when it listens.
const LISTENING: &str = "listening";

/// Never, for as long as anybody measures.
const PREEMPT_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// How a server waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EchoKind {
    /// In `read`.
    Blocking,
    /// In the runtime's executor, on io_uring.
    Runtime,
}

impl EchoKind {
    /// Is the server: binds `socket`, then sends each message of `message_bytes` back to the one
    /// client there will be, on `core` alone.
    ///
    /// # Errors
    /// The system's own.
    pub fn serve(self, socket: &Path, message_bytes: usize, core: u32) -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        match self {
            Self::Blocking => serve_blocking(socket, message_bytes, core),
            Self::Runtime => serve_runtime(socket, message_bytes, core),
        }
    }
}

fn serve_blocking(socket: &Path, message_bytes: usize, core: u32) -> io::Result<()> {
    pin(core)?;
    let listener = UnixListener::bind(socket)?;
    say_listening()?;
    let (mut stream, _) = listener.accept()?;
    let mut message = vec![0; message_bytes];
    while !is_end(stream.read_exact(&mut message))? {
        stream.write_all(&message)?;
    }
    Ok(())
}

fn serve_runtime(socket: &Path, message_bytes: usize, core: u32) -> io::Result<()> {
    let socket = socket.to_owned();
    let executor = LocalExecutorBuilder::new(Placement::Fixed(core as usize));
    // As a shard's: the runtime may sleep with ready tasks after a preemption.
    let executor = executor.preempt_timer(PREEMPT_INTERVAL);
    let thread = executor.spawn(move || async move {
        let listener = glommio::net::UnixListener::bind(&socket)?;
        say_listening()?;
        let mut stream = listener.accept().await?;
        let mut message = vec![0; message_bytes];
        while !is_end(stream.read_exact(&mut message).await)? {
            stream.write_all(&message).await?;
        }
        io::Result::Ok(())
    });
    let failed = |error: glommio::GlommioError<()>| io::Error::other(error.to_string());
    let thread = thread.map_err(failed)?;
    thread.join().map_err(|error| io::Error::other(error.to_string()))?
}

fn say_listening() -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{LISTENING}")?;
    output.flush()
}

/// Whether a read found the end instead of a message.
fn is_end(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
        Err(error) => Err(error),
        Ok(()) => Ok(false),
    }
}

/// The client, and the process it speaks to.
#[derive(Debug)]
pub struct Echo {
    stream: UnixStream,
    server: Child,
    message: Vec<u8>,
    answer: Vec<u8>,
}

impl Echo {
    /// Starts `server`, a program that calls [`EchoKind::serve`] with `socket`, and connects.
    ///
    /// # Errors
    /// It does not start, or ends before it listens.
    pub fn start(mut server: Command, socket: &Path, message: Vec<u8>) -> io::Result<Self> {
        let mut server = server.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let connected = await_listening(&mut server).and_then(|()| UnixStream::connect(socket));
        match connected {
            Ok(stream) => {
                let answer = vec![0; message.len()];
                Ok(Self { stream, server, message, answer })
            }
            Err(error) => {
                end(&mut server);
                Err(error)
            }
        }
    }

    /// Sends the message and waits for all of it to come back.
    ///
    /// # Errors
    /// The system's own, or another message came back.
    pub fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.message)?;
        self.stream.read_exact(&mut self.answer)?;
        match self.answer == self.message {
            true => Ok(()),
            false => Err(io::Error::other("the echo is not what was sent")),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        end(&mut self.server);
    }
}

fn await_listening(server: &mut Child) -> io::Result<()> {
    let output = server.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    match line.trim_end() == LISTENING {
        true => Ok(()),
        false => Err(io::Error::other("the echo server ended before it listened")),
    }
}

fn end(server: &mut Child) {
    // One that has ended already cannot be killed, and is only collected.
    let _ = server.kill();
    let _ = server.wait();
}
