//! Reacts to events: counts failures by their cause and acts when a VM has given up.
//!
//! `cargo run --example react_to_events`

use pepita_supervisor::{
    Action, EventKind, GroupName, GroupSpec, MachineSpec, Received, Tree, TreeSpec, VmName, VmSpec,
};
use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A daemon that never works. MachineSpec::qemu(kernel, rootfs) makes it a microVM.
    let mut vm = VmSpec::new(VmName::new("flaky")?, MachineSpec::process());
    vm.command = ["/bin/sh", "-c", "exit 3"].map(str::to_owned).into();
    vm.restart.max_retries = 2;
    vm.restart.backoff.initial = Duration::from_millis(100);
    let mut spec = TreeSpec::new("react");
    spec.groups.push(GroupSpec::new(GroupName::new("web")?, vec![vm]));
    let tree = Tree::start(spec).await?;

    let mut failures: BTreeMap<String, u32> = BTreeMap::new();
    let mut events = tree.events();
    while let Some(received) = events.next().await {
        // A reader that has missed events reads `tree.status()`: an event reports a change, the status is the current
        // state.
        let Received::Event(event) = received else { continue };
        let EventKind::Vm(change) = &event.kind else { continue };
        let Some(decision) = &change.decision else { continue };
        if let Some(ending) = &change.ending {
            *failures.entry(ending.to_string()).or_default() += 1;
        }
        match decision.action {
            Action::Restart => {
                println!("{} comes back in {:?}, attempt {}", change.vm, decision.delay, decision.attempt)
            }
            Action::GiveUp => {
                println!("{} needs a person: {}", change.vm, decision.reason.word());
                break;
            }
            _ => {}
        }
    }
    println!("failures by ending: {failures:?}");
    println!("{}", tree.stop().await);
    Ok(())
}
