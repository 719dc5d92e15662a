//! The VMs that are restarted together, and the order of their restart, with real VMs.

use crate::host::{Host, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn rest_for_one_restarts_the_second_and_the_third_and_leaves_the_first_alone() {
    let host = Host::new();
    let groups = "[[group]]\nname = \"web\"\nstrategy = \"rest_for_one\"\n\
        [[group.vm]]\nname = \"a\"\n[[group.vm]]\nname = \"b\"\n[[group.vm]]\nname = \"c\"\n";
    let (tree, mut events) = host.start(groups).await;
    tree.wait_ready(PATIENCE).await.expect("ready");
    events.phase("c", "ready").await;
    let first = host.status("a").vmm_pid;
    host.kill_vmm("b");
    let c = events.phase("c", "ready").await;
    assert_eq!(c.incarnation.0, 2);
    let story = events.story();
    let at = |text: &str| story.find(text).unwrap_or_else(|| panic!("no {text:?} in:\n{story}"));
    assert!(at("c #1: ready -> stopping") < at("b #2: waiting -> starting"), "{story}");
    assert!(at("b #2: running -> ready") < at("c #2: waiting -> starting"), "{story}");
    assert_eq!(host.status("a").vmm_pid, first, "the first was touched");
    assert!(!story.contains("a #2"), "{story}");

    // The VMs stop in the reverse of the order in which they start.
    tree.stop().await;
    events.phase("a", "stopped").await;
    let story = events.story();
    let at = |text: &str| story.rfind(text).unwrap_or_else(|| panic!("no {text:?} in:\n{story}"));
    assert!(at("c #2: stopping -> stopped") < at("b #2: ready -> stopping"), "{story}");
    assert!(at("b #2: stopping -> stopped") < at("a #1: ready -> stopping"), "{story}");
    host.assert_nothing_left();
}
