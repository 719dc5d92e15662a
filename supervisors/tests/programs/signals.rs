//! Tests of the effect of each signal.

use crate::events::{Pattern, vm};
use crate::host::{Daemon, Host, group, ticker};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn a_reload_applies_as_a_whole() {
    let host = Host::new("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let pid = host.vmm_pid("a");
    host.configure("", &group(&["a", "c"]));
    daemon.signal(Signal::SIGHUP);
    let note = daemon.until_event(Pattern::Note("reloaded"));
    assert_eq!(note["note"]["changed"], true, "{note}");
    daemon.until_event(vm("c", 1, "ready"));
    host.ctl_ok(&["wait", "a", "c"]);
    assert_eq!(host.vmm_pid("a"), pid, "a VM that is unchanged keeps running");
    daemon.stop();
    daemon.assert_order(&[vm("b", 1, "stopped"), Pattern::TreeEnded]);
    host.assert_nothing_left();
}

#[test]
fn a_reload_with_mistakes_is_refused_as_a_whole() {
    let host = Host::new("", &group(&["a"]));
    let mut daemon = host.ready();
    let before = std::fs::read_to_string(host.path("c.toml")).expect("written before");
    host.configure("intensty = 1", &format!("{}{}", group(&["a", "b"]), "[[group]]\nname = \"Web\"\n"));
    daemon.signal(Signal::SIGHUP);
    let refused = |note: Value| note["note"]["why"].as_str().expect("a reason").to_owned();
    let why = refused(daemon.until_event(Pattern::Note("not-reloaded")));
    assert!(why.contains("intensty") && why.contains("\"Web\""), "all mistakes at once: {why}");
    // A file without mistakes is refused as well when it changes what cannot change at run time.
    std::fs::write(host.path("c.toml"), before.replace("name = \"test\"", "name = \"other\""))
        .expect("written");
    daemon.signal(Signal::SIGHUP);
    let why = refused(daemon.until_event(Pattern::Note("not-reloaded")));
    assert!(why.contains("name"), "{why}");
    assert!(!host.ctl_ok(&["status"]).contains(" b "));
    std::fs::write(host.path("c.toml"), before).expect("written");
    daemon.signal(Signal::SIGHUP);
    let note = daemon.until_event(Pattern::Note("reloaded"));
    assert_eq!(note["note"]["changed"], false, "{note}");
    daemon.stop();
    host.assert_nothing_left();
}

#[test]
fn a_second_ctrl_c_destroys_a_vm_that_does_not_stop() {
    let deaf = format!("{}stop.timeout = \"10min\"\n", ticker("a", &["--ignore-term"]));
    let host = Host::new("shutdown_timeout = \"20min\"", &format!("[[group]]\nname = \"web\"\n{deaf}"));
    let mut daemon = host.ready();
    daemon.signal(Signal::SIGINT);
    daemon.until_event(vm("a", 1, "stopping"));
    let note = daemon.until_event(Pattern::Note("waiting-for"));
    assert_eq!(note["note"]["vms"], serde_json::json!(["a"]));
    let before = Instant::now();
    daemon.signal(Signal::SIGINT);
    assert!(daemon.end().success(), "{}", daemon.story());
    assert!(before.elapsed() < Duration::from_secs(30));
    daemon.assert_order(&[Pattern::Note("stopping"), Pattern::Note("destroying"), Pattern::TreeEnded]);
    host.assert_nothing_left();
}

#[test]
fn with_on_exit_leave_a_signal_leaves_the_vms_to_the_next_supervisor() {
    let host = Host::new("on_exit = \"leave\"", &group(&["a", "b"]));
    let mut daemon = host.ready();
    let pids = ["a", "b"].map(|vm| host.vmm_pid(vm));
    daemon.stop();
    daemon.assert_order(&[Pattern::Note("leaving"), Pattern::TreeEnded]);
    assert_eq!(["a", "b"].map(|vm| host.vmm_pid(vm)), pids);
    host.configure("", &group(&["a", "b"]));
    let mut daemon = host.ready();
    assert_eq!(["a", "b"].map(|vm| host.vmm_pid(vm)), pids);
    daemon.stop();
    host.assert_nothing_left();
}

/// Sends SIGTERM when this event is read, in a group of these VMs.
fn sigterm_at(moment: Pattern<'_>, strategy: &str, vms: &str, before: impl FnOnce(&Host, &mut Daemon)) {
    let host = Host::new("", &format!("[[group]]\nname = \"web\"\nstrategy = \"{strategy}\"\n{vms}"));
    let mut daemon = host.start();
    before(&host, &mut daemon);
    daemon.until_event(moment);
    let began = Instant::now();
    daemon.stop();
    // At most three VMs, each with a grace of one second.
    assert!(began.elapsed() < Duration::from_secs(15), "{moment:?}: {:?}", began.elapsed());
    daemon.assert_order(&[Pattern::Note("stopping"), Pattern::TreeEnded]);
    host.assert_nothing_left();
}

#[test]
fn sigterm_at_any_moment_stops_in_time_and_leaves_nothing() {
    let deaf = |name: &str| format!("{}stop.timeout = \"1s\"\n", ticker(name, &["--ignore-term"]));
    let (a, b) = (ticker("a", &[]), ticker("b", &[]));
    let slow = ticker("b", &["--ready-after", "60000"]);
    let failing = ticker("b", &["--after", "200", "--exit", "3"]);
    let nothing = |_: &Host, _: &mut Daemon| ();
    // During the boot of the second VM, which is not ready for long.
    sigterm_at(vm("b", 1, "running"), "one_for_one", &format!("{a}{slow}"), nothing);
    // During a backoff.
    sigterm_at(vm("b", 1, "backoff"), "one_for_one", &format!("{a}{failing}"), nothing);
    // During a group restart, in which the other VM does not stop at once.
    sigterm_at(vm("a", 1, "stopping"), "one_for_all", &format!("{}{failing}", deaf("a")), nothing);
    // During the stop of a VM that ignores it.
    sigterm_at(vm("a", 1, "stopping"), "one_for_one", &format!("{}{b}", deaf("a")), |host, daemon| {
        daemon.until_event(Pattern::TreeReady);
        host.ctl_ok(&["stop", "a"]);
    });
    // During a reload that adds one VM and removes another.
    sigterm_at(Pattern::Note("reloaded"), "one_for_one", &format!("{a}{b}"), |host, daemon| {
        daemon.until_event(Pattern::TreeReady);
        host.configure("", &format!("[[group]]\nname = \"web\"\n{a}{}", ticker("c", &[])));
        daemon.signal(Signal::SIGHUP);
    });
}
