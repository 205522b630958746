//! A user's logging service as requests carry it. Pure; part of the codec in
//! [`super::request`]. Credentials are borrowed from the received bytes and never printed.

use abi::wire::{Malformed, Reader};

use crate::invoke::LogProtocol;

use super::frame::{TooLong, put_blob, put_short, take_short};

/// Credential files a logging service may have.
pub const CREDENTIAL_FILES_MAX: usize = 8;

fn number(protocol: LogProtocol) -> u8 {
    match protocol {
        LogProtocol::None => 0,
        LogProtocol::SyslogTcp => 1,
        LogProtocol::SyslogTls => 2,
    }
}

fn protocol(number: u8) -> Result<LogProtocol, Malformed> {
    match number {
        0 => Ok(LogProtocol::None),
        1 => Ok(LogProtocol::SyslogTcp),
        2 => Ok(LogProtocol::SyslogTls),
        _ => Err(Malformed),
    }
}

/// Credential files in their encoded form: each a name behind its length (u8), then its content
/// behind its length (u32). Prints nothing of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a> {
    count: u8,
    encoded: &'a [u8],
}

impl std::fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({} files, redacted)", self.count)
    }
}

impl<'a> Credentials<'a> {
    /// No credentials.
    pub const NONE: Self = Self { count: 0, encoded: &[] };

    /// Encodes `files` (name, content) into `storage`, from which the value borrows.
    ///
    /// # Errors
    /// [`TooLong`] when there are more than [`CREDENTIAL_FILES_MAX`], or a name is too long.
    pub fn encode(files: &[(&str, &[u8])], storage: &'a mut Vec<u8>) -> Result<Self, TooLong> {
        if files.len() > CREDENTIAL_FILES_MAX {
            return Err(TooLong);
        }
        storage.clear();
        for (name, content) in files {
            put_short(storage, name.as_bytes())?;
            put_blob(storage, content)?;
        }
        Ok(Self { count: u8::try_from(files.len()).or(Err(TooLong))?, encoded: storage })
    }

    /// Each file's name and content.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut reader = Reader::new(self.encoded);
        (0..self.count).map_while(move |_| {
            let name = take_short(&mut reader).ok()?;
            Some((name, reader.blob().ok()?))
        })
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.u8()?;
        if usize::from(count) > CREDENTIAL_FILES_MAX {
            return Err(Malformed);
        }
        let encoded = reader.rest();
        for _ in 0..count {
            take_short(reader)?;
            reader.blob()?;
        }
        let length = encoded.len() - reader.rest().len();
        Ok(Self { count, encoded: &encoded[..length] })
    }
}

/// A user's logging service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging<'a> {
    /// How it is spoken to.
    pub protocol: LogProtocol,
    /// Host name or IP address; empty for no service.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Name its certificate is checked against; empty: the host.
    pub server_name: &'a str,
    /// Files as a program sees them: `token`, `ca.pem`, `cert.pem`, `key.pem`.
    pub credentials: Credentials<'a>,
}

impl<'a> Logging<'a> {
    /// No logging service.
    pub const NONE: Self = Self {
        protocol: LogProtocol::None,
        host: "",
        port: 0,
        server_name: "",
        credentials: Credentials::NONE,
    };

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        out.push(number(self.protocol));
        put_short(out, self.host.as_bytes())?;
        out.extend_from_slice(&self.port.to_le_bytes());
        put_short(out, self.server_name.as_bytes())?;
        out.push(self.credentials.count);
        out.extend_from_slice(self.credentials.encoded);
        Ok(())
    }

    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self {
            protocol: protocol(reader.u8()?)?,
            host: take_short(reader)?,
            port: reader.u16()?,
            server_name: take_short(reader)?,
            credentials: Credentials::decode(reader)?,
        })
    }
}
