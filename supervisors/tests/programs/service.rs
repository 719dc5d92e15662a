//! What a service manager hears.

use crate::host::{Daemon, Host, PATIENCE, group};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;

struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// Reads until a message begins so.
    fn until(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        loop {
            let n = self
                .socket
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("no {text:?}: {e}; heard {:?}", self.heard));
            let message = String::from_utf8_lossy(&buffer[..n]).into_owned();
            self.heard.push(message.clone());
            if message.starts_with(text) {
                return;
            }
        }
    }
}

#[test]
fn it_hears_of_readiness_reloads_the_stop_and_that_all_is_well() {
    let host = Host::new("", &group(&["a"]));
    let socket = UnixDatagram::bind(host.path("n")).expect("bound");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut manager = Manager { socket, heard: Vec::new() };
    let mut command = host.pepitad(&[]);
    let mut daemon =
        Daemon::start(command.env("NOTIFY_SOCKET", host.path("n")).env("WATCHDOG_USEC", "400000"));
    manager.until("READY=1");
    assert_eq!(manager.heard, ["READY=1"], "that is the first");
    manager.until("WATCHDOG=1");
    manager.until("STATUS=1 of 1 VMs ready");
    daemon.signal(Signal::SIGHUP);
    manager.until("RELOADING=1\nMONOTONIC_USEC=");
    manager.until("READY=1");
    daemon.signal(Signal::SIGTERM);
    manager.until("STOPPING=1");
    assert!(daemon.end().success());
    host.assert_nothing_left();
}
