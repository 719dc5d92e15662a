//! Many VMs in one tree. The cost is measured by `make bench-scale`; these tests show only that it works.

use crate::support::{Fate, Host, Plan, Rig, What, group, tree, vm};
use pepita_supervisor::observe::Received;
use pepita_supervisor::spec::{Intensity, Strategy, TreeSpec, VmSpec};
use std::time::Duration;

/// Ten groups of fifty VMs.
fn spec() -> TreeSpec {
    let vms = |g: usize| -> Vec<VmSpec> { (0..50).map(|n| vm(&format!("vm-{g}-{n}"))).collect() };
    let groups = (0..10).map(|g| group(&format!("g-{g}"), Strategy::OneForOne, vms(g)));
    TreeSpec { max_parallel_launches: 16, ..tree(groups) }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_vms_get_ready_and_a_hundred_that_are_killed_at_once_come_back() {
    let rig = Rig::ready(spec()).await;
    assert_eq!(rig.host.alive().len(), 500);
    for n in 0..100 {
        rig.host.end(&format!("vm-{}-{}", n % 10, n / 10), Fate::Signal(9));
    }
    rig.pass(Duration::from_secs(30)).await;
    assert!(rig.phases().iter().all(|(_, phase)| *phase == "ready"));
    assert_eq!(rig.host.launched().len(), 600);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_loses_all_monitors_at_once_gets_no_call_for_each_of_them_at_once() {
    // semantics 9.11.
    let rig = Rig::ready(spec()).await;
    for vm in rig.host.alive() {
        rig.host.kill_monitor(&vm);
    }
    rig.pass(Duration::from_secs(60)).await;
    assert!(rig.phases().iter().all(|(_, phase)| *phase == "ready"));
    let adopted = rig.host.calls().iter().filter(|call| call.what == What::Adopt).count();
    assert_eq!((adopted, rig.host.launched().len()), (500, 500));
    let most = rig.host.most_at_once();
    assert!((2..=32).contains(&most), "{most}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_how_much_it_missed_and_the_numbers_have_no_gap() {
    // semantics 10.
    let host = Host::new();
    host.always("a", Plan::exits(3, 10));
    let mut a = vm("a");
    a.restart.backoff.initial = Duration::ZERO;
    let mut web = group("web", Strategy::OneForOne, [a]);
    web.intensity = Intensity { max_restarts: 100_000, period: Duration::from_secs(60) };
    let rig = Rig::on(host, tree([web])).await;
    let mut slow = rig.tree.events();
    rig.pass(Duration::from_secs(600)).await;
    rig.tree.stop().await;
    let Some(Received::Lagged(missed)) = slow.next().await else { panic!("the reader has missed events") };
    let mut last = None;
    while let Some(Received::Event(event)) = slow.next().await {
        match last {
            None => assert!(event.seq > missed, "{} after {missed} missed", event.seq),
            Some(last) => assert_eq!(event.seq, last + 1),
        }
        last = Some(event.seq);
    }
    assert!(last > Some(missed), "{missed}");
    drop(rig);
}
