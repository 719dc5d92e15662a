//! Actors fail, and their VMs are not affected. Every actor below the root is killed and panics in every phase of a
//! VM's life: nothing leaks, no VM runs twice, and none is lost.

use crate::support::{Fate, Host, Plan, Rig, group, tree, vm};
use pepita_supervisor::cid::CidMsg;
use pepita_supervisor::executor::ExecutorMsg;
use pepita_supervisor::group::GroupMsg;
use pepita_supervisor::link::LinkMsg;
use pepita_supervisor::policy::Exit;
use pepita_supervisor::spec::{Intensity, Strategy, TreeSpec};
use pepita_supervisor::tree::TreeEnd;
use pepita_supervisor::vm::VmMsg;
use ractor::ActorCell;
use std::time::Duration;

/// Three VMs in a row; enough room in every window for the failures of the tests.
fn spec(strategy: Strategy) -> TreeSpec {
    let mut group = group("web", strategy, [vm("a"), vm("b"), vm("c")]);
    group.intensity = Intensity { max_restarts: 20, period: Duration::from_secs(60) };
    let intensity = Intensity { max_restarts: 20, period: Duration::from_secs(60) };
    TreeSpec { intensity, ..tree([group]) }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Kill,
    Panic,
}

fn fail(actor: &ActorCell, how: How) {
    match how {
        How::Kill => actor.kill(),
        How::Panic => {
            // The kind of an actor is known from the messages that its mailbox takes.
            let _ = actor.send_message(VmMsg::Panic);
            let _ = actor.send_message(GroupMsg::Panic);
            let _ = actor.send_message(CidMsg::Panic);
            let _ = actor.send_message(ExecutorMsg::Panic);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Vm,
    Group,
    Executor,
    Cids,
    Link,
}

fn actors(rig: &Rig, who: Who) -> Vec<ActorCell> {
    match who {
        Who::Vm => rig.actors_of::<VmMsg>(),
        Who::Group => rig.actors_of::<GroupMsg>(),
        Who::Executor => rig.actors_of::<ExecutorMsg>(),
        Who::Cids => rig.actors_of::<CidMsg>(),
        Who::Link => rig.actors_of::<LinkMsg>(),
    }
}

const ALL: [(Who, How); 9] = [
    (Who::Vm, How::Kill),
    (Who::Vm, How::Panic),
    (Who::Group, How::Kill),
    (Who::Group, How::Panic),
    (Who::Executor, How::Kill),
    (Who::Executor, How::Panic),
    (Who::Cids, How::Kill),
    (Who::Cids, How::Panic),
    (Who::Link, How::Kill),
];

#[tokio::test(start_paused = true)]
async fn whichever_actor_fails_while_all_is_well_no_vm_is_rebooted() {
    // semantics 9.10: a VM actor that panics is adoption in small.
    for (who, how) in ALL {
        let mut rig = Rig::ready(spec(Strategy::OneForAll)).await;
        for actor in actors(&rig, who) {
            fail(&actor, how);
        }
        rig.pass(Duration::from_secs(30)).await;
        assert_eq!(rig.phases().iter().filter(|(_, phase)| *phase == "ready").count(), 3, "{who:?} {how:?}");
        assert_eq!(rig.host.launched(), ["a", "b", "c"], "{who:?} {how:?}: {:#?}", rig.catch_up().await);
        // The VM is still supervised.
        rig.host.end("c", Fate::Exit(3));
        rig.change("c", "backoff").await;
        rig.change("c", "ready").await;
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_actor_fails_at_whatever_moment_of_a_start_all_come_up_once() {
    // semantics 12.9: after the end of a group actor or a panic of a VM actor nothing leaks, and no VM runs twice.
    for (who, how) in ALL {
        for moment in [0, 1, 5, 12, 50, 101, 105, 113, 150, 204, 250] {
            let rig = Rig::start(spec(Strategy::OneForOne)).await;
            rig.pass(Duration::from_millis(moment)).await;
            for actor in actors(&rig, who) {
                fail(&actor, how);
            }
            let up = rig.tree.wait_ready(Duration::from_secs(120)).await;
            assert_eq!(up, Ok(()), "{who:?} {how:?} after {moment} ms");
            assert_eq!(rig.host.alive(), ["a", "b", "c"], "{who:?} {how:?} after {moment} ms");
            rig.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_actor_fails_at_whatever_moment_of_a_stop_all_go_down() {
    for (who, how) in ALL {
        for moment in [0, 1, 10, 49, 52, 55, 58, 70, 110, 115] {
            let rig = Rig::ready(spec(Strategy::OneForOne)).await;
            let tree = rig.tree.clone();
            let stop = tokio::spawn(async move { tree.stop().await });
            rig.pass(Duration::from_millis(moment)).await;
            for actor in actors(&rig, who) {
                fail(&actor, how);
            }
            assert_eq!(stop.await.expect("no panic"), TreeEnd::Stopped, "{who:?} {how:?} after {moment} ms");
            assert_eq!(rig.host.left(), Vec::<String>::new(), "{who:?} {how:?} after {moment} ms");
            assert_eq!(rig.host.launched().len(), 3, "{who:?} {how:?} after {moment} ms");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_actor_fails_at_whatever_moment_of_a_group_restart_all_come_back_once() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        for (who, how) in ALL {
            for moment in [0, 20, 60, 100, 800, 1001, 1012, 1050, 1120, 1250] {
                let mut rig = Rig::ready(spec(strategy)).await;
                rig.host.end("b", Fate::Exit(3));
                rig.change("b", "backoff").await;
                rig.pass(Duration::from_millis(moment)).await;
                for actor in actors(&rig, who) {
                    fail(&actor, how);
                }
                rig.pass(Duration::from_secs(120)).await;
                let ready = rig.phases().iter().filter(|(_, phase)| *phase == "ready").count();
                let lines = rig.catch_up().await;
                assert_eq!(ready, 3, "{strategy:?} {who:?} {how:?} after {moment} ms: {lines:#?}");
                rig.end().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_while_its_groups_actor_fails_is_judged_once_by_its_true_reason() {
    let mut rig = Rig::ready(spec(Strategy::OneForOne)).await;
    fail(&actors(&rig, Who::Group)[0], How::Kill);
    rig.host.end("b", Fate::Exit(42));
    let change = rig.change("b", "backoff").await;
    assert_eq!(change.exit(), Some(&Exit::code(42)));
    rig.change("b", "ready").await;
    fail(&actors(&rig, Who::Group)[0], How::Kill);
    rig.pass(Duration::from_secs(60)).await;
    assert_eq!(rig.host.launches("b").len(), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_gave_up_stays_down_when_its_groups_actor_fails() {
    // semantics 5.13: failed VMs come back only by an operator, a reset or an escalation.
    let host = Host::new();
    host.always("b", Plan::exits(3, 100));
    let mut spec = spec(Strategy::OneForOne);
    spec.groups[0].vms[1].restart.max_retries = 1;
    let mut rig = Rig::on(host, spec).await;
    rig.until("b", "failed").await;
    fail(&actors(&rig, Who::Group)[0], How::Panic);
    rig.pass(Duration::from_secs(60)).await;
    assert_eq!(rig.phase("b"), "failed");
    assert_eq!(rig.host.launches("b").len(), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_whose_actor_fails_too_often_ends_the_tree_in_order() {
    // semantics 9.10: the root's own window.
    let mut spec = spec(Strategy::OneForOne);
    spec.intensity = Intensity { max_restarts: 2, period: Duration::from_secs(60) };
    let rig = Rig::ready(spec).await;
    for _ in 0..3 {
        fail(&actors(&rig, Who::Group)[0], How::Panic);
        rig.pass(Duration::from_secs(1)).await;
    }
    let TreeEnd::Failed { reason } = rig.tree.wait().await else { panic!("failed") };
    assert!(
        reason.contains("the actor of group web failed: told to panic; more than 2 restarts in 1m"),
        "{reason}"
    );
    assert_eq!(rig.host.stopped(), ["c", "b", "a"]);
}
