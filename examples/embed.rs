//! Embeds a supervision tree in a tokio program: loads a file, starts the tree, prints what happens, stops in order.
//!
//! `cargo run --example embed` or `cargo run --example embed -- config/quickstart.toml`

use pepita_supervisor::config;
use pepita_supervisor::{Received, Tree};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/embedded.toml");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| FILE.to_owned());
    let checked = config::load(Path::new(&file))?;
    let tree = Tree::start(checked.spec).await?;

    let mut events = tree.events();
    let printing = tokio::spawn(async move {
        while let Some(received) = events.next().await {
            match received {
                Received::Event(event) => println!("{event}"),
                Received::Lagged(missed) => println!("({missed} events went by unread)"),
            }
        }
    });

    tree.wait_ready(Duration::from_secs(60)).await?;
    println!("ready: {} VMs", tree.status().vms().count());
    println!("{}", tree.stop().await);
    printing.await?;
    Ok(())
}
