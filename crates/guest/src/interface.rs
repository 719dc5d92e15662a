//! Brings up the network interfaces of a guest and gives them addresses, over rtnetlink(7).

use pepita_wire::network::Card;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket_with,
};
use std::net::{IpAddr, Ipv4Addr};

/// The number of the loopback interface: it is the first one of every network namespace.
const LOOPBACK: u32 = 1;

/// `RTM_NEWLINK`: change an interface.
const CHANGE_LINK: u16 = 16;

/// `RTM_NEWADDR`: give an interface an address.
const ADD_ADDRESS: u16 = 20;

/// `RTM_NEWROUTE`: add a way to a network.
const ADD_ROUTE: u16 = 24;

/// `NLM_F_REQUEST | NLM_F_ACK`: a request that is answered, also when it is carried out.
const ANSWERED_REQUEST: u16 = 1 | 4;

/// `NLM_F_CREATE`: what is not there is made.
const CREATE: u16 = 0x400;

/// `IFF_UP`: the interface is up.
const UP: u32 = 1;

/// `AF_INET`, as a byte.
const INET: u8 = 2;

/// `RT_SCOPE_HOST`: the address means nothing outside this guest.
const SCOPE_HOST: u8 = 254;

/// `RT_SCOPE_UNIVERSE`: the address, or the way, is one for all networks.
const SCOPE_UNIVERSE: u8 = 0;

/// `RT_TABLE_MAIN`: the table of the ways that hold for everybody.
const MAIN_TABLE: u8 = 254;

/// `RTPROT_STATIC`: the way was configured.
const CONFIGURED: u8 = 4;

/// `RTN_UNICAST`: the way leads to stations.
const TO_STATIONS: u8 = 1;

/// `IFA_F_NODAD`: nobody is asked whether he has the address, so that it can be used at once.
const AT_ONCE: u8 = 2;

/// `IFA_ADDRESS` and `IFA_LOCAL`: the address.
const ADDRESS: [u16; 2] = [1, 2];

/// `RTA_OIF`: the interface of a way.
const ROUTE_INTERFACE: u16 = 4;

/// `RTA_GATEWAY`: the next station of a way.
const ROUTE_GATEWAY: u16 = 5;

/// The length of the header of a message (`nlmsghdr`).
const HEADER: usize = 16;

/// Brings up the loopback interface. The kernel gives it 127.0.0.1 and ::1 by itself.
///
/// # Errors
/// The error of the kernel; a kernel without network has no such socket.
pub(crate) fn bring_up_loopback() -> Result<(), Errno> {
    request(&message(CHANGE_LINK, ANSWERED_REQUEST, &link_up(LOOPBACK)))
}

/// Gives the loopback interface an address, so that programs of this guest can listen there and dial it. An address that
/// it has already stays.
///
/// # Errors
/// The error of the kernel.
pub(crate) fn add_to_loopback(address: IpAddr) -> Result<(), Errno> {
    if address.is_loopback() {
        return Ok(());
    }
    add(ADD_ADDRESS, &own(address))
}

/// Brings up a network card, gives it its address, and makes it the way to all other networks. What is so already stays.
///
/// # Errors
/// The error of the kernel.
pub(crate) fn bring_up_card(number: u32, card: &Card) -> Result<(), Errno> {
    request(&message(CHANGE_LINK, ANSWERED_REQUEST, &link_up(number)))?;
    add(ADD_ADDRESS, &address_of(number, card))?;
    add(ADD_ROUTE, &route(number, card.gateway))
}

/// Adds what is not there yet.
fn add(kind: u16, body: &[u8]) -> Result<(), Errno> {
    match request(&message(kind, ANSWERED_REQUEST | CREATE, body)) {
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

/// Returns an `ifinfomsg` that brings an interface up.
fn link_up(number: u32) -> Vec<u8> {
    [
        // The address family, unspecified, a padding byte, and the kind of the interface.
        &[0; 4][..],
        &number.to_ne_bytes(),
        // The flags, and which of them change.
        &UP.to_ne_bytes(),
        &UP.to_ne_bytes(),
    ]
    .concat()
}

/// Returns an `ifaddrmsg` for an address of the loopback interface that stands alone in its network.
fn own(address: IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
    };
    let family = u8::try_from(family.as_raw()).unwrap_or_default();
    let bits = u8::try_from(bytes.len() * 8).unwrap_or_default();
    let head = [&[family, bits, AT_ONCE, SCOPE_HOST][..], &LOOPBACK.to_ne_bytes()].concat();
    [head, ADDRESS.map(|kind| attribute(kind, &bytes)).concat()].concat()
}

/// Returns an `ifaddrmsg` for the address of a network card.
fn address_of(number: u32, card: &Card) -> Vec<u8> {
    let head = [&[INET, card.prefix, AT_ONCE, SCOPE_UNIVERSE][..], &number.to_ne_bytes()].concat();
    [head, ADDRESS.map(|kind| attribute(kind, &card.address.octets())).concat()].concat()
}

/// Returns an `rtmsg` for the way to all networks that have no way of their own.
fn route(number: u32, gateway: Ipv4Addr) -> Vec<u8> {
    [
        // The address family; the bits of the destination and of the source, none; and the kind of service.
        &[INET, 0, 0, 0][..],
        &[MAIN_TABLE, CONFIGURED, SCOPE_UNIVERSE, TO_STATIONS],
        // The flags.
        &[0; 4],
        &attribute(ROUTE_GATEWAY, &gateway.octets()),
        &attribute(ROUTE_INTERFACE, &number.to_ne_bytes()),
    ]
    .concat()
}

/// Returns an attribute (`rtattr`) whose value needs no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
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
    use pepita_wire::network::Network;

    #[test]
    fn messages_are_as_long_as_they_say() {
        let up = message(CHANGE_LINK, ANSWERED_REQUEST, &link_up(LOOPBACK));
        assert_eq!((up.len(), &up[..4]), (32, &32_u32.to_ne_bytes()[..]));
        assert_eq!(up[20..24], 1_i32.to_ne_bytes());
        for (address, length, bits) in [("10.0.0.7", 40, 32), ("fd00::1", 64, 128)] {
            let own = message(ADD_ADDRESS, ANSWERED_REQUEST, &own(address.parse().expect("an address")));
            let stated = u32::try_from(length).expect("short").to_ne_bytes();
            assert_eq!((own.len(), &own[..4], own[17]), (length, &stated[..], bits));
        }
        let card = Network::User.card().expect("a card");
        for (kind, body) in [(ADD_ADDRESS, address_of(2, &card)), (ADD_ROUTE, route(2, card.gateway))] {
            let message = message(kind, ANSWERED_REQUEST | CREATE, &body);
            let stated = u32::try_from(message.len()).expect("short").to_ne_bytes();
            assert_eq!((&message[..4], message.len() % 4), (&stated[..], 0));
        }
    }
}
