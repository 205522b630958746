//! What the node answers: the codec of its frames. Pure; [`super::Connection`] writes them,
//! [`crate::client`] reads them.

use abi::wire::{Malformed, Reader};

use crate::invoke::{LogAccount, Status, Timings};

use super::frame::{
    self, FLAG_MORE, FRAME_BYTES_MAX, Header, MAGIC, TooLong, kind, put_blob, put_short, take_short,
};

/// The node's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Version both sides speak from now on.
    pub version: u16,
    /// Oldest version the node speaks.
    pub version_min: u16,
    /// Newest version the node speaks.
    pub version_max: u16,
    /// Bytes a frame's payload may have.
    pub frame_bytes_max: u32,
    /// Bytes a body, and a response, may have.
    pub payload_bytes_max: u64,
    /// Open requests a connection may have.
    pub requests_max: u32,
    /// Who the node takes the client for: the user of requests that name none.
    pub login: &'a str,
}

impl<'a> Hello<'a> {
    /// Appends the frame.
    ///
    /// # Errors
    /// [`TooLong`] when the login has more than 255 bytes.
    pub fn append(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        frame::append(out, (kind::HELLO, 0, 0), |out| {
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&self.version.to_le_bytes());
            out.extend_from_slice(&self.version_min.to_le_bytes());
            out.extend_from_slice(&self.version_max.to_le_bytes());
            out.extend_from_slice(&self.frame_bytes_max.to_le_bytes());
            out.extend_from_slice(&self.payload_bytes_max.to_le_bytes());
            out.extend_from_slice(&self.requests_max.to_le_bytes());
            put_short(out, self.login.as_bytes())
        })
    }

    fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.array()? != MAGIC {
            return Err(Malformed);
        }
        Ok(Self {
            version: reader.u16()?,
            version_min: reader.u16()?,
            version_max: reader.u16()?,
            frame_bytes_max: reader.u32()?,
            payload_bytes_max: reader.u64()?,
            requests_max: reader.u32()?,
            login: take_short(&mut reader)?,
        })
    }
}

/// The shared memory a client asked for. Its descriptor comes with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Bytes of the memfd.
    pub bytes: u32,
    /// Slots of each of its two rings.
    pub slots: u16,
    /// Bytes of a slot.
    pub slot_bytes: u32,
}

impl Attached {
    fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let (bytes, slot_bytes, slots) = (reader.u32()?, reader.u32()?, reader.u16()?);
        Ok(Self { bytes, slots, slot_bytes })
    }
}

/// A record of a program's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log<'a> {
    /// Nanoseconds since the Unix epoch by the guest's clock.
    pub realtime_nanos: u64,
    /// Position among the records of this invoke, from 0.
    pub sequence: u64,
    /// The bytes, any encoding, without the line end.
    pub text: &'a [u8],
}

/// Where an invoke's VM came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Room {
    /// It had none.
    None = 0,
    /// The active pool: it already was this user's, with this logging service.
    Active = 1,
    /// The warming pool: it was assigned for this invoke.
    Warming = 2,
}

impl Room {
    fn from_number(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::Active),
            2 => Ok(Self::Warming),
            _ => Err(Malformed),
        }
    }
}

/// On the wire: the logging service's protocol has no acknowledgements.
const CANNOT_ACKNOWLEDGE: u64 = u64::MAX;

/// The end of an invoke. The response's last bytes may ride along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// How it ended.
    pub status: Status,
    /// Exit status or signal number.
    pub detail: u32,
    /// In which of its VM's containers it ran.
    pub container: u32,
    /// Where its VM came from.
    pub room: Room,
    /// Its VM; a number no other VM of this node has.
    pub vm: u64,
    /// Its number; no other invoke of this node has it.
    pub invoke: u64,
    /// What became of its log records, up to now.
    pub log: LogAccount,
    /// Time its processes ran, nanoseconds.
    pub run_nanos: u64,
    /// Most memory its processes held at once, bytes.
    pub memory_peak_bytes: u64,
    /// Where the time went.
    pub timings: Timings,
    /// What a person needs to know beyond the status; may be empty.
    pub reason: &'a str,
    /// Why log records were not delivered; may be empty.
    pub log_reason: &'a str,
    /// The response's last bytes.
    pub response: &'a [u8],
}

