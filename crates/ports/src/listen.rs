//! Listens for the clients of a published port, and tells who holds a port that is taken.

use pepita_wire::port::HostPlace;
use rustix::fs::{Mode, fchmod};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, SocketAddr, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname, listen,
    socket_with, sockopt,
};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The number of clients that may wait in the kernel's queue; the kernel takes at most net.core.somaxconn, 4096 by
/// default.
const BACKLOG: i32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub struct Listening {
    /// The place where it listens.
    pub place: HostPlace,
    /// The socket, non-blocking.
    pub socket: OwnedFd,
}

/// The reason why a port cannot be listened on.
#[derive(Debug)]
pub struct NotListening {
    /// The place that was asked for.
    pub place: HostPlace,
    /// The error of the system.
    pub error: io::Error,
    /// The program that listens there, if it can be told.
    pub holder: Option<String>,
}

impl fmt::Display for NotListening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, error, holder } = self;
        match (error.kind(), holder) {
            (io::ErrorKind::AddrInUse, Some(holder)) => write!(f, "port {place} is in use by {holder}"),
            (io::ErrorKind::AddrInUse, None) => write!(f, "port {place} is in use by another program"),
            (_, _) => write!(f, "port {place} cannot be listened on: {error}"),
        }
    }
}

impl std::error::Error for NotListening {}

impl Listening {
    /// Listens at a place of the host. A Unix socket gets mode 0600; one that was left by a program that is gone is
    /// replaced.
    ///
    /// # Errors
    /// When another program listens there, or the system refuses.
    pub fn at(place: &HostPlace) -> Result<Self, NotListening> {
        let listening = match place {
            HostPlace::Tcp(address, port) => at_tcp(*address, *port),
            HostPlace::Unix(path) => at_path(Path::new(path)),
        };
        match listening {
            Ok(socket) => Ok(Self { place: place.clone(), socket }),
            Err(error) => {
                let holder = match (place, error) {
                    (HostPlace::Tcp(_, port), Errno::ADDRINUSE) => holder(*port),
                    (HostPlace::Tcp(..) | HostPlace::Unix(_), _) => None,
                };
                Err(NotListening { place: place.clone(), error: error.into(), holder })
            }
        }
    }

    /// Takes a socket that listens already, whoever has opened it; `None` when it does not listen for streams, or its place
    /// is none at which a port can be published.
    pub fn given(socket: OwnedFd) -> Option<Self> {
        let listens = sockopt::socket_acceptconn(&socket).ok()?;
        if !listens || sockopt::socket_type(&socket).ok()? != SocketType::STREAM {
            return None;
        }
        let address = getsockname(&socket).ok()?;
        let place = match SocketAddr::try_from(address.clone()) {
            Ok(address) => HostPlace::Tcp(address.ip(), address.port()),
            Err(_) => {
                let address = SocketAddrUnix::try_from(address).ok()?;
                HostPlace::Unix(String::from_utf8(address.path_bytes()?.to_vec()).ok()?)
            }
        };
        ioctl_fionbio(&socket, true).ok()?;
        Some(Self { place, socket })
    }

    /// Removes the file of a Unix socket, when nobody is to listen there any more.
    pub fn remove(&self) {
        if let HostPlace::Unix(path) = &self.place {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn at_tcp(address: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, flags(), None)?;
    // Connections of a former listener that are closing do not keep the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(address, port))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn at_path(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags(), None)?;
    // The file of the socket gets the mode of the socket, from its first moment on.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    let address = SocketAddrUnix::new(path)?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_left(path, &address) => {
            std::fs::remove_file(path).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            bind(&socket, &address)?;
        }
        bound => bound?,
    }
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn flags() -> SocketFlags {
    SocketFlags::CLOEXEC | SocketFlags::NONBLOCK
}

/// Returns whether a path is a socket on which nobody listens.
fn is_left(path: &Path, address: &SocketAddrUnix) -> bool {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket());
    let refused = || {
        let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags(), None)?;
        connect(&probe, address)
    };
    is_socket && refused() == Err(Errno::CONNREFUSED)
}

/// Returns the program that listens on a TCP port, as far as this user may see it: `redis-server (pid 812)`.
fn holder(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    let inodes: Vec<String> = tables
        .iter()
        .flatten()
        .flat_map(|table| listeners(table, port))
        .map(|i| format!("socket:[{i}]"))
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let holds = |file: std::fs::DirEntry| {
            std::fs::read_link(file.path())
                .is_ok_and(|link| link.to_str().is_some_and(|link| inodes.iter().any(|inode| inode == link)))
        };
        if files.flatten().any(holds) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim().escape_debug()));
        }
    }
    None
}

/// Returns the inodes of the sockets that listen on a port, from the text of `/proc/net/tcp`.
fn listeners(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let inode = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        let number = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        // The queues, the timer, the retransmissions, the user and the timeout stand before the inode.
        let inode = fields.nth(5)?.parse().ok()?;
        (number == port && state == LISTEN).then_some(inode)
    };
    table.lines().skip(1).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_port_that_is_taken_is_told_with_its_holder() {
        let other = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = other.local_addr().expect("bound").port();
        let place = HostPlace::Tcp(Ipv4Addr::LOCALHOST.into(), port);
        let text = Listening::at(&place).expect_err("taken").to_string();
        let pid = std::process::id();
        assert!(text.starts_with(&format!("port 127.0.0.1:{port} is in use by ")), "{text}");
        assert!(text.ends_with(&format!("(pid {pid})")), "{text}");
        drop(other);
        let listening = Listening::at(&place).expect("free");
        TcpStream::connect(("127.0.0.1", port)).expect("waits in the queue");
        drop(listening);
    }

    #[test]
    fn a_socket_that_listens_already_is_known_by_its_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s").to_string_lossy().into_owned();
        for place in [
            HostPlace::Unix(path),
            HostPlace::Tcp(Ipv4Addr::LOCALHOST.into(), 0),
            HostPlace::Tcp(std::net::Ipv6Addr::LOCALHOST.into(), 0),
        ] {
            let opened = Listening::at(&place).expect("free");
            let given = Listening::given(opened.socket).expect("it listens");
            match (&place, &given.place) {
                (HostPlace::Tcp(address, _), HostPlace::Tcp(of, port)) => assert!(address == of && *port > 0),
                (place, of) => assert_eq!(*place, *of),
            }
        }
        let (end, _other) = UnixStream::pair().expect("a pair");
        assert!(Listening::given(end.into()).is_none());
        assert!(Listening::given(std::fs::File::open("/dev/null").expect("there").into()).is_none());
    }

    #[test]
    fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let place = HostPlace::Unix(path.to_string_lossy().into_owned());
        drop(Listening::at(&place).expect("listens"));
        let listening = Listening::at(&place).expect("replaced");
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("waits in the queue");
        let text = Listening::at(&place).expect_err("in use").to_string();
        assert!(text.contains("in use by another program"), "{text}");
        listening.remove();
        assert!(!path.exists());
        std::fs::write(&path, "a file").expect("written");
        Listening::at(&place).expect_err("no socket");
        assert_eq!(std::fs::read_to_string(&path).expect("kept"), "a file");
    }
}
