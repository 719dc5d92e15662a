//! Makes the n-th system call of a kind fail, for every n, in the launcher and in the supervisor (semantics 13).
//!
//! strace(1) injects the error: `--inject=openat:error=EMFILE:when=3` lets the third `openat` of each thread of the traced
//! processes fail, once. The tracer follows child processes, so that the launcher, the monitor, the agent and the daemon
//! each meet the fault. After each run: no daemon runs twice, no daemon runs unseen, a failed call has said why, and the
//! same call without the fault succeeds.
//!
//! `make inject` sweeps every call. Without `PEPITA_INJECT_ALL` the same sample of the calls is tried each time;
//! `PEPITA_SEED` makes it another. `PEPITA_INJECT=open:112` tries this call alone.

use crate::host::{Host, PATIENCE, program, stderr, stdout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pepita_launcher::host::process_id::ProcessId;
use pepita_wire::StatusRecord;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A kind of system call, and the error that it is made to return.
#[derive(Debug, Clone, Copy)]
struct Fault {
    kind: &'static str,
    calls: &'static str,
    error: &'static str,
}

const KINDS: [Fault; 8] = [
    Fault { kind: "open", calls: "openat,openat2", error: "EMFILE" },
    Fault { kind: "write", calls: "write,writev,pwrite64", error: "ENOSPC" },
    Fault { kind: "sync", calls: "fsync,fdatasync", error: "EIO" },
    Fault { kind: "rename", calls: "rename,renameat,renameat2,link,linkat", error: "ENOSPC" },
    Fault { kind: "mkdir", calls: "mkdir,mkdirat", error: "ENOSPC" },
    Fault { kind: "fork", calls: "clone,clone3,fork,vfork", error: "EAGAIN" },
    Fault { kind: "connect", calls: "connect", error: "EAGAIN" },
    Fault { kind: "socket", calls: "socket,socketpair,accept4,pipe2", error: "EMFILE" },
];

/// Which calls of a kind are tried.
struct Sample {
    random: fastrand::Rng,
    /// The largest step between two tried calls; 1 tries every call.
    stride: usize,
}

impl Sample {
    fn of(scenario: &str, stride: usize) -> Self {
        let seed = std::env::var("PEPITA_SEED").ok().and_then(|seed| seed.parse().ok());
        // The sample is the same in each run, so that a failure comes from a change.
        let seed = seed.unwrap_or(1);
        let stride = if std::env::var_os("PEPITA_INJECT_ALL").is_some() { 1 } else { stride };
        println!("{scenario}: PEPITA_SEED={seed}, every call up to {stride} apart");
        Self { random: fastrand::Rng::with_seed(seed), stride }
    }

    /// Returns the next call to try. There are few calls of most kinds, and each of those is tried.
    fn next(&mut self, fault: Fault, n: usize) -> usize {
        let many = matches!(fault.kind, "open" | "write");
        n + if many { self.random.usize(1..=self.stride) } else { 1 }
    }
}

/// Returns strace: the system's, or that of `make setup-tests`.
fn strace() -> Command {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/strace/usr");
    if !own.join("bin/strace").exists() {
        return Command::new("strace");
    }
    let mut command = Command::new(own.join("bin/strace"));
    command.env("LD_LIBRARY_PATH", own.join("lib/x86_64-linux-gnu"));
    command
}

/// The time for which a fault lasts.
const FAULT_TIME: Duration = Duration::from_secs(1);

/// The time after which a tracer that does not end is killed; the kernel lets its processes go then. strace 6.1 waits for a
/// process that ends while it detaches from it, and that process for the tracer.
const TRACER_TIME: Duration = Duration::from_secs(3);

/// A program under the tracer, or a tracer that was attached to one.
struct Traced {
    child: Child,
    /// `None` = the program has ended before its tracer was seen.
    tracer: Option<ProcessId>,
    began: Instant,
    log: PathBuf,
    output: PathBuf,
}

impl Traced {
    fn options(host: &Host, fault: Fault, n: usize) -> (Command, PathBuf) {
        let log = host.path("strace.log");
        let _ = std::fs::remove_file(&log);
        let mut command = strace();
        command
            .args(["-f", "-q", "--interruptible=waiting", "-e", "signal=none", "-o"])
            .arg(&log)
            .arg("-e")
            .arg(format!("trace={}", fault.calls))
            .arg("-e")
            .arg(format!("inject={}:error={}:when={n}", fault.calls, fault.error));
        (command, log)
    }

    /// Starts a program whose n-th call of this kind fails. The tracer is a grandchild, so that the program is a child of
    /// the test, and its end is the program's.
    fn start(host: &Host, fault: Fault, n: usize, program: &Path, args: &[&str]) -> Self {
        let (mut command, log) = Self::options(host, fault, n);
        let output = host.path("traced.out");
        let out = File::create(&output).expect("a file");
        command.arg("-D").arg(program).args(args).stdin(Stdio::null());
        command.stdout(out.try_clone().expect("a file")).stderr(out).env_remove("NOTIFY_SOCKET");
        let mut child = command.spawn().expect("strace runs: `make setup-tests`");
        let (pid, mut tracer) = (child.id(), None);
        until("the tracer is attached", || {
            tracer = tracer_of(pid);
            tracer.is_some() || child.try_wait().expect("our child").is_some()
        });
        Self { child, tracer, began: Instant::now(), log, output }
    }

    /// Attaches the tracer to a running process and waits until it is attached.
    fn attach(host: &Host, fault: Fault, n: usize, pid: u32) -> Self {
        let (mut command, log) = Self::options(host, fault, n);
        let output = host.path("traced.out");
        command.arg("-p").arg(pid.to_string()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(File::create(&output).expect("a file"));
        let child = command.spawn().expect("strace runs: `make setup-tests`");
        let tracer = ProcessId::of_child(child.id());
        until("the tracer is attached", || tracer_of(pid).as_ref() == Some(&tracer));
        Self { child, tracer: Some(tracer), began: Instant::now(), log, output }
    }

    fn end(&mut self, what: &str) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        panic!("{what}: the traced program does not end; it said: {}", self.said());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Returns the number of calls that were made to fail so far.
    fn injected(&self) -> usize {
        self.failed_calls().len()
    }

    /// Returns the calls that were made to fail, as the tracer prints them.
    fn failed_calls(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.ends_with("(INJECTED)")).map(str::to_owned).collect()
    }

    /// Lets the fault go when it has lasted for [`FAULT_TIME`]: it meets every new process and thread. Every process that is
    /// traced goes on without the tracer.
    fn let_go_in_time(&self) {
        if self.injected() == 0 || self.began.elapsed() < FAULT_TIME {
            return;
        }
        if let Some(tracer) = &self.tracer {
            let is_late = self.began.elapsed() >= TRACER_TIME;
            tracer.signal(if is_late { rustix::process::Signal::KILL } else { rustix::process::Signal::INT });
        }
    }
}

/// Returns the tracer of a process.
fn tracer_of(pid: u32) -> Option<ProcessId> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
    tracer.filter(|pid| *pid != 0).and_then(ProcessId::of)
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A daemon that appends its pid and its start time to the file `who` of the host, and then stays.
pub(crate) const DAEMON: &str =
    "read -r stat </proc/$$/stat || exit 1; set -- $stat; echo $$ ${22} >>\"$0\" && exec sleep 100000";

/// Returns the pids of the daemons that have written themselves down and still run. A pid alone does not identify a
/// daemon, because the kernel gives it to another process later.
pub(crate) fn live(who: &Path) -> Vec<u32> {
    let written = std::fs::read_to_string(who).unwrap_or_default();
    let daemons = written.lines().filter_map(|line| {
        let (pid, start) = line.split_once(' ')?;
        Some((pid.parse::<u32>().ok()?, start.to_owned()))
    });
    daemons.filter(|(pid, start)| runs(*pid, start)).map(|(pid, _)| pid).collect()
}

/// Returns whether the process with this pid and this start time runs.
fn runs(pid: u32, start: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    // The state is field 3 and the start time field 22 of /proc/<pid>/stat, see proc(5).
    fields.first().is_some_and(|state| !matches!(*state, "Z" | "X")) && fields.get(19) == Some(&start)
}

/// Counts the runs and the failed calls of a sweep.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, (usize, usize)>);

impl Tally {
    fn add(&mut self, fault: Fault, injected: usize) {
        let (runs, calls) = self.0.entry(fault.kind).or_default();
        *runs += 1;
        *calls += injected;
    }

    fn print(&self, scenario: &str) {
        let total = self.0.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert!(total.1 > 0, "{scenario}: no call was made to fail");
        println!("{scenario}: {} runs, {} calls failed: {:?} (runs, calls)", total.0, total.1, self.0);
    }
}

/// Runs `scenario` with each sampled call of each kind, until a run meets no fault any more.
///
/// A `write` of the supervisor is not made to fail: tokio wakes its threads by writes to an eventfd(2), which cannot fail in
/// this way. Tests with a full disk cover the writes to files.
fn sweep(name: &str, stride: usize, mut scenario: impl FnMut(Fault, usize) -> usize) {
    if let Ok(only) = std::env::var("PEPITA_INJECT") {
        let (kind, n) = only.split_once(':').expect("KIND:N");
        let fault = KINDS.into_iter().find(|fault| fault.kind == kind).expect("a kind of call");
        println!("{name}: {} calls failed", scenario(fault, n.parse().expect("a number")));
        return;
    }
    let (mut sample, mut tally) = (Sample::of(name, stride), Tally::default());
    let tried = |fault: &Fault| fault.kind != "write" || name.starts_with("launcher");
    for fault in KINDS.into_iter().filter(tried) {
        let mut n = sample.next(fault, 0);
        loop {
            let injected = scenario(fault, n);
            tally.add(fault, injected);
            if injected == 0 {
                break;
            }
            n = sample.next(fault, n);
        }
    }
    tally.print(name);
}

fn run_args<'a>(host_run: &'a str, who: &'a str) -> Vec<&'a str> {
    vec![
        "--run-dir",
        host_run,
        "run",
        "--vmm",
        "process",
        "--name",
        "a",
        "--daemon",
        "--json",
        "--wait-ready",
        "--",
        "/bin/sh",
        "-c",
        DAEMON,
        who,
    ]
}

/// A host of one VM, which the launcher alone looks after.
struct Single {
    host: Host,
    run: String,
    who: String,
}

impl Single {
    fn new() -> Self {
        let host = Host::new("", "");
        let text = |name: &str| host.path(name).to_string_lossy().into_owned();
        let (run, who) = (text("r"), text("who"));
        Self { host, run, who }
    }

    fn live(&self) -> Vec<u32> {
        live(Path::new(&self.who))
    }

    fn run(&self) {
        let output = Command::new(program("pepita")).args(run_args(&self.run, &self.who)).output();
        let output = output.expect("pepita runs");
        assert!(output.status.success(), "without a fault: {}{}", stdout(&output), stderr(&output));
        self.daemon_runs();
    }

    fn status(&self) -> StatusRecord {
        let output = self.host.pepita(&["status", "--name", "a", "--json"]);
        serde_json::from_slice(&output.stdout).expect("a status")
    }

    /// Waits until the daemon has written its pid; there is one.
    fn daemon_runs(&self) {
        until("the daemon runs", || {
            let live = self.live();
            assert!(live.len() <= 1, "daemons of one VM: {live:?}");
            live.len() == 1
        });
    }

    /// Destroys the VM; nothing is left of it.
    fn destroy(&self, what: &str) {
        let output = self.host.pepita(&["destroy", "--name", "a", "--force"]);
        assert!(output.status.success(), "{what}; then: {}", stderr(&output));
        assert_eq!(self.live(), [] as [u32; 0], "{what}: a destroyed daemon runs");
        let listed = self.host.pepita(&["list", "--format", "name"]);
        assert_eq!(stdout(&listed), "", "{what}: a destroyed VM is listed");
        self.host.assert_nothing_left();
        let _ = std::fs::remove_file(&self.who);
    }
}

#[test]
fn a_call_that_fails_while_the_launcher_starts_a_vm_leaves_one_daemon_or_none() {
    let single = Single::new();
    sweep("launcher: start", 9, |fault, n| {
        let args = run_args(&single.run, &single.who);
        let mut traced = Traced::start(&single.host, fault, n, &program("pepita"), &args);
        let status = traced.end(&format!("{} {n}", fault.kind));
        let what = format!("{} {n}: {status}: {}{:?}", fault.kind, traced.said(), traced.failed_calls());
        let live = single.live();
        assert!(live.len() <= 1, "{what}: daemons {live:?}");
        if !status.success() {
            assert_eq!(live, [] as [u32; 0], "{what}: a daemon of a start that failed runs");
            // The loader of the program itself fails in its own words; a fault of standard output leaves nothing to say.
            assert!(status.code().is_some(), "{what}: the launcher was ended by a signal");
            assert_ne!(status.code(), Some(101), "{what}: the launcher panicked");
        }
        let injected = traced.injected();
        single.destroy(&what);
        single.run();
        single.destroy(&what);
        injected
    });
}

#[test]
fn a_call_that_fails_while_the_launcher_destroys_a_vm_is_mended_by_the_next_destroy() {
    let single = Single::new();
    sweep("launcher: stop", 9, |fault, n| {
        single.run();
        let args = ["--run-dir", &single.run, "destroy", "--name", "a"];
        let mut traced = Traced::start(&single.host, fault, n, &program("pepita"), &args);
        let status = traced.end(&format!("{} {n}", fault.kind));
        let what = format!("{} {n}: {status}: {}{:?}", fault.kind, traced.said(), traced.failed_calls());
        assert_ne!(status.code(), Some(101), "{what}: the launcher panicked");
        if status.success() {
            assert_eq!(single.live(), [] as [u32; 0], "{what}: a daemon that was called destroyed runs");
        }
        single.destroy(&what);
        traced.injected()
    });
}

#[test]
fn a_call_that_fails_while_the_launcher_adopts_a_vm_leaves_its_daemon_alone() {
    let single = Single::new();
    sweep("launcher: adoption", 9, |fault, n| {
        single.run();
        let before = single.live();
        let monitor = Pid::from_raw(single.status().monitor_pid.expect("a monitor").cast_signed());
        kill(monitor, Signal::SIGKILL).expect("the monitor runs");
        let args = ["--run-dir", &single.run, "adopt", "--name", "a"];
        let mut traced = Traced::start(&single.host, fault, n, &program("pepita"), &args);
        let status = traced.end(&format!("{} {n}", fault.kind));
        let what = format!("{} {n}: {status}: {}{:?}", fault.kind, traced.said(), traced.failed_calls());
        assert_ne!(status.code(), Some(101), "{what}: the launcher panicked");
        if traced.said().contains("without an answer") {
            assert!(single.status().monitor_pid.is_none(), "{what}: the monitor serves");
        }
        let adopted = single.host.pepita(&["adopt", "--name", "a"]);
        assert!(adopted.status.success(), "{what}; then: {}", stderr(&adopted));
        assert_eq!(single.live(), before, "{what}: the daemon is another");
        single.destroy(&what);
        traced.injected()
    });
}

#[test]
fn an_agent_that_gets_no_thread_for_a_connection_closes_it_and_goes_on() {
    let single = Single::new();
    single.run();
    let (before, status) = (single.live(), single.status());
    let fork = KINDS.into_iter().find(|fault| fault.kind == "fork").expect("a kind of call");
    let agent = status.vmm_pid.expect("an agent");
    let mut traced = Traced::attach(&single.host, fork, 1, agent);
    kill(Pid::from_raw(status.monitor_pid.expect("a monitor").cast_signed()), Signal::SIGKILL)
        .expect("the monitor runs");
    // The new monitor dials until the agent serves it.
    let adopted = single.host.pepita(&["adopt", "--name", "a"]);
    assert!(adopted.status.success(), "{}", stderr(&adopted));
    until("a thread was refused, and the agent is reached", || {
        traced.let_go_in_time();
        traced.injected() > 0 && tracer_of(agent).is_none() && single.status().agent.ready
    });
    assert_eq!(single.live(), before, "the daemon is another: {:?}", traced.failed_calls());
    single.destroy("no thread for a connection");
    traced.end("the tracer");
}

/// A host with a supervisor of two VMs.
struct Tree {
    host: Host,
}

impl Tree {
    fn new() -> Self {
        let host = Host::new("", "");
        let vm = |name: &str| {
            let who = host.path(&format!("who-{name}"));
            format!(
                "[[group.vm]]\nname = \"{name}\"\nstart.ready = \"started\"\ncommand = {:?}\n",
                ["/bin/sh", "-c", DAEMON, &who.to_string_lossy()]
            )
        };
        let vms = vm("a") + &vm("b");
        host.configure(
            "shutdown_timeout = \"5s\"\n",
            &format!("[[group]]\nname = \"web\"\nintensity = 200\n{vms}"),
        );
        Self { host }
    }

    fn live(&self) -> Vec<Vec<u32>> {
        ["who-a", "who-b"].map(|who| live(&self.host.path(who))).to_vec()
    }

    /// Waits until a client is told that all VMs are ready; each has one daemon.
    fn is_whole(&self, what: &str) {
        let waited = self.host.ctl(&["wait", "--timeout", "60"]);
        assert!(waited.status.success(), "{what}: not all ready: {}", stderr(&waited));
        // `started` comes a moment before the shell has written its pid.
        until(&format!("{what}: each VM has a daemon, {:?}", self.live()), || {
            let live = self.live();
            assert!(live.iter().all(|daemons| daemons.len() <= 1), "{what}: {live:?}");
            live.iter().all(|daemons| daemons.len() == 1)
        });
    }

    /// Starts a supervisor without a fault, and stops it in order; nothing is left.
    fn heals(&self, what: &str) {
        let mut daemon = self.host.start();
        self.is_whole(what);
        daemon.stop();
        self.is_gone(what);
    }

    fn is_gone(&self, what: &str) {
        assert_eq!(self.live().concat(), [] as [u32; 0], "{what}: daemons run after the end");
        self.host.assert_nothing_left();
        for name in ["who-a", "who-b", "s"] {
            let path = self.host.path(name);
            let _ = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        }
    }

    fn start_traced(&self, fault: Fault, n: usize) -> Traced {
        let config = self.host.path("c.toml").to_string_lossy().into_owned();
        Traced::start(&self.host, fault, n, &program("pepitad"), &["--config", &config, "--json"])
    }

    /// Waits until the traced supervisor has ended, or its socket answers that all is ready.
    fn settles(&self, traced: &mut Traced, what: &str) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = traced.child.try_wait().expect("our child") {
                return Some(status);
            }
            if self.host.ctl(&["wait", "--timeout", "1"]).status.success() {
                return None;
            }
            traced.let_go_in_time();
            assert!(Instant::now() < deadline, "{what}: neither ready nor ended: {}", traced.said());
        }
    }

    fn terminate(&self, traced: &mut Traced) -> ExitStatus {
        kill(Pid::from_raw(traced.child.id().cast_signed()), Signal::SIGTERM).expect("it runs");
        traced.end("a stop")
    }
}

