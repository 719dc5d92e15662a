//! Ports with an agent that does what the test says.

use super::*;
use pepita_wire::{Hello, PROTOCOL_VERSION, Request, ToGuest, ToHost};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

const GREETING: Greeting<'_> = Greeting { token: "t", incarnation: 1 };

/// How long to wait for something before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    ports: Ports,
    port: u16,
    address: Address,
    agent: UnixListener,
    _dir: tempfile::TempDir,
}

/// One port that is published, and an agent that has accepted no connection yet.
fn scene() -> Scene {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent");
    let agent = UnixListener::bind(&path).expect("listens");
    agent.set_nonblocking(true).expect("set");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let place = HostPlace::Tcp(Ipv4Addr::LOCALHOST.into(), port);
    let publish = format!("127.0.0.1:{port}:80").parse().expect("a port");
    let own = vec![(publish, Listening::at(&place).expect("free"))];
    let mut ports = Ports::new(own, Carrier::default());
    ports.note(Instant::now(), Serving::Ready);
    Scene { ports, port, address: Address::Hybrid { path, port: 1 }, agent, _dir: dir }
}

impl Scene {
    /// Does what the ports have to do until the agent's connection has what the test waits for.
    fn until<T>(&mut self, what: &str, mut got: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(got) = got(self) {
                return got;
            }
            assert!(Instant::now() < deadline, "not in time: {what}");
            self.step();
        }
    }

    fn step(&mut self) {
        let interest: Vec<_> = self.ports.interest(false).collect();
        let mut fds: Vec<_> =
            interest.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 })).expect("polled");
        let ready = fds.iter().zip(&interest).filter(|(fd, _)| !fd.revents().is_empty());
        let ready: Vec<u64> = ready.filter_map(|(_, (number, ..))| *number).collect();
        for number in ready {
            self.ports.ready(number, Instant::now(), &self.address, GREETING);
        }
    }

    /// Accepts the next connection to the agent, up to the hello.
    fn greeted(&mut self) -> BufReader<UnixStream> {
        let (stream, _) = self.until("a connection to the agent", |scene| scene.agent.accept().ok());
        stream.set_nonblocking(true).expect("set");
        let mut stream = BufReader::new(stream);
        assert_eq!(self.line(&mut stream), "CONNECT 1\n");
        stream.get_mut().write_all(b"OK 1\n").expect("written");
        let hello = self.line(&mut stream);
        match ToGuest::decode(hello.trim_end().as_bytes()).expect("a frame") {
            ToGuest::Hello(hello) => assert!(hello.stream && hello.token.as_deref() == Some("t")),
            ToGuest::Request(request) => panic!("{request:?} comes before the hello"),
        }
        let answer = Hello { protocol_version: PROTOCOL_VERSION, incarnation: 1, ..Hello::default() };
        stream.get_mut().write_all(&ToHost::Hello(answer).encode()).expect("written");
        stream
    }

    fn line(&mut self, stream: &mut BufReader<UnixStream>) -> String {
        let mut line = String::new();
        self.until("a line", |_| {
            let _ = stream.read_line(&mut line);
            line.ends_with('\n').then_some(())
        });
        line
    }

    /// Answers the request for a connection with the daemon.
    fn accept(&mut self, stream: &mut BufReader<UnixStream>) {
        let line = self.line(stream);
        let Ok(ToGuest::Request(Request { id, method, .. })) = ToGuest::decode(line.trim_end().as_bytes())
        else {
            panic!("{line} is no request");
        };
        assert_eq!(method, "dial");
        let answer = ToHost::Answer { id, outcome: Ok(serde_json::Value::Null) };
        stream.get_mut().write_all(&answer.encode()).expect("written");
    }

    fn client(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).expect("never refused")
    }
}

/// Reads what a client has sent, as a chunk.
fn expect_chunk(stream: &mut BufReader<UnixStream>, bytes: &[u8]) {
    stream.get_ref().set_nonblocking(false).expect("set");
    let mut got = vec![0; 2 + bytes.len()];
    stream.read_exact(&mut got).expect("carried");
    assert_eq!(&got[2..], bytes);
}

