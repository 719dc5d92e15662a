//! Measures how the cost of a tree grows with the number of its VMs: `make bench-scale`. First with `pepitad` and VMs that
//! are plain processes, then with a launcher, monitors and guests that exist only in memory, so that the supervisor alone is
//! measured. Each size runs in a process of its own, whose memory when it was empty is the baseline of the memory for a VM.
//!
//! Variables, with their defaults: `PEPITA_SCALE_VMS` (`100,1000`: the sizes with processes), `PEPITA_SCALE_SCRIPTED`
//! (`100,1000,10000`: the sizes in memory), `PEPITA_SCALE_REST_SECONDS` (30). `PEPITA_SCALE_ONE` (`process:100`,
//! `scripted:100`) measures one size in this process.

mod common;
#[path = "scale/processes.rs"]
mod processes;
#[path = "scale/scripted.rs"]
mod scripted;
#[path = "../tests/support/mod.rs"]
mod support;

use common::{Aim, Figure};
use std::time::Duration;

/// How many VMs are in a group. The VMs of a group start one after the other, and groups at the same time.
const GROUP: usize = 10;

/// How long to wait for all VMs before the benchmark fails.
const PATIENCE: Duration = Duration::from_secs(300);

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Returns the resident memory of this process, in KiB.
fn rss_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// Returns the sizes that a variable has.
///
/// # Panics
///
/// When it has anything else.
fn sizes(variable: &str, default: &str) -> Vec<usize> {
    let text = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let numbers = text.split(',').map(str::trim).filter(|number| !number.is_empty());
    let sizes = numbers.map(|number| number.parse().ok().filter(|n| *n > 0));
    let sizes: Option<Vec<usize>> = sizes.collect();
    sizes.unwrap_or_else(|| panic!("${variable} is {text:?}: numbers above 0 with commas are right"))
}

/// Returns a figure of a tree of this many VMs, with the aim for the size for which there is one.
fn figure(what: &str, unit: &str, value: f64, vms: usize, aim: Option<(usize, f64)>) -> Figure {
    let figure = Figure::value("scale", what, unit, value, 1).among(vms);
    match aim {
        Some((size, bound)) if size == vms => figure.aim(Aim::AtMost(bound)),
        _ => figure,
    }
}

fn main() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(one) = std::env::var("PEPITA_SCALE_ONE") {
        match one.split_once(':').map(|(kind, size)| (kind, size.parse())) {
            Some(("process", Ok(vms))) => runtime().block_on(processes::measure(vms)),
            Some(("scripted", Ok(vms))) => runtime().block_on(scripted::measure(vms)),
            _ => panic!("$PEPITA_SCALE_ONE is {one:?}: process:100 or scripted:100 is right"),
        }
        return;
    }
    let own = std::env::current_exe().expect("our own path");
    for (kind, variable, default) in
        [("process", "PEPITA_SCALE_VMS", "100,1000"), ("scripted", "PEPITA_SCALE_SCRIPTED", "100,1000,10000")]
    {
        for vms in sizes(variable, default) {
            let mut one = std::process::Command::new(&own);
            let end = one.env("PEPITA_SCALE_ONE", format!("{kind}:{vms}")).status().expect("it runs");
            assert!(end.success(), "{kind}, {vms} VMs: {end}");
        }
    }
}
