//! The conditions for a VM to be Ready, and the consequence of bad health.

use crate::support::{Fate, Host, Plan, Rig, What, group, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::policy::Ending;
use pepita_supervisor::spec::{OnUnhealthy, Readiness, Strategy, TreeSpec, VmSpec};
use pepita_wire::agent::Health;
use std::time::Duration;
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);

fn one(vm: VmSpec) -> TreeSpec {
    tree([group("web", Strategy::OneForOne, [vm])])
}

/// A VM whose daemon reports that it is ready, within 2 s.
fn notifying() -> TreeSpec {
    let mut a = vm("a");
    (a.start.ready, a.start.timeout) = (Readiness::Notify, SECOND * 2);
    one(a)
}

/// A VM that is probed each second; three failures in a row are too many.
fn probed() -> VmSpec {
    let mut a = vm("a");
    (a.health.interval, a.health.timeout, a.health.retries) = (SECOND, SECOND / 2, 3);
    a
}

fn watched() -> VmSpec {
    let mut a = vm("a");
    a.health.watchdog = SECOND;
    a
}

fn silent() -> Plan {
    Plan { answers: false, ..Plan::default() }
}

#[tokio::test(start_paused = true)]
async fn with_notify_a_vm_is_running_until_it_says_that_it_is_ready() {
    // semantics 1.6: ready = notify.
    let host = Host::new();
    host.always("a", Plan { ready: Some(SECOND), ..Plan::default() });
    let mut rig = Rig::on(host, notifying()).await;
    rig.change("a", "running").await;
    rig.pass(SECOND * 9 / 10).await;
    assert_eq!(rig.phase("a"), "running");
    rig.change("a", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_not_ready_in_time_is_destroyed_and_tried_again() {
    // semantics 1.7: start timeout, from the launch on.
    for plan in [Plan::default(), Plan::never_boots()] {
        let host = Host::new();
        host.plan("a", [plan]);
        host.always("a", Plan { ready: Some(SECOND), ..Plan::default() });
        let mut rig = Rig::on(host, notifying()).await;
        rig.change("a", "starting").await;
        let before = tokio::time::Instant::now();
        let change = rig.change("a", "backoff").await;
        assert_eq!(change.ending, Some(Ending::StartTimeout));
        let took = before.elapsed();
        assert!(took >= SECOND * 2 && took < SECOND * 21 / 10, "{took:?}");
        rig.change("a", "ready").await;
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn extend_timeout_usec_is_honoured() {
    // semantics 1.
    let mut rig = Rig::start(notifying()).await;
    rig.change("a", "running").await;
    rig.pass(SECOND).await;
    rig.host.says("a", Health { extend_timeout_us: Some(5_000_000), ..Health::default() });
    rig.pass(SECOND * 9 / 2).await;
    assert_eq!(rig.phase("a"), "running");
    rig.host.gets_ready("a");
    rig.change("a", "ready").await;
    assert_eq!(rig.host.launches("a").len(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn three_pings_without_an_answer_make_a_vm_unhealthy_and_that_is_a_failure() {
    // semantics 1.11, 1.12.
    let mut rig = Rig::ready(one(probed())).await;
    rig.pass(SECOND * 10).await;
    assert_eq!((rig.phase("a"), rig.host.asked("a", "ping").len()), ("ready", 9), "one a second");
    rig.host.becomes("a", |plan| plan.answers = false);
    let unhealthy = rig.change("a", "unhealthy").await;
    assert_eq!(unhealthy.incarnation.0, 1);
    let change = rig.change("a", "backoff").await;
    assert_eq!(change.ending, Some(Ending::Unhealthy));
    assert_eq!(rig.host.asked("a", "ping").len(), 12, "three in a row");
    rig.change("a", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_between_begins_the_count_anew() {
    let mut rig = Rig::ready(one(probed())).await;
    for _ in 0..5 {
        rig.host.becomes("a", |plan| plan.answers = false);
        rig.pass(SECOND * 2).await;
        rig.host.becomes("a", |plan| plan.answers = true);
        rig.pass(SECOND).await;
    }
    assert_eq!(rig.phase("a"), "ready");
    assert!(rig.catch_up().await.iter().all(|line| !line.contains("unhealthy")));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_command_in_the_guest_is_asked_instead_and_counts_by_its_exit_code() {
    // semantics 1.10: `command` in the guest; exit code 0 is healthy.
    let mut a = probed();
    a.health.command = Some(vec!["/bin/check".into()]);
    a.health.on_unhealthy = OnUnhealthy::Report;
    let mut rig = Rig::ready(one(a)).await;
    rig.pass(SECOND * 11 / 2).await;
    assert_eq!((rig.phase("a"), rig.host.asked("a", "exec").len()), ("ready", 5));
    rig.host.becomes("a", |plan| plan.exec = 1);
    rig.change("a", "unhealthy").await;
    rig.host.becomes("a", |plan| plan.exec = 0);
    rig.change("a", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_from_outside_the_daemon_counts_as_a_command_does_and_the_event_says_what_it_has_found() {
    // semantics 1.10, 1.28.
    let mut a = probed();
    a.health.tcp = 6379;
    let mut rig = Rig::ready(one(a)).await;
    rig.pass(SECOND * 11 / 2).await;
    assert_eq!((rig.phase("a"), rig.host.asked("a", "probe").len()), ("ready", 5));
    let status = |rig: &Rig| rig.tree.status().vm("a").expect("a VM").probe.clone().expect("a probe");
    assert_eq!(status(&rig).to_string(), "good: well");
    rig.host.becomes("a", |plan| plan.exec = 1);
    let change = rig.change("a", "unhealthy").await;
    assert_eq!(change.probe.as_deref(), Some("not\\nwell"));
    let change = rig.change("a", "backoff").await;
    assert_eq!((change.ending, change.probe.as_deref()), (Some(Ending::Unhealthy), Some("not\\nwell")));
    assert_eq!(status(&rig).to_string(), "failed, 3 in a row: not\\nwell");
    let change = rig.change("a", "ready").await;
    assert_eq!((change.probe, rig.tree.status().vm("a").expect("a VM").probe.clone()), (None, None));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_ready_at_its_first_good_probe_and_those_behind_it_wait() {
    // semantics 1.27.
    let (mut a, b) = (probed(), vm("b"));
    a.health.tcp = 6379;
    (a.start.ready, a.start.timeout) = (Readiness::Health, SECOND * 5);
    let host = Host::new();
    host.plan("a", [Plan { exec: 1, ..Plan::default() }]);
    let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [a, b])])).await;
    rig.change("a", "running").await;
    rig.pass(SECOND).await;
    assert_eq!((rig.phase("a"), rig.phase("b")), ("running", "waiting"));
    let probes = rig.host.asked("a", "probe").len();
    assert!((3..=5).contains(&probes), "with pauses that grow: {probes}");
    let change = rig.change("a", "backoff").await;
    assert_eq!((change.ending, change.probe.as_deref()), (Some(Ending::StartTimeout), Some("not\\nwell")));
    let running = rig.change("a", "running").await;
    assert_eq!(running.incarnation.0, 2);
    rig.change("a", "ready").await;
    rig.until("b", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_know_probes_makes_no_vm_unhealthy() {
    // semantics 1.28.
    let mut a = probed();
    a.health.http = "80/healthz".parse().ok();
    a.start.ready = Readiness::Health;
    let host = Host::new();
    host.always("a", Plan { probes: false, exec: 1, ..Plan::default() });
    let mut rig = Rig::on(host, one(a)).await;
    rig.said("too old for health.http").await;
    rig.until("a", "ready").await;
    rig.pass(SECOND * 60).await;
    let again = rig.catch_up().await.iter().filter(|line| line.contains("too old")).count();
    assert_eq!((rig.phase("a"), again), ("ready", 1), "told once");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn unhealthy_is_a_state_and_an_event_and_a_failure_only_by_policy() {
    // semantics 1.12: on_unhealthy = report.
    let mut a = probed();
    a.health.on_unhealthy = OnUnhealthy::Report;
    let mut rig = Rig::ready(one(a)).await;
    rig.host.becomes("a", |plan| plan.answers = false);
    rig.change("a", "unhealthy").await;
    rig.pass(SECOND * 600).await;
    assert_eq!(rig.phase("a"), "unhealthy");
    assert_eq!(rig.window(0), (0, 6));
    rig.host.becomes("a", |plan| plan.answers = true);
    let healthy = rig.change("a", "ready").await;
    assert_eq!((healthy.from.word(), healthy.incarnation.0), ("unhealthy", 1));
    assert_eq!(rig.host.launches("a").len(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_spell_is_a_break_in_being_ready() {
    // semantics 4.4: Ready for `reset_after` without a break.
    let mut a = probed();
    a.health.on_unhealthy = OnUnhealthy::Report;
    a.restart.reset_after = SECOND * 60;
    let host = Host::new();
    host.plan("a", [Plan::exits(3, 100)]);
    let mut rig = Rig::on(host, one(a)).await;
    rig.change("a", "backoff").await;
    rig.change("a", "ready").await;
    rig.pass(SECOND * 40).await;
    rig.host.becomes("a", |plan| plan.answers = false);
    rig.change("a", "unhealthy").await;
    rig.host.becomes("a", |plan| plan.answers = true);
    rig.change("a", "ready").await;
    rig.pass(SECOND * 40).await;
    rig.host.end("a", Fate::Crash);
    assert_eq!(rig.change("a", "backoff").await.decision.expect("a decision").attempt, 2);
    rig.until("a", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn failed_probes_in_the_start_period_do_not_count() {
    // semantics 1.11: start_period.
    let mut a = probed();
    a.health.start_period = SECOND * 20;
    let host = Host::new();
    host.always("a", silent());
    let mut rig = Rig::on(host, one(a)).await;
    rig.change("a", "ready").await;
    let before = tokio::time::Instant::now();
    rig.change("a", "unhealthy").await;
    let took = before.elapsed();
    assert!(took > SECOND * 22 && took < SECOND * 24, "{took:?}");
    rig.host.always("a", Plan::default());
    rig.change("a", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_does_not_feed_its_watchdog_has_failed() {
    // semantics 1.13: the daemon must send WATCHDOG=1 this often.
    let mut rig = Rig::ready(one(watched())).await;
    for _ in 0..20 {
        rig.pass(SECOND * 8 / 10).await;
        rig.host.says("a", Health { watchdog: true, ..Health::default() });
    }
    assert_eq!(rig.phase("a"), "ready");
    let change = rig.change("a", "backoff").await;
    assert_eq!(change.ending, Some(Ending::WatchdogExpired));
    let mut fed = one(watched());
    fed.groups[0].vms[0].health.watchdog = Duration::ZERO;
    rig.tree.reload(fed, false).await.expect("applied");
    rig.change("a", "ready").await;
    rig.pass(SECOND * 60).await;
    assert_eq!(rig.phase("a"), "ready", "switched off, live");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_starved_host_makes_no_guest_unhealthy() {
    // semantics 12.10: a tick that comes late proves nothing about a guest.
    let mut both = probed();
    both.health.watchdog = SECOND * 2;
    let rig = Rig::ready(one(both)).await;
    for _ in 0..20 {
        rig.host.says("a", Health { watchdog: true, ..Health::default() });
        rig.pass(SECOND * 3 / 10).await;
        // The process did not run for half a minute: the guest's answers and watchdog messages wait in its socket.
        advance(SECOND * 30).await;
        rig.pass(Duration::from_millis(5)).await;
    }
    assert_eq!((rig.phase("a"), rig.host.launches("a").len()), ("ready", 1));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_vm_is_neither_unhealthy_nor_unfed_and_its_start_does_not_run_out() {
    // semantics 2.6.
    let mut both = probed();
    both.health.watchdog = SECOND;
    let mut rig = Rig::ready(one(both)).await;
    for _ in 0..50 {
        rig.tree.pause("a").await.expect("paused");
        rig.until("a", "paused").await;
        rig.pass(SECOND * 5).await;
        rig.tree.resume("a").await.expect("resumed");
        rig.until("a", "ready").await;
    }
    assert_eq!(rig.host.launches("a").len(), 1);
    assert!(rig.catch_up().await.iter().all(|line| !line.contains("unhealthy")));
    rig.end().await;

    let mut rig = Rig::start(notifying()).await;
    rig.change("a", "running").await;
    rig.tree.pause("a").await.expect("paused");
    rig.pass(SECOND * 60).await;
    rig.tree.resume("a").await.expect("resumed");
    rig.until("a", "running").await;
    rig.host.gets_ready("a");
    rig.change("a", "ready").await;
    assert_eq!(rig.host.launches("a").len(), 1);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_vm_is_stopped_like_any_other() {
    // semantics 7.3: a paused VM is resumed first (by its monitor).
    let mut rig = Rig::ready(one(vm("a"))).await;
    rig.tree.pause("a").await.expect("paused");
    rig.until("a", "paused").await;
    rig.end().await;
}

/// Returns how long the VM `a` had between the stop of its daemon and its removal.
fn grace(rig: &Rig) -> Duration {
    let calls = rig.host.calls();
    let stop = calls.iter().find(|call| call.what == What::Stop).expect("stopped").at;
    calls.iter().find(|call| call.what == What::Destroy && call.at >= stop).expect("destroyed").at - stop
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_daemon_may_do_its_last_work_and_its_end_stays_unhealthy() {
    // semantics 1.12: the stop signal, a grace, then a kill.
    for (stop, expected) in [(Some(SECOND), SECOND), (None, SECOND * 3)] {
        let mut a = probed();
        a.health.stop_timeout = SECOND * 3;
        let mut rig = Rig::ready(one(a)).await;
        rig.host.becomes("a", |plan| (plan.answers, plan.stop) = (false, stop));
        rig.change("a", "unhealthy").await;
        let change = rig.change("a", "backoff").await;
        assert_eq!(change.ending, Some(Ending::Unhealthy));
        let grace = grace(&rig);
        assert!(grace >= expected && grace < expected + SECOND, "{grace:?}");
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_misses_its_watchdog_has_the_same_grace_and_none_where_it_is_zero() {
    // semantics 1.12, 1.13.
    for timeout in [SECOND * 3, Duration::ZERO] {
        let mut a = watched();
        a.health.stop_timeout = timeout;
        let mut rig = Rig::ready(one(a)).await;
        rig.host.becomes("a", |plan| plan.stop = Some(SECOND));
        let change = rig.change("a", "backoff").await;
        assert_eq!(change.ending, Some(Ending::WatchdogExpired));
        assert_eq!(rig.host.stopped().len(), usize::from(!timeout.is_zero()));
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_says_that_it_stops_is_not_probed_meanwhile_and_is_probed_again_when_it_does_not() {
    // semantics 1.15.
    let mut a = probed();
    (a.health.watchdog, a.stop.timeout) = (SECOND * 2, SECOND * 20);
    let mut rig = Rig::ready(one(a)).await;
    rig.host.becomes("a", |plan| plan.answers = false);
    rig.host.says("a", Health { stopping: true, ..Health::default() });
    rig.pass(SECOND * 19).await;
    rig.host.says("a", Health { extend_timeout_us: Some(20_000_000), ..Health::default() });
    rig.pass(SECOND * 19).await;
    assert_eq!((rig.phase("a"), rig.host.asked("a", "ping").len()), ("ready", 0));
    let change = rig.change("a", "backoff").await;
    assert_eq!(change.ending, Some(Ending::WatchdogExpired));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_asks_for_more_time_while_it_stops_gets_it_from_the_supervisor_too() {
    // semantics 7.14.
    let mut a = vm("a");
    a.stop.timeout = SECOND * 3;
    let mut rig = Rig::ready(one(a)).await;
    rig.host.becomes("a", |plan| (plan.stop, plan.patient) = (Some(SECOND * 25), true));
    rig.tree.command("a", Command::Stop).await.expect("accepted");
    rig.change("a", "stopping").await;
    rig.host.says("a", Health { stopping: true, extend_timeout_us: Some(30_000_000), ..Health::default() });
    rig.pass(SECOND * 24).await;
    assert_eq!((rig.phase("a"), rig.host.alive().len()), ("stopping", 1));
    rig.change("a", "stopped").await;
    assert!(grace(&rig) >= SECOND * 25);
    rig.end().await;
}
