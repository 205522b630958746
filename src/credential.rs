//! A user's secrets for their logging service.
//!
//! They come in with a request, go to the one VM that is assigned with them, and are kept after
//! that only by the delivery of that VM's log. Invariants: no copy is made by accident (not
//! `Clone`), no print shows a byte, memory is wiped on drop, and assigning spends the value:
//!
//! ```compile_fail,E0382
//! # use pilotlight::{credential::Credential, invoke::LoggingService};
//! let (service, mut frame) = (LoggingService::none(), [0; 64]);
//! let credential = Credential::none();
//! let first = credential.assign(&service, &mut frame);
//! let again = credential.assign(&service, &mut frame); // spent already
//! ```
//! Pools never see one: they compare [`ActiveKey`]s, which hold a digest keyed by a random number
//! of this node run, so that nothing can be learned from an index or a message.

use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use abi::frame::invoke::Assign;
use abi::wire::{Malformed, Writer};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::invoke::{LoggingService, User};

/// Bytes one credential file may have: a long certificate chain has about 16 KiB.
pub const FILE_BYTES_MAX: usize = 48 * 1024;

/// Names of the files, as programs see them under `/run/credentials/logging`.
pub const FILE_NAMES: [&str; 4] = ["token", "ca.pem", "cert.pem", "key.pem"];

const _: () = assert!(
    FILE_NAMES.len() * (FILE_BYTES_MAX + 16) + 1024 <= abi::frame::invoke::MESSAGE_BYTES_MAX,
    "the largest credential fits an assign message"
);

/// Secrets for one logging service, each file's bytes as given; wiped on drop.
#[derive(Default)]
pub struct Credential {
    files: [Option<Zeroizing<Vec<u8>>>; FILE_NAMES.len()],
}

/// What is wrong with a credential. Never holds a byte of one.
#[derive(Debug)]
pub enum CredentialError {
    /// A file has a name that is not one of [`FILE_NAMES`].
    UnknownFile {
        /// Its name.
        name: String,
    },
    /// A file is longer than [`FILE_BYTES_MAX`].
    TooLarge {
        /// Its name.
        name: &'static str,
    },
    /// A certificate without its key, or a key without its certificate.
    Unpaired,
    /// A directory or file cannot be read.
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory holds none of the files.
    Empty {
        /// Which.
        path: PathBuf,
    },
}

impl Credential {
    /// No secrets: for logging services that ask for none.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes the named files.
    ///
    /// # Errors
    /// [`CredentialError`] for an unknown name, a file too large, or half a key pair.
    pub fn new(
        files: impl IntoIterator<Item = (impl AsRef<str>, Vec<u8>)>,
    ) -> Result<Self, CredentialError> {
        let mut credential = Self::none();
        for (name, bytes) in files {
            let bytes = Zeroizing::new(bytes);
            let name = name.as_ref();
            let place = FILE_NAMES.iter().position(|known| *known == name);
            let place =
                place.ok_or_else(|| CredentialError::UnknownFile { name: name.to_owned() })?;
            if bytes.len() > FILE_BYTES_MAX {
                return Err(CredentialError::TooLarge { name: FILE_NAMES[place] });
            }
            credential.files[place] = Some(bytes);
        }
        if credential.certificate().is_some() != credential.key().is_some() {
            return Err(CredentialError::Unpaired);
        }
        Ok(credential)
    }

