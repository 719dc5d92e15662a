//! Reports to the service manager while the tree runs: how many VMs are ready, and that the tree answers.

use crate::notify::Notify;
use pepita_supervisor::{Tree, TreeStatus, VmPhase};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::Duration;

/// The maximum number of unready VMs that the status names.
const NAMED: usize = 3;

/// Reports how many VMs are ready, whenever that changes.
pub(super) fn report_status(tree: &Tree, notify: &Arc<Notify>) {
    if !notify.is_wanted() {
        return;
    }
    let (tree, notify) = (tree.clone(), Arc::clone(notify));
    tokio::spawn(async move {
        let mut events = tree.events_after(0);
        let mut last = String::new();
        while events.next().await.is_some() {
            let text = summary(&tree.status());
            if text != last {
                notify.report(&[NotifyState::Status(&text)]);
                last = text;
            }
        }
    });
}

/// Reports to the watchdog, at this interval and only while the root and every group of the tree answer.
pub(super) fn feed_watchdog(tree: &Tree, notify: &Arc<Notify>, interval: Option<Duration>) {
    let Some(interval) = interval.filter(|_| notify.is_wanted()) else { return };
    let (tree, notify) = (tree.clone(), Arc::clone(notify));
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(interval);
        loop {
            tick.tick().await;
            if let Ok(true) = tokio::time::timeout(interval, tree.responds()).await {
                notify.report(&[NotifyState::Watchdog]);
            }
        }
    });
}

/// Returns the line that `systemctl status` shows, such as `1 of 2 VMs ready: b is backoff`.
fn summary(status: &TreeStatus) -> String {
    let wanted = status.vms().filter(|vm| vm.wanted).count();
    let ready = status.vms().filter(|vm| vm.phase == VmPhase::Ready).count();
    let others = status.vms().filter(|vm| vm.wanted && vm.phase != VmPhase::Ready);
    let others: Vec<String> =
        others.take(NAMED).map(|vm| format!("{} is {}", vm.name, vm.phase.word())).collect();
    let rest = if others.is_empty() { String::new() } else { format!(": {}", others.join(", ")) };
    format!("{ready} of {wanted} VMs ready{rest}")
}
