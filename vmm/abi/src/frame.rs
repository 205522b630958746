//! What travels in the rings: one header, then a payload.
//!
//! A *message* is one frame, or several in a row in the same ring of which all but the last carry
//! [`FLAG_MORE`]; its payload is theirs joined. Bodies, responses and log lines are streams: each
//! frame is used as it comes and `FLAG_MORE` says that another follows, possibly much later.
//!
//! | ring | kind | payload |
//! |---|---|---|
//! | invoke | [`invoke::ASSIGN`] | [`invoke::Assign`], a message |
//! | invoke | [`invoke::ACQUIRE`] | [`invoke::Acquire`], a message; channel = container, id = package |
//! | invoke | [`invoke::INVOKE`] | [`invoke::Invoke`]; channel = container, id = invoke |
//! | invoke | [`invoke::BODY`] | bytes of the request; id = invoke |
//! | invoke | [`invoke::CANCEL`] | none; id = invoke |
//! | invoke | [`invoke::RELEASE`] | none; channel = container |
//! | invoke | [`invoke::FORGET`] | none; id = package |
//! | code | [`code::INLINE`] | digest, then the package, a message; id = package |
//! | code | [`code::WINDOW`] | [`code::Window`]; id = package |
//! | outcome | [`outcome::READY`] | none; id = generation |
//! | outcome | [`outcome::RESPONSE`] | bytes of the response; id = invoke |
//! | outcome | [`outcome::OUTCOME`] | [`outcome::Outcome`]; channel = container, id = invoke |
//! | outcome | [`outcome::MISSING`] | system call number (u32); channel = container, id = invoke |
//! | log | [`log::LINE`] | [`log::Line`]; channel = container, id = invoke |
//! | stream | see [`stream`] | |

use crate::wire::{Malformed, Reader, Writer};

/// Another frame of the same message or stream follows.
pub const FLAG_MORE: u8 = 1;

/// In front of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is; each ring has its own numbers.
    pub kind: u8,
    /// [`FLAG_MORE`] or 0.
    pub flags: u8,
    /// A container, or a connection in the stream rings.
    pub channel: u32,
    /// An invoke or a package.
    pub id: u64,
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 16;

    /// The bytes of this header.
    #[must_use]
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.kind;
        bytes[1] = self.flags;
        bytes[4..8].copy_from_slice(&self.channel.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }

    /// Splits a frame into its header and its payload.
    ///
    /// # Errors
    /// [`Malformed`] when it is shorter than a header or uses a reserved bit.
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut reader = Reader::new(frame);
        let (kind, flags, reserved) = (reader.u8()?, reader.u8()?, reader.u16()?);
        if flags & !FLAG_MORE != 0 || reserved != 0 {
            return Err(Malformed);
        }
        let header = Self { kind, flags, channel: reader.u32()?, id: reader.u64()? };
        Ok((header, reader.rest()))
    }

    /// Whether another frame of the same message or stream follows.
    #[must_use]
    pub fn has_more(self) -> bool {
        self.flags & FLAG_MORE != 0
    }
}

/// A list of byte strings inside a message, in its encoded form: count (u32), then blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blobs<'a> {
    count: u32,
    encoded: &'a [u8],
}

impl<'a> Blobs<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.u32()?;
        let encoded = reader.rest();
        for _ in 0..count {
            reader.blob()?;
        }
        let length = encoded.len() - reader.rest().len();
        Ok(Self { count, encoded: &encoded[..length] })
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let mut reader = Reader::new(self.encoded);
        (0..self.count).map_while(move |_| reader.blob().ok())
    }
}

/// Writes a list that [`Blobs`] reads.
///
/// # Errors
/// [`Malformed`] when it does not fit.
pub fn encode_blobs(writer: &mut Writer<'_>, blobs: &[&[u8]]) -> Result<(), Malformed> {
    writer.u32(u32::try_from(blobs.len()).map_err(|_| Malformed)?)?;
    blobs.iter().try_for_each(|blob| writer.blob(blob))
}

