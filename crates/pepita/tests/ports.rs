//! Tests of published ports: a client on the host talks to a daemon in its VM. The VMs are plain processes, whose daemons
//! listen on the host itself, on other ports than those that are published; what a real transport could change is shown in
//! a microVM.

mod host;

use host::{Form, Host, PATIENCE};
use pepita_wire::record::DaemonState;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

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
fn the_connections_of_each_port_are_counted_and_the_clients_that_wait() {
    let host = Host::new();
    let (port, guest, other) = (free_port(), free_port(), free_port());
    let socket = host.path().join("out.sock");
    let ports = [
        format!("127.0.0.1:{port}:{guest}"),
        format!("unix:{}:{guest}", socket.display()),
        // Nobody listens there. The daemon has not said that it is ready, so its clients wait.
        format!("127.0.0.1:{other}:9"),
    ];
    let publish: Vec<&str> = ports.iter().map(String::as_str).collect();
    start(&host, "a", &publish, &format!("tcp:{guest}"), &["--no-ready"]);
    let in_use = || {
        let status = host.status("a");
        let named: Vec<&str> = status.port_use.iter().map(|port| port.port.as_str()).collect();
        assert_eq!(named, publish);
        Vec::from_iter(status.port_use.iter().map(|port| (port.open, port.waiting)))
    };
    let numbers = |open, waiting| (Some(open), Some(waiting));
    assert_eq!(in_use(), [numbers(0, 0), numbers(0, 0), numbers(0, 0)]);
    let begin = |mut stream: TcpStream| {
        stream.write_all(&[&0_u64.to_le_bytes()[..], b"x"].concat()).expect("written");
        stream.read_exact(&mut [0]).expect("an echo");
        stream
    };
    let mut streams: Vec<TcpStream> = (0..3).map(|_| begin(connect(port))).collect();
    let mut unix = UnixStream::connect(&socket).expect("published");
    unix.write_all(&[&0_u64.to_le_bytes()[..], b"x"].concat()).expect("written");
    unix.read_exact(&mut [0]).expect("an echo");
    let _waiting = [connect(other), connect(other)];
    assert_eq!(in_use(), [numbers(3, 0), numbers(1, 0), numbers(0, 2)]);
    drop(streams.pop());
    until("a connection has ended", || in_use()[0] == numbers(2, 0));
    host.ok(&["destroy", "--name", "a", "--force"]);
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

/// Returns the number of open files of a process.
fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process that runs").count()
}

/// Returns the memory of its own that a process uses, in KiB.
fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lets this process open as many files as it may.
fn raise_file_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the hard limit");
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Returns a client of a published port, and the daemon's end of its connection.
fn through(port: u16, daemon: &TcpListener) -> (TcpStream, TcpStream) {
    let client = patient(connect(port));
    (client, patient(daemon.accept().expect("dialled").0))
}

fn carries(mut from: &TcpStream, mut to: &TcpStream, text: &[u8]) {
    from.write_all(text).expect("written");
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard).expect("carried");
    assert_eq!(heard, text);
}

fn has_ended(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0]).expect("an end, not a reset"), 0);
}

