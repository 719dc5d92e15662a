//! Tests of VMs that sleep until a client comes.

use crate::events::vm;
use crate::host::{Host, group, guest, program, stderr, ticker};
use crate::ports::{begin, echo, echoing, free_port, is_refused, kill_vmm, until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

/// Returns a VM whose daemon echoes, and that its first client starts.
fn sleeping(name: &str, published: u16, inside: u16) -> String {
    echoing(name, published, inside) + "start.on = \"connection\"\n"
}

fn groups(vms: &str) -> String {
    format!("[[group]]\nname = \"web\"\nintensity = 1000\n{vms}")
}

/// Returns what `pepitactl status` shows of a VM.
fn shown(host: &Host, name: &str) -> Value {
    let status: Value = serde_json::from_str(&host.ctl_ok(&["status", name, "--json"])).expect("JSON");
    let groups = status["groups"].as_array().expect("groups").iter();
    let mut vms = groups.flat_map(|group| group["vms"].as_array().expect("VMs"));
    vms.find(|vm| vm["name"] == name).cloned().expect("the VM is there")
}

fn until_phase(host: &Host, name: &str, phase: &str) {
    until(&format!("{name} is {phase}"), || shown(host, name)["phase"] == phase);
}

#[test]
fn the_first_client_starts_its_vm_and_is_served() {
    let (port, inside) = (free_port(), free_port());
    let after = format!("[[group]]\nname = \"later\"\nafter = [\"web\"]\n{}", ticker("b", &[]));
    let host = Host::new("", &(groups(&sleeping("a", port, inside)) + &after));
    // A VM that sleeps is up for those that come after it.
    let mut daemon = host.ready();
    assert_eq!((&shown(&host, "a")["phase"], &shown(&host, "b")["phase"]), (&"idle".into(), &"ready".into()));
    assert_eq!(host.processes().len(), 2, "the monitor and the agent of b: {:?}", host.processes());
    let mut clients: Vec<TcpStream> = (0..20).map(|_| begin(port)).collect();
    clients.iter_mut().for_each(|client| echo(client, b"hello"));
    until_phase(&host, "a", "ready");
    let ready = shown(&host, "a");
    assert_eq!((&ready["incarnation"], &ready["attempts"]), (&1.into(), &0.into()));
    // From now on it is a VM like any other.
    kill_vmm(&host, "a");
    echo(&mut begin(port), b"the next incarnation");
    daemon.stop();
    daemon.assert_order(&[
        vm("a", 0, "idle"),
        vm("a", 1, "starting"),
        vm("a", 1, "ready"),
        vm("a", 1, "backoff"),
    ]);
    host.assert_nothing_left();
}

#[test]
fn an_operator_starts_and_stops_a_vm_that_sleeps() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new("", &groups(&sleeping("a", port, inside)));
    let _daemon = host.ready();
    host.ctl_ok(&["stop", "a"]);
    assert_eq!(shown(&host, "a")["phase"], "stopped");
    assert!(is_refused(port), "the port of a VM that was stopped is closed");
    host.ctl_ok(&["start", "a"]);
    assert_eq!(shown(&host, "a")["phase"], "ready", "a start is a start");
    host.ctl_ok(&["stop", "a"]);
    assert!(is_refused(port));
    host.ctl_ok(&["restart", "a"]);
    assert_eq!(shown(&host, "a")["incarnation"], 2);
}

#[test]
fn a_daemon_that_ends_by_itself_leaves_its_vm_asleep() {
    let (port, inside) = (free_port(), free_port());
    let serve = format!("tcp:{inside}");
    let vm_text = ticker("a", &["--serve", &serve, "--after", "1000", "--exit", "0"]);
    let text = format!("{vm_text}publish = [\"127.0.0.1:{port}:{inside}\"]\nstart.on = \"connection\"\n");
    let host = Host::new("", &groups(&text));
    let mut daemon = host.ready();
    for incarnation in 1..=3 {
        echo(&mut begin(port), b"hello");
        let end = daemon.until_event(vm("a", incarnation, "idle"));
        assert_eq!(
            (&end["decision"]["attempt"], &end["decision"]["window"]["count"]),
            (&0.into(), &0.into())
        );
    }
}

#[test]
fn a_vm_sleeps_on_when_its_supervisor_is_killed() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new("", &groups(&sleeping("a", port, inside)));
    let mut daemon = host.ready();
    daemon.kill();
    daemon = host.ready();
    assert_eq!(shown(&host, "a")["phase"], "idle");
    echo(&mut begin(port), b"hello");
    // What runs is adopted.
    until_phase(&host, "a", "ready");
    daemon.kill();
    let _daemon = host.ready();
    until_phase(&host, "a", "ready");
    assert_eq!(shown(&host, "a")["incarnation"], 1);
}

