//! Tests of published ports under a supervisor: a client never meets a port that refuses it while its VM restarts, whoever
//! is killed.

use crate::host::{Host, PATIENCE, group, ticker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) fn free_port() -> u16 {
    // The kernel may give a port that was closed to the next one that asks, and two VMs must not have the same.
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        if GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            return port;
        }
    }
}

/// Returns a VM whose daemon echoes at a port of its guest, which is published.
pub(crate) fn echoing(name: &str, published: u16, inside: u16) -> String {
    let vm = ticker(name, &["--serve", &format!("tcp:{inside}")]);
    format!("{vm}publish = [\"127.0.0.1:{published}:{inside}\"]\nrestart.policy = \"always\"\n")
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("never refused");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Begins an echo. The daemon hears it when it serves this client.
pub(crate) fn begin(port: u16) -> TcpStream {
    let mut stream = connect(port);
    stream.write_all(&0_u64.to_le_bytes()).expect("written");
    stream
}

pub(crate) fn echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("written");
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).expect("an echo");
    assert_eq!(heard, text);
}

pub(crate) fn kill_vmm(host: &Host, vm: &str) {
    kill(Pid::from_raw(host.vmm_pid(vm).cast_signed()), Signal::SIGKILL).expect("a process that runs");
}

pub(crate) fn is_refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Connects, echoes and hangs up, again and again, while `work` is done. Returns the number of echoes and of resets, and
/// the longest time from connect to echo. A refused client fails the test.
fn under_load(port: u16, work: impl FnOnce()) -> (usize, usize, Duration) {
    let (done, echoes, resets) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let longest = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let since = Instant::now();
                let mut stream = connect(port);
                let asked = stream.write_all(&[&0_u64.to_le_bytes()[..], b"hello"].concat());
                match asked.and_then(|()| stream.read_exact(&mut [0; 5])) {
                    Ok(()) => drop(echoes.fetch_add(1, Ordering::Relaxed)),
                    // The client was being served when the VM ended.
                    Err(_) => drop(resets.fetch_add(1, Ordering::Relaxed)),
                }
                longest = longest.max(since.elapsed());
            }
            longest
        });
        work();
        done.store(true, Ordering::Relaxed);
        client.join().expect("never refused")
    });
    (echoes.into_inner(), resets.into_inner(), longest)
}

fn serves_through_kills(host: &Host, port: u16, kills: usize) {
    let daemon = host.ready();
    echo(&mut begin(port), b"hello");
    let (echoes, resets, longest) = under_load(port, || {
        for number in 1..=kills {
            let incarnation = host.status("cache").incarnation;
            kill_vmm(host, "cache");
            let mut waiting = begin(port);
            echo(&mut waiting, format!("kill {number}").as_bytes());
            assert!(host.status("cache").incarnation > incarnation);
        }
    });
    println!("{kills} kills, {echoes} echoes, {resets} resets, longest {longest:?}");
    assert!(echoes > 0 && resets <= kills, "{echoes} echoes, {resets} resets of clients being served");
    host.ctl_ok(&["stop", "cache"]);
    until("the port of a VM that was stopped is refused", || is_refused(port));
    host.ctl_ok(&["start", "cache"]);
    echo(&mut begin(port), b"again");
    drop(daemon);
}

#[test]
fn no_client_is_refused_while_a_vm_restarts() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new(
        "",
        &format!("[[group]]\nname = \"web\"\nintensity = 1000\n{}", echoing("cache", port, inside)),
    );
    serves_through_kills(&host, port, 5);
}

#[test]
fn the_clients_that_wait_while_a_vm_restarts_are_counted() {
    let (port, inside) = (free_port(), free_port());
    let vm = echoing("cache", port, inside)
        + "restart.backoff.initial_delay = \"1h\"\nrestart.backoff.max_delay = \"1h\"\n";
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\nintensity = 1000\n{vm}"));
    let mut daemon = host.ready();
    let told = || {
        let status: serde_json::Value =
            serde_json::from_str(&host.ctl_ok(&["status", "cache", "--json"])).expect("JSON");
        status["groups"][0]["vms"][0]["port_use"][0].clone()
    };
    let mut client = begin(port);
    echo(&mut client, b"hello");
    let name = format!("127.0.0.1:{port}:{inside}");
    assert_eq!(told(), serde_json::json!({ "port": name, "open": 1, "waiting": 0 }));
    kill_vmm(&host, "cache");
    daemon.until_event(crate::events::vm("cache", 1, "backoff"));
    let mut waiting = [begin(port), begin(port)];
    assert_eq!(told(), serde_json::json!({ "port": name, "open": 0, "waiting": 2 }));
    let text = host.ctl_ok(&["status", "cache"]);
    assert!(text.contains(&format!("\ncache ports: {name} (0 open, 2 waiting)\n")), "{text}");
    host.ctl_ok(&["start", "cache"]);
    waiting.iter_mut().for_each(|client| echo(client, b"served"));
    assert_eq!(told(), serde_json::json!({ "port": name, "open": 2, "waiting": 0 }));
}

