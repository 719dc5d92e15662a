//! Keeps the sockets of dials open when the monitor is killed, until the guest has answered: vhost-device-vsock does not
//! survive a host that hangs up before.
//!
//! The sockets are in a message that was sent and not read (SCM_RIGHTS of unix(7)), on a pair of sockets. QEMU has
//! inherited both ends, or has got the reading end of an adopting monitor over QMP (`getfd`). The kernel holds them open
//! as long as QEMU lives or until the message is read.

use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::net::{recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;

/// The maximum number of sockets that are kept: those of clients and of ports, and that of the monitor's own line.
const KEPT: usize = 64;

/// The sockets that are kept.
#[derive(Debug)]
pub(super) struct Keep {
    ends: [UnixDatagram; 2],
    /// The numbers of the dials whose sockets are in the message.
    kept: Vec<u64>,
}

impl Keep {
    /// Returns the keeper of no sockets yet, on a pair of sockets whose second end QEMU holds, too.
    pub(super) fn new(ends: [UnixDatagram; 2]) -> Self {
        Self { ends, kept: Vec::new() }
    }

    /// Keeps the sockets of these dials, and no others. When the kernel refuses, none is kept.
    pub(super) fn keep(&mut self, dials: &[(u64, BorrowedFd<'_>)]) {
        let dials = &dials[..dials.len().min(KEPT)];
        let numbers: Vec<u64> = dials.iter().map(|(number, _)| *number).collect();
        if numbers == self.kept {
            return;
        }
        let had_message = !self.kept.is_empty();
        self.kept.clear();
        // The new message is sent before the former is read, so that there is no moment without one.
        if !dials.is_empty() {
            let sockets: Vec<BorrowedFd<'_>> = dials.iter().map(|(_, socket)| *socket).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KEPT))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&sockets));
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            if sendmsg(&self.ends[0], &[IoSlice::new(b"k")], &mut control, flags).is_ok() {
                self.kept = numbers;
            }
        }
        if had_message {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(KEPT))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            // The copies that come with the message are closed at once.
            let _ = recvmsg(&self.ends[1], &mut [IoSliceMut::new(&mut [0; 1])], &mut control, flags);
            control.drain().for_each(drop);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_open_as_long_as_it_is_kept_whoever_closes_it() {
        let ends: [UnixDatagram; 2] = UnixDatagram::pair().expect("a pair").into();
        // Another process holds the reading end.
        let _other = ends[1].try_clone().expect("a copy");
        let mut keep = Keep::new(ends);
        let pair = || {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            theirs.set_nonblocking(true).expect("set up");
            (ours, theirs)
        };
        let is_open = |mut theirs: &UnixStream| theirs.read(&mut [0]).is_err();
        let ((first, other_first), (second, other_second)) = (pair(), pair());
        keep.keep(&[(1, first.as_fd())]);
        keep.keep(&[(1, first.as_fd()), (2, second.as_fd())]);
        drop(first);
        assert!(is_open(&other_first) && is_open(&other_second));
        keep.keep(&[(2, second.as_fd())]);
        drop(second);
        assert!(!is_open(&other_first) && is_open(&other_second));
        // The monitor is killed.
        drop(keep);
        assert!(is_open(&other_second));
    }
}