    /// Reads those of the files that a directory has.
    ///
    /// # Errors
    /// [`CredentialError`] as for [`Credential::new`], or when a file cannot be read, or there is
    /// none.
    pub fn load(directory: &Path) -> Result<Self, CredentialError> {
        let unreadable = |path: &Path, source| {
            Err(CredentialError::Unreadable { path: path.to_owned(), source })
        };
        if let Err(source) = std::fs::read_dir(directory) {
            return unreadable(directory, source);
        }
        let mut files = Vec::with_capacity(FILE_NAMES.len());
        for name in FILE_NAMES {
            let path = directory.join(name);
            match read_limited(&path) {
                Ok(bytes) => files.push((name, bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return unreadable(&path, source),
            }
        }
        if files.is_empty() {
            return Err(CredentialError::Empty { path: directory.to_owned() });
        }
        Self::new(files)
    }

    /// A second copy, for a connection whose defaults hold for many requests. Not `Clone`, so
    /// that a copy is always a decision.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { files: self.files.clone() }
    }

    /// The files there are: name and bytes.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let named = FILE_NAMES.iter().zip(&self.files);
        named.filter_map(|(name, bytes)| Some((*name, bytes.as_ref()?.as_slice())))
    }

    /// Writes the payload of the assign frame for this service into `buffer` and gives its length
    /// and what the delivery of the VM's log needs. The caller wipes the buffer once it is sent.
    ///
    /// # Errors
    /// [`Malformed`] when the buffer is too short; [`abi::frame::invoke::MESSAGE_BYTES_MAX`] is
    /// always enough.
    pub fn assign(
        self,
        service: &LoggingService,
        buffer: &mut [u8],
    ) -> Result<(usize, DeliveryCredential), Malformed> {
        let address = service.resolved.map(|address| address.to_string()).unwrap_or_default();
        let mut blobs: [&[u8]; 2 * FILE_NAMES.len()] = [&[]; 2 * FILE_NAMES.len()];
        let mut count = 0;
        for (name, bytes) in self.files() {
            blobs[count] = name.as_bytes();
            blobs[count + 1] = bytes;
            count += 2;
        }
        let mut writer = Writer::new(buffer);
        let texts = [service.protocol.as_str(), &address, &service.server_name];
        Assign::encode(&mut writer, texts, &blobs[..count])?;
        Ok((writer.length(), DeliveryCredential(self)))
    }

    fn certificate(&self) -> Option<&[u8]> {
        self.files[2].as_ref().map(|bytes| bytes.as_slice())
    }

    fn key(&self) -> Option<&[u8]> {
        self.files[3].as_ref().map(|bytes| bytes.as_slice())
    }
}

/// A credential after it was assigned: all that is left to do with it is to deliver the log.
#[derive(Debug)]
pub struct DeliveryCredential(Credential);

impl DeliveryCredential {
    /// The token, if there is one.
    #[must_use]
    pub fn token(&self) -> Option<&[u8]> {
        self.0.files[0].as_ref().map(|bytes| bytes.as_slice())
    }

    /// Certificates to trust (PEM), if given.
    #[must_use]
    pub fn ca(&self) -> Option<&[u8]> {
        self.0.files[1].as_ref().map(|bytes| bytes.as_slice())
    }

    /// Our certificate chain and its key (PEM), if given.
    #[must_use]
    pub fn certificate_and_key(&self) -> Option<(&[u8], &[u8])> {
        Some((self.0.certificate()?, self.0.key()?))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.files().map(|(name, _)| name).collect();
        write!(formatter, "Credential({}, redacted)", names.join(" "))
    }
}

fn read_limited(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    // One byte more than allowed shows that it is too long. All room at once: growing would leave
    // copies behind that nobody wipes.
    let mut bytes = Vec::with_capacity(FILE_BYTES_MAX + 1);
    let limit = u64::try_from(FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    match file.take(limit).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            bytes.zeroize();
            Err(error)
        }
    }
}

/// Which VMs an invoke may use: those assigned to this user and configured for this logging
/// service with this credential.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ActiveKey {
    /// Whose VM.
    pub user: User,
    /// Keyed digest of user, logging service and credential.
    digest: [u8; 32],
}

impl ActiveKey {
    /// A key from its parts: for pools under test. Nodes use [`NodeKey::active_key`].
    #[must_use]
    pub fn from_parts(user: User, digest: [u8; 32]) -> Self {
        Self { user, digest }
    }

