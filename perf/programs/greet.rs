//! Contract `program`: greets whom the request names and logs where it ran.

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let mut name = String::new();
    io::stdin().read_to_string(&mut name)?;
    let name = name.trim();
    let name = if name.is_empty() { "world" } else { name };
    let place = |variable| std::env::var(variable).unwrap_or_else(|_| "?".to_owned());
    eprintln!(
        "greeting {name} in {}, invoke {}",
        place("PILOTLIGHT_VM_ID"),
        place("PILOTLIGHT_INVOKE_ID")
    );
    writeln!(io::stdout(), "Hello, {name}.")
}
