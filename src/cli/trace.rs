//! The node's own output on standard error: events as lines of text or JSON.
//!
//! ```text
//!  shard, side threads ─ a line ─► bounded queue ─► a thread of its own ─► standard error
//!                         └ full: counted, dropped
//! ```
//! Whoever has an event never waits: standard error may be a pipe that nobody reads. The thread that
//! writes waits instead, and says how many lines were lost meanwhile.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::{Layer, SubscriberExt};

/// Lines that may wait for standard error.
const LINES_MAX: usize = 4096;

/// How an event becomes a line.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Time, level, message, then key=value.
    #[default]
    Text,
    /// One object per line: timestamp (RFC 3339), level, message and the event's fields.
    Json,
}

/// From which level on events are written.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// Events are written as long as this lives; its end waits a moment for those that are under way.
pub(crate) struct Trace(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

impl Trace {
    /// Writes this process' events to standard error from now on. Those of other crates only from
    /// warnings on.
    pub(crate) fn start(format: Format, level: Level) -> Self {
        let tell = |lost| tracing::warn!(lost, "lines lost: standard error was not read");
        let (lines, guard) = queue(io::stderr(), LINES_MAX, tell);
        let level = match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
        };
        let wanted = Targets::new()
            .with_target(env!("CARGO_PKG_NAME"), level)
            .with_default(level.min(LevelFilter::WARN));
        let lines = layer().with_writer(lines).with_timer(SystemTime).with_target(false);
        let lines = match format {
            Format::Text => lines.with_ansi(false).boxed(),
            Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(wanted));
        // Nobody else in this process subscribes.
        drop(tracing::subscriber::set_global_default(subscriber));
        Self(guard)
    }

    /// For commands that have a node of their own: what goes wrong in it.
    pub(crate) fn of_own_node() -> Self {
        Self::start(Format::Text, Level::Warn)
    }
}

/// A queue of lines and the thread that writes them. `tell` hears how many were lost so far, each
/// time that number has grown.
fn queue(
    output: impl Write + Send + 'static,
    lines_max: usize,
    tell: impl Fn(usize) + Send + 'static,
) -> (NonBlocking, WorkerGuard) {
    let lost = Arc::new(OnceLock::new());
    let writer = Writer { output, lost: Arc::clone(&lost), told: 0, tell };
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines_max);
    let (lines, guard) = builder.thread_name("trace").finish(writer);
    // Set once, here, before there is a line.
    drop(lost.set(lines.error_counter()));
    (lines, guard)
}

/// Where the thread writes to.
struct Writer<W, F> {
    output: W,
    lost: Arc<OnceLock<ErrorCounter>>,
    told: usize,
    tell: F,
}

impl<W: Write, F: Fn(usize)> Write for Writer<W, F> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.output.write_all(line)?;
        let lost = self.lost.get().map_or(0, ErrorCounter::dropped_lines);
        if lost != self.told {
            self.told = lost;
            (self.tell)(lost);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes a line when it is told to.
    struct Slow {
        begun: Sender<()>,
        go_on: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.begun.send(()).unwrap();
            self.go_on.recv().unwrap();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_an_output_that_is_stuck_and_the_loss_is_told() {
        const LINES: usize = 3;
        let ((begun, has_begun), (go_on, goes_on)) = (channel(), channel());
        let (tell, told) = channel();
        let slow = Slow { begun, go_on: goes_on };
        let (mut lines, guard) = queue(slow, LINES, move |lost| tell.send(lost).unwrap());
        lines.write_all(b"the first\n").unwrap();
        has_begun.recv().unwrap();
        for _ in 0..LINES + 7 {
            lines.write_all(b"behind it\n").unwrap();
        }
        go_on.send(()).unwrap();
        assert_eq!(told.recv().unwrap(), 7);
        drop((go_on, has_begun, guard));
    }
}
