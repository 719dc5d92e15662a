//! Tells on which machine and of which commit the figures are.

use serde::{Deserialize, Serialize};
use std::process::Command;
use std::time::SystemTime;

/// The facts of a machine and of a checkout.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) accelerator: String,
    pub(crate) qemu: String,
    /// The load of the machine when the report was made.
    pub(crate) load: String,
    pub(crate) commit: String,
    pub(crate) date: String,
    pub(crate) profile: String,
}

impl Machine {
    /// Asks this machine. What cannot be found out is "unknown".
    pub(crate) fn here(profile: &str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        Self {
            cpu: known(value(&cpu, "model name")),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: value(&memory, "MemTotal")
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0)
                / 1024,
            kernel: known(read("/proc/sys/kernel/osrelease").trim()),
            accelerator: match pepita_launcher::host::kvm::can_boot() {
                Ok(()) => "KVM".into(),
                Err(why) => format!("none, QEMU emulates the processor (TCG): {why}"),
            },
            qemu: said("qemu-system-x86_64", &["--version"]),
            load: known(read("/proc/loadavg").trim()),
            commit: commit(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            profile: profile.to_owned(),
        }
    }
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
    let changed = Command::new("git").args(["status", "--porcelain", "--untracked-files=no"]).output();
    match changed {
        Ok(output) if !output.stdout.is_empty() => format!("{commit}, with changes"),
        _ => commit,
    }
}

/// Returns the value of the first line with this name, of a file of lines `name: value`.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map_or("", |(_, value)| value.trim())
}

/// Returns the first line that a program says.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    known(text.lines().next().unwrap_or_default())
}

fn known(text: &str) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}
