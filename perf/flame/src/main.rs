//! `perf script ... | flame --client PID --out DIR`: a flame graph for each kind of process.
//!
//! ```text
//!   perf script ─► samples ─► by process: node, vmm, client ─► folded stacks ─► flame-NAME.svg
//! ```
//! `scripts/profile` runs it; `docs/profiling.md` says how to read what it draws.

mod sample;
mod process;

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use inferno::collapse::Collapse;
use inferno::collapse::perf::Folder;
use inferno::flamegraph::{self, Options};

use process::{Kind, Processes};
use sample::Recording;

/// Draws flame graphs of a node, its VMMs and its client from the output of
/// `perf script --show-task-events -F comm,pid,tid,time,event,ip,sym,dso` on standard input.
#[derive(Debug, Parser)]
struct Arguments {
    /// Process that invokes and started all others
    #[arg(long, value_name = "PID")]
    client: i32,
    /// Folder for flame-node.svg, flame-vmm.svg and flame-client.svg
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match draw(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flame: {error}");
            ExitCode::FAILURE
        }
    }
}

fn draw(arguments: &Arguments) -> io::Result<()> {
    let recording = Recording::read(BufReader::new(io::stdin().lock()))?;
    let processes = Processes::of(&recording, arguments.client);
    for kind in Kind::ALL {
        let (text, count) = recording.text_of(|pid| processes.kind(pid) == Some(kind));
        if count == 0 {
            return Err(io::Error::other(format!(
                "no sample of the {}: was it running, and long enough?",
                kind.name()
            )));
        }
        let path = arguments.out.join(format!("flame-{}.svg", kind.name()));
        picture(&text, &format!("{}, {count} samples", kind.title()), &path)?;
        eprintln!("{}: {count} samples", path.display());
    }
    Ok(())
}

fn picture(text: &[u8], title: &str, path: &Path) -> io::Result<()> {
    let mut folded = Vec::new();
    Folder::default().collapse(text, &mut folded)?;
    let mut options = Options::default();
    options.title = title.to_owned();
    options.count_name = "samples".to_owned();
    let mut output = BufWriter::new(File::create(path)?);
    let drawn = flamegraph::from_reader(&mut options, folded.as_slice(), &mut output);
    drawn.map_err(|error| {
        // Half a picture would look like one.
        let _ = fs::remove_file(path);
        io::Error::other(error.to_string())
    })
}
