//! A supervisor (`pepitad`) with VMs that are plain processes: one monitor, one agent and one daemon for each.

use crate::common::{Place, Processes, Work, in_ms, kill, ms, pss_kib};
use crate::{GROUP, PATIENCE, figure, number};
use pepita_supervisor::control::{Call, Client, StatusPart};
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The pause between two looks at the status.
const LOOK: Duration = Duration::from_millis(5);

/// A VM, as the status tells it.
#[derive(Clone)]
struct Vm {
    name: String,
    incarnation: u64,
    agent: u32,
}

impl Vm {
    fn of(row: &Value) -> Option<Self> {
        let agent = row["vmm_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())?;
        Some(Self {
            name: row["name"].as_str()?.to_owned(),
            incarnation: row["incarnation"].as_u64()?,
            agent,
        })
    }
}

fn agents(vms: &[Vm]) -> Vec<u32> {
    vms.iter().map(|vm| vm.agent).collect()
}

/// A supervisor with its VMs. Dropping it ends them.
struct Supervisor {
    place: Place,
    child: Child,
}

impl Supervisor {
    /// Starts a supervisor of this number of VMs.
    fn start(vms: usize) -> Self {
        let place = Place::new();
        std::fs::write(place.path("c.toml"), configuration(vms)).expect("written");
        let child = Self::run(&place);
        Self { place, child }
    }

    fn run(place: &Place) -> Child {
        let mut pepitad = Command::new(place.pepita.with_file_name("pepitad"));
        pepitad.arg("--config").arg(place.path("c.toml")).stdout(Stdio::null());
        pepitad.spawn().expect("pepitad: run `cargo build --release --workspace --bins` first")
    }

    fn socket(&self) -> PathBuf {
        self.place.path("c/s")
    }

    /// Returns the VMs of the status; `None` while nobody answers.
    async fn vms(&self) -> Option<Vec<Value>> {
        let mut client = Client::connect(&self.socket()).await.ok()?;
        let part = StatusPart { brief: true, ..StatusPart::default() };
        let status = client.call(Call::StatusOf(part)).await.ok()?;
        let groups = status["groups"].as_array()?.iter();
        Some(groups.filter_map(|group| group["vms"].as_array()).flatten().cloned().collect())
    }

    /// Waits until all VMs are Ready, and those of `killed` in a later incarnation. Returns the VMs.
    async fn ready(&mut self, killed: &[Vm]) -> Vec<Vm> {
        let killed: HashMap<&str, u64> = killed.iter().map(|vm| (vm.name.as_str(), vm.incarnation)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let vms = self.vms().await.unwrap_or_default();
            let ready = |row: &Value| {
                let vm = Vm::of(row)?;
                let is_later = killed.get(vm.name.as_str()).is_none_or(|former| vm.incarnation > *former);
                (row["phase"] == "ready" && is_later).then_some(vm)
            };
            match vms.iter().map(ready).collect::<Option<Vec<Vm>>>() {
                Some(vms) if !vms.is_empty() => return vms,
                _ => sleep(LOOK).await,
            }
            let end = self.child.try_wait().expect("our child");
            assert!(end.is_none(), "pepitad has ended: {end:?}");
            let late = vms.iter().find(|row| ready(row).is_none());
            assert!(Instant::now() < deadline, "not all Ready: {late:?}");
        }
    }

    /// Kills the supervisor, and starts the next one.
    fn replace(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Self::run(&self.place);
    }

