//! Keeps the service manager posted while the tree runs.

use crate::line;
use crate::notify::Notify;
use pepita_supervisor::observe::{TreeStatus, VmPhase};
use pepita_supervisor::tree::Tree;
use std::sync::Arc;
use std::time::Duration;

/// Tells how many VMs are ready, whenever that changes.
pub(super) fn status(tree: &Tree, notify: &Arc<Notify>) {
    if !notify.is_wanted() {
        return;
    }
    let (tree, notify) = (tree.clone(), Arc::clone(notify));
    tokio::spawn(async move {
        let mut events = tree.events_after(0);
        let mut last = String::new();
        while events.next().await.is_some() {
            let text = in_short(&tree.status());
            if text != last {
                notify.tell(&format!("STATUS={text}"));
                last = text;
            }
        }
    });
}

/// Tells that all is well, but only while the tree answers.
pub(super) fn watchdog(tree: &Tree, notify: &Arc<Notify>, every: Option<Duration>) {
    let Some(every) = every.filter(|_| notify.is_wanted()) else { return };
    let (tree, notify) = (tree.clone(), Arc::clone(notify));
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(every);
        loop {
            tick.tick().await;
            if let Ok(Some(_)) = tokio::time::timeout(every, tree.spec()).await {
                notify.tell("WATCHDOG=1");
            }
        }
    });
}

fn in_short(status: &TreeStatus) -> String {
    let wanted = status.vms().filter(|vm| vm.wanted).count();
    let ready = status.vms().filter(|vm| vm.phase == VmPhase::Ready).count();
    let others = status.vms().filter(|vm| vm.wanted && vm.phase != VmPhase::Ready);
    let others: Vec<String> =
        others.take(3).map(|vm| format!("{} is {}", vm.name, vm.phase.word())).collect();
    let rest = if others.is_empty() { String::new() } else { format!(": {}", others.join(", ")) };
    format!("{ready} of {wanted} VMs ready{rest}")
}

/// The VMs of which something may run, and since when they are where they are.
pub(super) fn live(tree: &Tree) -> Vec<String> {
    let status = tree.status();
    let live = status.vms().filter(|vm| vm.phase.is_live());
    live.map(|vm| format!("{} ({} for {})", vm.name, vm.phase.word(), line::lasting(vm.since.elapsed())))
        .collect()
}
