//! The program that shows a strategy: `one_for_one`, `one_for_all` and `rest_for_one` run it with a configuration each.

use crate::output;
use pepita_supervisor::config;
use pepita_supervisor::platform::raise_file_limit;
use pepita_supervisor::{Incarnation, Received, Signal, Tree, TreeStatus, VmPhase};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time limit for all VMs to become ready.
const START: Duration = Duration::from_secs(60);

/// Runs a tree, kills the daemon of `victim`, and prints what happens and which VMs were restarted. The tree is that of
/// `config/<strategy>.toml`, or of the file that is named on the command line.
///
/// # Errors
/// When the configuration has mistakes or the tree does not start.
pub async fn run(strategy: &str, victim: &str) -> Result<(), Box<dyn Error>> {
    let _ = raise_file_limit();
    let tree = Tree::start(config::load(&file(strategy))?.spec).await?;
    tree.wait_ready(START).await?;

    output::print(format_args!("all VMs are ready; killing the daemon of {victim}"));
    let mut events = tree.events();
    tree.signal(victim, Signal::KILL).await?;
    while let Some(received) = events.next().await {
        if let Received::Event(event) = received {
            output::print(event);
        }
        if is_back(&tree.status(), victim) {
            break;
        }
    }

    for vm in tree.status().vms() {
        let restarted = if vm.incarnation > Incarnation(1) { "restarted" } else { "not restarted" };
        output::print(format_args!("{}: {restarted}", vm.name));
    }
    output::print(tree.stop().await);
    Ok(())
}

/// Returns the file that the command line names, else the file of the strategy.
fn file(strategy: &str) -> PathBuf {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    std::env::args_os().nth(1).map_or_else(|| config.join(format!("{strategy}.toml")), PathBuf::from)
}

/// Returns whether `victim` was started again and all VMs are ready.
fn is_back(status: &TreeStatus, victim: &str) -> bool {
    status.vm(victim).is_some_and(|vm| vm.incarnation > Incarnation(1))
        && status.vms().all(|vm| vm.phase == VmPhase::Ready)
}
