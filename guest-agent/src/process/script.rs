//! Scripts: what a file that starts with `#!` is to be run with. Pure.

use alloc::vec::Vec;

use crate::errno::Errno;

/// Bytes of a file in which its first line has to end, as Linux'.
pub const HEAD_BYTES: usize = 256;

/// What a script's first line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Path of the program that interprets it.
    pub interpreter: Vec<u8>,
    /// An argument for that, spaces included.
    pub argument: Option<Vec<u8>>,
}

/// Reads the first line of a file of which `head` is the start; `None` when it is no script.
///
/// # Errors
/// [`Errno::NOEXEC`] when the line names no interpreter, or that has no end in sight. What is too long
/// of an argument is cut off.
pub fn parse(head: &[u8]) -> Result<Option<Script>, Errno> {
    let Some(rest) = head.strip_prefix(b"#!") else { return Ok(None) };
    let end = rest.iter().position(|byte| *byte == b'\n');
    let line = rest[..end.unwrap_or(rest.len())].trim_ascii_start();
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let split = line.iter().position(is_space);
    // The whole of a short file may be its line.
    let is_cut = end.is_none() && split.is_none() && head.len() == HEAD_BYTES;
    let (interpreter, argument) = line.split_at(split.unwrap_or(line.len()));
    if is_cut || interpreter.is_empty() || line.contains(&0) {
        return Err(Errno::NOEXEC);
    }
    let argument = argument.trim_ascii();
    let argument = (!argument.is_empty()).then(|| argument.to_vec());
    Ok(Some(Script { interpreter: interpreter.to_vec(), argument }))
}

impl Script {
    /// Makes the arguments of the script at `path` those of its interpreter.
    pub fn interpret(&self, path: &[u8], arguments: &mut Vec<Vec<u8>>) {
        let own = [Some(self.interpreter.clone()), self.argument.clone(), Some(path.to_vec())];
        arguments.splice(..arguments.len().min(1), own.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    fn script(interpreter: &str, argument: Option<&str>) -> Script {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Script { interpreter: bytes(interpreter), argument: argument.map(bytes) }
    }

    #[test]
    fn the_first_line_names_the_interpreter() {
        for (head, expected) in [
            (&b"\x7fELF"[..], Ok(None)),
            (b"", Ok(None)),
            (b"#!/bin/sh\necho", Ok(Some(script("/bin/sh", None)))),
            (
                b"#! /usr/bin/env  python3 -u \nx",
                Ok(Some(script("/usr/bin/env", Some("python3 -u")))),
            ),
            (b"#!/bin/sh", Ok(Some(script("/bin/sh", None)))),
            (b"#!\t/bin/sh\t-e\t\n", Ok(Some(script("/bin/sh", Some("-e"))))),
            (b"#!\necho", Err(Errno::NOEXEC)),
            (b"#!   \necho", Err(Errno::NOEXEC)),
            (b"#!/bin/\0sh\n", Err(Errno::NOEXEC)),
        ] {
            assert_eq!(parse(head), expected, "{}", std::string::String::from_utf8_lossy(head));
        }
        let endless = [&b"#!/"[..], &[b'x'; HEAD_BYTES - 3]].concat();
        assert_eq!(parse(&endless), Err(Errno::NOEXEC));
        let cut = [&b"#!/bin/sh "[..], &[b'x'; HEAD_BYTES - 10]].concat();
        let argument = "x".repeat(HEAD_BYTES - 10);
        assert_eq!(parse(&cut), Ok(Some(script("/bin/sh", Some(&argument)))));
    }

    #[test]
    fn the_interpreter_gets_the_script_and_its_arguments() {
        let mut arguments = vec![b"tool".to_vec(), b"-x".to_vec()];
        script("/bin/sh", Some("-e")).interpret(b"/tmp/tool", &mut arguments);
        assert_eq!(arguments, [&b"/bin/sh"[..], b"-e", b"/tmp/tool", b"-x"]);
    }
}
