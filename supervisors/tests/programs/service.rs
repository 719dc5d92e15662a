//! Tests of the messages that a service manager receives from `pepitad`.

use crate::host::{Daemon, Host, PATIENCE, group};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;

struct ServiceManager {
    socket: UnixDatagram,
    received: Vec<String>,
}

impl ServiceManager {
    /// Reads messages until one begins with `text`.
    fn until(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        loop {
            let n = self
                .socket
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("no {text:?}: {e}; received {:?}", self.received));
            let message = String::from_utf8_lossy(&buffer[..n]).into_owned();
            self.received.push(message.clone());
            if message.starts_with(text) {
                return;
            }
        }
    }
}

#[test]
fn readiness_reloads_the_stop_and_the_watchdog_are_reported() {
    let host = Host::new("", &group(&["a"]));
    let socket = UnixDatagram::bind(host.path("n")).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut manager = ServiceManager { socket, received: Vec::new() };
    let mut command = host.pepitad(&[]);
    let mut daemon =
        Daemon::start(command.env("NOTIFY_SOCKET", host.path("n")).env("WATCHDOG_USEC", "400000"));
    manager.until("READY=1");
    assert_eq!(manager.received, ["READY=1"], "the first message");
    manager.until("WATCHDOG=1");
    manager.until("STATUS=1 of 1 VMs ready");
    daemon.signal(Signal::SIGHUP);
    manager.until("RELOADING=1\nMONOTONIC_USEC=");
    manager.until("READY=1");
    daemon.signal(Signal::SIGTERM);
    manager.until("STOPPING=1\nEXTEND_TIMEOUT_USEC=");
    assert!(daemon.end().success());
    host.assert_nothing_left();
}
