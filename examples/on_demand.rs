//! Adds VMs when there is work for them, and removes them when the work is done.
//!
//! `cargo run --example on_demand`

use pepita_supervisor::{GroupName, GroupSpec, MachineSpec, Tree, TreeSpec, VmName, VmPhase, VmSpec};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A group may be empty.
    let mut spec = TreeSpec::new("on-demand");
    spec.groups.push(GroupSpec::new(GroupName::new("sessions")?, Vec::new()));
    let tree = Tree::start(spec).await?;

    for customer in ["ann", "bob"] {
        tree.add_vm("sessions", session(customer)?).await?;
        println!("a session for {customer} is on its way");
    }
    until(&tree, |tree| tree.status().vms().filter(|vm| vm.phase == VmPhase::Ready).count() == 2).await;
    println!("both are ready");

    tree.remove_vm("ann").await?;
    until(&tree, |tree| tree.status().vm("ann").is_none()).await;
    println!("ann has gone, bob is {}", tree.status().vm("bob").map_or("gone", |vm| vm.phase.word()));
    println!("{}", tree.stop().await);
    Ok(())
}

fn session(customer: &str) -> Result<VmSpec, Box<dyn Error>> {
    let mut vm = VmSpec::new(VmName::new(customer)?, MachineSpec::process());
    vm.command = ["/bin/sleep", "600"].map(str::to_owned).into();
    vm.env.insert("CUSTOMER".into(), customer.into());
    Ok(vm)
}

/// Waits until the status is as wanted, and looks at it with every event.
async fn until(tree: &Tree, reached: impl Fn(&Tree) -> bool) {
    let mut events = tree.events_after(tree.newest_event());
    // The events are followed before the status is looked at, so that no change is missed in between.
    while !reached(tree) && events.next().await.is_some() {}
}
