//! The number of clients that wait at listening sockets, as the kernel counts them.

use rustix::fs::fstat;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::BorrowedFd;

/// Returns for each of these listening sockets how many clients wait at it, and `None` where the kernel does not tell.
pub fn waiting(sockets: &[BorrowedFd<'_>]) -> Vec<Option<u32>> {
    let (v4, v6) = (OnceCell::new(), OnceCell::new());
    let of = |socket: &BorrowedFd<'_>| {
        let inode = fstat(socket).ok()?.st_ino;
        match socket_domain(socket).ok()? {
            AddressFamily::INET => v4.get_or_init(|| table("/proc/self/net/tcp")).get(&inode).copied(),
            AddressFamily::INET6 => v6.get_or_init(|| table("/proc/self/net/tcp6")).get(&inode).copied(),
            AddressFamily::UNIX => at_unix(inode),
            _ => None,
        }
    };
    sockets.iter().map(of).collect()
}

/// Returns the queues of all TCP sockets that listen, by their inodes.
fn table(path: &str) -> HashMap<u64, u32> {
    let Ok(file) = File::open(path) else { return HashMap::new() };
    let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
    // The kernel lists sockets that listen before all others, of which there may be very many.
    lines.map_while(|line| listener(&line)).collect()
}

/// Reads the inode and the queue of a socket that listens from a line of `/proc/net/tcp`. The queue of received bytes of
/// such a socket is the number of clients that nobody has accepted yet (proc_pid_net(5), `get_tcp4_sock` of the kernel).
fn listener(line: &str) -> Option<(u64, u32)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace().skip(3);
    let (state, queues) = (fields.next()?, fields.next()?);
    let received = u32::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
    // The timer, the retransmissions, the user and the timeout stand before the inode.
    let inode = fields.nth(4)?.parse().ok()?;
    (state == LISTEN).then_some((inode, received))
}

/// The kind of a question and of its answer in sock_diag(7), and the length of the header of a netlink message.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;

/// The length of an answer about a Unix socket without its attributes (`unix_diag_msg`).
const UNIX_DIAG: usize = 16;

/// The attribute with the lengths of the queues (`UNIX_DIAG_RQLEN`), and the flag that asks for it.
const QUEUES: u16 = 4;
const SHOW_QUEUES: u32 = 1 << 4;

/// Asks the kernel for the queue of a Unix socket that listens (sock_diag(7)).
fn at_unix(inode: u64) -> Option<u32> {
    const REQUEST: u16 = 1;
    const AF_UNIX: u32 = 1;
    const NO_COOKIE: u32 = u32::MAX;
    let any_state = u32::MAX;
    // The length, the kind with the flags, the number, the sender; the family, the states, the inode, what to show.
    let mut question = Vec::with_capacity(HEADER + 24);
    question.extend(40_u32.to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.extend([0; 8]);
    question.extend([AF_UNIX as u8, 0, 0, 0]);
    for word in [any_state, u32::try_from(inode).ok()?, SHOW_QUEUES, NO_COOKIE, NO_COOKIE] {
        question.extend(word.to_ne_bytes());
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG)).ok()?;
    sendto(&kernel, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).ok()?;
    // The kernel has answered when the question is sent.
    let mut answer = [0; 1024];
    let (length, _) = recv(&kernel, &mut answer[..], RecvFlags::empty()).ok()?;
    queue_in(&answer[..length])
}

/// Reads the length of the queue from an answer about a Unix socket.
fn queue_in(answer: &[u8]) -> Option<u32> {
    let half = |bytes: &[u8], at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    if half(answer, 4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut rest = answer.get(HEADER + UNIX_DIAG..)?;
    loop {
        let (length, kind) = (usize::from(half(rest, 0)?), half(rest, 2)?);
        if kind == QUEUES {
            return Some(u32::from_ne_bytes(rest.get(4..8)?.try_into().ok()?));
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
        let v6 = TcpListener::bind("[::1]:0").expect("a port");
        let unix = UnixListener::bind(&path).expect("bound");
        let no_socket = File::open(dir.path()).expect("opened");
        let sockets = [v4.as_fd(), v6.as_fd(), unix.as_fd(), no_socket.as_fd()];
        assert_eq!(waiting(&sockets), [Some(0), Some(0), Some(0), None]);
        let client = |listener: &TcpListener| TcpStream::connect(listener.local_addr().expect("bound"));
        let _waiting = [client(&v4), client(&v4), client(&v6)].map(|client| client.expect("waits"));
        let _more = [0; 3].map(|_| UnixStream::connect(&path).expect("waits"));
        assert_eq!(waiting(&sockets), [Some(2), Some(1), Some(3), None]);
        v4.accept().expect("accepted");
        unix.accept().expect("accepted");
        assert_eq!(waiting(&sockets), [Some(1), Some(1), Some(2), None]);
    }

    #[test]
    fn lines_and_answers_that_are_cut_off_tell_nothing() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 77 1 0";
        assert_eq!(listener(line), Some((77, 2)));
        assert_eq!(listener(&line.replace(" 0A ", " 01 ")), None);
        for cut in 0..line.len() - 4 {
            let _ = listener(&line[..cut]);
        }
        let mut answer = vec![0; HEADER + UNIX_DIAG];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(queue_in(&answer), None);
        for (length, kind, value) in [(0_u16, 9_u16, 1_u32), (5, 8, 1), (12, QUEUES, 6)] {
            answer.extend(length.to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            if kind != 9 {
                answer.extend(value.to_ne_bytes());
            }
        }
        assert_eq!(queue_in(&answer), Some(6));
        for cut in 0..answer.len() {
            assert_eq!(queue_in(&answer[..cut]), None);
        }
    }
}
