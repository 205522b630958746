//! The frame header, the limits and the numbers of the invoke socket's protocol.
//!
//! ```text
//!  0        4      5       6          8                16
//!  ├ length ┼ kind ┼ flags ┼ reserved ┼ request id ────┼ payload, `length` bytes
//! ```
//! All numbers are little-endian. The only neighbours are the codecs beside this file.

use abi::wire::{Malformed, Reader};

/// Version from which on a client may ask for shared memory.
pub const VERSION_ATTACH: u16 = 2;
/// First bytes of both hellos.
pub const MAGIC: [u8; 8] = *b"PILOTLIT";
/// Oldest protocol version spoken here.
pub const VERSION_MIN: u16 = 1;
/// Newest protocol version spoken here.
pub const VERSION_MAX: u16 = 2;

/// Bytes a frame's payload may have: what a logging service with all its credentials needs, and
/// what a message to a guest may have.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a body that are put into one frame, so that the frames of other requests get between.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes a user's or a function's name may have.
pub const NAME_BYTES_MAX: usize = 255;

/// More of the same body, response, text or package follows in another frame.
pub const FLAG_MORE: u8 = 1;

/// Kinds of frames a client sends.
pub mod kind {
    /// First frame of both sides.
    pub const HELLO: u8 = 0x01;
    /// Run a function.
    pub const INVOKE: u8 = 0x10;
    /// More of an invoke's body, or of a package.
    pub const BODY: u8 = 0x11;
    /// End an invoke now.
    pub const CANCEL: u8 = 0x12;
    /// The logging service of invokes that name none.
    pub const SET_LOGGING: u8 = 0x13;
    /// From version 2: go on in shared memory.
    pub const ATTACH: u8 = 0x14;
    /// Store a function.
    pub const DEPLOY: u8 = 0x20;
    /// Name a user's functions.
    pub const LIST: u8 = 0x21;
    /// Forget a function.
    pub const REMOVE: u8 = 0x22;
    /// Counters and pools.
    pub const STATUS: u8 = 0x23;
    /// Node: part of a response.
    pub const RESPONSE: u8 = 0x81;
    /// Node: a log record of an invoke that asked for them.
    pub const LOG: u8 = 0x82;
    /// Node: an invoke is over.
    pub const OUTCOME: u8 = 0x83;
    /// Node: a request was not done, or the connection is over.
    pub const ERROR: u8 = 0x84;
    /// Node: the answer to a request that is no invoke.
    pub const REPLY: u8 = 0x85;
    /// Node, from version 2: the shared memory a client asked for.
    pub const ATTACHED: u8 = 0x86;
}

/// In front of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the payload.
    pub length: usize,
    /// One of [`kind`].
    pub kind: u8,
    /// [`FLAG_MORE`] or 0.
    pub flags: u8,
    /// The request it belongs to, a number the client chose; 0 is the connection itself.
    pub id: u64,
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 16;

    /// Reads the header at the front of `bytes`; nothing when it has not all arrived.
    ///
    /// # Errors
    /// [`Malformed`] when the payload is too long or a reserved bit is set.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(bytes) = bytes.get(..Self::BYTES) else { return Ok(None) };
        let mut reader = Reader::new(bytes);
        let length = usize::try_from(reader.u32()?).map_err(|_| Malformed)?;
        let (kind, flags, reserved) = (reader.u8()?, reader.u8()?, reader.u16()?);
        if length > FRAME_BYTES_MAX || flags & !FLAG_MORE != 0 || reserved != 0 {
            return Err(Malformed);
        }
        Ok(Some(Self { length, kind, flags, id: reader.u64()? }))
    }

    /// Whether another frame of the same body follows.
    #[must_use]
    pub fn has_more(self) -> bool {
        self.flags & FLAG_MORE != 0
    }
}

/// A value does not fit a frame, or a name its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Appends one frame to `out`: the header, then what `payload` appends. On an error `out` is as
/// it was.
///
/// # Errors
/// [`TooLong`] when the payload exceeds [`FRAME_BYTES_MAX`], or `payload` says so.
pub fn append(
    out: &mut Vec<u8>,
    (kind, flags, id): (u8, u8, u64),
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), TooLong>,
) -> Result<(), TooLong> {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, flags, 0, 0]);
    out.extend_from_slice(&id.to_le_bytes());
    let length = payload(out).and_then(|()| {
        let length = out.len() - start - Header::BYTES;
        if length > FRAME_BYTES_MAX { Err(TooLong) } else { u32::try_from(length).or(Err(TooLong)) }
    });
    match length {
        Ok(length) => {
            out[start..start + 4].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        Err(error) => {
            out.truncate(start);
            Err(error)
        }
    }
}

/// Appends bytes behind their length (u8).
///
/// # Errors
/// [`TooLong`] when there are more than 255.
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TooLong> {
    out.push(u8::try_from(bytes.len()).or(Err(TooLong))?);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends bytes behind their length (u32).
///
/// # Errors
/// [`TooLong`] when the length has no u32.
pub(crate) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), TooLong> {
    let length = u32::try_from(bytes.len()).or(Err(TooLong))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Takes text behind its length (u8).
///
/// # Errors
/// [`Malformed`] when it is cut short or not UTF-8.
pub(crate) fn take_short<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Malformed> {
    let length = reader.u8()?;
    std::str::from_utf8(reader.bytes(usize::from(length))?).or(Err(Malformed))
}