    /// The keyed digest of user, logging service and credential.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// 64 bits of the digest: enough to look keys up by, not to tell them apart for certain.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.digest[..8]);
        u64::from_le_bytes(bytes)
    }
}

/// The digest is random to anyone without the node's key: 64 bits of it spread well.
impl Hash for ActiveKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint());
    }
}

impl fmt::Debug for ActiveKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ActiveKey({}, {:04x})", self.user, self.fingerprint() & 0xffff)
    }
}

/// The random number that keys the digests of one node run.
pub struct NodeKey(Zeroizing<[u8; 64]>);

impl NodeKey {
    /// A new one from the host's generator.
    ///
    /// # Errors
    /// When the host gives no randomness.
    pub fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; 64]);
        let mut filled = 0;
        while filled < bytes.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
        }
        Ok(Self(bytes))
    }

    /// A known one, for tests.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key of the VMs that may serve this user with this logging service and credential.
    ///
    /// HMAC-SHA-256 (RFC 2104) over every part behind its length. About 10 us for a certificate
    /// chain: compute it once per connection where the connection holds the defaults.
    #[must_use]
    pub fn active_key(
        &self,
        user: User,
        service: &LoggingService,
        credential: &Credential,
    ) -> ActiveKey {
        let mut inner = Sha256::new();
        inner.update(self.pad(0x36).as_slice());
        let texts = [user.as_str(), service.protocol.as_str(), &service.address];
        for text in texts.iter().chain([&service.server_name.as_str()]) {
            update_part(&mut inner, text.as_bytes());
        }
        for (name, bytes) in credential.files() {
            update_part(&mut inner, name.as_bytes());
            update_part(&mut inner, bytes);
        }
        let mut outer = Sha256::new();
        outer.update(self.pad(0x5c).as_slice());
        outer.update(inner.finalize());
        ActiveKey { user, digest: outer.finalize().into() }
    }

    fn pad(&self, with: u8) -> Zeroizing<[u8; 64]> {
        Zeroizing::new(self.0.map(|byte| byte ^ with))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("NodeKey(redacted)")
    }
}

fn update_part(hash: &mut Sha256, part: &[u8]) {
    let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
    hash.update(length.to_le_bytes());
    hash.update(part);
}

impl fmt::Display for CredentialError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFile { name } => write!(
                formatter,
                "credential file {name:?} is not known; there are {}",
                FILE_NAMES.join(", ")
            ),
            Self::TooLarge { name } => {
                write!(formatter, "credential file {name} is larger than {FILE_BYTES_MAX} bytes")
            }
            Self::Unpaired => {
                formatter.write_str("cert.pem and key.pem belong together; give both or neither")
            }
            Self::Unreadable { path, source } => {
                write!(formatter, "cannot read credentials at {}: {source}", path.display())
            }
            Self::Empty { path } => write!(
                formatter,
                "{} holds no credential; put there what the service wants of {}",
                path.display(),
                FILE_NAMES.join(", ")
            ),
        }
    }
}

