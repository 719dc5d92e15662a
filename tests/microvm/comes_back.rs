//! A VM that fails comes back, or does not, as its policy says; the event and the record give the exact reason of its
//! end.

use crate::host::{Host, PATIENCE};
use pepita_supervisor::group::Command;
use pepita_supervisor::policy::Exit;
use pepita_supervisor::tree::TreeEnd;

fn vm(name: &str, args: &str, more: &str) -> String {
    format!("[[group.vm]]\nname = \"{name}\"\ncommand = [\"/usr/bin/ticker\"{args}]\n{more}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_vmm_is_killed_is_back_and_ready_and_a_stop_leaves_nothing() {
    let host = Host::new();
    let (tree, mut events) = host.start(&format!("[[group]]\nname = \"web\"\n{}", vm("api", "", ""))).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    events.phase("api", "ready").await;
    let killed = host.kill_vmm("api");

    let backoff = events.phase("api", "backoff").await;
    assert!(matches!(backoff.exit(), Some(Exit::VmmCrashed(exit)) if exit.signal == Some(9)), "{backoff:?}");
    let decision = backoff.decision.expect("a decision");
    assert_eq!((decision.attempt, decision.window.count, decision.window.max), (1, 1, 6));

    let ready = events.phase("api", "ready").await;
    assert_eq!(ready.incarnation.0, backoff.incarnation.0 + 1);
    let status = host.status("api");
    assert_eq!(status.incarnation, ready.incarnation.0);
    assert_ne!(status.vmm_pid, Some(killed));

    assert_eq!(tree.stop().await, TreeEnd::Stopped);
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_3_is_told_as_3_and_restarted_on_failure_and_exit_0_is_left_alone() {
    let host = Host::new();
    let groups = [
        "[[group]]\nname = \"web\"\n".to_owned(),
        vm("three", ", \"--exit\", \"3\", \"--after\", \"200\"", "restart.policy = \"on-failure\""),
        vm("zero", ", \"--exit\", \"0\", \"--after\", \"200\"", "restart.policy = \"on-failure\""),
        vm("never", ", \"--exit\", \"3\", \"--after\", \"200\"", "restart.policy = \"never\""),
    ];
    let (tree, mut events) = host.start(&groups.concat()).await;
    let backoff = events.phase("three", "backoff").await;
    assert_eq!(backoff.exit(), Some(&Exit::code(3)));
    let exit = host.status("three").exit;
    // The VM may have been started again by now; if not, its record has exit code 3.
    if let Some(exit) = exit {
        assert_eq!(exit.exit, Exit::code(3));
    }
    let later = events.until("a second incarnation and the ends of the others", {
        let (mut again, mut completed, mut failed) = (false, false, false);
        move |event| {
            let text = event.to_string();
            again |= text.starts_with("three #2: starting -> running");
            completed |= text.starts_with("zero") && text.contains("-> completed");
            failed |= text.starts_with("never") && text.contains("-> failed");
            again && completed && failed
        }
    });
    later.await;
    assert_eq!(host.status("never").exit.map(|e| e.exit), Some(Exit::code(3)));
    // The VM that ended with 0 stays down, and an operator may start it.
    tree.command("zero", Command::Start).await.expect("accepted");
    let completed = events.phase("zero", "completed").await;
    assert_eq!((completed.incarnation.0, completed.exit()), (2, Some(&Exit::code(0))));
    tree.stop().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_not_there_is_not_tried_again() {
    let host = Host::new();
    let groups = "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"api\"\ncommand = [\"/nope\"]\n";
    let (tree, mut events) = host.start(groups).await;
    let failed = events.phase("api", "failed").await;
    let Some(Exit::NotExecutable { path, errno, .. }) = failed.exit() else { panic!("{failed:?}") };
    assert_eq!((path.as_str(), *errno), ("/nope", 2));
    tree.stop().await;
    host.assert_nothing_left();
}