/// Frames of the invoke ring, node to guest.
pub mod invoke {
    use super::{Blobs, Malformed, Reader, Writer, encode_blobs};

    /// This VM now belongs to one user and one logging service.
    pub const ASSIGN: u8 = 1;
    /// Make a container for a function.
    pub const ACQUIRE: u8 = 2;
    /// Run one request in a container.
    pub const INVOKE: u8 = 3;
    /// More of a request's body.
    pub const BODY: u8 = 4;
    /// End an invoke now; its outcome is `Cancelled`.
    pub const CANCEL: u8 = 5;
    /// End a container and everything in it.
    pub const RELEASE: u8 = 6;
    /// Drop a package no container uses.
    pub const FORGET: u8 = 7;
    /// Bring a container's program to where a snapshot is taken; answered by
    /// [`super::outcome::PREPARED`]. Only in a VM that was never assigned.
    pub const PREPARE: u8 = 8;

    /// Bytes an assign or acquire message may have.
    pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

    /// How a program meets its requests.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Contract {
        /// A fresh process per request: body on stdin, response on stdout, log on stderr.
        Program = 1,
        /// A resident process: requests and responses framed by their length (u32,
        /// little-endian) on stdin and stdout, log on stderr.
        Stream = 2,
    }

    impl Contract {
        /// The contract with this number.
        ///
        /// # Errors
        /// [`Malformed`] when there is none.
        pub fn from_number(number: u8) -> Result<Self, Malformed> {
            match number {
                1 => Ok(Self::Program),
                2 => Ok(Self::Stream),
                _ => Err(Malformed),
            }
        }
    }

    /// What a request finds of those before it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Freshness {
        /// The container stays. Contract `stream`: the process, with all it remembers. Contract
        /// `program`: the process is rewound to where it first looked outside itself.
        Reuse = 1,
        /// Each request gets a copy of the container as it was when it first asked for a request.
        Fork = 2,
        /// Each request gets a VM that was restored or reset since the one before.
        Vm = 3,
    }

    impl Freshness {
        /// The freshness with this number.
        ///
        /// # Errors
        /// [`Malformed`] when there is none.
        pub fn from_number(number: u8) -> Result<Self, Malformed> {
            match number {
                1 => Ok(Self::Reuse),
                2 => Ok(Self::Fork),
                3 => Ok(Self::Vm),
                _ => Err(Malformed),
            }
        }
    }

    /// The logging service of this VM. Programs see it in their environment and under
    /// `/run/credentials/logging`.
    #[derive(Clone, Copy, Debug)]
    pub struct Assign<'a> {
        /// `syslog-tls`, `syslog-tcp` or `none`.
        pub protocol: &'a str,
        /// Resolved `IP:PORT`, empty for none.
        pub address: &'a str,
        /// Name to check the service's certificate against, empty for none.
        pub server_name: &'a str,
        /// Names and contents of the credential files, alternating.
        pub credentials: Blobs<'a>,
    }

    impl<'a> Assign<'a> {
        /// Writes the message.
        ///
        /// # Errors
        /// [`Malformed`] when it does not fit.
        pub fn encode(
            writer: &mut Writer<'_>,
            texts: [&str; 3],
            credentials: &[&[u8]],
        ) -> Result<(), Malformed> {
            texts.iter().try_for_each(|text| writer.blob(text.as_bytes()))?;
            encode_blobs(writer, credentials)
        }

        /// Reads the message.
        ///
        /// # Errors
        /// [`Malformed`] when it is not one.
        pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
            let mut reader = Reader::new(payload);
            Ok(Self {
                protocol: reader.text()?,
                address: reader.text()?,
                server_name: reader.text()?,
                credentials: Blobs::decode(&mut reader)?,
            })
        }
    }

    /// What a container is to run.
    #[derive(Clone, Copy, Debug)]
    pub struct Acquire<'a> {
        /// How it meets requests.
        pub contract: Contract,
        /// What its requests find of each other.
        pub freshness: Freshness,
        /// Bytes of memory its processes may use together.
        pub memory_bytes: u64,
        /// File in the package that is executed, relative to `/var/task`.
        pub entry: &'a str,
        /// Arguments, the program's name first.
        pub arguments: Blobs<'a>,
        /// `NAME=VALUE` entries.
        pub environment: Blobs<'a>,
    }

    impl<'a> Acquire<'a> {
        /// Writes the message.
        ///
        /// # Errors
        /// [`Malformed`] when it does not fit.
        pub fn encode(
            writer: &mut Writer<'_>,
            (contract, freshness, memory_bytes, entry): (Contract, Freshness, u64, &str),
            arguments: &[&[u8]],
            environment: &[&[u8]],
        ) -> Result<(), Malformed> {
            writer.u8(contract as u8)?;
            writer.u8(freshness as u8)?;
            writer.u64(memory_bytes)?;
            writer.blob(entry.as_bytes())?;
            encode_blobs(writer, arguments)?;
            encode_blobs(writer, environment)
        }

        /// Reads the message.
        ///
        /// # Errors
        /// [`Malformed`] when it is not one.
        pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
            let mut reader = Reader::new(payload);
            Ok(Self {
                contract: Contract::from_number(reader.u8()?)?,
                freshness: Freshness::from_number(reader.u8()?)?,
                memory_bytes: reader.u64()?,
                entry: reader.text()?,
                arguments: Blobs::decode(&mut reader)?,
                environment: Blobs::decode(&mut reader)?,
            })
        }
    }

    /// One request. `FLAG_MORE`: the body goes on in [`BODY`] frames.
    #[derive(Clone, Copy, Debug)]
    pub struct Invoke<'a> {
        /// Monotonic nanoseconds (the clock page's) at which it has to be over.
        pub deadline_nanos: u64,
        /// The body's first bytes.
        pub body: &'a [u8],
    }

    impl<'a> Invoke<'a> {
        /// Bytes in front of the body.
        pub const BYTES: usize = 8;

        /// Reads the payload.
        ///
        /// # Errors
        /// [`Malformed`] when it is too short.
        pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
            let mut reader = Reader::new(payload);
            Ok(Self { deadline_nanos: reader.u64()?, body: reader.rest() })
        }
    }
}

