//! Tests of warm spares with the real programs (semantics 8).

use crate::events;
use crate::host::{Daemon, Host, PATIENCE, ticker};
use crate::ports::{begin, echo, free_port, kill_vmm, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::Instant;

/// Returns the status of a VM as a client of the supervisor sees it.
fn shown(host: &Host, vm: &str) -> Value {
    let status: Value = serde_json::from_str(&host.ctl_ok(&["status", vm, "--json"])).expect("JSON");
    status["groups"][0]["vms"][0].clone()
}

/// Returns the processes of the spares that are ready.
fn ready(host: &Host, vm: &str) -> Vec<u64> {
    let spares = shown(host, vm)["spares"].as_array().cloned().unwrap_or_default();
    spares
        .iter()
        .filter(|spare| spare["ready"] == true)
        .filter_map(|spare| spare["vmm_pid"].as_u64())
        .collect()
}

/// Waits until a VM is ready and has this number of spares that are, and returns their processes.
fn await_spares(host: &Host, vm: &str, count: usize) -> Vec<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let spares = ready(host, vm);
        if spares.len() == count && shown(host, vm)["phase"] == "ready" {
            return spares;
        }
        assert!(Instant::now() < deadline, "{}", shown(host, vm));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Returns the parts of the start that an event or a status tells, in their order.
fn parts(told: &Value) -> Vec<String> {
    let parts = told["timings"]["parts"].as_array().cloned().unwrap_or_default();
    parts.iter().map(|timed| timed["part"].as_str().unwrap_or_default().to_owned()).collect()
}

fn pid(host: &Host, vm: &str) -> u64 {
    host.vmm_pid(vm).into()
}

/// Kills, restarts and adopts a VM with one spare, which echoes at this port.
fn takes_its_place(host: &Host, port: u16, mut daemon: Daemon) {
    let mut spare = await_spares(host, "cache", 1);
    echo(&mut begin(port), b"hello");
    let first = parts(&daemon.until_event(events::vm("cache", 1, "ready")));
    let chosen = ["claims", "daemon", "ready"];
    let told: Vec<&str> = first.iter().map(String::as_str).filter(|part| chosen.contains(part)).collect();
    assert_eq!(told, chosen, "{first:?}");
    assert_eq!(parts(&shown(host, "cache")), first);
    let told = host.ctl_ok(&["status", "cache"]);
    assert!(told.contains("cache start: ") && told.contains(" ms (daemon) + "), "{told}");
    for incarnation in 2..4 {
        kill_vmm(host, "cache");
        let ready = daemon.until_event(events::vm("cache", incarnation, "ready"));
        assert_eq!(parts(&ready), ["promotion", "daemon", "ready"]);
        assert_eq!(vec![pid(host, "cache")], spare, "the spare is the VM now");
        echo(&mut begin(port), b"served");
        assert_eq!(host.status("cache").incarnation, incarnation);
        spare = await_spares(host, "cache", 1);
    }
    // What an operator orders takes a spare, too.
    host.ctl_ok(&["restart", "cache"]);
    assert_eq!(vec![pid(host, "cache")], spare);
    echo(&mut begin(port), b"served");

    // The supervisor dies: VM and spare go on, and belong to the next supervisor.
    spare = await_spares(host, "cache", 1);
    let before = pid(host, "cache");
    daemon.kill();
    echo(&mut begin(port), b"unattended");
    daemon = host.ready();
    assert_eq!((pid(host, "cache"), await_spares(host, "cache", 1)), (before, spare.clone()));
    kill_vmm(host, "cache");
    daemon.until_event(events::vm("cache", 5, "ready"));
    assert_eq!(vec![pid(host, "cache")], spare);
    echo(&mut begin(port), b"served");

    // A spare that dies is replaced, and its VM does not notice.
    spare = await_spares(host, "cache", 1);
    kill(Pid::from_raw(i32::try_from(spare[0]).expect("a pid")), Signal::SIGKILL).expect("it runs");
    until("another spare comes", || ready(host, "cache").first().is_some_and(|other| *other != spare[0]));
    assert_eq!(shown(host, "cache")["incarnation"], 5);

    // A VM that is stopped has none.
    host.ctl_ok(&["stop", "cache"]);
    until("the spare is gone", || shown(host, "cache")["spares"].is_null());
    host.ctl_ok(&["start", "cache"]);
    await_spares(host, "cache", 1);
    daemon.stop();
    host.assert_nothing_left();
}

fn served(port: u16, command: &str) -> String {
    format!(
        "[[group]]\nname = \"web\"\nintensity = 1000\n[[group.vm]]\nname = \"cache\"\nstandby = 1\n\
         restart.policy = \"always\"\nrestart.reset_after = \"1ms\"\n{command}publish = [\"127.0.0.1:{port}:7000\"]\n"
    )
}

#[test]
fn a_spare_takes_the_place_of_a_plain_process() {
    let (port, inside) = (free_port(), free_port());
    let vm = ticker("cache", &["--serve", &format!("tcp:{inside}")]);
    let vm = format!(
        "[[group]]\nname = \"web\"\nintensity = 1000\n{vm}standby = 1\nrestart.policy = \"always\"\n\
         restart.reset_after = \"1ms\"\npublish = [\"127.0.0.1:{port}:{inside}\"]\n"
    );
    let host = Host::new("", &vm);
    let daemon = host.ready();
    takes_its_place(&host, port, daemon);
}

#[test]
fn a_spare_takes_the_place_of_a_microvm() {
    let port = free_port();
    let host =
        Host::with_microvms(&served(port, "command = [\"/usr/bin/ticker\", \"--serve\", \"tcp:7000\"]\n"));
    let daemon = host.ready();
    takes_its_place(&host, port, daemon);
}

#[test]
fn spares_follow_a_reload() {
    let vm =
        |more: &str, args: &[&str]| format!("[[group]]\nname = \"web\"\n{}{more}", ticker("cache", args));
    let host = Host::new("", &vm("standby = 2\n", &[]));
    let mut daemon = host.ready();
    let two = await_spares(&host, "cache", 2);
    host.configure("", &vm("standby = 1\n", &[]));
    host.ctl_ok(&["reload"]);
    let one = await_spares(&host, "cache", 1);
    assert!(two.contains(&one[0]));
    // Another command: the VM goes on, and its spare is of the new configuration.
    let before = pid(&host, "cache");
    host.configure("", &vm("standby = 1\n", &["--after", "3600000"]));
    host.ctl_ok(&["reload"]);
    until("the spare is replaced", || ready(&host, "cache").first().is_some_and(|other| *other != one[0]));
    assert_eq!(pid(&host, "cache"), before);
    let spare = await_spares(&host, "cache", 1);
    host.ctl_ok(&["restart", "cache"]);
    assert_eq!(vec![pid(&host, "cache")], spare);
    assert_eq!(shown(&host, "cache")["needs_restart"], false);
    host.configure("", &vm("", &["--after", "3600000"]));
    host.ctl_ok(&["reload"]);
    until("no spare is left", || shown(&host, "cache")["spares"].is_null());
    daemon.stop();
    host.assert_nothing_left();
}

/// Kills that come faster than spares boot: each is one failure, whether a spare or a boot follows it.
#[test]
fn with_its_spares_used_up_a_microvm_is_booted_and_budgets_are_exact() {
    let host = Host::with_microvms(
        "[[group]]\nname = \"web\"\nintensity = 1000\n[[group.vm]]\nname = \"cache\"\nstandby = 1\n\
         restart.policy = \"always\"\nrestart.max_retries = 3\ncommand = [\"/usr/bin/ticker\"]\n",
    );
    let mut daemon = host.ready();
    let spare = await_spares(&host, "cache", 1);
    for incarnation in 2..5 {
        kill_vmm(&host, "cache");
        daemon.until_event(events::vm("cache", incarnation, "ready"));
        let is_spare = vec![pid(&host, "cache")] == spare;
        assert!(is_spare == (incarnation == 2), "the first takes the spare, and no other is ready so soon");
        assert_eq!(shown(&host, "cache")["attempts"], incarnation - 1);
    }
    kill_vmm(&host, "cache");
    daemon.until_event(events::vm("cache", 4, "failed"));
    until("no spare is left", || shown(&host, "cache")["spares"].is_null());
    daemon.stop();
    host.assert_nothing_left();
}
