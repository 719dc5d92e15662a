//! Tests of published ports: a client on the host talks to a daemon in its VM. The VMs are plain processes, whose daemons
//! listen on the host itself, on other ports than those that are published.

mod host;

use host::Host;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Returns a port that is free at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// Starts a VM whose daemon answers on `guest`; `options` are those of the daemon.
fn start(host: &Host, name: &str, publish: &[&str], guest: &str, options: &[&str]) {
    let ticker = host::program("ticker");
    let mut args = vec!["run", "--vmm", "process", "--name", name, "--daemon"];
    publish.iter().for_each(|port| args.extend(["-p", port]));
    args.extend(["--", &ticker, "--serve", guest]);
    args.extend(options);
    host.ok(&args);
}

fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).expect("never refused")
}

/// Asks the daemon for an echo, and reads it to its end.
fn echo(mut stream: impl Read + Write, text: &[u8], end: impl FnOnce()) {
    stream.write_all(&0_u64.to_le_bytes()).and_then(|()| stream.write_all(text)).expect("written");
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).expect("an echo");
    assert_eq!(heard, text);
    // The daemon hears the end of one direction, and ends the other.
    end();
    assert_eq!(stream.read(&mut [0]).expect("an end, not a reset"), 0);
}

#[test]
fn a_client_that_comes_before_the_daemon_listens_waits_and_is_served() {
    let host = Host::new();
    let (port, guest) = (free_port(), free_port());
    let (tcp, guest) = (format!("127.0.0.1:{port}:{guest}"), format!("tcp:{guest}"));
    start(&host, "a", &[&tcp], &guest, &["--no-ready", "--serve-after", "700"]);
    let stream = connect(port);
    echo(&stream, b"hello", || stream.shutdown(Shutdown::Write).expect("ended"));
    // Many at once, each with its own daemon's connection.
    let streams: Vec<TcpStream> = (0..50).map(|_| connect(port)).collect();
    for (number, stream) in streams.iter().enumerate() {
        echo(stream, format!("client {number}").as_bytes(), || {
            stream.shutdown(Shutdown::Write).expect("ended")
        });
    }
}

#[test]
fn unix_sockets_are_published_and_removed_with_their_vm() {
    let host = Host::new();
    let (outside, inside) = (host.path().join("out.sock"), host.path().join("in.sock"));
    let publish = format!("unix:{}:unix:{}", outside.display(), inside.display());
    start(&host, "a", &[&publish], &inside.to_string_lossy(), &[]);
    let stream = UnixStream::connect(&outside).expect("published");
    echo(&stream, b"hello", || stream.shutdown(Shutdown::Write).expect("ended"));
    host.ok(&["destroy", "--name", "a", "--force"]);
    assert!(!outside.exists());
}

#[test]
fn a_port_on_which_no_ready_daemon_listens_resets_its_client() {
    let host = Host::new();
    let (port, guest) = (free_port(), free_port());
    let ticker = host::program("ticker");
    let publish = format!("127.0.0.1:{port}:{guest}");
    host.ok(&["run", "--vmm", "process", "--name", "a", "--daemon", "-p", &publish, "--", &ticker]);
    let error = connect(port).read(&mut [0]).expect_err("reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_port_in_use_is_told_with_its_holder_and_leaves_no_vm() {
    let host = Host::new();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("bound").port();
    let publish = format!("127.0.0.1:{port}:80");
    let run = ["run", "--vmm", "process", "--name", "a", "--daemon", "-p", &publish, "--", "/bin/true"];
    let error = host.fails(&run, 75);
    assert!(error.contains(&format!("port 127.0.0.1:{port} is in use by ")), "{error}");
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    host.fails(&["status", "--name", "a"], 4);
    for wrong in ["80", "localhost:80:80", "8080:80/udp"] {
        let error = host.fails(&["run", "--vmm", "process", "-p", wrong, "--", "/bin/true"], 64);
        assert!(error.contains("publish") && error.contains(wrong), "{error}");
    }
}

#[test]
fn a_client_that_does_not_read_delays_no_other_and_its_reset_reaches_the_daemon() {
    let host = Host::new();
    let (port, guest) = (free_port(), free_port());
    start(&host, "a", &[&format!("127.0.0.1:{port}:{guest}")], &format!("tcp:{guest}"), &[]);
    let mut silent = connect(port);
    silent.write_all(&u64::MAX.to_le_bytes()).expect("written");
    // The daemon writes for ever, and this client reads only the first bytes.
    silent.read_exact(&mut [0; 16]).expect("the first bytes");
    for _ in 0..20 {
        let stream = connect(port);
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        echo(&stream, b"hello", || stream.shutdown(Shutdown::Write).expect("ended"));
    }
    let monitor = host.status("a").monitor_pid.expect("a monitor");
    let sockets = || std::fs::read_dir(format!("/proc/{monitor}/fd")).expect("a process").count();
    let before = sockets();
    drop(silent);
    let deadline = std::time::Instant::now() + host::PATIENCE;
    while sockets() >= before {
        assert!(std::time::Instant::now() < deadline, "the monitor has not closed the connection");
        std::thread::sleep(Duration::from_millis(10));
    }
}
