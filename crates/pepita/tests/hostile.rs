//! Tests with a hostile guest: its monitor stays small and answers, its exit record is true, and another VM is not
//! affected. The guest is a replacement for the agent (`hostile_agent.py`; in a microVM `hostile_init.c`).

mod host;

use host::{Host, PATIENCE, beside, program};
use pepita_launcher::client::Client;
use pepita_wire::record::DaemonState;
use pepita_wire::{Ask, Exit, ExitRecord, MonitorRequest, Signal, StatusRecord, VmState};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The limit on a monitor's growth: one line at the cap as parsed values, the output that waits, and the allocator's
/// reserve.
const GROWTH_KB: u64 = 4 * 1024;

/// The time limit for the other VM's agent to answer through its monitor.
const PING: Duration = Duration::from_millis(50);

/// The time limit for the flooded monitor to answer, in a debug build and on a busy machine.
const OWN: Duration = Duration::from_secs(1);

struct Harm {
    host: Host,
    pid: u64,
    before: u64,
    ping: Duration,
    worst_status: Duration,
    peak: u64,
}

fn memory_kb(pid: u64, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line =
        status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")).unwrap_or("0");
    line.trim().parse().expect("a number")
}

fn timed(client: &mut Client, request: MonitorRequest) -> (Duration, Value) {
    let began = Instant::now();
    let answer = client.ask(request, Some(Duration::from_secs(5))).expect("a monitor always answers");
    (began.elapsed(), answer.unwrap_or_default())
}