#[test]
fn a_reload_wakes_what_may_not_sleep_and_moves_ports() {
    let (first, second, inside) = (free_port(), free_port(), free_port());
    let host = Host::new("", &groups(&sleeping("a", first, inside)));
    let _daemon = host.ready();
    host.configure("", &groups(&sleeping("a", second, inside)));
    host.ctl_ok(&["reload"]);
    until("the ports have moved", || is_refused(first) && !is_refused(second));
    // The look at the port was a client, too.
    until_phase(&host, "a", "ready");
    host.ctl_ok(&["stop", "a"]);
    host.configure("", &groups(&(sleeping("a", second, inside) + &sleeping("b", first, free_port()))));
    host.ctl_ok(&["reload"]);
    until_phase(&host, "b", "idle");
    host.configure("", &groups(&(sleeping("a", second, inside) + &echoing("b", first, free_port()))));
    host.ctl_ok(&["reload"]);
    until_phase(&host, "b", "ready");
}

#[test]
fn a_port_in_use_is_told_and_listened_on_when_it_is_free() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (port, inside) = (other.local_addr().expect("bound").port(), free_port());
    let host = Host::new("", &groups(&sleeping("a", port, inside)));
    let mut daemon = host.start();
    daemon.until(&format!("port 127.0.0.1:{port} is in use by "));
    drop(other);
    until("the port is listened on", || !is_refused(port));
    echo(&mut begin(port), b"hello");
}

#[test]
fn a_vm_to_which_nobody_can_connect_is_a_mistake() {
    let host = Host::new("", &(group(&["a"]) + "start.on = \"connection\"\n"));
    let check = host.pepitad(&["--check"]).output().expect("runs");
    let said = stderr(&check);
    assert!(!check.status.success() && said.contains("c.toml") && said.contains("start.on"), "{said}");
    assert!(said.contains("publish = [\"127.0.0.1:8080:80\"]"), "what would be right: {said}");
}

#[test]
fn a_storm_of_clients_wakes_many_vms_and_none_is_refused() {
    const VMS: usize = 20;
    let host = Host::new("", "");
    let ports: Vec<u16> = (0..VMS).map(|_| free_port()).collect();
    // The daemons have no ports of the host: a client may have got one as its own.
    let of = |(number, port): (usize, &u16)| {
        let inside = host.path(&format!("{number}.sock")).to_string_lossy().into_owned();
        let vm = ticker(&format!("vm{number}"), &["--serve", &inside]);
        format!("{vm}publish = [\"127.0.0.1:{port}:unix:{inside}\"]\nstart.on = \"connection\"\n")
    };
    let vms: String = ports.iter().enumerate().map(of).collect();
    host.configure("max_parallel_launches = 2", &groups(&vms));
    let mut daemon = host.ready();
    let clients = std::thread::scope(|scope| {
        let client = |number: usize| begin(ports[number % VMS]);
        let clients: Vec<_> = (0..500).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().map(|client| client.join().expect("never refused")).collect::<Vec<_>>()
    });
    for mut client in clients {
        echo(&mut client, b"hello");
    }
    daemon.stop();
    let launched = |event: &&Value| event["event"] == "vm" && event["to"] == "starting";
    assert_eq!(daemon.events().iter().filter(launched).count(), VMS, "one launch for each VM");
    host.assert_nothing_left();
}

/// Returns a VM that sleeps in this way a moment after its last client.
fn dozing(name: &str, published: u16, inside: u16, how: &str) -> String {
    echoing(name, published, inside) + &format!("idle = {{ after = \"300ms\", do = \"{how}\" }}\n")
}

#[test]
fn a_vm_sleeps_after_its_last_client_and_the_next_one_wakes_it() {
    for how in ["pause", "stop"] {
        let (port, inside) = (free_port(), free_port());
        let host = Host::new("", &groups(&dozing("a", port, inside, how)));
        let mut daemon = host.ready();
        for round in 1..=3 {
            let mut client = begin(port);
            echo(&mut client, b"hello");
            drop(client);
            until_phase(&host, "a", "idle");
            let idle = shown(&host, "a");
            assert_eq!(idle["vmm_pid"].is_null(), how == "stop", "{idle}");
            assert_eq!(
                (&idle["attempts"], &idle["wanted"]),
                (&0.into(), &true.into()),
                "round {round}: {idle}"
            );
        }
        echo(&mut begin(port), b"the last one");
        let incarnations = shown(&host, "a")["incarnation"].as_u64();
        assert!(if how == "pause" { incarnations == Some(1) } else { incarnations >= Some(4) });
        daemon.stop();
        let decided = daemon.events().into_iter().filter(|event| !event["decision"].is_null());
        assert_eq!(decided.count(), 0, "{}", daemon.story());
        host.assert_nothing_left();
    }
}