#[test]
fn no_client_is_refused_while_a_microvm_restarts() {
    let port = free_port();
    let vm = format!(
        "[[group]]\nname = \"web\"\nintensity = 1000\n[[group.vm]]\nname = \"cache\"\nrestart.policy = \"always\"\n\
         publish = [\"127.0.0.1:{port}:7000\"]\ncommand = [\"/usr/bin/ticker\", \"--serve\", \"tcp:7000\"]\n"
    );
    serves_through_kills(&Host::with_microvms(&vm), port, 2);
}

/// Lets every client echo again and again while `work` is done, which gets the numbers of their echoes. An echo that fails
/// fails the test.
fn all_carry_bytes(clients: &mut [TcpStream], work: impl FnOnce(&[AtomicUsize])) {
    let (done, echoes) =
        (AtomicBool::new(false), Vec::from_iter(clients.iter().map(|_| AtomicUsize::new(0))));
    let (done, echoes) = (&done, &echoes[..]);
    std::thread::scope(|scope| {
        for (client, echoes) in clients.iter_mut().zip(echoes) {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    echo(client, &[7; 4096]);
                    echoes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A failure of the work ends the clients, too.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(echoes)));
        done.store(true, Ordering::Relaxed);
        worked.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
}

/// Waits until every client has echoed once more, begun after this call.
fn await_further(echoes: &[AtomicUsize]) {
    let before: Vec<usize> = echoes.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let further = || echoes.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) > before + 1);
    until("every client goes on", further);
}

#[test]
fn a_hundred_connections_and_the_port_outlive_the_supervisor_and_the_next_one_holds_the_port() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new(
        "",
        &format!("[[group]]\nname = \"web\"\nintensity = 1000\n{}", echoing("cache", port, inside)),
    );
    let mut daemon = host.ready();
    let incarnation = host.status("cache").incarnation;
    let mut clients: Vec<TcpStream> = (0..100).map(|_| begin(port)).collect();
    let (served, resets, longest) = under_load(port, || {
        all_carry_bytes(&mut clients, |echoes| {
            await_further(echoes);
            daemon.kill();
            await_further(echoes);
            (0..50).for_each(|_| echo(&mut begin(port), b"a new client"));
            await_further(echoes);
            daemon = host.ready();
            await_further(echoes);
        });
    });
    println!("new clients around the kill: {served}, the longest wait: {longest:?}");
    assert!(served > 0 && resets == 0, "{served} new clients, {resets} resets");
    assert_eq!(host.status("cache").incarnation, incarnation, "the VM has gone on");
    // The next supervisor has taken the socket back: it holds it while the VM restarts, at a kill and at a command.
    let (_, _, longest) = under_load(port, || {
        kill_vmm(&host, "cache");
        echo(&mut begin(port), b"the next incarnation");
    });
    println!("the longest wait at a kill: {longest:?}");
    let (vmm, incarnation) = (host.vmm_pid("cache"), host.status("cache").incarnation);
    std::thread::scope(|scope| {
        let command = scope.spawn(|| host.ctl_ok(&["restart", "cache"]));
        until("the former daemon is gone", || !std::path::Path::new(&format!("/proc/{vmm}")).exists());
        echo(&mut begin(port), b"a client that came in between");
        command.join().expect("restarted");
    });
    assert_eq!(host.status("cache").incarnation, incarnation + 1);
    // Connections to the daemons that are gone have ended.
    for client in &mut clients {
        assert!(client.read_exact(&mut [0]).is_err());
    }
    daemon.kill();
    let _daemon = host.ready();
    echo(&mut begin(port), b"a third supervisor");
}

#[test]
fn a_supervisor_that_finds_its_vm_dead_holds_the_port_before_the_next_attempt() {
    let (port, inside) = (free_port(), free_port());
    let vm =
        echoing("cache", port, inside) + "restart.backoff = { initial_delay = \"1h\", max_delay = \"1h\" }\n";
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\n{vm}"));
    let mut daemon = host.ready();
    let monitor = host.status("cache").monitor_pid.expect("a monitor");
    daemon.kill();
    kill_vmm(&host, "cache");
    until("the monitor has ended", || !std::path::Path::new(&format!("/proc/{monitor}")).exists());
    assert!(is_refused(port), "nobody holds the port");
    let _daemon = host.start();
    until("the VM is in backoff", || {
        String::from_utf8_lossy(&host.ctl(&["status"]).stdout).contains("backoff")
    });
    // It would be started in an hour.
    let mut client = begin(port);
    host.ctl_ok(&["start", "cache"]);
    echo(&mut client, b"served by the next incarnation");
}