/// Lets a hostile guest run for a while beside a good one, and measures both monitors meanwhile.
fn harm(how: &str, time: Duration) -> Harm {
    let host = Host::new();
    host.process("good", &[&program("ticker")]);
    let run = [
        "run",
        "--vmm",
        "process",
        "--name",
        "bad",
        "--daemon",
        "--json",
        "--ready-timeout",
        "60s",
        "--",
        "x",
    ];
    let mut command = host.command(&run);
    let output = command.env("PEPITA_AGENT", hostile_agent(&host, how)).output().expect("runs");
    assert!(output.status.success(), "{}", host::text(&output.stderr));
    let mut good = Client::open(&host.vm("good")).expect("its monitor");
    let mut bad = Client::open(&host.vm("bad")).expect("its monitor");
    let (_, status) = timed(&mut bad, MonitorRequest::Status);
    let pid = status["monitor_pid"].as_u64().expect("a pid");
    let before = memory_kb(pid, "VmRSS:");
    let (mut pings, mut worst_status) = (Vec::new(), Duration::ZERO);
    let dialled = host.vm("bad").join("dialled");
    let began = Instant::now();
    // On a busy machine the hostile agent may take longer to start than the test is to last.
    while began.elapsed() < time || (!dialled.exists() && began.elapsed() < PATIENCE) {
        let (took, answer) = timed(&mut good, MonitorRequest::Forward(Ask::Ping));
        assert_eq!(answer, json!({}));
        pings.push(took);
        // The hostile VM may have ended by now.
        let began = Instant::now();
        if bad.ask(MonitorRequest::Status, Some(Duration::from_secs(5))).is_ok() {
            worst_status = worst_status.max(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(dialled.exists(), "{how}: the hostile agent was never dialled");
    let peak = memory_kb(pid, "VmHWM:");
    pings.sort_unstable();
    // One answer in twenty may be late, because on a busy machine the slowest answer depends on the machine.
    let (ping, worst_ping) = (pings[pings.len() * 19 / 20], pings[pings.len() - 1]);
    println!(
        "{how}: {before} -> {peak} KiB at most; ping of the other {ping:?} (p95), {worst_ping:?} at most, own status {worst_status:?}"
    );
    Harm { host, pid, before, ping, worst_status, peak }
}

impl Harm {
    fn is_contained(&self) {
        assert!(self.peak <= self.before + GROWTH_KB, "{} -> {} KiB", self.before, self.peak);
        assert!(self.ping < PING, "{:?}", self.ping);
        assert!(self.worst_status < OWN, "{:?}", self.worst_status);
    }

    fn status(&self) -> StatusRecord {
        self.host.status("bad")
    }

    /// Stops a VM. Returns the exit record.
    fn stop(&self) -> ExitRecord {
        if let Ok(mut client) = Client::open(&self.host.vm("bad")) {
            let stop =
                MonitorRequest::Stop { signal: Signal::TERM, timeout_ms: 0, force: false, if_idle: false };
            let _ = client.ask(stop, Some(Duration::from_secs(5)));
        }
        self.host.exit("bad")
    }
}

/// A process of another owner: a process group of its own that no VM may signal.
struct Prey(std::process::Child);

impl Prey {
    fn new() -> Self {
        use std::os::unix::process::CommandExt;
        Self(std::process::Command::new("sleep").arg("600").process_group(0).spawn().expect("a process"))
    }

    /// Asserts that the process still runs and was not stopped.
    fn is_unharmed(&self) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it runs");
        let state = stat.rsplit_once(") ").expect("a stat").1.chars().next();
        assert!(matches!(state, Some('S' | 'R')), "{stat}");
    }
}

impl Drop for Prey {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lock by which the tests run one after the other, because they measure times.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn in_turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn floods_of_every_kind_are_contained() {
    let _turn = in_turn();
    for how in ["garbage", "long-lines", "swollen", "million", "states", "answers", "console-flood"] {
        let harm = harm(how, Duration::from_millis(1500));
        harm.is_contained();
        let record = harm.stop();
        assert_eq!((record.exit, record.daemon), (Exit::StopRequested, None), "{how}");
        let entries = std::fs::read_dir(harm.host.vm("bad")).expect("a run directory").flatten();
        let files = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        // A guest that fills its console often enough has all the former files of its log.
        let (logs, others): (Vec<_>, Vec<_>) = files.partition(|name| name.starts_with("console.log"));
        assert!(logs.len() <= 5 && others.len() < 15, "{how}: {logs:?} {others:?}");
    }
}

/// Returns an agent that makes this attack; further variables for it may follow. Agents do not get the environment of the
/// caller, so a script sets them.
fn hostile_agent(host: &Host, how: &str) -> PathBuf {
    let script = host.path().join("agent");
    let agent = beside("hostile_agent.py");
    let text = format!("#!/bin/sh\nHOSTILE={how} exec {} \"$@\"\n", agent.display());
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("executable");
    script
}

#[test]
fn a_process_that_is_not_the_vm_s_is_not_signalled_whatever_pid_the_agent_reports() {
    let _turn = in_turn();
    let prey = [Prey::new(), Prey::new()];
    // The last pid that is reported is the one that counts, so each process is last once.
    for last in &prey {
        let host = Host::new();
        let agent = hostile_agent(&host, &format!("states HOSTILE_PREY={}", last.0.id()));
        let host = host.with("PEPITA_AGENT", agent);
        host.ok(&["run", "--vmm", "process", "--name", "bad", "--daemon", "--wait-ready", "--", "x"]);
        host.until("bad", |status| status.daemon.state == DaemonState::Running);
        host.ask("bad", MonitorRequest::Pause);
        last.is_unharmed();
        host.ask("bad", MonitorRequest::Resume);
        // A new monitor reads what the former one has stored, and hears the agent again.
        host::kill(host.status("bad").monitor_pid, rustix::process::Signal::KILL);
        host.ok(&["adopt", "--name", "bad"]);
        host.ask("bad", MonitorRequest::Pause);
        host.ok(&["destroy", "--force", "--name", "bad"]);
        last.is_unharmed();
    }
}

#[test]
fn an_agent_that_never_says_hello_is_a_boot_timeout() {
    let _turn = in_turn();
    let host = Host::new();
    let agent = hostile_agent(&host, "silent");
    let host = host.with("PEPITA_AGENT", agent);
    host.ok(&["run", "--vmm", "process", "--name", "bad", "--daemon", "--ready-timeout", "1s", "--", "x"]);
    let record = host.exit("bad");
    assert_eq!((record.exit, record.daemon), (Exit::BootTimeout, None));
}

#[test]
fn an_agent_of_another_incarnation_is_not_believed() {
    let _turn = in_turn();
    for how in ["wrong-incarnation", "refuses"] {
        let harm = harm(how, Duration::from_millis(500));
        harm.is_contained();
        let status = harm.status();
        assert_eq!((status.agent.ready, status.state), (false, VmState::Starting), "{how}");
        assert_eq!(harm.stop().exit, Exit::StopRequested);
    }
}

#[test]
fn news_before_the_hello_is_refused() {
    let _turn = in_turn();
    let harm = harm("unasked", Duration::from_millis(300));
    let status = harm.host.until("bad", |status| status.agent.ready);
    assert_eq!(status.state, VmState::Starting);
    assert_eq!(status.daemon.state, DaemonState::Pending);
}

#[test]
fn an_exit_that_is_reported_for_ever_counts_once_and_uses_no_memory() {
    let _turn = in_turn();
    let harm = harm("exits", Duration::from_secs(2));
    harm.is_contained();
    assert!(harm.pid > 0);
    // The guest does not power off after its report. The monitor ends the guest, and the report counts.
    assert_eq!(harm.host.exit("bad").exit, Exit::code(0));
}

/// Builds an initramfs whose init is the hostile guest of `hostile_init.c`.
fn hostile_image(host: &Host) -> PathBuf {
    let (init, image) = (host.path().join("init"), host.path().join("bad.cpio"));
    let mut cc = std::process::Command::new("cc");
    let made = cc.args(["-static", "-O1", "-o"]).arg(&init).arg(beside("hostile_init.c")).output();
    let made = made.expect("cc runs");
    assert!(made.status.success(), "{}", host::text(&made.stderr));
    let shown = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let (init, output) = (shown(&init), shown(&image));
    let (modules, daemon) = (shown(&host::guest_file("modules")), shown(&host::guest_file("ticker")));
    let build = ["image", "build", "--agent", &init, "--daemon", &daemon, "--output", &output];
    host.ok(&[&build[..], &["--kernel-package", &modules]].concat());
    image
}

#[test]
fn a_hostile_guest_in_a_microvm_costs_its_monitor_little_and_is_stopped_in_the_usual_way() {
    let _turn = in_turn();
    let host = Host::new();
    let (kernel, image) = (host::images().0, hostile_image(&host));
    let (kernel, image) = (kernel.to_string_lossy(), image.to_string_lossy());
    let run = ["run", "--name", "bad", "--kernel", &kernel, "--rootfs", &image, "--memory", "128"];
    host.ok(&[&run[..], &["--ready-timeout", "10m", "--daemon"]].concat());
    let status = host.status("bad");
    let pid = u64::from(status.monitor_pid.expect("a monitor"));
    let before = memory_kb(pid, "VmRSS:");
    let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let (deadline, mut most, mut worst) = (Instant::now() + PATIENCE, 0, Duration::ZERO);
    // Each kind of treatment has come by then. The monitor gives up a connection without a hello, and makes a new one.
    while !host.ok(&["logs", "--name", "bad"]).contains("accepted 4") {
        assert!(Instant::now() < deadline, "{}", host.ok(&["logs", "--name", "bad"]));
        let mut bad = Client::open(&host.vm("bad")).expect("its monitor");
        worst = worst.max(timed(&mut bad, MonitorRequest::Status).0);
        most = most.max(descriptors());
        std::thread::sleep(Duration::from_millis(100));
    }
    let peak = memory_kb(pid, "VmHWM:");
    println!("microvm: {before} -> {peak} KiB at most, {most} descriptors, own status {worst:?} at most");
    assert!(peak <= before + GROWTH_KB, "{before} -> {peak} KiB");
    assert!(most < 40, "{most} descriptors");
    assert!(worst < OWN, "{worst:?}");
    let status = host.status("bad");
    assert_eq!((status.agent.ready, status.state), (false, VmState::Starting));
    let stop = MonitorRequest::Stop { signal: Signal::TERM, timeout_ms: 0, force: false, if_idle: false };
    host.ask("bad", stop);
    assert_eq!(host.exit("bad").exit, Exit::StopRequested);
    host.ok(&["destroy", "--name", "bad"]);
    assert!(host::processes_in(host.path()).is_empty(), "{:?}", host::processes_in(host.path()).len());
}

#[test]
fn a_wrong_token_and_another_vm_s_token_are_refused() {
    let _turn = in_turn();
    let host = Host::new();
    let ticker = program("ticker");
    host.process("a", &[&ticker]);
    host.process("b", &[&ticker]);
    let token = |name: &str| std::fs::read_to_string(host.vm(name).join("token")).expect("a token");
    let refused = |incarnation: u64, token: &str| {
        use std::io::{BufRead, BufReader, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(host.vm("a").join("v.sock"))
            .expect("the back-end listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let hello = json!({ "hello": { "generation": 1, "incarnation": incarnation, "token": token } });
        writeln!(stream, "CONNECT 5000").and_then(|()| writeln!(stream, "{hello}")).expect("written");
        let lines: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).take(2).collect();
        assert!(lines[0].starts_with("OK "), "{lines:?}");
        lines[1].contains("unauthorized")
    };
    assert!(refused(1, "guess") && refused(1, "") && refused(1, &token("b")) && refused(2, &token("a")));
    let boot = std::fs::read_to_string(host.vm("a").join("boot.token")).unwrap_or_default();
    assert!(refused(1, boot.trim()), "the boot token is void once it was replaced");
    assert_eq!(host.status("a").state, VmState::Running);
}

#[test]
fn silent_connections_keep_no_host_out() {
    let _turn = in_turn();
    let host = Host::new();
    host.process("a", &[&program("ticker")]);
    let mut before = host.link("a");
    let connect =
        || std::os::unix::net::UnixStream::connect(host.vm("a").join("v.sock")).expect("it listens");
    // Some say nothing at all, others stop before their hello.
    let silent: Vec<_> = (0..40)
        .map(|n| {
            let mut stream = connect();
            if n % 2 == 0 {
                use std::io::Write;
                stream.write_all(b"CONNECT 5000\n").expect("written");
            }
            stream
        })
        .collect();
    before.ask("ping", Value::Null);
    host.link("a").ask("ping", Value::Null);
    host.ask("a", MonitorRequest::Forward(Ask::Ping));
    drop(silent);
    // The monitor's own socket: only clients that have asked for something count.
    let silent: Vec<_> = (0..300)
        .map(|_| std::os::unix::net::UnixStream::connect(host.vm("a").join("ctl.sock")).expect("it listens"))
        .collect();
    host.ask("a", MonitorRequest::Forward(Ask::Ping));
    drop(silent);
}

#[test]
fn a_daemon_that_floods_its_status_costs_its_monitor_little_and_the_last_text_is_shown() {
    let _turn = in_turn();
    let host = Host::new();
    host.process("a", &[&program("ticker"), "--status-flood"]);
    let step = |status: &StatusRecord| -> u64 {
        status.daemon.status.strip_prefix("step ").and_then(|step| step.parse().ok()).unwrap_or(0)
    };
    let began = host.until("a", |status| step(status) > 0);
    // The texts arrive for as long as it takes to send ten thousand more.
    let target = step(&began) + 10_000;
    let since = Instant::now();
    let ended = host.until("a", |status| step(status) > target);
    let tenths = since.elapsed().as_millis() / 100;
    let published = ended.revision - began.revision;
    assert!(u128::from(published) <= tenths + 3, "{published} changes in {tenths} tenths of a second");
}
