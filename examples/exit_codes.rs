//! Shows a restart rule by exit codes: the exit code of the daemon says whether it is to be restarted.
//!
//! `cargo run --example exit_codes`

use pepita_supervisor::{
    EventKind, GroupName, GroupSpec, MachineSpec, Received, Restart, Tree, TreeSpec, VmName, VmSpec,
};
use std::error::Error;
use std::time::Duration;

/// Exit codes of sysexits(3): try again, and a configuration that no second try makes right.
const TRY_AGAIN: i32 = 75;
const BAD_CONFIG: i32 = 78;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("exit-codes-{}", std::process::id()));
    // The daemon asks for a restart the first time, and for none the second time.
    let script = format!("[ -e {file:?} ] && exit {BAD_CONFIG}; touch {file:?}; exit {TRY_AGAIN}");
    let mut vm = VmSpec::new(VmName::new("importer")?, MachineSpec::process());
    vm.command = vec!["/bin/sh".into(), "-c".into(), script];
    // The lists of exit codes are stronger than the policy, in both directions.
    vm.restart.policy = Restart::Never;
    vm.restart.always = [TRY_AGAIN].into();
    vm.restart.never = [BAD_CONFIG].into();
    vm.restart.backoff.initial = Duration::from_millis(100);
    let mut spec = TreeSpec::new("exit-codes");
    spec.groups.push(GroupSpec::new(GroupName::new("batch")?, vec![vm]));
    let tree = Tree::start(spec).await?;

    let mut events = tree.events();
    while let Some(received) = events.next().await {
        let Received::Event(event) = received else { continue };
        println!("{event}");
        if matches!(&event.kind, EventKind::Vm(change) if change.to.word() == "failed") {
            break;
        }
    }
    println!("{}", tree.stop().await);
    std::fs::remove_file(file)?;
    Ok(())
}
