//! The number of clients that wait at listening sockets, as the kernel counts them (sock_diag(7)).

use rustix::fs::fstat;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::socket_domain;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, getsockname, recv, sendto, socket_with,
};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

/// The kind of a question and of its answer, and the length of the header of a netlink message.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;

/// The states and the cookie that fit any socket.
const ANY: u32 = u32::MAX;

/// The length of an answer about a Unix socket without its attributes (`unix_diag_msg`).
const UNIX_DIAG: usize = 16;

/// The attribute with the lengths of the queues (`UNIX_DIAG_RQLEN`), and the flag that asks for it.
const QUEUES: u16 = 4;
const SHOW_QUEUES: u32 = 1 << 4;

/// Where the length of the queue and the inode stand in an answer about a TCP socket (`inet_diag_msg`).
const TCP_QUEUE: usize = HEADER + 56;
const TCP_INODE: usize = HEADER + 68;

/// Returns how many clients wait at a listening socket, and `None` where the kernel does not tell.
pub fn waiting(socket: BorrowedFd<'_>) -> Option<u32> {
    let inode = u32::try_from(fstat(socket).ok()?.st_ino).ok()?;
    match socket_domain(socket).ok()? {
        AddressFamily::UNIX => queue_of_unix(&ask(&about_unix(inode))?),
        AddressFamily::INET | AddressFamily::INET6 => {
            let address = SocketAddr::try_from(getsockname(socket).ok()?).ok()?;
            queue_of_tcp(&ask(&about_tcp(address))?, inode)
        }
        _ => None,
    }
}

/// Returns the question about a Unix socket (`unix_diag_req`).
fn about_unix(inode: u32) -> Vec<u8> {
    const AF_UNIX: u8 = 1;
    let mut question = vec![AF_UNIX, 0, 0, 0];
    for word in [ANY, inode, SHOW_QUEUES, ANY, ANY] {
        question.extend(word.to_ne_bytes());
    }
    question
}

/// Returns the question about the TCP socket that listens at an address (`inet_diag_req_v2`).
fn about_tcp(address: SocketAddr) -> Vec<u8> {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IPPROTO_TCP: u8 = 6;
    let mut place = [0; 16];
    let family = match address.ip() {
        IpAddr::V4(ip) => {
            place[..4].copy_from_slice(&ip.octets());
            AF_INET
        }
        IpAddr::V6(ip) => {
            place = ip.octets();
            AF_INET6
        }
    };
    let mut question = vec![family, IPPROTO_TCP, 0, 0];
    question.extend(ANY.to_ne_bytes());
    question.extend(address.port().to_be_bytes());
    // The port of no client, the address, that of no client, any interface.
    question.extend([0; 2]);
    question.extend(place);
    question.extend([0; 16 + 4]);
    question.extend([ANY.to_ne_bytes(), ANY.to_ne_bytes()].concat());
    question
}

/// Asks the kernel about one socket.
fn ask(question: &[u8]) -> Option<Vec<u8>> {
    const REQUEST: u16 = 1;
    // The length, the kind with the flags, the number, the sender.
    let mut message = Vec::with_capacity(HEADER + question.len());
    message.extend(u32::try_from(HEADER + question.len()).ok()?.to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(question);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG)).ok()?;
    sendto(&kernel, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).ok()?;
    // The kernel has answered when the question is sent.
    let mut answer = vec![0; 1024];
    let (length, _) = recv(&kernel, &mut answer[..], RecvFlags::empty()).ok()?;
    answer.truncate(length);
    (half(&answer, 4)? == SOCK_DIAG_BY_FAMILY).then_some(answer)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads the length of the queue from an answer about a TCP socket. Several sockets may listen at one address
/// (SO_REUSEPORT), so the answer may be about another one.
fn queue_of_tcp(answer: &[u8], inode: u32) -> Option<u32> {
    if word(answer, TCP_INODE)? == inode { word(answer, TCP_QUEUE) } else { None }
}

/// Reads the length of the queue from an answer about a Unix socket.
fn queue_of_unix(answer: &[u8]) -> Option<u32> {
    let mut rest = answer.get(HEADER + UNIX_DIAG..)?;
    loop {
        let (length, kind) = (usize::from(half(rest, 0)?), half(rest, 2)?);
        if kind == QUEUES {
            return word(rest, 4);
        }
        // Attributes begin at multiples of four; one without a length would be read for ever.
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn the_kernel_counts_the_clients_that_wait() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let v4 = TcpListener::bind("127.0.0.1:0").expect("a port");
        let any = TcpListener::bind("0.0.0.0:0").expect("a port");
        let v6 = TcpListener::bind("[::1]:0").expect("a port");
        let unix = UnixListener::bind(&path).expect("bound");
        let no_socket = std::fs::File::open(dir.path()).expect("opened");
        let all = || [v4.as_fd(), any.as_fd(), v6.as_fd(), unix.as_fd(), no_socket.as_fd()].map(waiting);
        assert_eq!(all(), [Some(0), Some(0), Some(0), Some(0), None]);
        let client = |listener: &TcpListener| {
            let address = listener.local_addr().expect("bound");
            let host = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
            TcpStream::connect((host, address.port())).expect("waits")
        };
        let _waiting = [&v4, &v4, &any, &v6].map(client);
        let _more = [0; 3].map(|_| UnixStream::connect(&path).expect("waits"));
        assert_eq!(all(), [Some(2), Some(1), Some(1), Some(3), None]);
        v4.accept().expect("accepted");
        unix.accept().expect("accepted");
        assert_eq!(all(), [Some(1), Some(1), Some(1), Some(2), None]);
    }

    #[test]
    fn answers_that_are_cut_off_or_about_another_socket_tell_nothing() {
        let mut answer = vec![0; HEADER + UNIX_DIAG];
        assert_eq!(queue_of_unix(&answer), None);
        for (length, kind, value) in [(0_u16, 9_u16, 1_u32), (5, 8, 1), (12, QUEUES, 6)] {
            answer.extend(length.to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            if kind != 9 {
                answer.extend(value.to_ne_bytes());
            }
        }
        assert_eq!(queue_of_unix(&answer), Some(6));
        for cut in 0..answer.len() {
            assert_eq!(queue_of_unix(&answer[..cut]), None);
        }
        let mut answer = vec![0; HEADER + 72];
        answer[TCP_QUEUE] = 3;
        answer[TCP_INODE] = 77;
        assert_eq!(queue_of_tcp(&answer, 77), Some(3));
        assert_eq!(queue_of_tcp(&answer, 78), None);
        for cut in 0..answer.len() {
            assert_eq!(queue_of_tcp(&answer[..cut], 77), None);
        }
    }
}
