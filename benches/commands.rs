//! Measures how long each command of `pepitactl` takes with 1,000 VMs (plain processes) in one tree. The baseline is the
//! same command with 10 VMs, in the same run. Every command must succeed.
//!
//! Variable, with its default: `PEPITA_COMMANDS_VMS` (1000).

mod common;

use common::{Figure, Place, in_ms, ms};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The number of groups.
const GROUPS: usize = 10;

/// The commands, in the order in which they are timed. A command with a VM is about the first VM of the first group.
const COMMANDS: [&[&str]; 24] = [
    &["status"],
    &["status", "--json"],
    &["status", "g0-v0"],
    &["tree"],
    &["wait", "--timeout", "60"],
    &["plan"],
    &["plan", "--json"],
    &["events"],
    &["events", "--json"],
    &["logs", "g0-v0"],
    &["logs", "g0"],
    &["signal", "g0-v0", "CONT"],
    &["pause", "g0-v0"],
    &["resume", "g0-v0"],
    &["restart", "g0-v0"],
    &["stop", "g0-v0"],
    &["start", "g0-v0"],
    &["reset", "g0-v0"],
    &["stop", "g0"],
    &["start", "g0"],
    &["reload"],
    &["reload", "--restart"],
    &["status", "all"],
    &["shutdown"],
];

/// A running supervisor. Dropping it ends the supervisor and its VMs.
struct Supervisor {
    place: Place,
    child: Child,
    programs: PathBuf,
}

impl Supervisor {
    fn start(vms: usize) -> (Self, Duration) {
        let place = Place::new();
        let programs = place.pepita.parent().expect("a folder").to_owned();
        let config = place.path("c.toml");
        std::fs::write(&config, text(vms, "1000")).expect("written");
        let child = Command::new(programs.join("pepitad"))
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pepitad: run `cargo build --release --workspace --bins` first");
        let supervisor = Self { place, child, programs };
        let began = Instant::now();
        supervisor.time(&["wait", "--timeout", "120"]);
        (supervisor, began.elapsed())
    }

    fn time(&self, command: &[&str]) -> Duration {
        let began = Instant::now();
        let output = Command::new(self.programs.join("pepitactl"))
            .arg("--config")
            .arg(self.place.path("c.toml"))
            .args(command)
            .output()
            .expect("pepitactl runs");
        let took = began.elapsed();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        took
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a configuration of this number of VMs; `seconds` is the argument of each daemon.
fn text(vms: usize, seconds: &str) -> String {
    let mut text = "[platform.pepita]\nvmm = \"process\"\n[supervisor]\nname = \"bench\"\nrun_dir = \"r\"\nstate_dir = \"s\"\n\
        control_socket = \"c/s\"\n"
        .to_owned();
    for group in 0..GROUPS {
        let _ = writeln!(text, "[[group]]\nname = \"g{group}\"");
        for vm in 0..vms / GROUPS {
            let _ = writeln!(
                text,
                "[[group.vm]]\nname = \"g{group}-v{vm}\"\ncommand = [\"/bin/sleep\", \"{seconds}\"]"
            );
        }
    }
    text
}

fn main() {
    let vms = std::env::var("PEPITA_COMMANDS_VMS").ok().and_then(|vms| vms.parse().ok()).unwrap_or(1000);
    let ((few, few_ready), (many, many_ready)) = (Supervisor::start(10), Supervisor::start(vms));
    println!("{:<24} {:>12} {:>12}", "ms", "10 VMs", format!("{vms} VMs"));
    let report = |what: &str, few: Duration, many: Duration| {
        println!("{what:<24} {:>12} {:>12}", ms(few), ms(many));
        let figure = Figure::value("commands", what, "ms", in_ms(many), 1).among(vms);
        figure.against("10 VMs", in_ms(few)).record();
    };
    report("start until all ready", few_ready, many_ready);
    for command in COMMANDS {
        if command[0] == "reload" {
            // One VM of the first group is changed, so that the reload has something to do.
            for (supervisor, vms) in [(&few, 10), (&many, vms)] {
                let seconds = if command.len() == 1 { "2000" } else { "3000" };
                let changed = text(vms, "1000").replacen("\"1000\"", &format!("\"{seconds}\""), 1);
                std::fs::write(supervisor.place.path("c.toml"), changed).expect("written");
            }
        }
        report(&command.join(" "), few.time(command), many.time(command));
    }
}
