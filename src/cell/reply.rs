//! What a VMM says to its node.

use std::os::fd::OwnedFd;
use std::time::Duration;

use abi::control::{self, Blame, Reply, Verified};
use region::message;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::Infant;

/// How long a VMM may take to boot and capture, or to restore. On an emulated machine booting
/// takes seconds; a VMM that hangs longer is killed.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a reset took; as in [`Reply::Reset`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutBack {
    pub(crate) dirty_pages: u32,
    pub(crate) reset_nanos: u64,
    pub(crate) verified: Verified,
    pub(crate) verify_nanos: u64,
}

/// A [`Reply`] that owns its text.
#[derive(Debug)]
pub(crate) enum OwnReply {
    Captured { bytes: u64 },
    Running { restore_nanos: u64 },
    Placed { offset: u64 },
    Reset { generation: u64, put_back: PutBack },
    Gone { blame: Blame, reason: String },
}

impl OwnReply {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Gone { blame: Blame::Guest, reason } => format!("the guest failed: {reason}"),
            Self::Gone { reason, .. } => reason.clone(),
            Self::Captured { .. }
            | Self::Running { .. }
            | Self::Placed { .. }
            | Self::Reset { .. } => {
                format!("the VMM answered out of turn: {self:?}")
            }
        }
    }

    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        Some(match Reply::decode(message).ok()? {
            Reply::Captured { bytes } => Self::Captured { bytes },
            Reply::Running { restore_nanos } => Self::Running { restore_nanos },
            Reply::Placed { offset } => Self::Placed { offset },
            Reply::Reset { generation, dirty_pages, reset_nanos, verified, verify_nanos } => {
                let put_back = PutBack { dirty_pages, reset_nanos, verified, verify_nanos };
                Self::Reset { generation, put_back }
            }
            Reply::Gone { blame, reason } => Self::Gone { blame, reason: reason.to_owned() },
        })
    }
}

/// Waits for a starting VMM's answer.
pub(super) fn await_reply(control: &OwnedFd, infant: &Infant) -> Result<OwnReply, String> {
    let limit =
        Timespec { tv_sec: i64::try_from(START_LIMIT.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut entries = [PollFd::new(control, PollFlags::IN)];
    let count = rustix::event::poll(&mut entries, Some(&limit));
    if !matches!(count, Ok(1)) {
        return Err(format!("the VMM (pid {}) does not answer", infant.child.id()));
    }
    let mut buffer = [0; control::MESSAGE_BYTES_MAX];
    let received = message::receive(control, &mut buffer).map_err(|error| error.to_string())?;
    match OwnReply::decode(&buffer[..received.length]) {
        Some(reply) => Ok(reply),
        None if received.length == 0 => Err("the VMM process ended without a word".to_owned()),
        None => Err("the VMM speaks another protocol".to_owned()),
    }
}