impl<'a> Outcome<'a> {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        out.push(self.status as u8);
        out.push(self.room as u8);
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.detail.to_le_bytes());
        out.extend_from_slice(&self.container.to_le_bytes());
        let (account, timings) = (&self.log, &self.timings);
        let numbers = [
            self.vm,
            self.invoke,
            account.produced,
            account.handed_over,
            account.acknowledged.unwrap_or(CANNOT_ACKNOWLEDGE),
            account.dropped,
            self.run_nanos,
            self.memory_peak_bytes,
            timings.accept_nanos,
            timings.route_nanos,
            timings.acquire_nanos,
            timings.load_nanos,
            timings.run_nanos,
            timings.reply_nanos,
        ];
        for number in numbers {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_blob(out, self.reason.as_bytes())?;
        put_blob(out, self.log_reason.as_bytes())?;
        out.extend_from_slice(self.response);
        Ok(())
    }

    fn decode(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let status = Status::from_number(reader.u8()?)?;
        let room = Room::from_number(reader.u8()?)?;
        reader.u16()?;
        let (detail, container) = (reader.u32()?, reader.u32()?);
        let (vm, invoke) = (reader.u64()?, reader.u64()?);
        let log = LogAccount {
            produced: reader.u64()?,
            handed_over: reader.u64()?,
            acknowledged: Some(reader.u64()?).filter(|count| *count != CANNOT_ACKNOWLEDGE),
            dropped: reader.u64()?,
        };
        let (run_nanos, memory_peak_bytes) = (reader.u64()?, reader.u64()?);
        let timings = Timings {
            accept_nanos: reader.u64()?,
            route_nanos: reader.u64()?,
            acquire_nanos: reader.u64()?,
            load_nanos: reader.u64()?,
            run_nanos: reader.u64()?,
            reply_nanos: reader.u64()?,
        };
        Ok(Self {
            status,
            detail,
            container,
            room,
            vm,
            invoke,
            log,
            run_nanos,
            memory_peak_bytes,
            timings,
            reason: reader.text()?,
            log_reason: reader.text()?,
            response: reader.rest(),
        })
    }
}

/// What the node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Its first frame.
    Hello(Hello<'a>),
    /// Part of a response.
    Response(&'a [u8]),
    /// A log record of an invoke that asked for them.
    Log(Log<'a>),
    /// An invoke is over.
    Outcome(Outcome<'a>),
    /// A request was not done; with request 0, the connection is over.
    Error {
        /// Stable, for programs.
        code: &'a str,
        /// What happened and what to do, for people.
        message: &'a str,
    },
    /// Part of the JSON that answers a request that is no invoke.
    Reply(&'a [u8]),
    /// The connection goes on in shared memory.
    Attached(Attached),
}

/// Bytes of a reason or message that are sent; the rest is cut.
const TEXT_BYTES_MAX: usize = 4096;

impl<'a> Answer<'a> {
    /// Appends the frame of request `id`. Texts for people are cut to what a frame takes.
    ///
    /// # Errors
    /// [`TooLong`] when the payload does not fit one frame; `out` is unchanged then.
    pub fn append(&self, out: &mut Vec<u8>, id: u64, has_more: bool) -> Result<(), TooLong> {
        let flags = if has_more { FLAG_MORE } else { 0 };
        match self {
            Self::Hello(hello) => hello.append(out),
            Self::Response(bytes) => append_bytes(out, (kind::RESPONSE, flags, id), bytes),
            Self::Reply(bytes) => append_bytes(out, (kind::REPLY, flags, id), bytes),
            Self::Log(log) => frame::append(out, (kind::LOG, flags, id), |out| {
                out.extend_from_slice(&log.realtime_nanos.to_le_bytes());
                out.extend_from_slice(&log.sequence.to_le_bytes());
                out.extend_from_slice(log.text);
                Ok(())
            }),
            Self::Outcome(outcome) => {
                let outcome = Outcome {
                    reason: cut(outcome.reason),
                    log_reason: cut(outcome.log_reason),
                    ..*outcome
                };
                frame::append(out, (kind::OUTCOME, flags, id), |out| outcome.encode(out))
            }
            Self::Attached(attached) => frame::append(out, (kind::ATTACHED, flags, id), |out| {
                out.extend_from_slice(&attached.bytes.to_le_bytes());
                out.extend_from_slice(&attached.slot_bytes.to_le_bytes());
                out.extend_from_slice(&attached.slots.to_le_bytes());
                Ok(())
            }),
            Self::Error { code, message } => frame::append(out, (kind::ERROR, flags, id), |out| {
                put_short(out, code.as_bytes())?;
                put_blob(out, cut(message).as_bytes())
            }),
        }
    }

    /// Reads the payload of a frame.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one.
    pub fn decode(header: Header, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        Ok(match header.kind {
            kind::HELLO => Self::Hello(Hello::decode(payload)?),
            kind::RESPONSE => Self::Response(payload),
            kind::REPLY => Self::Reply(payload),
            kind::LOG => Self::Log(Log {
                realtime_nanos: reader.u64()?,
                sequence: reader.u64()?,
                text: reader.rest(),
            }),
            kind::OUTCOME => Self::Outcome(Outcome::decode(payload)?),
            kind::ATTACHED => Self::Attached(Attached::decode(payload)?),
            kind::ERROR => Self::Error { code: take_short(&mut reader)?, message: reader.text()? },
            _ => return Err(Malformed),
        })
    }
}

/// Bytes of response an outcome can carry whatever its texts are.
pub const OUTCOME_RESPONSE_BYTES_MAX: usize = FRAME_BYTES_MAX - 2 * TEXT_BYTES_MAX - 256;

fn append_bytes(out: &mut Vec<u8>, header: (u8, u8, u64), bytes: &[u8]) -> Result<(), TooLong> {
    frame::append(out, header, |out| {
        out.extend_from_slice(bytes);
        Ok(())
    })
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
