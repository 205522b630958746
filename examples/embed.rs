//! A node inside a program of your own: it runs a static ELF file for a user and prints the answer.
//!
//! `cargo run --example embed` runs Debian's busybox; `cargo run --example embed -- PROGRAM ARG...`
//! runs yours, with `Ada` on its standard input.

#![allow(clippy::print_stdout, reason = "a program that answers its user")]

use std::error::Error;

use pilotlight::client::Package;
use pilotlight::socket::request::{Invoke, OPTION_WANT_LOG};
use pilotlight::{Config, Node};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next();
    let mut package = Package::read(program.as_deref().unwrap_or("/bin/busybox").as_ref())?;
    package.settings.arguments = match program {
        Some(_) => arguments.collect(),
        None => vec!["sh".into(), "-c".into(), "read name; echo Hello, $name.; uname -s".into()],
    };
    let state = std::env::temp_dir().join(format!("pilotlight-embed-{}", std::process::id()));
    let mut config = Config::default();
    config.paths.state = state.clone();

    let node = Node::start(config)?;
    let mut client = node.client()?;
    client.deploy(("ada", "hello"), &package)?;
    let invoke = Invoke { user: "ada", options: OPTION_WANT_LOG, ..Invoke::new("hello", b"Ada\n") };
    let done = client.invoke(&invoke)?;
    print!("{}", String::from_utf8_lossy(&done.response));
    for record in &done.log {
        eprintln!("log: {}", String::from_utf8_lossy(&record.text));
    }
    println!("{} ran it, on {:?} KVM", done.outcome.vm, node.flavour());
    node.stop();
    Ok(std::fs::remove_dir_all(state)?)
}
