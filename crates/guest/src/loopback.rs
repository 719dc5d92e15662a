//! Brings up the loopback interface of a guest and gives it addresses, over rtnetlink(7).

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket_with,
};
use std::net::IpAddr;

/// The number of the loopback interface: it is the first one of every network namespace.
const LOOPBACK: u32 = 1;

/// `RTM_NEWLINK`: change an interface.
const CHANGE_LINK: u16 = 16;

/// `RTM_NEWADDR`: give an interface an address.
const ADD_ADDRESS: u16 = 20;

/// `NLM_F_REQUEST | NLM_F_ACK`: a request that is answered, also when it is carried out.
const ANSWERED_REQUEST: u16 = 1 | 4;

/// `NLM_F_CREATE`: what is not there is made.
const CREATE: u16 = 0x400;

/// `IFF_UP`: the interface is up.
const UP: u32 = 1;

/// `RT_SCOPE_HOST`: the address means nothing outside this guest.
const SCOPE_HOST: u8 = 254;

/// `IFA_F_NODAD`: nobody is asked whether he has the address, so that it can be used at once.
const AT_ONCE: u8 = 2;

/// `IFA_ADDRESS` and `IFA_LOCAL`: the address.
const ADDRESS: [u16; 2] = [1, 2];

/// The length of the header of a message (`nlmsghdr`).
const HEADER: usize = 16;

/// Brings up the loopback interface. The kernel gives it 127.0.0.1 and ::1 by itself.
///
/// # Errors
/// The error of the kernel; a kernel without network has no such socket.
pub(crate) fn bring_up() -> Result<(), Errno> {
    request(&message(CHANGE_LINK, ANSWERED_REQUEST, &link_up()))
}

/// Gives the loopback interface an address, so that programs of this guest can listen there and dial it. An address that
/// it has already stays.
///
/// # Errors
/// The error of the kernel.
pub(crate) fn add_address(address: IpAddr) -> Result<(), Errno> {
    if address.is_loopback() {
        return Ok(());
    }
    match request(&message(ADD_ADDRESS, ANSWERED_REQUEST | CREATE, &own(address))) {
        Err(Errno::EXIST) => Ok(()),
        done => done,
    }
}

/// Sends a message, and waits for the kernel's answer.
fn request(message: &[u8]) -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
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

/// Returns an `ifinfomsg` that brings the interface up.
fn link_up() -> Vec<u8> {
    [
        // The address family, unspecified, a padding byte, and the kind of the interface.
        &[0; 4][..],
        &LOOPBACK.to_ne_bytes(),
        // The flags, and which of them change.
        &UP.to_ne_bytes(),
        &UP.to_ne_bytes(),
    ]
    .concat()
}

/// Returns an `ifaddrmsg` with the attributes of an address that stands alone in its network.
fn own(address: IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
    };
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    let bits = u8::try_from(bytes.len() * 8).unwrap_or_default();
    let mut body = [&[family, bits, AT_ONCE, SCOPE_HOST][..], &LOOPBACK.to_ne_bytes()].concat();
    for attribute in ADDRESS {
        let length = u16::try_from(4 + bytes.len()).unwrap_or_default();
        body.extend([&length.to_ne_bytes()[..], &attribute.to_ne_bytes(), &bytes].concat());
    }
    body
}

/// Returns a message: a `nlmsghdr`, and behind it a body.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &flags.to_ne_bytes(),
        // The number of the message, and the sender, which the kernel fills in.
        &[0; 8],
        body,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_long_as_they_say() {
        let up = message(CHANGE_LINK, ANSWERED_REQUEST, &link_up());
        assert_eq!((up.len(), &up[..4]), (32, &32_u32.to_ne_bytes()[..]));
        assert_eq!(up[20..24], 1_i32.to_ne_bytes());
        for (address, length, bits) in [("10.0.0.7", 40, 32), ("fd00::1", 64, 128)] {
            let own = message(ADD_ADDRESS, ANSWERED_REQUEST, &own(address.parse().expect("an address")));
            let stated = u32::try_from(length).expect("short").to_ne_bytes();
            assert_eq!((own.len(), &own[..4], own[17]), (length, &stated[..], bits));
        }
    }
}