#[test]
fn a_connection_a_command_and_a_word_of_the_daemon_keep_a_vm_awake() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new("", &groups(&dozing("a", port, inside, "stop")));
    let mut daemon = host.ready();
    let mut client = begin(port);
    echo(&mut client, b"hello");
    let name = "duende-vm-a";
    let command = host.pepita(&["exec", "--name", name, "--", "/bin/sh", "-c", "sleep 3"]);
    assert!(command.status.success(), "{}", stderr(&command));
    echo(&mut client, b"it was open all the time");
    drop(client);
    let command = host.pepita(&["exec", "--name", name, "--", "/bin/sh", "-c", "sleep 3"]);
    assert!(command.status.success(), "it ended by itself: {}", stderr(&command));
    daemon.until_event(vm("a", 1, "idle"));
}

#[test]
fn orders_of_an_operator_hold_for_a_vm_that_is_asleep() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new("", &groups(&dozing("a", port, inside, "pause")));
    let mut daemon = host.ready();
    until_phase(&host, "a", "idle");
    // A pause by the operator is not ended by a client.
    host.ctl_ok(&["pause", "a"]);
    until_phase(&host, "a", "paused");
    let mut waiting = begin(port);
    host.ctl_ok(&["resume", "a"]);
    echo(&mut waiting, b"hello");
    daemon.take_events();
    drop(waiting);
    until_phase(&host, "a", "idle");
    host.ctl_ok(&["start", "a"]);
    daemon.until_event(vm("a", 1, "ready"));
    until_phase(&host, "a", "idle");
    host.ctl_ok(&["restart", "a"]);
    daemon.until_event(vm("a", 2, "idle"));
    host.ctl_ok(&["stop", "a"]);
    assert_eq!(shown(&host, "a")["phase"], "stopped");
    assert!(is_refused(port));
}