impl std::error::Error for CredentialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::UnknownFile { .. }
            | Self::TooLarge { .. }
            | Self::Unpaired
            | Self::Empty { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::LogProtocol;

    fn sample() -> Credential {
        Credential::new([("token", b"s3cret".to_vec())]).unwrap()
    }

    #[test]
    fn debug_shows_names_only() {
        let credential = sample();
        assert_eq!(format!("{credential:?}"), "Credential(token, redacted)");
        let service = LoggingService::new(LogProtocol::SyslogTcp, "127.0.0.1:514").unwrap();
        let (_, delivery) = credential.assign(&service, &mut [0; 256]).unwrap();
        assert!(!format!("{delivery:?}").contains("s3cret"));
    }

    #[test]
    fn assign_frame_reads_back() {
        let service = LoggingService::new(LogProtocol::SyslogTls, "127.0.0.1:6514").unwrap();
        let mut buffer = [0; 256];
        let (length, delivery) = sample().assign(&service, &mut buffer).unwrap();
        let assign = Assign::decode(&buffer[..length]).unwrap();
        assert_eq!(
            (assign.protocol, assign.address, assign.server_name),
            ("syslog-tls", "127.0.0.1:6514", "127.0.0.1")
        );
        let blobs: Vec<_> = assign.credentials.iter().collect();
        assert_eq!(blobs, [b"token".as_slice(), b"s3cret"]);
        assert_eq!(delivery.token(), Some(b"s3cret".as_slice()));
    }

    #[test]
    fn refuses_unknown_large_and_half() {
        let none: Vec<u8> = Vec::new();
        assert!(matches!(
            Credential::new([("passwd", none.clone())]),
            Err(CredentialError::UnknownFile { .. })
        ));
        assert!(matches!(
            Credential::new([("token", vec![0; FILE_BYTES_MAX + 1])]),
            Err(CredentialError::TooLarge { name: "token" })
        ));
        assert!(matches!(Credential::new([("key.pem", none)]), Err(CredentialError::Unpaired)));
    }

    #[test]
    fn loads_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Credential::load(directory.path()), Err(CredentialError::Empty { .. })));
        let missing = Credential::load(&directory.path().join("missing")).unwrap_err();
        assert!(missing.to_string().contains("missing"));
        std::fs::write(directory.path().join("ca.pem"), b"CA").unwrap();
        std::fs::write(directory.path().join("unrelated"), b"x").unwrap();
        let credential = Credential::load(directory.path()).unwrap();
        assert_eq!(credential.files().collect::<Vec<_>>(), [("ca.pem", b"CA".as_slice())]);
        std::fs::write(directory.path().join("token"), vec![1; FILE_BYTES_MAX + 1]).unwrap();
        assert!(matches!(
            Credential::load(directory.path()),
            Err(CredentialError::TooLarge { name: "token" })
        ));
    }

    #[test]
    fn keys_differ_in_every_part() {
        let node = NodeKey::from_bytes([7; 64]);
        let user = |name| User::new(name).unwrap();
        let tls = LoggingService::new(LogProtocol::SyslogTls, "a:1").unwrap();
        let other = LoggingService::new(LogProtocol::SyslogTls, "a:2").unwrap();
        let rotated = Credential::new([("token", b"s3cres".to_vec())]).unwrap();
        let keys = [
            node.active_key(user("ann"), &tls, &sample()),
            node.active_key(user("bob"), &tls, &sample()),
            node.active_key(user("ann"), &other, &sample()),
            node.active_key(user("ann"), &tls, &rotated),
            node.active_key(user("ann"), &tls, &Credential::none()),
            NodeKey::from_bytes([8; 64]).active_key(user("ann"), &tls, &sample()),
        ];
        for (place, key) in keys.iter().enumerate() {
            assert!(!keys[..place].contains(key), "{place}");
        }
        assert_eq!(keys[0], node.active_key(user("ann"), &tls, &sample().duplicate()));
    }

    #[test]
    fn keyed_digest_is_hmac_sha256() {
        // RFC 4231, test case 2, computed with the key padded to a block as HMAC does.
        let mut key = [0; 64];
        key[..4].copy_from_slice(b"Jefe");
        let node = NodeKey::from_bytes(key);
        let mut inner = Sha256::new();
        inner.update(node.pad(0x36).as_slice());
        inner.update(b"what do ya want for nothing?");
        let mut outer = Sha256::new();
        outer.update(node.pad(0x5c).as_slice());
        outer.update(inner.finalize());
        let digest: [u8; 32] = outer.finalize().into();
        assert_eq!(digest[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn random_node_keys_differ() {
        assert_ne!(*NodeKey::random().unwrap().0, *NodeKey::random().unwrap().0);
    }
}
