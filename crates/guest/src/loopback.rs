//! Brings up the loopback interface of a guest, over rtnetlink(7).

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket_with,
};

/// The number of the loopback interface: it is the first one of every network namespace.
const LOOPBACK: i32 = 1;

/// `RTM_NEWLINK`: change an interface.
const CHANGE_LINK: u16 = 16;

/// `NLM_F_REQUEST | NLM_F_ACK`: a request that is answered, also when it is carried out.
const ANSWERED_REQUEST: u16 = 1 | 4;

/// `IFF_UP`: the interface is up.
const UP: u32 = 1;

/// The length of the header of a message (`nlmsghdr`).
const HEADER: usize = 16;

/// Brings up the loopback interface. The kernel gives it 127.0.0.1 and ::1 by itself.
///
/// # Errors
/// The error of the kernel; a kernel without network has no such socket.
pub(crate) fn bring_up() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 256];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // The answer (`nlmsgerr`) begins with the negative error number, which is 0 after a success.
    let error = answer[..length].get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error.wrapping_neg())),
        None => Err(Errno::BADMSG),
    }
}

/// Returns the message: a `nlmsghdr`, and behind it an `ifinfomsg`.
fn request() -> Vec<u8> {
    let body = [
        // The address family, unspecified, a padding byte, and the kind of the interface.
        &[0; 4][..],
        &LOOPBACK.to_ne_bytes(),
        // The flags, and which of them change.
        &UP.to_ne_bytes(),
        &UP.to_ne_bytes(),
    ]
    .concat();
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    [
        &length.to_ne_bytes()[..],
        &CHANGE_LINK.to_ne_bytes(),
        &ANSWERED_REQUEST.to_ne_bytes(),
        // The number of the message, and the sender, which the kernel fills in.
        &[0; 8],
        &body,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_long_as_it_says() {
        let request = request();
        assert_eq!(request.len(), 32);
        assert_eq!(request[..4], 32_u32.to_ne_bytes());
        assert_eq!(request[20..24], 1_i32.to_ne_bytes());
    }
}