fn check_start(tree: &Tree, fault: Fault, n: usize) -> usize {
    let mut traced = tree.start_traced(fault, n);
    let what = format!("{} {n}", fault.kind);
    if tree.settles(&mut traced, &what).is_none() {
        tree.is_whole(&what);
        let status = tree.terminate(&mut traced);
        assert_ne!(status.code(), Some(101), "{what}: the supervisor panicked: {}", traced.said());
    }
    let live = tree.live();
    assert!(live.iter().all(|daemons| daemons.len() <= 1), "{what}: {live:?}: {}", traced.said());
    let injected = traced.injected();
    tree.heals(&what);
    injected
}

#[test]
fn a_call_that_fails_while_the_supervisor_starts_heals() {
    let tree = Tree::new();
    sweep("supervisor: start", 25, |fault, n| check_start(&tree, fault, n));
}

#[test]
fn a_call_that_fails_while_the_supervisor_adopts_ends_no_daemon() {
    let tree = Tree::new();
    sweep("supervisor: adoption", 25, |fault, n| {
        let mut daemon = tree.host.start();
        let what = format!("{} {n}", fault.kind);
        tree.is_whole(&what);
        let before = tree.live();
        daemon.kill();
        let mut traced = tree.start_traced(fault, n);
        let ended = tree.settles(&mut traced, &what);
        assert_eq!(tree.live(), before, "{what}: {ended:?}: not the daemons from before: {}", traced.said());
        if ended.is_none() {
            let status = tree.terminate(&mut traced);
            assert_ne!(status.code(), Some(101), "{what}: the supervisor panicked: {}", traced.said());
        }
        let injected = traced.injected();
        tree.heals(&what);
        injected
    });
}

