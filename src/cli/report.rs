//! How a command tells what it found: lines for people, one JSON object for programs.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::Value;

use super::fault::Fault;

/// The form of a report.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Report {
    /// Print one JSON object instead of text; failures are then `{"error": {"code", "message"}}`
    #[arg(long)]
    pub(crate) json: bool,
}

impl Report {
    /// Prints the object, or the text made for people.
    pub(crate) fn print(
        self,
        object: &Value,
        text: impl FnOnce() -> String,
    ) -> Result<ExitCode, Fault> {
        if self.json {
            self.object(object)?
        } else {
            write(text().as_bytes())?
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints an object on lines of its own.
    pub(crate) fn object(self, object: &Value) -> io::Result<()> {
        write(format!("{object:#}\n").as_bytes())
    }
}

/// Writes to standard output at once. A reader that has gone away has read enough.
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Rows with a heading as lines, each column as wide as its widest cell.
pub(crate) fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&heading.map(str::to_owned)).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in the unit that keeps the number short.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count >> 10),
        _ => format!("{}.{} MiB", count >> 20, ((count & 0xf_ffff) * 10) >> 20),
    }
}

/// Nanoseconds in the unit that keeps the number short.
pub(crate) fn nanos(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} ns"),
        1_000..1_000_000 => format!("{}.{} us", count / 1_000, count % 1_000 / 100),
        1_000_000..1_000_000_000 => {
            format!("{}.{:02} ms", count / 1_000_000, count % 1_000_000 / 10_000)
        }
        _ => format!("{}.{:02} s", count / 1_000_000_000, count % 1_000_000_000 / 10_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let text =
            table(["A", "LONG"], &[["wide".into(), "x".into()], ["b".into(), String::new()]]);
        assert_eq!(text, "A     LONG\nwide  x\nb\n");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([bytes(12), bytes(4096), bytes(1_572_864)], ["12 B", "4 KiB", "1.5 MiB"]);
        assert_eq!(
            [nanos(5), nanos(1_250), nanos(3_051_000), nanos(2_500_000_000)],
            ["5 ns", "1.2 us", "3.05 ms", "2.50 s"]
        );
    }
}
