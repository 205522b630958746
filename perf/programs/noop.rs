//! Does nothing, successfully: what remains is the cost of starting a program.

fn main() {}
