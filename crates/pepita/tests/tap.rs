//! Tests of `network = "tap"`: microVMs with addresses on the host. They need root and `/dev/net/tun`, and `nft` of
//! `scripts/setup-tests.sh`.

mod host;

use host::{Form, Host, PATIENCE, errors, kill, pepita};
use pepita_wire::StatusRecord;
use pepita_wire::record::DaemonState;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts the ticker on a network device, and waits until it is ready.
fn start(host: &Host, name: &str, ticker: &[&str]) -> (StatusRecord, Ipv4Addr) {
    host.start_with(name, &["--network", "tap"], ticker);
    let status = host.until(name, |status| status.daemon.state == DaemonState::Ready);
    let address = status.address.expect("an address");
    (status, address)
}

fn connect(address: Ipv4Addr, port: u16) -> TcpStream {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(address), port), PATIENCE);
    let stream = stream.unwrap_or_else(|e| panic!("{address}:{port}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// Asks the daemon for an echo over TCP and over UDP.
fn answers(address: Ipv4Addr) {
    let mut stream = connect(address, 7000);
    let text = b"over a device";
    stream.write_all(&0_u64.to_le_bytes()).and_then(|()| stream.write_all(text)).expect("written");
    let mut heard = [0; 13];
    stream.read_exact(&mut heard).expect("an echo");
    assert_eq!(&heard, text);
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    socket.send_to(text, (address, 7000)).expect("sent");
    let (length, from) = socket.recv_from(&mut heard).expect("an answer");
    assert_eq!((&heard[..length], from.ip()), (&text[..], IpAddr::V4(address)));
}

/// Returns how the daemon fails to dial the place of its option `--forward`.
fn refusal(host: &Host, name: &str, address: Ipv4Addr) -> String {
    let before = host.ok(&["logs", "--name", name]).len();
    let mut client = connect(address, 7001);
    let _ = client.read(&mut [0]).map(|read| assert_eq!(read, 0, "the place was reached"));
    host.ok(&["logs", "--name", name])[before..].to_owned()
}

/// Returns the tables of rules and the devices whose names have `prefix`.
fn left(nft: &str, prefix: &str) -> Vec<String> {
    let tables = Command::new(nft).args(["list", "tables", "inet"]).output().expect("nft runs");
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    let tables = tables.lines().filter(|line| line.contains(prefix)).map(str::to_owned);
    let devices = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let devices = devices.map(|device| device.file_name().to_string_lossy().into_owned());
    tables.chain(devices.filter(|device| device.starts_with(prefix))).collect()
}

/// Returns what a VM's configuration says of its device.
fn of_tap(host: &Host, name: &str, key: &str) -> String {
    let config = std::fs::read(host.vm(name).join("spec.json")).expect("a configuration");
    let config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    config["tap"][key].as_str().expect("a text").to_owned()
}

#[test]
fn guests_have_addresses_that_the_host_reaches_and_reach_neither_it_nor_each_other() {
    let host = Host::of(Form::Qemu);
    let (_, a) = start(&host, "a", &["--serve", "inet:7000"]);
    answers(a);
    let (device_of_a, nft) = (of_tap(&host, "a", "device"), of_tap(&host, "a", "nft"));
    let prefix = device_of_a.split_once('-').expect("a number").0.to_owned();
    assert_eq!(left(&nft, &prefix).len(), 2, "a device and its rules: {:?}", left(&nft, &prefix));
    host.destroy("a", &["--force"]);
    assert_eq!(left(&nft, &prefix), Vec::<String>::new());

    // The address of `a` stays its own while it is away.
    let forward = format!("0.0.0.0:7001={a}:7000");
    let (status_of_b, b) = start(&host, "b", &["--forward", &forward]);
    assert_ne!(a, b);
    let service = TcpListener::bind("0.0.0.0:0").expect("a port");
    service.set_nonblocking(true).expect("set");
    let [x, y, z, _] = a.octets();
    let forward =
        format!("0.0.0.0:7001={}:{}", Ipv4Addr::new(x, y, z, 1), service.local_addr().expect("bound").port());
    let (_, again) = start(&host, "a", &["--serve", "inet:7000", "--forward", &forward]);
    assert_eq!(again, a);
    answers(a);
    let told = refusal(&host, "a", a);
    assert!(told.contains("No route to host"), "{told}");
    assert_eq!(service.accept().expect_err("nobody").kind(), ErrorKind::WouldBlock);
    let told = refusal(&host, "b", b);
    assert!(told.contains("No route to host"), "{told}");

    // All of `b` is killed: its device is gone at once, and the next start removes its rules.
    let of_b = of_tap(&host, "b", "device");
    kill(status_of_b.monitor_pid, Signal::KILL);
    kill(status_of_b.vmm_pid, Signal::KILL);
    start(&host, "c", &[]);
    assert!(!Path::new("/sys/class/net").join(&of_b).exists());
    assert!(!left(&nft, &prefix).iter().any(|it| it.ends_with(&of_b)), "{:?}", left(&nft, &prefix));
    answers(a);
    for name in ["a", "b", "c"] {
        host.destroy(name, &["--force"]);
    }
    assert_eq!(left(&nft, &prefix), Vec::<String>::new());
}

/// Two network namespaces with a link between them: one for the host of a VM, which forwards packets, and one for another
/// host.
struct Hosts {
    host: String,
    other: String,
}

impl Hosts {
    const HOST: &str = "198.51.100.1";
    const OTHER: &str = "198.51.100.2";

    fn new() -> Self {
        let id = std::process::id();
        let hosts = Self { host: format!("ph{id}"), other: format!("po{id}") };
        let Self { host, other } = &hosts;
        let steps = [
            format!("netns add {host}"),
            format!("netns add {other}"),
            format!("link add vh{id} netns {host} type veth peer name vo{id} netns {other}"),
            format!("-n {host} address add {}/24 dev vh{id}", Self::HOST),
            format!("-n {other} address add {}/24 dev vo{id}", Self::OTHER),
            format!("-n {host} link set vh{id} up"),
            format!("-n {other} link set vo{id} up"),
        ];
        steps.iter().for_each(|step| ip(step));
        ip(&format!("netns exec {host} sysctl -qw net.ipv4.ip_forward=1"));
        hosts
    }

    /// Returns a call of Python in one of the namespaces.
    fn python(namespace: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "python3", "-c", program]).stdout(Stdio::piped());
        command
    }

    /// Runs a program of Python to its end, and returns what it says.
    fn said(namespace: &str, program: &str) -> String {
        let output = Self::python(namespace, program).output().expect("ip runs");
        assert!(output.status.success(), "{}", errors(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for namespace in [&self.host, &self.other] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {words}: {}", errors(&output));
}

#[test]
fn a_guest_reaches_other_hosts_under_the_address_of_its_own_and_they_do_not_reach_it() {
    let hosts = Hosts::new();
    let host = Host::of(Form::Qemu);
    let server = "import socket\ns = socket.create_server(('198.51.100.2', 9000))\nprint('listens', flush=True)\n\
                  c, peer = s.accept()\nc.sendall(b'from outside')\nprint(peer[0], flush=True)";
    let mut server = Hosts::python(&hosts.other, server).spawn().expect("ip runs");
    let mut heard = BufReader::new(server.stdout.take().expect("piped")).lines();
    let mut next = || heard.next().expect("a line").expect("text");
    assert_eq!(next(), "listens");
    let ticker = ["--serve", "inet:7000", "--forward", "0.0.0.0:7001=198.51.100.2:9000"];
    let run = host.run("a", &["--daemon", "--network", "tap"], &ticker);
    let mut in_namespace = Command::new("ip");
    in_namespace.args(["netns", "exec", &hosts.host]).arg(run.get_program()).args(run.get_args());
    in_namespace.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = in_namespace.output().expect("ip runs");
    assert!(output.status.success(), "{}", errors(&output));
    let status = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    let address = status.address.expect("an address");
    let dial = |port| format!("import socket\ns = socket.create_connection(('{address}', {port}), 120)\n");
    let told = Hosts::said(&hosts.host, &format!("{}print(s.recv(99).decode())", dial(7001)));
    assert_eq!((told.as_str(), next().as_str()), ("from outside\n", Hosts::HOST));
    ip(&format!("-n {} route add {address}/32 via {}", hosts.other, Hosts::HOST));
    let refused = format!("try:\n {}except OSError as e:\n print(e)", dial(7000).replace("\ns", "\n s"));
    let told = Hosts::said(&hosts.other, &refused);
    assert!(told.contains("No route to host"), "{told}");
    host.destroy("a", &["--force"]);
    server.wait().expect("an end");
}

#[test]
fn a_host_that_lacks_something_for_a_network_device_says_what_and_starts_nothing() {
    let host = Host::of(Form::Qemu);
    let run = host.run_args("a", &["--daemon", "--network", "tap"], &[]);
    let run: Vec<&str> = run.iter().map(String::as_str).collect();
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--bounding-set", "-net_admin"]).arg(pepita()).args(&run);
    let output = unprivileged.env("PEPITA_RUN_DIR", host.path()).output().expect("setpriv runs");
    let error = errors(&output);
    assert!(
        output.status.code() == Some(77) && error.contains("CAP_NET_ADMIN") && error.contains("root"),
        "{error}"
    );
    let without = |variable: &str| {
        let output = host.command(&run).env(variable, "/nowhere/at/all").output().expect("pepita runs");
        assert_eq!(output.status.code(), Some(69), "{}", errors(&output));
        errors(&output)
    };
    assert!(without("PEPITA_NFT").contains("apt-get install nftables"));
    assert!(without("PEPITA_IP").contains("apt-get install iproute2"));
    let output = host.command(&run).env("PEPITA_SUBNET", "8.8.8.0/24").output().expect("pepita runs");
    let error = errors(&output);
    assert!(
        output.status.code() == Some(64) && error.contains("PEPITA_SUBNET") && error.contains("not private"),
        "{error}"
    );
    assert!(!host.vm("a").exists());
}
