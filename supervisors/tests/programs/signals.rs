//! What each signal does.

use crate::host::{Daemon, Host, group, ticker};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

#[test]
fn a_reload_applies_as_a_whole() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let pid = host.vmm_pid("a");
    host.configure("", &group(&["a", "c"]));
    daemon.signal(Signal::SIGHUP);
    daemon.until("reloaded:");
    daemon.until("c #1: running -> ready");
    host.told(&["wait", "a", "c"]);
    assert_eq!(host.vmm_pid("a"), pid, "who is unchanged is not touched");
    daemon.stop();
    daemon.assert_order(&["group \"web\" vm \"a\": unchanged", "group \"web\" vm \"b\": removed"]);
    assert!(daemon.story().contains("b #1: stopping -> stopped"), "{}", daemon.story());
    host.assert_nothing_left();
}

#[test]
fn a_reload_with_mistakes_is_refused_as_a_whole() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let before = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    host.configure("intensty = 1", &format!("{}{}", group(&["a", "b"]), "[[group]]\nname = \"Web\"\n"));
    daemon.signal(Signal::SIGHUP);
    daemon.until_all(&["not reloaded", "intensty", "name \"Web\" is not allowed", "2 mistakes"]);
    // It was not only the file: what cannot change while it runs is refused as well.
    std::fs::write(host.path("c.toml"), before.replace("name = \"test\"", "name = \"other\""))
        .expect("written");
    daemon.signal(Signal::SIGHUP);
    daemon.until_all(&["not reloaded", "name cannot change while it runs"]);
    assert!(!host.told(&["status"]).contains(" b "));
    std::fs::write(host.path("c.toml"), before).expect("written");
    daemon.signal(Signal::SIGHUP);
    daemon.until("nothing has changed");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_second_ctrl_c_destroys_what_does_not_stop() {
    let deaf = format!("{}stop.timeout = \"10min\"\n", ticker("a", &["--ignore-term"]));
    let host = Host::new("shutdown_timeout = \"20min\"", &format!("[[group]]\nname = \"web\"\n{deaf}"));
    let mut daemon = host.ready();
    daemon.signal(Signal::SIGINT);
    daemon.until("a #1: ready -> stopping");
    daemon.until("still waiting for a (stopping for");
    let before = Instant::now();
    daemon.signal(Signal::SIGINT);
    assert!(daemon.end().success(), "{}", daemon.story());
    assert!(before.elapsed() < Duration::from_secs(30));
    daemon.assert_order(&["destroying everything at once", "tree: ended"]);
    host.assert_nothing_left();
}

#[test]
fn told_to_leave_it_leaves_the_vms_to_the_next_run() {
    let host = Host::new("on_exit = \"leave\"", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let pids = ["a", "b"].map(|vm| host.vmm_pid(vm));
    daemon.stop();
    daemon.assert_order(&["leaving; the VMs run on", "tree: ended: left its VMs running"]);
    assert_eq!(["a", "b"].map(|vm| host.vmm_pid(vm)), pids);
    host.configure("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    assert_eq!(["a", "b"].map(|vm| host.vmm_pid(vm)), pids);
    daemon.stop();
    host.assert_nothing_left();
}

/// SIGTERM when this line is seen, in a group of these VMs.
fn sigterm_at(line: &str, strategy: &str, vms: &str, before: impl FnOnce(&Host, &mut Daemon)) {
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\nstrategy = \"{strategy}\"\n{vms}"));
    let mut daemon = host.start();
    before(&host, &mut daemon);
    daemon.until(line);
    let began = Instant::now();
    daemon.stop();
    // Three VMs at most, each with a second for its grace.
    assert!(began.elapsed() < Duration::from_secs(15), "{line}: {:?}", began.elapsed());
    daemon.assert_order(&["stopping in order", "tree: ended: stopped"]);
    host.assert_nothing_left();
}

#[test]
fn sigterm_at_any_moment_stops_in_time_and_leaves_nothing() {
    let deaf = |name: &str| format!("{}stop.timeout = \"1s\"\n", ticker(name, &["--ignore-term"]));
    let (a, b) = (ticker("a", &[]), ticker("b", &[]));
    let slow = ticker("b", &["--ready-after", "60000"]);
    let failing = ticker("b", &["--after", "200", "--exit", "3"]);
    let nothing = |_: &Host, _: &mut Daemon| ();
    // A boot: of the second, which is not Ready for long.
    sigterm_at("b #1: starting -> running", "one_for_one", &format!("{a}{slow}"), nothing);
    // A backoff.
    sigterm_at("b #1: ready -> backoff", "one_for_one", &format!("{a}{failing}"), nothing);
    // A group restart: the other member does not go at once.
    sigterm_at("a #1: ready -> stopping", "one_for_all", &format!("{}{failing}", deaf("a")), nothing);
    // A stop, of one that does not hear it.
    sigterm_at("a #1: ready -> stopping", "one_for_one", &format!("{}{b}", deaf("a")), |host, daemon| {
        daemon.until("tree: ready");
        host.told(&["stop", "a"]);
    });
    // A reload, that brings a new one and removes another.
    sigterm_at("reloaded:", "one_for_one", &format!("{a}{b}"), |host, daemon| {
        daemon.until("tree: ready");
        host.configure("", &format!("[[group]]\nname = \"web\"\n{a}{}", ticker("c", &[])));
        daemon.signal(Signal::SIGHUP);
    });
}