#[test]
fn a_client_after_the_first_finds_a_connection_to_the_agent_that_was_greeted_before() {
    let mut scene = scene();
    for _ in 0..20 {
        scene.step();
    }
    assert!(scene.agent.accept().is_err(), "an unused port costs the guest no connection");
    let mut first = scene.client();
    let mut serving = scene.greeted();
    scene.accept(&mut serving);
    let mut spare = scene.greeted();
    first.write_all(b"one").expect("written");
    expect_chunk(&mut serving, b"one");
    let mut second = scene.client();
    scene.accept(&mut spare);
    second.write_all(b"two").expect("written");
    let mut next = scene.greeted();
    expect_chunk(&mut spare, b"two");
    // A daemon that does not serve any more has no connection that waits.
    scene.ports.note(Instant::now(), Serving::No);
    next.get_ref().set_nonblocking(false).expect("set");
    // The end, or a reset when the hello of the agent was not read yet.
    assert!(!matches!(next.get_mut().read(&mut [0]), Ok(1..)));
}

#[test]
fn a_spare_connection_outlives_a_pause_and_serves_the_client_that_ends_it() {
    let mut scene = scene();
    let _first = scene.client();
    let mut serving = scene.greeted();
    scene.accept(&mut serving);
    let mut spare = scene.greeted();
    scene.ports.note(Instant::now(), Serving::Paused);
    let mut second = scene.client();
    scene.ports.note(Instant::now(), Serving::Ready);
    scene.accept(&mut spare);
    second.write_all(b"two").expect("written");
    let _next = scene.greeted();
    expect_chunk(&mut spare, b"two");
}

#[test]
fn a_spare_connection_that_ends_or_says_too_much_is_dropped_and_the_next_client_dials() {
    let mut scene = scene();
    let _first = scene.client();
    let mut serving = scene.greeted();
    scene.accept(&mut serving);
    let spare = scene.greeted();
    drop(spare);
    scene.until("no spare connection", |scene| scene.ports.ways.is_empty().then_some(()));
    let _second = scene.client();
    let mut serving = scene.greeted();
    scene.accept(&mut serving);
    let mut spare = scene.greeted();
    let event = ToHost::Answer { id: 7, outcome: Ok(serde_json::Value::Null) };
    spare.get_mut().write_all(&event.encode()).expect("written");
    scene.until("no spare connection", |scene| scene.ports.ways.is_empty().then_some(()));
    let mut third = scene.client();
    let mut serving = scene.greeted();
    scene.accept(&mut serving);
    third.write_all(b"three").expect("written");
    scene.greeted();
    expect_chunk(&mut serving, b"three");
}

#[test]
fn clients_that_wait_together_are_served_together_and_none_is_asked_for_in_vain() {
    let mut scene = scene();
    let mut clients: Vec<_> = (0..3).map(|_| scene.client()).collect();
    let mut agents: Vec<_> = clients.iter().map(|_| scene.greeted()).collect();
    for _ in 0..20 {
        scene.step();
    }
    assert!(scene.agent.accept().is_err(), "three clients need three connections");
    // The daemon accepts in another order. The client that has waited longest is served first.
    agents.reverse();
    for (number, (client, agent)) in clients.iter_mut().zip(&mut agents).enumerate() {
        let number = number.to_string();
        scene.accept(agent);
        client.write_all(number.as_bytes()).expect("written");
        scene.until("it is carried", |scene| {
            scene.ports.in_use().iter().all(|port| port.open > number.parse().ok()).then_some(())
        });
        expect_chunk(agent, number.as_bytes());
    }
}

#[test]
fn of_many_clients_some_are_served_at_a_time_and_the_others_after_them() {
    let mut scene = scene();
    let clients: Vec<_> = (0..AT_ONCE + 2).map(|_| scene.client()).collect();
    let agents: Vec<_> = (0..AT_ONCE).map(|_| scene.greeted()).collect();
    for _ in 0..20 {
        scene.step();
    }
    assert!(scene.agent.accept().is_err(), "the daemon is asked for {AT_ONCE} at a time");
    let asked = |scene: &Scene| scene.ports.ways.iter().filter(|way| way.port.is_some()).count();
    assert_eq!(asked(&scene), AT_ONCE);
    // The connections that are made ahead are asked, too, once there is a client for them.
    let mut agents = VecDeque::from(agents);
    let all = clients.len();
    let mut serving = Vec::new();
    for served in 0..all {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "{served} of {all} clients are served");
            let mut waiting = [PollFd::new(&scene.agent, PollFlags::IN)];
            let is_new = poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1);
            let agent = if is_new { None } else { agents.pop_front() };
            let mut agent = agent.unwrap_or_else(|| scene.greeted());
            scene.step();
            if agent.fill_buf().is_ok_and(|bytes| !bytes.is_empty()) {
                scene.accept(&mut agent);
                serving.push(agent);
                break;
            }
            agents.push_back(agent);
        }
    }
    scene.until("all are carried", |scene| {
        scene.ports.in_use().iter().all(|port| port.open == u32::try_from(all).ok()).then_some(())
    });
}
