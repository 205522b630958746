//! The commands of `pilotlight`, one file each. What they share: the socket they speak to, how
//! they print, and how they fail.

mod serve;
mod deploy;
mod list;
mod remove;
mod invoke;
mod status;
mod top;
mod doctor;
mod demo;
mod bench;
mod man;
mod completions;
mod version;
mod notify;
mod programs;
mod target;
mod report;
mod trace;
mod fault;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs a user's program the moment it is asked for, each user in virtual machines of their own.
#[derive(Debug, Parser)]
#[command(name = "pilotlight", version, long_version = version::long(), arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Deploy(deploy::Deploy),
    List(list::List),
    Remove(remove::Remove),
    Invoke(invoke::Invoke),
    Status(status::Status),
    Top(top::Top),
    Doctor(doctor::Doctor),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Man(man::Man),
    Completions(completions::Completions),
}

/// Does what the command line says and returns what the process ends with.
pub(crate) fn run() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(command) => command.run(),
        Command::Deploy(command) => command.run(),
        Command::List(command) => command.run(),
        Command::Remove(command) => command.run(),
        Command::Invoke(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Top(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::Completions(command) => command.run(),
    };
    result.unwrap_or_else(|fault| fault.report())
}