/// Frames of the code ring, node to guest. A package is a tar archive; the guest shows its tree
/// at `/var/task`.
pub mod code {
    use super::{Malformed, Reader};

    /// The package itself, behind its digest.
    pub const INLINE: u8 = 1;
    /// The package lies in the image window.
    pub const WINDOW: u8 = 2;

    /// Bytes of a digest (SHA-256).
    pub const DIGEST_BYTES: usize = 32;
    /// Largest package that travels in the ring; larger ones are placed in the window.
    pub const INLINE_BYTES_MAX: usize = 64 * 1024;

    /// Where a package lies.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Window {
        /// SHA-256 of the package, verified by the node.
        pub digest: [u8; DIGEST_BYTES],
        /// Offset of its first byte in the image window; page aligned.
        pub offset: u64,
        /// Its length.
        pub bytes: u64,
    }

    impl Window {
        /// Bytes of the payload.
        pub const BYTES: usize = DIGEST_BYTES + 16;

        /// The bytes of the payload.
        #[must_use]
        pub fn encode(&self) -> [u8; Self::BYTES] {
            let mut bytes = [0; Self::BYTES];
            bytes[..DIGEST_BYTES].copy_from_slice(&self.digest);
            bytes[DIGEST_BYTES..DIGEST_BYTES + 8].copy_from_slice(&self.offset.to_le_bytes());
            bytes[DIGEST_BYTES + 8..].copy_from_slice(&self.bytes.to_le_bytes());
            bytes
        }

        /// Reads the payload.
        ///
        /// # Errors
        /// [`Malformed`] when it is too short.
        pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
            let mut reader = Reader::new(payload);
            Ok(Self { digest: reader.array()?, offset: reader.u64()?, bytes: reader.u64()? })
        }
    }
}