    /// Stops all VMs and the supervisor.
    async fn stop(mut self) {
        let mut client = Client::connect(&self.socket()).await.expect("connected");
        let how = pepita_supervisor::control::ShutdownMode::Stop;
        client.call(Call::Shutdown { how }).await.expect("stopped");
        let _ = self.child.wait();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the configuration of this number of VMs.
fn configuration(vms: usize) -> String {
    let mut text = "[platform.pepita]\nvmm = \"process\"\n[supervisor]\nname = \"bench\"\nrun_dir = \"r\"\n\
        state_dir = \"s\"\ncontrol_socket = \"c/s\"\n"
        .to_owned();
    for vm in 0..vms {
        if vm % GROUP == 0 {
            let group = vm / GROUP;
            let _ = writeln!(text, "[[group]]\nname = \"g{group}\"\nintensity = 1000000");
        }
        let _ = writeln!(
            text,
            "[[group.vm]]\nname = \"v{vm}\"\ncommand = [\"/bin/sleep\", \"1000000\"]\n\
             restart.backoff.initial_delay = \"0s\""
        );
    }
    text
}

/// Measures a tree of this many VMs.
pub(crate) async fn measure(vms: usize) {
    println!("\n{vms} VMs (plain processes) in groups of {GROUP}");
    let empty = {
        let mut one = Supervisor::start(1);
        one.ready(&[]).await;
        let kib = pss_kib(&[one.child.id()]);
        one.stop().await;
        kib
    };
    let began = Instant::now();
    let mut supervisor = Supervisor::start(vms);
    let started = supervisor.ready(&[]).await;
    took("start until all are Ready", began.elapsed(), vms, None);
    supervisors_memory(&supervisor, "", empty, vms);
    let all = Processes::of(supervisor.child.id(), agents(&started));
    memory(&all, vms);
    at_rest(all, vms).await;

    let count = vms.min(100);
    let victims: Vec<Vm> = started.iter().step_by((vms / count).max(1)).take(count).cloned().collect();
    let began = Instant::now();
    victims.iter().for_each(|vm| kill(vm.agent));
    let before = agents(&supervisor.ready(&victims).await);
    took("100 killed at once until all are Ready", began.elapsed(), vms, None);

    let began = Instant::now();
    supervisor.replace();
    let adopted = supervisor.ready(&[]).await;
    took("a new supervisor until it has adopted all", began.elapsed(), vms, Some((1000, 2000.0)));
    assert!(adopted.iter().all(|vm| before.contains(&vm.agent)), "VMs have ended");

    let all = Processes::of(supervisor.child.id(), agents(&adopted));
    let began = Instant::now();
    // The monitors first: nobody writes down how the others have ended.
    let victims = [&all.monitors, &all.agents, &all.daemons];
    victims.into_iter().flatten().copied().for_each(kill);
    supervisor.ready(&adopted).await;
    took("all processes of all VMs killed at once until all are Ready", began.elapsed(), vms, None);
    supervisors_memory(&supervisor, ", after all were killed", empty, vms);

    let began = Instant::now();
    supervisor.stop().await;
    took("stop of all", began.elapsed(), vms, None);
}

fn took(what: &str, time: Duration, vms: usize, aim: Option<(usize, f64)>) {
    println!("{what:<60} {:>12}", ms(time));
    figure(&format!("processes: {what}"), "ms", in_ms(time), vms, aim).record();
}

/// Tells how much memory the supervisor has for each VM, beside that of a supervisor with one VM.
fn supervisors_memory(supervisor: &Supervisor, when: &str, empty: usize, vms: usize) {
    let own = pss_kib(&[supervisor.child.id()]).saturating_sub(empty);
    let each = own as f64 / vms.saturating_sub(1).max(1) as f64;
    let what = format!("the supervisor's memory for a VM{when}");
    println!("{what:<60} {each:>12.1} KiB");
    figure(&format!("processes: {what}"), "KiB", each, vms, Some((1000, 32.0))).record();
}

fn memory(all: &Processes, vms: usize) {
    let kinds = [
        ("a monitor", &all.monitors, Some((1000, 1.5 * 1024.0))),
        ("an agent", &all.agents, Some((1000, 2048.0))),
        ("a daemon", &all.daemons, None),
    ];
    for (who, processes, aim) in kinds {
        let each = pss_kib(processes) as f64 / processes.len().max(1) as f64;
        let what = format!("memory of {who} (PSS)");
        println!("{what:<60} {each:>12.1} KiB");
        figure(&format!("processes: {what}"), "KiB", each, vms, aim).record();
    }
}

/// Counts what the processes do while nothing happens.
async fn at_rest(all: Processes, vms: usize) {
    let seconds = number("PEPITA_SCALE_REST_SECONDS", 30);
    if seconds == 0 {
        return;
    }
    let kinds = [("the supervisor", all.supervisor), ("monitors", all.monitors), ("agents", all.agents)];
    let before: Vec<Work> = kinds.iter().map(|(_, pids)| Work::of(pids)).collect();
    let began = Instant::now();
    sleep(Duration::from_secs(seconds as u64)).await;
    let passed = began.elapsed().as_secs_f64();
    let mut sum = 0.0;
    for ((who, pids), before) in kinds.iter().zip(before) {
        let work = Work::of(pids).since(&before);
        let part = work.time.as_secs_f64() * 100.0 / passed;
        let wake_ups = work.wake_ups as f64 / passed;
        println!("at rest: {who:<51} {part:>12.3} % of a core, {wake_ups:.1} wake-ups a second");
        figure(&format!("processes: {who} at rest"), "% of a core", part, vms, None).record();
        sum += part;
    }
    println!("at rest: {:<51} {sum:>12.3} % of a core", "all");
    figure("processes: supervisor, monitors and agents at rest", "% of a core", sum, vms, Some((1000, 1.0)))
        .record();
}