#[test]
fn a_call_that_fails_while_a_vm_is_restarted_heals() {
    let tree = Tree::new();
    sweep("supervisor: restart", 12, |fault, n| {
        let mut daemon = tree.host.start();
        let what = format!("{} {n}", fault.kind);
        tree.is_whole(&what);
        let mut traced = Traced::attach(&tree.host, fault, n, daemon.pid());
        let before = tree.live();
        kill(Pid::from_raw(before[0][0].cast_signed()), Signal::SIGKILL).expect("the daemon runs");
        let restarted = || {
            let now = tree.live();
            now[0].len() == 1 && now[0] != before[0]
        };
        until(&format!("{what}: another daemon runs"), || {
            traced.let_go_in_time();
            restarted()
        });
        let _ = kill(Pid::from_raw(traced.child.id().cast_signed()), Signal::SIGINT);
        // A tracer that hangs holds the supervisor, which answers no client then.
        until(&format!("{what}: the tracer has ended"), || {
            if traced.began.elapsed() >= TRACER_TIME {
                let _ = traced.child.kill();
            }
            traced.child.try_wait().expect("our child").is_some()
        });
        tree.is_whole(&what);
        assert_eq!(tree.live()[1], before[1], "{what}: the neighbour is another");
        // The tracer ends with the processes that it follows: the supervisor, and the monitor of the restarted VM.
        daemon.stop();
        traced.end(&what);
        tree.is_gone(&what);
        traced.injected()
    });
}

#[test]
fn a_call_that_fails_while_the_supervisor_stops_keeps_it_from_ending_no_longer_than_its_timeout() {
    let tree = Tree::new();
    sweep("supervisor: stop", 9, |fault, n| {
        let mut daemon = tree.host.start();
        let what = format!("{} {n}", fault.kind);
        tree.is_whole(&what);
        let mut traced = Traced::attach(&tree.host, fault, n, daemon.pid());
        daemon.signal(Signal::SIGTERM);
        let status = daemon.end();
        assert_ne!(status.code(), Some(101), "{what}: the supervisor panicked: {}", daemon.story());
        if status.success() {
            assert_eq!(tree.live().concat(), [] as [u32; 0], "{what}: a daemon runs on: {}", daemon.story());
        }
        traced.end(&what);
        let injected = traced.injected();
        tree.heals(&what);
        injected
    });
}