fn is_reset(mut stream: &TcpStream) {
    // What was on its way before the reset may come first.
    let error = loop {
        match stream.read(&mut [0; 4096]) {
            Ok(0) => panic!("an end, not a reset"),
            Ok(_) => {}
            Err(e) => break e,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Ends one direction between two ends of a connection, looks that the other goes on, and ends that one, too.
fn each_direction_ends_alone(first: &TcpStream, second: &TcpStream) {
    carries(first, second, b"to and");
    carries(second, first, b"fro");
    first.shutdown(Shutdown::Write).expect("ended");
    has_ended(second);
    // More than all buffers on the way hold.
    let long = vec![7; 8 << 20];
    std::thread::scope(|scope| {
        scope.spawn(|| (&mut &*second).write_all(&long).expect("written"));
        let mut heard = vec![0; long.len()];
        (&mut &*first).read_exact(&mut heard).expect("carried");
        assert!(heard == long);
    });
    second.shutdown(Shutdown::Write).expect("ended");
    has_ended(first);
}

/// Starts a VM with a published port, in which this test itself is the daemon. Returns the port and the daemon's socket.
fn with_daemon_here(host: &Host) -> (u16, TcpListener) {
    let daemon = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, ticker) = (free_port(), host::program("ticker"));
    let publish = format!("127.0.0.1:{port}:{}", daemon.local_addr().expect("bound").port());
    host.ok(&["run", "--vmm", "process", "--name", "a", "--daemon", "-p", &publish, "--", &ticker]);
    (port, daemon)
}

#[test]
fn either_side_may_end_its_direction_first_or_reset_the_connection() {
    let host = Host::new();
    let (port, daemon) = with_daemon_here(&host);
    let (client, server) = through(port, &daemon);
    each_direction_ends_alone(&client, &server);
    let (client, server) = through(port, &daemon);
    each_direction_ends_alone(&server, &client);
    let (client, server) = through(port, &daemon);
    carries(&client, &server, b"hello");
    set_socket_linger(&client, Some(Duration::ZERO)).expect("set");
    drop(client);
    is_reset(&server);
    let (client, server) = through(port, &daemon);
    carries(&client, &server, b"hello");
    set_socket_linger(&server, Some(Duration::ZERO)).expect("set");
    drop(server);
    is_reset(&client);
}

#[test]
fn sides_that_do_not_read_cost_the_monitor_little_memory_and_delay_nobody() {
    let host = Host::new();
    let (port, daemon) = with_daemon_here(&host);
    let (client, server) = through(port, &daemon);
    let monitor = host.status("a").monitor_pid.expect("a monitor");
    let before = memory_kib(monitor);
    let mut silent = Vec::new();
    for number in 0..32 {
        let (client, server) = through(port, &daemon);
        // Half of the clients do not read, and half of the daemon's ends.
        let writer = if number % 2 == 0 { &server } else { &client };
        writer.set_nonblocking(true).expect("set");
        // The pauses give the carriers time; what is taken by then is what they take.
        let (mut taken, mut idle) = (0_usize, 0);
        while idle < 5 {
            match (&mut &*writer).write(&[1; 65536]) {
                Ok(n) => (taken, idle) = (taken + n, 0),
                Err(_) => {
                    idle += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
        assert!(taken > 0, "nothing is carried");
        silent.push((client, server));
    }
    let grown = memory_kib(monitor).saturating_sub(before);
    println!("{grown} KiB for {} connections of which one side does not read", silent.len());
    // A read of 32 KiB is kept for each, its header, and what the allocator adds.
    assert!(grown < 32 * 96, "{grown} KiB");
    carries(&client, &server, b"served");
    carries(&server, &client, b"both ways");
    // Whoever reads at last gets the rest.
    let (client, server) = silent.swap_remove(0);
    server.set_nonblocking(false).expect("set");
    drop(server);
    let mut rest = Vec::new();
    (&mut &client).read_to_end(&mut rest).expect("an end");
    assert!(rest.len() > 65536 && rest.iter().all(|byte| *byte == 1));
}

/// Opens 1,000 connections to a daemon that echoes, uses each of them, and closes them. Nothing of them is left.
fn serves_a_thousand(host: &Host, port: u16) {
    raise_file_limit();
    let begin = || {
        let mut stream = patient(connect(port));
        stream.write_all(&0_u64.to_le_bytes()).expect("written");
        stream
    };
    carries_echo(&begin(), b"the first one");
    let monitor = host.status("a").monitor_pid.expect("a monitor");
    let (files, before) = (open_files(monitor), memory_kib(monitor));
    let streams: Vec<TcpStream> = (0..1000).map(|_| begin()).collect();
    for (number, stream) in streams.iter().enumerate() {
        carries_echo(stream, format!("client {number}").as_bytes());
    }
    let grown = memory_kib(monitor).saturating_sub(before);
    println!("{grown} KiB for 1,000 connections");
    assert!(grown < 4096, "{grown} KiB");
    drop(streams);
    until("the monitor has closed them all", || open_files(monitor) <= files);
    carries_echo(&begin(), b"the last one");
}

fn carries_echo(stream: &TcpStream, text: &[u8]) {
    carries(stream, stream, text);
}

#[test]
fn a_thousand_connections_are_served_at_once_and_leave_nothing() {
    let host = Host::new();
    let (port, guest) = (free_port(), free_port());
    let (publish, guest) = (format!("127.0.0.1:{port}:{guest}"), format!("tcp:{guest}"));
    let ticker = host::program("ticker");
    let run =
        ["run", "--vmm", "process", "--name", "a", "--daemon", "--ulimit", "nofile=4096", "-p", &publish];
    host.ok(&[&run[..], &["--", &ticker, "--serve", &guest]].concat());
    serves_a_thousand(&host, port);
}

#[test]
fn ends_resets_and_a_thousand_connections_cross_the_vsock_of_a_microvm() {
    let host = Host::of(Form::Qemu);
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (echo, chain) = (free_port(), free_port());
    let publish = [format!("127.0.0.1:{echo}:7000"), format!("127.0.0.1:{chain}:7001")];
    let reach = format!("host:7002={}", server.local_addr().expect("bound"));
    let (kernel, rootfs) = host::images();
    let (kernel, rootfs) = (kernel.to_string_lossy(), rootfs.to_string_lossy());
    // The daemon has a thread for each connection, and a guest may have as many as its memory allows.
    let machine = ["run", "--name", "a", "--kernel", &kernel, "--rootfs", &rootfs, "--memory", "384"];
    let options =
        ["--daemon", "--ulimit", "nofile=4096", "--reach", &reach, "-p", &publish[0], "-p", &publish[1]];
    let daemon = ["--", "/usr/bin/ticker", "--serve", "tcp:7000", "--forward", "7001=host:7002"];
    host.ok(&[&machine[..], &options, &daemon].concat());
    // A client of the host and a server of the host, and between them the guest: into it and out of it again.
    let (client, far) = through(chain, &server);
    each_direction_ends_alone(&client, &far);
    let (client, far) = through(chain, &server);
    each_direction_ends_alone(&far, &client);
    // The daemon sends one byte and closes. It has not read all, so its kernel resets the connection.
    let mut client = patient(connect(echo));
    client.write_all(&[&1_u64.to_le_bytes()[..], b"not read"].concat()).expect("written");
    is_reset(&client);
    // The daemon writes for ever, until it hears of the client's reset.
    let sockets = || {
        let ticker = ["/usr/bin/ticker", "--no-ready", "--after", "0", "--exit", "0"];
        let stat = host.exec("a", &[&ticker[..], &["--cat", "/proc/net/sockstat"]].concat(), 60_000).output;
        let line = stat.lines().find_map(|line| line.strip_prefix("TCP: inuse ")).expect("such a line");
        line.split_whitespace().next().and_then(|count| count.parse::<u32>().ok()).expect("a number")
    };
    let before = sockets();
    let mut client = patient(connect(echo));
    client.write_all(&u64::MAX.to_le_bytes()).expect("written");
    client.read_exact(&mut [0; 16]).expect("the first bytes");
    assert!(sockets() > before);
    set_socket_linger(&client, Some(Duration::ZERO)).expect("set");
    drop(client);
    until("the guest has closed the connection", || sockets() <= before);
    serves_a_thousand(&host, echo);
    host.destroy("a", &["--force"]);
}

#[test]
fn a_guest_with_a_network_dials_the_host_over_tcp_and_udp() {
    let host = Host::of(Form::Qemu);
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let datagrams = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:7001");
    // What listens at 127.0.0.1 of the host is reached, as it is documented.
    let forward = format!("7001=10.0.2.2:{}", server.local_addr().expect("bound").port());
    let place = format!("10.0.2.2:{}", datagrams.local_addr().expect("bound").port());
    let answering = std::thread::spawn(move || {
        datagrams.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut asked = [0; 64];
        let (length, from) = datagrams.recv_from(&mut asked).expect("the daemon asks");
        datagrams.send_to(b"the host", from).expect("sent");
        asked[..length].to_vec()
    });
    let files = ["/etc/resolv.conf", "/proc/net/route"].map(|path| ["--cat", path]).concat();
    let ticker = [&["--forward", &forward, "--udp", &place], &files[..]].concat();
    host.start_with("a", &["--network", "user", "-p", &publish], &ticker);
    let (client, far) = through(port, &server);
    each_direction_ends_alone(&client, &far);
    assert_eq!(answering.join().expect("asked"), b"ask");
    // The daemon is ready after it has printed everything.
    host.until("a", |status| status.daemon.state == DaemonState::Ready);
    let logs = host.ok(&["logs", "--name", "a"]);
    for line in ["udp=the host", "nameserver 10.0.2.3", "eth0\t00000000\t0202000A"] {
        assert!(logs.contains(line), "{line}: {logs}");
    }
    host.destroy("a", &["--force"]);
}
