//! What each signal does.

use crate::host::{Host, group, ticker};
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