#[test]
fn a_vm_that_sleeps_outlives_its_supervisor_and_its_monitor_and_its_own_death() {
    for how in ["pause", "stop"] {
        let (port, inside) = (free_port(), free_port());
        let host = Host::new("", &groups(&dozing("a", port, inside, how)));
        let mut daemon = host.ready();
        until_phase(&host, "a", "idle");
        daemon.kill();
        daemon = host.ready();
        until_phase(&host, "a", "idle");
        assert_eq!(shown(&host, "a")["incarnation"], 1, "{how}");
        if how == "pause" {
            let monitor = host.status("a").monitor_pid.expect("a monitor");
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(monitor.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .expect("a process that runs");
            until("the VM has another monitor", || {
                host.status("a").monitor_pid.is_some_and(|now| now != monitor)
            });
            until_phase(&host, "a", "idle");
            daemon.take_events();
            // A death in sleep is no failure: the next client starts the VM anew.
            kill_vmm(&host, "a");
            // The takeover by the other monitor may be told before, without an ending.
            let gone = std::iter::repeat_with(|| daemon.until_event(vm("a", 1, "idle")))
                .find(|event| !event["ending"].is_null())
                .expect("it is told");
            assert!(gone["decision"].is_null(), "{gone}");
        }
        echo(&mut begin(port), b"hello");
        assert_eq!(shown(&host, "a")["incarnation"], 2, "{how}");
        daemon.stop();
        host.assert_nothing_left();
    }
}

#[test]
fn a_reload_decides_anew_whether_a_vm_sleeps() {
    let (port, inside) = (free_port(), free_port());
    let host = Host::new("", &groups(&echoing("a", port, inside)));
    let mut daemon = host.ready();
    for how in ["pause", "stop"] {
        host.configure("", &groups(&dozing("a", port, inside, how)));
        host.ctl_ok(&["reload"]);
        until_phase(&host, "a", "idle");
        host.configure("", &groups(&echoing("a", port, inside)));
        host.ctl_ok(&["reload"]);
        until_phase(&host, "a", "ready");
    }
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn microvms_sleep_paused_and_stopped_and_serve_the_next_client() {
    let ports = [free_port(), free_port(), free_port()];
    let vm_text = |name: &str, port: u16, keys: &str| {
        format!(
            "[[group.vm]]\nname = \"{name}\"\npublish = [\"127.0.0.1:{port}:7000\"]\n{keys}\n\
             command = [\"/usr/bin/ticker\", \"--serve\", \"tcp:7000\"]\n"
        )
    };
    let doze = |how: &str| format!("idle = {{ after = \"1s\", do = \"{how}\" }}");
    let vms = vm_text("pauses", ports[0], &doze("pause"))
        + &vm_text("stops", ports[1], &doze("stop"))
        + &vm_text("waits", ports[2], "start.on = \"connection\"");
    let host = Host::with_microvms(&groups(&vms));
    let mut daemon = host.ready();
    for (port, name) in ports.into_iter().zip(["pauses", "stops", "waits"]) {
        until_phase(&host, name, "idle");
        echo(&mut begin(port), b"hello");
        if name != "waits" {
            until_phase(&host, name, "idle");
            echo(&mut begin(port), b"again");
        }
    }
    assert_eq!(shown(&host, "pauses")["incarnation"], 1);
    // A pause of the virtual CPUs outlives the supervisor.
    until_phase(&host, "pauses", "idle");
    daemon.kill();
    daemon = host.ready();
    until_phase(&host, "pauses", "idle");
    echo(&mut begin(ports[0]), b"the next supervisor");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn whoever_is_attached_keeps_a_vm_awake() {
    let (port, inside) = (free_port(), free_port());
    let serve = format!("tcp:{inside}");
    let text = ticker("a", &["--interval", "100", "--serve", &serve])
        + &format!(
            "publish = [\"127.0.0.1:{port}:{inside}\"]\nidle = {{ after = \"300ms\", do = \"pause\" }}\n"
        );
    let host = Host::new("", &groups(&text));
    let mut daemon = host.ready();
    let mut client = begin(port);
    echo(&mut client, b"hello");
    let mut attach = Command::new(program("pepita"));
    attach.arg("--run-dir").arg(host.path("r")).args(["attach", "duende-vm-a"]);
    let mut attach = attach.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("runs");
    let mut ticks = BufReader::new(attach.stdout.take().expect("piped")).lines();
    let mut ticked = |count: usize| assert_eq!(ticks.by_ref().take(count).flatten().count(), count);
    ticked(1);
    drop(client);
    daemon.take_events();
    // A VM that nobody uses would sleep long before.
    ticked(40);
    let slept = daemon.take_events().iter().any(|event| event["to"] == "idle");
    assert!(!slept, "{}", daemon.story());
    attach.kill().expect("a child");
    attach.wait().expect("a child");
    daemon.until_event(vm("a", 1, "idle"));
}

/// Returns the part of the guest's memory that QEMU has, in KiB. Of what it shares with the QEMUs of other VMs, its part changes
/// when those end.
fn memory_kib(host: &Host, name: &str) -> u64 {
    let pid = host.status(name).vmm_pid.expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix("RssShmem:")).expect("a line of the kernel");
    value.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_microvm_gives_memory_back_while_it_sleeps_and_has_it_again_when_it_is_awake() {
    let port = free_port();
    let host = Host::with_microvms(&groups(&format!(
        "[[group.vm]]\nname = \"a\"\npublish = [\"127.0.0.1:{port}:7000\"]\nidle = {{ after = \"2s\", do = \"pause\" }}\n\
         command = [\"/usr/bin/ticker\", \"--serve\", \"tcp:7000\"]\n"
    )));
    let mut daemon = host.ready();
    for round in 1..=2 {
        let mut client = begin(port);
        // The program has 40 MiB, and leaves them.
        let eats = ["exec", "--name", "duende-vm-a", "--", "/usr/bin/ticker", "--eat", "40", "--after", "1"];
        let eaten = host.pepita(&[&eats[..], &["--exit", "0"]].concat());
        assert!(eaten.status.success(), "round {round}: {}", stderr(&eaten));
        let awake = memory_kib(&host, "a");
        echo(&mut client, b"hello");
        drop(client);
        until_phase(&host, "a", "idle");
        let asleep = memory_kib(&host, "a");
        assert!(asleep + 32 * 1024 < awake, "round {round}: {awake} KiB awake, {asleep} asleep");
        echo(&mut begin(port), b"the daemon is whole");
    }
    assert_eq!(shown(&host, "a")["incarnation"], 1);
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_guest_without_the_driver_sleeps_with_all_its_memory() {
    let port = free_port();
    let host = Host::with_microvms(&groups(&format!(
        "[[group.vm]]\nname = \"a\"\nrootfs_path = {:?}\npublish = [\"127.0.0.1:{port}:7000\"]\n\
         idle = {{ after = \"1s\", do = \"pause\" }}\ncommand = [\"/usr/bin/ticker\", \"--serve\", \"tcp:7000\"]\n",
        guest("ticker.ext4")
    )));
    let mut daemon = host.ready();
    until_phase(&host, "a", "idle");
    let log = std::fs::read_to_string(host.path("r/duende-vm-a/monitor.log")).expect("a log");
    assert!(log.contains("the guest sleeps with all its memory") && log.contains("virtio_balloon"), "{log}");
    echo(&mut begin(port), b"hello");
    daemon.stop();
    host.assert_nothing_left();
}
