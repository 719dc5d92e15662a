//! Tests of the listening sockets that a service manager keeps for `pepitad` and gives to it: a client that connects while
//! neither a supervisor nor a monitor runs is served by the next supervisor.

use crate::host::{Daemon, Host, program};
use crate::ports::{begin, echo, echoing, free_port, is_refused, kill_vmm, until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

/// What a service manager does for a unit with FileDescriptorStoreMax=: it keeps the descriptors that it gets.
struct ServiceManager {
    socket: UnixDatagram,
    stored: BTreeMap<String, OwnedFd>,
}

impl ServiceManager {
    fn new(host: &Host) -> Self {
        let socket = UnixDatagram::bind(host.path("n")).expect("bound");
        socket.set_nonblocking(true).expect("set");
        Self { socket, stored: BTreeMap::new() }
    }

    /// Takes the messages that have come.
    fn take(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [IoSliceMut::new(&mut buffer)];
            let received = recvmsg(&self.socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC);
            let Ok(received) = received else { return };
            let descriptors = control.drain().flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
                _ => Vec::new(),
            });
            let mut descriptors: Vec<OwnedFd> = descriptors.collect();
            let text = String::from_utf8_lossy(&buffer[..received.bytes]).into_owned();
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
            match text.lines().next() {
                Some("FDSTORE=1") => {
                    let socket = descriptors.pop().expect("a descriptor comes with it");
                    self.stored.insert(name.to_owned(), socket);
                }
                Some("FDSTOREREMOVE=1") => drop(self.stored.remove(name)),
                _ => {}
            }
        }
    }

    /// Waits until exactly these descriptors are stored.
    fn until_stored(&mut self, names: &[String]) {
        until("these sockets are stored", || {
            self.take();
            self.stored.keys().eq(names)
        });
    }

    /// Starts `pepitad`, and gives it a socket as systemd does.
    fn start_with(host: &Host, name: &str, socket: BorrowedFd<'_>) -> Daemon {
        // The shell has the socket as its input, and its pid is that of the program.
        let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 0</dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(program("pepitad"));
        command.arg("--config").arg(host.path("c.toml")).arg("--json");
        command.stdin(Stdio::from(socket.try_clone_to_owned().expect("copied")));
        command.env_remove("WATCHDOG_USEC").env_remove("RUST_LOG");
        Daemon::start(command.env("LISTEN_FDNAMES", name).env("NOTIFY_SOCKET", host.path("n")))
    }
}

fn groups(port: u16, inside: u16) -> String {
    format!("[[group]]\nname = \"web\"\nintensity = 1000\n{}", echoing("cache", port, inside))
}

#[test]
fn a_client_that_comes_while_nothing_runs_is_served_by_the_next_supervisor() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new("", &groups(port, inside));
    let mut manager = ServiceManager::new(&host);
    let name = format!("pepita-port-127.0.0.1%3A{port}");
    let mut first = Daemon::start(host.pepitad(&["--json"]).env("NOTIFY_SOCKET", host.path("n")));
    host.ctl_ok(&["wait", "--timeout", "90"]);
    manager.until_stored(std::slice::from_ref(&name));
    echo(&mut begin(port), b"hello");
    // Without a supervisor, the monitor ends with its VM.
    first.kill();
    kill_vmm(&host, "cache");
    until("nothing of the VM runs", || host.processes().is_empty());
    let mut waiting = begin(port);
    let mut second = ServiceManager::start_with(&host, &name, manager.stored[&name].as_fd());
    echo(&mut waiting, b"served");
    assert_eq!(host.status("cache").incarnation, 2);
    // The port is refused when the VM is stopped, as without a service manager: nobody keeps a copy.
    host.ctl_ok(&["stop", "cache"]);
    manager.until_stored(&[]);
    until("the port of a VM that was stopped is refused", || is_refused(port));
    host.ctl_ok(&["start", "cache"]);
    manager.until_stored(&[name]);
    echo(&mut begin(port), b"again");
    second.stop();
    manager.until_stored(&[]);
    assert!(is_refused(port));
    host.assert_nothing_left();
}

#[test]
fn a_published_port_uses_the_socket_of_a_unit() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let host = Host::new("", &groups(port, free_port()));
    let mut manager = ServiceManager::new(&host);
    let mut early = begin(port);
    let mut daemon = ServiceManager::start_with(&host, "cache.socket", listener.as_fd());
    echo(&mut early, b"before the supervisor");
    // The unit listens as long as it is up, whatever the VM does.
    host.ctl_ok(&["stop", "cache"]);
    let mut waiting = begin(port);
    host.ctl_ok(&["start", "cache"]);
    echo(&mut waiting, b"before the VM");
    daemon.stop();
    manager.take();
    assert!(manager.stored.is_empty(), "{:?}", manager.stored);
    drop(listener);
    assert!(is_refused(port), "no process has a copy");
    host.assert_nothing_left();
}