/// Frames of the outcome ring, guest to node.
pub mod outcome {
    use super::{Malformed, Reader, Writer};

    /// The guest has woken from its snapshot and reads its rings.
    pub const READY: u8 = 1;
    /// Part of an invoke's response.
    pub const RESPONSE: u8 = 2;
    /// An invoke is over; nothing of it follows.
    pub const OUTCOME: u8 = 3;
    /// A program made a system call this kernel does not have.
    pub const MISSING: u8 = 4;
    /// A container's program stands where a snapshot can be taken, or cannot come there: the
    /// payload is an [`Outcome`] without a response, with status `Exited` when it does stand.
    pub const PREPARED: u8 = 5;

    /// How an invoke ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Status {
        /// The program ended; detail is its exit status. For contract `stream`: it answered, 0.
        Exited = 1,
        /// A signal ended it; detail is the signal's number. The reason says more.
        Signalled = 2,
        /// It needed more stack than it may have.
        StackOverflow = 3,
        /// It needed more memory than it may have.
        MemoryExhausted = 4,
        /// It was not over at its deadline.
        DeadlineExceeded = 5,
        /// The node asked for its end.
        Cancelled = 6,
        /// The package or its entry cannot be executed; the reason says why.
        NotExecutable = 7,
        /// A `stream` program closed stdout, or framed its response wrongly.
        ContractBroken = 8,
        /// The VM has no room for it.
        NoRoom = 9,
    }

    impl Status {
        /// The status with this number.
        ///
        /// # Errors
        /// [`Malformed`] when there is none.
        pub fn from_number(number: u8) -> Result<Self, Malformed> {
            Ok(match number {
                1 => Self::Exited,
                2 => Self::Signalled,
                3 => Self::StackOverflow,
                4 => Self::MemoryExhausted,
                5 => Self::DeadlineExceeded,
                6 => Self::Cancelled,
                7 => Self::NotExecutable,
                8 => Self::ContractBroken,
                9 => Self::NoRoom,
                _ => return Err(Malformed),
            })
        }
    }

    /// The end of an invoke. The response's last bytes may ride along.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Outcome<'a> {
        /// How it ended.
        pub status: Status,
        /// Exit status or signal number.
        pub detail: u32,
        /// Log records the invoke produced; all were in the log ring before this frame.
        pub log_records: u64,
        /// Time its processes ran, nanoseconds.
        pub run_nanos: u64,
        /// Most memory its processes held at once, bytes.
        pub memory_peak_bytes: u64,
        /// Pages the request wrote that had to be put back; 0 when nothing is put back.
        pub dirty_pages: u32,
        /// What a person needs to know beyond the status; may be empty.
        pub reason: &'a str,
        /// The response's last bytes.
        pub response: &'a [u8],
    }

    impl<'a> Outcome<'a> {
        /// Bytes in front of the reason.
        pub const FIXED_BYTES: usize = 1 + 4 + 8 + 8 + 8 + 4 + 4;

        /// Writes the payload.
        ///
        /// # Errors
        /// [`Malformed`] when it does not fit.
        pub fn encode(&self, writer: &mut Writer<'_>) -> Result<(), Malformed> {
            writer.u8(self.status as u8)?;
            writer.u32(self.detail)?;
            writer.u64(self.log_records)?;
            writer.u64(self.run_nanos)?;
            writer.u64(self.memory_peak_bytes)?;
            writer.u32(self.dirty_pages)?;
            writer.blob(self.reason.as_bytes())?;
            writer.bytes(self.response)
        }

        /// Reads the payload.
        ///
        /// # Errors
        /// [`Malformed`] when it is not one.
        pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
            let mut reader = Reader::new(payload);
            Ok(Self {
                status: Status::from_number(reader.u8()?)?,
                detail: reader.u32()?,
                log_records: reader.u64()?,
                run_nanos: reader.u64()?,
                memory_peak_bytes: reader.u64()?,
                dirty_pages: reader.u32()?,
                reason: reader.text()?,
                response: reader.rest(),
            })
        }
    }
}