#[test]
fn ports_are_added_and_removed_while_the_vm_runs() {
    let (first, second, inside) = (free_port(), free_port(), free_port());
    let groups = |port: u16| {
        format!("[[group]]\nname = \"web\"\nintensity = 1000\n{}", echoing("cache", port, inside))
    };
    let host = Host::new("", &groups(first));
    let _daemon = host.ready();
    let incarnation = host.status("cache").incarnation;
    let mut client = begin(first);
    echo(&mut client, b"before");
    host.configure("", &groups(second));
    host.ctl_ok(&["reload"]);
    until("the new port is published", || !is_refused(second));
    echo(&mut begin(second), b"hello");
    until("the former port is closed", || is_refused(first));
    echo(&mut client, b"a connection that was made goes on");
    assert_eq!(host.status("cache").incarnation, incarnation);
}

#[test]
fn a_port_in_use_is_told_with_its_holder_and_the_vm_starts_when_it_is_free() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, inside) = (other.local_addr().expect("bound").port(), free_port());
    let vms = echoing("cache", port, inside);
    let host = Host::new("", &(group(&["other"]) + &vms));
    let daemon = host.start();
    let told = format!("port 127.0.0.1:{port} is in use by ");
    let pid = format!("(pid {})", std::process::id());
    until("the holder of the port is told", || {
        let status = String::from_utf8_lossy(&host.ctl(&["status", "cache"]).stdout).into_owned();
        status.contains(&told) && status.contains(&pid)
    });
    drop(other);
    host.ctl_ok(&["wait", "--timeout", "90"]);
    echo(&mut begin(port), b"hello");
    drop(daemon);
}

/// Two VMs: `front` forwards the clients of its published port to `db`, which it reaches by that name and has no network to
/// reach otherwise. `db` echoes.
fn front_and_db(port: u16) -> String {
    let vm = |name: &str, lines: &str, options: &str| {
        format!(
            "[[group.vm]]\nname = \"{name}\"\nrestart.policy = \"always\"\n{lines}\n\
             command = [\"/usr/bin/ticker\", {options}]\n"
        )
    };
    let db = vm("db", "", "\"--serve\", \"tcp:7000\"");
    let reach = format!("publish = [\"127.0.0.1:{port}:7000\"]\nreach = [\"db:7000\", \"10.9.8.7:70\"]");
    let front = vm("front", &reach, "\"--forward\", \"7000=db:7000\"");
    format!("[[group]]\nname = \"web\"\nintensity = 1000\n{db}{front}")
}

#[test]
fn a_vm_reaches_another_one_by_name_and_is_not_refused_while_that_one_restarts() {
    let port = free_port();
    let host = Host::with_microvms(&front_and_db(port));
    let mut daemon = host.ready();
    echo(&mut begin(port), b"hello");
    let kills = 2;
    let (echoes, resets, longest) = under_load(port, || {
        for number in 1..=kills {
            let incarnation = host.status("db").incarnation;
            kill_vmm(&host, "db");
            echo(&mut begin(port), format!("kill {number}").as_bytes());
            assert!(host.status("db").incarnation > incarnation);
        }
    });
    println!("{kills} kills, {echoes} echoes, {resets} resets, longest {longest:?}");
    assert!(echoes > 0 && resets <= kills, "{echoes} echoes, {resets} resets of clients being served");
    // The next supervisor takes the socket of the port back, and a connection outlives the former one.
    let mut client = begin(port);
    echo(&mut client, b"before");
    daemon.kill();
    echo(&mut client, b"without a supervisor");
    echo(&mut begin(port), b"a new client");
    let _daemon = host.ready();
    echo(&mut client, b"the next supervisor");
    kill_vmm(&host, "db");
    echo(&mut begin(port), b"the next incarnation");
    assert_eq!(host.status("front").incarnation, 1);
    let log = host.ctl_ok(&["logs", "front"]);
    assert!(!log.contains("cannot dial"), "{log}");
    // Nobody waits for a VM that is stopped.
    host.ctl_ok(&["stop", "db"]);
    let mut stopped = connect(port);
    // Its end or its reset.
    assert!(stopped.read_exact(&mut [0]).is_err());
}
