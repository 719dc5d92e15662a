//! Talks to the agent of a running guest over the link that the tree has to it.
//!
//! `cargo run --example talk_to_a_guest`

use pepita_supervisor::{GroupName, GroupSpec, MachineSpec, Tree, TreeSpec, VmName, VmSpec};
use pepita_wire::agent::{AgentStatus, Ask, Exec, ExecResult};
use std::error::Error;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut vm = VmSpec::new(VmName::new("api")?, MachineSpec::process());
    vm.command = ["/bin/sleep", "600"].map(str::to_owned).into();
    let mut spec = TreeSpec::new("talk");
    spec.groups.push(GroupSpec::new(GroupName::new("web")?, vec![vm]));
    let tree = Tree::start(spec).await?;
    tree.wait_ready(Duration::from_secs(60)).await?;

    let status: AgentStatus = ask(&tree, Ask::Status).await?;
    println!("the daemon runs with pid {:?}", status.pid);

    let command = ["/bin/sh", "-c", "echo hello from $(uname -s)"].map(str::to_owned).into();
    let result: ExecResult = ask(&tree, Ask::Exec(Exec { command, ..Exec::default() })).await?;
    println!("{} ({})", result.output.trim(), result.exit);

    // A VM that is not there is refused.
    println!("{}", tree.ask("nobody", Ask::Ping).await.expect_err("there is no such VM"));
    println!("{}", tree.stop().await);
    Ok(())
}

/// Asks again while the agent is busy: the link to a VM that has just become ready may not be up yet.
async fn ask<T: serde::de::DeserializeOwned>(tree: &Tree, ask: Ask) -> Result<T, Box<dyn Error>> {
    for _ in 0..50 {
        match tree.ask("api", ask.clone()).await {
            Ok(answer) => return Ok(serde_json::from_value(answer)?),
            Err(e) => println!("not yet: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err("the guest does not answer".into())
}
