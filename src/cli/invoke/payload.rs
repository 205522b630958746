//! The body of a request, as the command line names it.

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use super::super::fault::Fault;

/// Where the body comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// The text itself.
    Text(String),
    /// `@FILE`: a file's bytes.
    File(PathBuf),
    /// `-`: standard input, as it comes.
    Input,
}

impl FromStr for Payload {
    type Err = Infallible;
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match (text, text.strip_prefix('@')) {
            ("-", _) => Self::Input,
            (_, Some(file)) => Self::File(PathBuf::from(file)),
            (text, None) => Self::Text(text.to_owned()),
        })
    }
}

impl Payload {
    /// What of it is there before the request is sent.
    pub(super) fn read(&self) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Text(text) => Ok(text.clone().into_bytes()),
            Self::Input => Ok(Vec::new()),
            Self::File(path) => fs::read(path).map_err(|error| {
                Fault::new(format!(
                    "{} cannot be read: {error}; a text that starts with @ goes through --payload -",
                    path.display()
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_three_forms_are_told_apart() {
        let parse = |text: &str| text.parse::<Payload>().unwrap();
        assert_eq!(parse("-"), Payload::Input);
        assert_eq!(parse("@-"), Payload::File("-".into()));
        assert_eq!(parse("a@b"), Payload::Text("a@b".into()));
        assert_eq!(parse(""), Payload::Text(String::new()));
    }
}