/// Frames of the log ring, guest to node.
pub mod log {
    use super::{Malformed, Reader};

    /// One log record. `FLAG_MORE`: the line was longer and goes on in the next record of the
    /// same container.
    pub const LINE: u8 = 1;

    const LINE_FIXED_BYTES: usize = 16;

    /// One line a program wrote to its log, without the line end.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Line<'a> {
        /// Nanoseconds since the Unix epoch by the guest's clock.
        pub realtime_nanos: u64,
        /// Position among the records of this invoke, from 0.
        pub sequence: u64,
        /// The bytes, any encoding.
        pub text: &'a [u8],
    }

    impl<'a> Line<'a> {
        /// Bytes in front of the text.
        pub const FIXED_BYTES: usize = LINE_FIXED_BYTES;

        /// The bytes in front of the text.
        #[must_use]
        pub fn encode_fixed(realtime_nanos: u64, sequence: u64) -> [u8; LINE_FIXED_BYTES] {
            let mut bytes = [0; LINE_FIXED_BYTES];
            bytes[..8].copy_from_slice(&realtime_nanos.to_le_bytes());
            bytes[8..].copy_from_slice(&sequence.to_le_bytes());
            bytes
        }

        /// Reads the payload.
        ///
        /// # Errors
        /// [`Malformed`] when it is too short.
        pub fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
            let mut reader = Reader::new(payload);
            Ok(Self { realtime_nanos: reader.u64()?, sequence: reader.u64()?, text: reader.rest() })
        }
    }
}

/// Frames of both stream rings: connections that leave the VM. channel = connection, a number the
/// guest chose that is not in use.
///
/// ```text
/// guest                         node
///   OPEN address  ────────────►  policy, connect
///   ◄──────────────── OPENED | FAILED errno
///   DATA, FIN  ───────────────►
///   ◄──────────────── DATA, FIN
///   CREDIT  ◄────────────────►   bytes the receiver has taken since
///   CLOSE ────────────────────►  the number is free again once the node answers CLOSE
/// ```
/// Each side may have [`stream::WINDOW_BYTES`] of `DATA` on the way that the other has not
/// credited.
pub mod stream {
    use super::{Malformed, Reader};

    /// Guest: connect to [`Address`]; id = container.
    pub const OPEN: u8 = 1;
    /// Node: connected; payload is the local [`Address`].
    pub const OPENED: u8 = 2;
    /// Node: not connected, or the connection broke; payload is a Linux errno (u32).
    pub const FAILED: u8 = 3;
    /// Either: bytes.
    pub const DATA: u8 = 4;
    /// Either: no more bytes will come from this side.
    pub const FIN: u8 = 5;
    /// Either: bytes taken (u32).
    pub const CREDIT: u8 = 6;
    /// Either: this side has forgotten the connection.
    pub const CLOSE: u8 = 7;

    /// Bytes each side may have on the way.
    pub const WINDOW_BYTES: u32 = 64 * 1024;

    /// An IP address and port.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Address {
        /// IPv6, or IPv4 mapped into it (`::ffff:a.b.c.d`).
        pub ip: [u8; 16],
        /// Port.
        pub port: u16,
    }

    impl Address {
        /// Bytes of the payload.
        pub const BYTES: usize = 18;

        /// The bytes of the payload.
        #[must_use]
        pub fn encode(&self) -> [u8; Self::BYTES] {
            let mut bytes = [0; Self::BYTES];
            bytes[..16].copy_from_slice(&self.ip);
            bytes[16..].copy_from_slice(&self.port.to_le_bytes());
            bytes
        }

        /// Reads the payload.
        ///
        /// # Errors
        /// [`Malformed`] when it is too short.
        pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
            let mut reader = Reader::new(payload);
            Ok(Self { ip: reader.array()?, port: reader.u16()? })
        }
    }
}
