//! embedded: a program with work of its own that runs a tree beside that work. The end of the tree's job ends the
//! program. Runs `config/embedded.toml`, or the file that is named as its argument. The program has no control socket,
//! keeps nothing on disk and installs no signal handler except for Ctrl-C.

use pepita_supervisor::config;
use pepita_supervisor::platform::raise_file_limit;
use pepita_supervisor::{EventKind, Events, Received, Tree};
use pepita_supervisors::output;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/embedded.toml");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A tree needs two open files for each VM. The limit belongs to the process, so the program raises it, not the library.
    let _ = raise_file_limit();
    let file = std::env::args().nth(1).unwrap_or_else(|| FILE.to_owned());
    let tree = Tree::start(config::load(Path::new(&file))?.spec).await?;
    let mut work = tokio::time::interval(Duration::from_millis(500));
    let mut done = 0_u32;
    let end = end_of_a_group(tree.events());
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            _ = work.tick() => done += 1,
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    output::print(format_args!("meanwhile this program did {done} pieces of its own work"));
    output::print(tree.stop().await);
    Ok(())
}

/// Prints the events until the first group, which contains the job, has ended.
async fn end_of_a_group(mut events: Events) {
    while let Some(received) = events.next().await {
        let Received::Event(event) = received else { continue };
        output::print(&event);
        if event.group.is_some() && matches!(event.kind, EventKind::GroupEnded(_)) {
            return;
        }
    }
}
