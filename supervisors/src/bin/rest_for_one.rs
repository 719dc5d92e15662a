//! rest_for_one: when one fails, it and those after it are restarted. Kills the daemon of the second and shows it.
//! Runs `config/rest_for_one.toml`, or the file that is named.

use pepita_supervisor::config;
use pepita_supervisor::observe::{Received, VmPhase};
use pepita_supervisor::spec::{Incarnation, Signal};
use pepita_supervisor::tree::Tree;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/rest_for_one.toml");
const VICTIM: &str = "filter";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| FILE.to_owned());
    let tree = Tree::start(config::load(Path::new(&file))?.spec).await?;
    tree.wait_ready(Duration::from_secs(60)).await?;

    println!("all are ready; {VICTIM} is killed");
    let mut events = tree.events();
    tree.signal(VICTIM, Signal::KILL).await?;
    while let Some(received) = events.next().await {
        if let Received::Event(event) = received {
            println!("{event}");
        }
        let status = tree.status();
        let again = status.vm(VICTIM).is_some_and(|vm| vm.incarnation > Incarnation(1));
        if again && status.vms().all(|vm| vm.phase == VmPhase::Ready) {
            break;
        }
    }

    let started = |n: Incarnation| if n > Incarnation(1) { "was restarted" } else { "was not touched" };
    for vm in tree.status().vms() {
        println!("{} {}", vm.name, started(vm.incarnation));
    }
    println!("{}", tree.stop().await);
    Ok(())
}
