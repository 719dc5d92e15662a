//! embedded: a program with work of its own that holds a tree beside it. The tree's job ends the program.
//! Runs `config/embedded.toml`, or the file that is named. No control socket, nothing on disk, no signal handler.

use pepita_supervisor::config;
use pepita_supervisor::observe::{EventKind, Events, Received};
use pepita_supervisor::tree::Tree;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/embedded.toml");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| FILE.to_owned());
    let tree = Tree::start(config::load(Path::new(&file))?.spec).await?;
    let mut work = tokio::time::interval(Duration::from_millis(500));
    let mut done = 0_u32;
    let jobs = all_jobs(tree.events());
    tokio::pin!(jobs);
    let why = loop {
        tokio::select! {
            why = &mut jobs => break why,
            _ = work.tick() => done += 1,
            _ = tokio::signal::ctrl_c() => break "Ctrl-C".to_owned(),
        }
    };
    println!("{why}; {done} pieces of our own work were done meanwhile");
    println!("{}", tree.stop().await);
    Ok(())
}

/// Waits until the group of the jobs has ended, and says why.
async fn all_jobs(mut events: Events) -> String {
    while let Some(received) = events.next().await {
        let Received::Event(event) = received else { continue };
        println!("{event}");
        if let (Some(group), EventKind::GroupEnded { reason, .. }) = (&event.group, &event.kind) {
            return format!("{group} has ended: {reason}");
        }
    }
    "the tree has ended".into()
}
