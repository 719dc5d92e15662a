//! The edge cases of semantics 12, by number: 6 to 8, about the VMs that come back, how often and how soon.

use crate::support::{Fate, Host, Plan, Rig, group, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::policy::{Action, Reason};
use pepita_supervisor::spec::{Intensity, Restart, Strategy, TreeSpec};
use std::time::Duration;
use tokio::time::{Instant, advance};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn which_vms_come_back_after_a_sibling_failed() {
    // semantics 12.6, 5.6: completed VMs come back; VMs that the operator stopped, that gave up or that are never
    // restarted do not.
    let mut once = vm("once");
    once.restart.policy = Restart::Never;
    let mut broken = vm("broken");
    broken.restart.max_retries = 1;
    let vms = [vm("x"), vm("up"), vm("done"), vm("off"), once, broken];
    let host = Host::new();
    host.plan("broken", [Plan::exits(3, 100), Plan::exits(3, 100)]);
    let mut rig = Rig::on(host, tree([group("web", Strategy::RestForOne, vms)])).await;
    rig.until("broken", "failed").await;
    rig.host.end("done", Fate::Exit(0));
    rig.until("done", "completed").await;
    rig.tree.command("off", Command::Stop).await.expect("accepted");
    rig.until("off", "stopped").await;
    rig.host.end("x", Fate::Crash);
    rig.pass(SECOND * 60).await;
    let phases: Vec<&str> = rig.phases().into_iter().map(|(_, phase)| phase).collect();
    assert_eq!(phases, ["ready", "ready", "ready", "stopped", "stopped", "failed"]);
    for (name, launches) in [("x", 2), ("up", 2), ("done", 2), ("off", 1), ("once", 1), ("broken", 2)] {
        assert_eq!(rig.host.launches(name).len(), launches, "{name}");
    }
    rig.end().await;
}

/// A tree with a VM that comes back at once, up to this number of times in 10 s.
fn often(max_restarts: u32) -> TreeSpec {
    let mut a = vm("a");
    a.restart.backoff.initial = Duration::ZERO;
    let mut web = group("web", Strategy::OneForOne, [a]);
    web.intensity = Intensity { max_restarts, period: SECOND * 10 };
    tree([web])
}

#[tokio::test(start_paused = true)]
async fn exactly_the_intensity_is_allowed_and_one_more_is_not() {
    // semantics 12.7.
    let mut rig = Rig::ready(often(3)).await;
    for _ in 0..3 {
        rig.host.end("a", Fate::Crash);
        rig.change("a", "backoff").await;
        rig.until("a", "ready").await;
    }
    rig.host.end("a", Fate::Crash);
    let change = rig.change("a", "stopped").await;
    let decision = change.decision.expect("a decision");
    assert_eq!((decision.action, decision.reason), (Action::Escalate, Reason::IntensityExceeded));
    assert_eq!((decision.window.count, decision.window.max), (3, 3));
    rig.until("a", "ready").await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_exactly_one_period_old_counts_and_a_nanosecond_later_it_does_not() {
    // semantics 12.7, 4.6. The clock of the test stands while the wall clock runs, and jumps for hours while the wall
    // clock stands: nothing here could hold if a wall clock were asked. (Only `observe` may know it; see architecture.rs.)
    for (beyond, allowed) in [(Duration::ZERO, false), (Duration::from_nanos(1), true)] {
        let mut rig = Rig::ready(often(1)).await;
        rig.host.end("a", Fate::Crash);
        rig.change("a", "backoff").await;
        let entered = Instant::now();
        rig.until("a", "ready").await;
        rig.pass(SECOND * 5).await;
        advance(entered + SECOND * 10 + beyond - Instant::now()).await;
        rig.host.end("a", Fate::Crash);
        let next = rig.change("a", if allowed { "backoff" } else { "stopped" }).await;
        assert_eq!(next.incarnation.0, 2, "{beyond:?}");
        rig.until("a", "ready").await;
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn ready_for_reset_after_forgets_the_failures_and_a_nanosecond_less_does_not() {
    // semantics 12.8, 4.4.
    for (short, attempt) in [(Duration::from_nanos(1), 2), (Duration::ZERO, 1)] {
        let mut a = vm("a");
        a.restart.reset_after = SECOND * 60;
        let host = Host::new();
        host.plan("a", [Plan::exits(3, 100)]);
        let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [a])])).await;
        rig.change("a", "backoff").await;
        rig.change("a", "ready").await;
        advance(SECOND * 60 - short).await;
        rig.host.end("a", Fate::Crash);
        let decision = rig.change("a", "backoff").await.decision.expect("a decision");
        assert_eq!(decision.attempt, attempt, "{short:?}");
        rig.until("a", "ready").await;
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_is_never_ready_and_a_vm_that_flaps_keep_their_failures() {
    // semantics 12.8: a VM that is never Ready is never reset; a VM that is Ready for less than `reset_after` again and
    // again is not reset either.
    let never = (Duration::from_millis(1), Plan::never_boots());
    let flaps = (SECOND * 10, Plan::exits(3, 9000));
    for (reset_after, plan) in [never, flaps] {
        let host = Host::new();
        host.always("a", plan);
        let mut a = vm("a");
        (a.restart.reset_after, a.start.timeout) = (reset_after, SECOND * 30);
        let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [a])])).await;
        for attempt in 1..=8 {
            let decision = rig.change("a", "backoff").await.decision.expect("a decision");
            assert_eq!(decision.attempt, attempt);
        }
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_operators_start_restart_or_reset_forgets_the_failures_and_is_not_counted() {
    // semantics 4.
    for command in [Command::Start, Command::Restart, Command::Reset] {
        let host = Host::new();
        host.plan("a", [Plan::exits(3, 100), Plan::exits(3, 100)]);
        let mut rig = Rig::on(host, tree([group("web", Strategy::OneForOne, [vm("a")])])).await;
        rig.change("a", "backoff").await;
        rig.change("a", "backoff").await;
        rig.tree.command("a", command).await.expect("accepted");
        assert_eq!(rig.tree.status().vm("a").expect("there").attempts, 0, "{command:?}");
        rig.until("a", "ready").await;
        assert_eq!(rig.window(0), (2, 6), "{command:?}");
        rig.end().await;
    }
}
