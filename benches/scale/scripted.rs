//! A tree whose launcher, monitors and guests exist only in memory and answer at once: what is left is the supervisor.

use crate::common::{in_ms, ms};
use crate::support::{Fate, Host, Plan, Rig, group, tree, vm};
use crate::{GROUP, PATIENCE, figure, rss_kib};
use pepita_supervisor::control::{self, Call, Client, Hooks};
use pepita_supervisor::observe::VmPhase;
use pepita_supervisor::spec::{Backoff, GroupSpec, Intensity, Strategy, TreeSpec};
use std::time::{Duration, Instant};

/// How many launches may run at once.
const PARALLEL: usize = 1024;

/// How often the status is asked for.
const QUESTIONS: usize = 11;

fn spec(names: &[String]) -> TreeSpec {
    let groups = names.chunks(GROUP).enumerate().map(|(n, names)| {
        let vms = names.iter().map(|name| {
            let mut vm = vm(name);
            vm.restart.backoff = Backoff { initial: Duration::ZERO, ..Backoff::default() };
            vm
        });
        let intensity = Intensity { max_restarts: 1_000_000, period: Duration::from_secs(60) };
        GroupSpec { intensity, ..group(&format!("g-{n}"), Strategy::OneForOne, vms) }
    });
    TreeSpec { max_parallel_launches: PARALLEL, ..tree(groups) }
}

/// Measures a tree of this many VMs.
pub(crate) async fn measure(vms: usize) {
    println!("\n{vms} VMs in memory, in groups of {GROUP}");
    let names: Vec<String> = (0..vms).map(|n| format!("vm-{n}")).collect();
    let (host, spec, empty) = (Host::new(), spec(&names), rss_kib());
    for name in &names {
        let at_once = Some(Duration::ZERO);
        let plan = Plan { launch: at_once, boot: at_once, stop: at_once, ..Plan::default() };
        host.always(name, Plan { destroy: Duration::ZERO, ..plan });
    }
    let began = Instant::now();
    let rig = Rig::on(host, spec).await;
    rig.tree.wait_ready(PATIENCE).await.expect("the tree gets ready");
    let took = began.elapsed();
    println!("start until all ready       {:>12}", ms(took));
    figure("in memory: start until all are Ready", "ms", in_ms(took), vms, Some((10_000, 3000.0))).record();
    let each = rss_kib().saturating_sub(empty) as f64 / vms as f64;
    println!("memory                      {each:>9.1} KiB a VM, with that of the simulated host");
    figure("in memory: memory for a VM, with the simulated host's", "KiB", each, vms, None).record();

    let began = Instant::now();
    for name in &names {
        rig.host.end(name, Fate::Crash);
    }
    // One look takes milliseconds with 10,000 VMs, so that a look at each change would be measured instead.
    while !all_back(&rig) {
        assert!(began.elapsed() < PATIENCE, "not all ready again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    println!("all failed, all ready again {:>12}", ms(took));
    let aim = Some((10_000, 3000.0));
    figure("in memory: all failed until all are Ready again", "ms", in_ms(took), vms, aim).record();

    let took = status(&rig).await;
    println!("status over the socket      {:>12}", ms(took));
    figure("in memory: status over the socket", "ms", in_ms(took), vms, Some((10_000, 100.0))).record();

    let began = Instant::now();
    rig.end().await;
    println!("stop                        {:>12}", ms(began.elapsed()));
    figure("in memory: stop of all", "ms", in_ms(began.elapsed()), vms, None).record();
    let each = rss_kib().saturating_sub(empty) as f64 / vms as f64;
    println!("memory that is left         {each:>9.1} KiB a VM");
    figure("in memory: memory for a VM that is left when all are gone", "KiB", each, vms, None).record();
}

fn all_back(rig: &Rig) -> bool {
    rig.tree.status().vms().all(|vm| vm.phase == VmPhase::Ready && vm.incarnation.0 > 1)
}

/// Returns the median time of a question for the whole status.
async fn status(rig: &Rig) -> Duration {
    let dir = tempfile::tempdir().expect("a folder");
    let control = control::serve(&rig.tree, &dir.path().join("c.sock"), Hooks::default()).expect("a socket");
    let mut client = Client::connect(control.path()).await.expect("connected");
    let mut times = Vec::new();
    for _ in 0..QUESTIONS {
        let began = Instant::now();
        client.call(Call::Status).await.expect("answered");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    drop(client);
    control.close().await;
    times[QUESTIONS / 2]
}
