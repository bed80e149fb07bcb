//! Messages between the caller, the keeper and a step: JSON in frames over Unix sockets, descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg,
    socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The kernel takes at most 253 descriptors with one message.
const BATCH: usize = 250;
/// A plan larger than this is a mistake of ours, not of a Dockerfile: contents travel as descriptors.
const MAX_FRAME: usize = 64 << 20;
const HEADER: usize = 8;

/// Two sockets, each the other's other side.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

/// Sends one message with its descriptors.
pub(crate) fn put<T: Serialize>(
    socket: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_ne_bytes());
    frame.extend_from_slice(&(fds.len() as u32).to_ne_bytes());
    frame.extend_from_slice(&body);
    let mut batches = fds.chunks(BATCH);
    let first = batches.next().unwrap_or_default();
    if batches.len() == 0 {
        return send_all(socket.as_fd(), &frame, first);
    }
    send_all(socket.as_fd(), &frame[..HEADER], first)?;
    for batch in batches {
        send_all(socket.as_fd(), &[0], batch)?;
    }
    send_all(socket.as_fd(), &frame[HEADER..], &[])
}

/// Receives one message with its descriptors; `None` when the other side is gone.
pub(crate) fn take<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let mut fds = Vec::new();
    match receive(socket.as_fd(), &mut header, &mut fds)? {
        0 => return Ok(None),
        HEADER => {}
        got => receive_exact(socket.as_fd(), &mut header[got..])?,
    }
    let [a, b, c, d, e, f, g, h] = header;
    let (length, wanted) = (
        u32::from_ne_bytes([a, b, c, d]) as usize,
        u32::from_ne_bytes([e, f, g, h]) as usize,
    );
    if length > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message too long",
        ));
    }
    while fds.len() < wanted {
        if receive(socket.as_fd(), &mut [0], &mut fds)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut body = vec![0; length];
    receive_exact(socket.as_fd(), &mut body)?;
    Ok(Some((serde_json::from_slice(&body)?, fds)))
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if !fds.is_empty() {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        let sent = sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        bytes = &bytes[sent..];
    }
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(got.bytes)
}

fn receive_exact(socket: BorrowedFd<'_>, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let (got, _) = rustix::io::retry_on_intr(|| recv(socket, &mut *bytes, RecvFlags::empty()))?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[got..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn many_descriptors_and_a_long_body_arrive_together() {
        let (here, there) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let body = "x".repeat(1 << 20);
        for count in [0, 1, BATCH, BATCH + 1] {
            let fds = vec![file.as_fd(); count];
            std::thread::scope(|scope| {
                scope.spawn(|| put(&here, &body, &fds).unwrap());
                let (text, received) = take::<String>(&there).unwrap().unwrap();
                assert_eq!((text.len(), received.len()), (body.len(), count));
            });
        }
        drop(here);
        assert!(take::<String>(&there).unwrap().is_none());
    }
}
