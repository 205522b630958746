//! One control message with its descriptors, over a `SOCK_SEQPACKET` Unix socket. What the bytes
//! mean is [`abi::control`]'s.

use abi::control::DESCRIPTORS_MAX;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use std::io::{self, Error, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const ANCILLARY_BYTES: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// A connected pair of sockets: one for the node, one to be a VMM's standard input.
///
/// # Errors
/// What the kernel says when it has no descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message with at most [`DESCRIPTORS_MAX`] descriptors. Never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` on a non-blocking socket without room, `BrokenPipe` when the peer is gone,
/// `InvalidInput` for too many descriptors.
pub fn send(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(socket.as_fd(), message, descriptors, SendFlags::NOSIGNAL).map(drop)
}

/// As [`send`], and `WouldBlock` instead of waiting. Returns how many bytes were sent, which on a
/// stream socket may be fewer than there are; the descriptors go with the first of them.
///
/// # Errors
/// As [`send`].
pub fn send_now(
    socket: impl AsFd,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    send_with(socket.as_fd(), message, descriptors, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let is_pushed =
        descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    if descriptors.len() > DESCRIPTORS_MAX || !is_pushed {
        return Err(ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, flags)?)
}

/// A message that came in.
#[derive(Debug)]
pub struct Received {
    /// Its length; 0 when the peer closed its end.
    pub length: usize,
    /// Descriptors that came along, in order.
    pub descriptors: Vec<OwnedFd>,
}

/// Receives one message into `buffer`, waiting for it unless the socket is non-blocking.
///
/// # Errors
/// `WouldBlock` when a non-blocking socket has none, `Interrupted` by a signal, `InvalidData` when
/// the message or its descriptors were longer than there is room.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_with(socket, buffer, RecvFlags::CMSG_CLOEXEC)
}

/// As [`receive`], and `None` instead of waiting.
///
/// # Errors
/// As [`receive`].
pub fn try_receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    match receive_with(socket, buffer, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

fn receive_with(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY_BYTES];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(Error::new(ErrorKind::InvalidData, "control message too long"));
    }
    Ok(Received { length: received.bytes, descriptors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (one, two) = pair().unwrap();
        let memfd = sealed::frozen("test", b"hello").unwrap();
        send(&one, b"abc", &[memfd.as_fd(), one.as_fd()]).unwrap();
        let mut buffer = [0; 16];
        let received = receive(&two, &mut buffer).unwrap();
        assert_eq!((received.length, received.descriptors.len()), (3, 2));
        assert_eq!(sealed::check_frozen(&received.descriptors[0]).unwrap(), 5);
        assert!(try_receive(&two, &mut buffer).unwrap().is_none());
        drop((one, received));
        assert_eq!(receive(&two, &mut buffer).unwrap().length, 0);
        assert_eq!(send(&two, b"x", &[]).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn too_long_is_an_error_not_a_cut() {
        let (one, two) = pair().unwrap();
        send(&one, &[1; 32], &[]).unwrap();
        assert_eq!(receive(&two, &mut [0; 16]).unwrap_err().kind(), ErrorKind::InvalidData);
        let nine = [one.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(&one, b"x", &nine).is_err());
    }
}
