//! Names and numbers: checked once, then copied freely.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ClientFault;

/// Most bytes of a user's or function's name: with its length 56 bytes, so that an error naming both
/// stays small enough to be returned by value.
pub const NAME_BYTES_MAX: usize = 55;

/// A checked name, kept inline: copying one allocates nothing.
///
/// 1 to [`NAME_BYTES_MAX`] bytes of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`: safe as a
/// file name, an argument and a syslog field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ClientFault::BadName`] when it breaks the rule above.
    pub fn new(text: &str) -> Result<Self, ClientFault> {
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        let length = u8::try_from(text.len()).ok();
        let length = length.filter(|length| usize::from(*length) <= NAME_BYTES_MAX && *length > 0);
        let is_plain = text.bytes().all(|byte| is_allowed(&byte));
        match length {
            Some(length) if is_plain && !text.starts_with(['.', '-']) => {
                let mut bytes = [0; NAME_BYTES_MAX];
                bytes[..text.len()].copy_from_slice(text.as_bytes());
                Ok(Self { bytes, length })
            }
            _ => Err(ClientFault::BadName { given: text.chars().take(80).collect() }),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or("")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.as_str())
    }
}

/// Whose program it is, and for whom it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct User(Name);

/// A program's name among its user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(Name);

impl User {
    /// Checks a user's name.
    ///
    /// # Errors
    /// [`ClientFault::BadName`] as for [`Name::new`].
    pub fn new(text: &str) -> Result<Self, ClientFault> {
        Name::new(text).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FunctionName {
    /// Checks a function's name.
    ///
    /// # Errors
    /// [`ClientFault::BadName`] as for [`Name::new`].
    pub fn new(text: &str) -> Result<Self, ClientFault> {
        Name::new(text).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl TryFrom<String> for User {
    type Error = ClientFault;
    fn try_from(text: String) -> Result<Self, ClientFault> {
        Self::new(&text)
    }
}

impl TryFrom<String> for FunctionName {
    type Error = ClientFault;
    fn try_from(text: String) -> Result<Self, ClientFault> {
        Self::new(&text)
    }
}

impl From<User> for String {
    fn from(user: User) -> Self {
        user.as_str().to_owned()
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> Self {
        name.as_str().to_owned()
    }
}

/// SHA-256 of a package.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{self}")
    }
}

impl FromStr for Digest {
    type Err = ClientFault;
    fn from_str(text: &str) -> Result<Self, ClientFault> {
        let bad = || ClientFault::BadRequest { what: "a digest is 64 hexadecimal digits".into() };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = ClientFault;
    fn try_from(text: String) -> Result<Self, ClientFault> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// One invoke of one node run; never 0, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InvokeId(pub u64);

impl fmt::Display for InvokeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// One VM of one node run; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmId(pub u64);

impl fmt::Display for VmId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "vm-{}", self.0)
    }
}

/// One container of one VM, numbered by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for good in ["a", "_x", "0", "ann.b-c_D9", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "\u{e4}", "a\0", &"x".repeat(56)] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digests_read_back() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for bad in ["", "ab", &"g".repeat(64), &"+a".repeat(32), &"a".repeat(65)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_are_shown_as_programs_see_them() {
        assert_eq!(InvokeId(255).to_string(), "00000000000000ff");
        assert_eq!(VmId(7).to_string(), "vm-7");
    }
}
