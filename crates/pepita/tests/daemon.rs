//! Tests of what a daemon gets and may do: signals at every moment, its environment, sd_notify, the background, commands
//! beside it. The VMs are plain processes; a client is the program `pepita`, as people call it.

mod host;

use host::{Host, PATIENCE, program, text};
use pepita_wire::record::DaemonState;
use pepita_wire::{Exit, GuestEvent, MonitorRequest, Signal, StatusRecord, VmState};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A daemon in Python that reports through sd_notify(3): `notify(text)`.
const NOTIFY: &str = r#"
import os, signal, socket, sys, time
def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"#;

/// Starts a VM with a daemon in Python, and does not wait.
fn python(host: &Host, name: &str, options: &[&str], body: &str) {
    let script = format!("{NOTIFY}{body}");
    start(host, name, options, &["python3", "-c", &script]);
}

/// Starts a VM as a plain process, and does not wait for its agent.
fn start(host: &Host, name: &str, options: &[&str], command: &[&str]) {
    let run = ["run", "--vmm", "process", "--name", name, "--daemon"];
    host.ok(&[&run, options, &["--"], command].concat());
}

/// Returns an agent that waits for a file `go` before it begins, as a guest takes its time to boot.
fn slow_agent(host: &Host) -> PathBuf {
    let (script, go) = (host.path().join("agent"), host.path().join("go"));
    let agent = program("daemonctl");
    let text =
        format!("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.05; done\nexec {agent} \"$@\"\n", go.display());
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("executable");
    script
}

fn boot(host: &Host) {
    std::fs::write(host.path().join("go"), "").expect("written");
}

#[test]
fn a_client_that_signals_a_vm_while_it_boots_gets_what_it_asks_for() {
    // semantics 7.15
    let host = Host::new();
    let agent = slow_agent(&host);
    let host = host.with("PEPITA_AGENT", agent);
    for (name, signal) in [("t", "TERM"), ("i", "INT"), ("q", "QUIT")] {
        start(&host, name, &[], &["/bin/sleep", "1000"]);
        // What duende-core's adapter takes for a daemon that runs.
        assert!(host.ok(&["status", "--name", name]).contains("\"state\": \"running\""));
        host.ok(&["signal", "--name", name, "--signal", signal]);
        assert_eq!(host.exit(name).exit, Exit::StopRequested);
        assert_eq!(host.status(name).state, VmState::Stopped);
    }
    start(&host, "u", &[], &["/bin/sleep", "1000"]);
    host.ok(&["signal", "--name", "u", "--signal", "USR1"]);
    boot(&host);
    assert_eq!(host.exit("u").exit, Exit::signal(10), "the daemon got the signal when it ran");
}

#[test]
fn a_held_daemon_may_be_signalled_and_started_while_its_guest_boots() {
    let host = Host::new();
    let agent = slow_agent(&host);
    let host = host.with("PEPITA_AGENT", agent);
    start(&host, "s", &["--hold"], &[]);
    host.ok(&["start", "--name", "s", "--", "/bin/sleep", "1000"]);
    start(&host, "t", &["--hold"], &[]);
    boot(&host);
    host.until("s", |status| status.daemon.state == DaemonState::Running);
    host.until("t", |status| status.agent.ready);
    host.ok(&["signal", "--name", "t", "--signal", "TERM"]);
    assert_eq!(host.exit("t").exit, Exit::StopRequested);
    let late = host.fails(&["signal", "--name", "t", "--signal", "HUP"], 4);
    assert!(late.contains("has ended"), "{late}");
    let real_time = host.fails(&["signal", "--name", "s", "--signal", "40"], 64);
    assert!(real_time.contains("signal 40"), "{real_time}");
}

/// Starts a VM by a program that ignores and blocks signals, has secrets, sockets of its service manager, an open file, a
/// narrow file mode mask and a raised limit of open files.
fn start_carelessly(host: &Host, name: &str, command: &[&str]) {
    let shell = "umask 077; ulimit -n $(ulimit -Hn); exec 7</dev/null; \
                 exec env --ignore-signal=HUP,USR2,CHLD,RTMIN --block-signal=USR1 \"$@\"";
    let mut careless = Command::new("sh");
    careless.args(["-c", shell, "sh"]).arg(host::pepita());
    careless
        .args(["run", "--vmm", "process", "--name", name, "--daemon", "--env", "MINE=1", "--"])
        .args(command);
    careless.env("PEPITA_RUN_DIR", &host.dir).env("HOME", "/tmp").stdin(Stdio::null());
    for secret in
        ["SECRET", "AWS_SECRET_ACCESS_KEY", "LISTEN_FDS", "RUST_LOG", "NOTIFY_SOCKET", "WATCHDOG_PID"]
    {
        careless.env(secret, "leaked");
    }
    let output = careless.output().expect("sh runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Returns a line of `/proc/PID/status`, without its name.
fn proc_status(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field");
    line.trim_start_matches(':').trim().to_owned()
}

fn descriptors(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten();
    let mut all: Vec<u32> =
        entries.map(|fd| fd.file_name().to_string_lossy().parse().expect("a number")).collect();
    all.sort_unstable();
    all
}

fn environment(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("a process");
    let mut names: Vec<String> = bytes
        .split(|byte| *byte == 0)
        .filter(|variable| !variable.is_empty())
        .map(|variable| text(variable).split('=').next().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn nothing_that_its_starter_has_by_chance_reaches_a_process_of_a_vm() {
    // semantics 1.18
    let host = Host::new();
    start_carelessly(&host, "a", &["/bin/sh", "-c", "umask; ulimit -n; echo $MINE $HOME; exec sleep 1000"]);
    let status = host.until("a", |status| status.daemon.state == DaemonState::Running);
    let (monitor, vmm) = (status.monitor_pid.expect("a monitor"), status.vmm_pid.expect("an agent"));
    let daemon = status.daemon.pid.expect("a daemon");
    // The shell has printed its lines when it has become `sleep`.
    let deadline = Instant::now() + PATIENCE;
    while !host.ok(&["logs", "--name", "a"]).contains("1 /tmp") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let logs = host.ok(&["logs", "--name", "a"]);
    assert_eq!(logs.lines().collect::<Vec<_>>(), ["0022", "1024", "1 /tmp"]);
    assert_eq!(descriptors(daemon), [0, 1, 2]);
    for pid in [monitor, vmm] {
        // The file that the starter had open.
        let is_null = |fd: &u32| {
            *fd > 2 && std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|to| to.ends_with("null"))
        };
        assert!(!descriptors(pid).iter().any(is_null), "{:?}", descriptors(pid));
    }
    for pid in [daemon, vmm, monitor] {
        // Rust's runtime ignores SIGPIPE in monitor and agent; the C library its own two signals in all that it spawns.
        let ignored = u64::from_str_radix(&proc_status(pid, "SigIgn"), 16).expect("a mask");
        let pipe = if pid == daemon { 0 } else { 1 << 12 };
        // A limit on the size of files ends no monitor: SIGXFSZ.
        let file_size = if pid == monitor { 1 << 24 } else { 0 };
        let of_library = 0b11 << 31;
        assert_eq!(ignored & !pipe & !file_size & !of_library, 0, "{pid}: {ignored:x}");
        let environment = environment(pid);
        let leaked =
            ["SECRET", "AWS_SECRET_ACCESS_KEY", "LISTEN_FDS", "RUST_LOG", "WATCHDOG_PID", "PEPITA_RUN_DIR"];
        assert!(!environment.iter().any(|name| leaked.contains(&name.as_str())), "{environment:?}");
    }
    for pid in [daemon, monitor] {
        assert_eq!(proc_status(pid, "SigBlk"), "0".repeat(16), "{pid}");
    }
    let expected = ["HOME", "MINE", "NOTIFY_SOCKET", "PATH", "PEPITA_VM_DIR", "PEPITA_VSOCK_CID"];
    let others = ["USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PWD", "_", "OLDPWD", "SHLVL"];
    let environment: Vec<_> =
        environment(daemon).into_iter().filter(|name| !others.contains(&name.as_str())).collect();
    assert_eq!(environment, expected);
    let socket = text(&std::fs::read(format!("/proc/{daemon}/environ")).expect("a process"));
    assert!(!socket.contains("leaked"), "{socket}");
}

#[test]
fn a_command_beside_the_daemon_has_its_environment_and_path() {
    let host = Host::new();
    let bin = host.path().join("bin");
    std::fs::create_dir(&bin).expect("made");
    std::fs::write(bin.join("check"), "#!/bin/sh\ntest \"$PORT\" = 8080\n").expect("written");
    std::fs::set_permissions(bin.join("check"), Permissions::from_mode(0o755)).expect("executable");
    let path = format!("PATH={}:/usr/bin:/bin", bin.display());
    start(&host, "a", &["--wait-ready", "--env", &path, "--env", "PORT=8080"], &["sleep", "1000"]);
    host.until("a", |status| status.daemon.state == DaemonState::Running);
    assert_eq!(host.exec("a", &["check"], 0).exit, Exit::code(0));
    assert_eq!(host.exec("a", &["sh", "-c", "test -z \"$NOTIFY_SOCKET\" && pwd"], 0).output, "/\n");
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process").count()
}

#[test]
fn a_command_is_over_when_it_ends_whatever_it_leaves_behind() {
    // semantics 1.17
    let host = Host::new();
    host.process("a", &["/bin/sleep", "1000"]);
    let vmm =
        host.until("a", |status| status.daemon.state == DaemonState::Running).vmm_pid.expect("an agent");
    let before = (threads(vmm), descriptors(vmm).len());
    let left_behind = [
        "setsid sleep 777 & sleep 0.1; echo said; exit 3",
        "setsid sh -c 'sleep 777 & sleep 777' & sleep 0.1; echo said; exit 3",
        "nohup sleep 777 >/dev/null 2>&1 & echo said; exit 3",
        "(sleep 777 &) ; echo said; exit 3",
    ];
    for command in left_behind {
        let began = Instant::now();
        let result = host.exec("a", &["/bin/sh", "-c", command], 60_000);
        assert_eq!(
            (result.exit, result.timed_out, &*result.output),
            (Exit::code(3), false, "said\n"),
            "{command}"
        );
        assert!(began.elapsed() < Duration::from_secs(30), "it waits for nobody: {command}");
        let left =
            host::processes_in(&host.dir).into_iter().filter(|process| process.what.contains("sleep 777"));
        assert_eq!(left.map(|process| process.what).collect::<Vec<_>>(), [] as [String; 0], "{command}");
    }
    let slow = host.exec("a", &["/bin/sh", "-c", "setsid sleep 777 & echo said; sleep 555"], 500);
    assert_eq!((slow.exit, slow.timed_out, &*slow.output), (Exit::signal(9), true, "said\n"));
    let large = host.exec("a", &["/bin/sh", "-c", "seq 100000"], 60_000);
    assert!(large.output.ends_with("99999\n100000\n") && large.output.len() == 4096);
    // The threads of connections end a moment after their clients.
    let is_as_before = || threads(vmm) <= before.0 && descriptors(vmm).len() <= before.1;
    let deadline = Instant::now() + PATIENCE;
    while !is_as_before() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(is_as_before(), "{} threads, {} descriptors: {before:?}", threads(vmm), descriptors(vmm).len());
}

#[test]
fn a_daemon_that_goes_to_the_background_is_told_to_stay_and_one_that_only_ends_is_not() {
    // semantics 1.16
    let host = Host::new();
    for (name, command) in [("a", "setsid sleep 1000 & sleep 0.1; exit 0"), ("b", "sleep 1000 & exit 0")] {
        start(&host, name, &[], &["/bin/sh", "-c", command]);
        let exit = host.exit(name);
        let advice = exit.advice.unwrap_or_default();
        assert_eq!(exit.exit, Exit::code(0));
        assert!(
            advice.starts_with("ended with 0 after ")
                && advice.contains(" ms; it must stay in the foreground"),
            "{advice}"
        );
        assert!(
            exit.evidence.iter().any(|line| line.contains("it must stay in the foreground")),
            "{:?}",
            exit.evidence
        );
    }
    for (name, command) in [("c", "exit 0"), ("d", "sleep 1000 & exit 3")] {
        start(&host, name, &[], &["/bin/sh", "-c", command]);
        assert_eq!(host.exit(name).advice, None);
    }
    let left =
        host::processes_in(&host.dir).into_iter().filter(|process| process.what.contains("sleep 1000"));
    assert_eq!(left.count(), 0, "what was left behind has ended with the VM");
}

#[test]
fn the_main_process_that_a_daemon_names_is_followed_to_its_end() {
    // semantics 1.16
    let host = Host::new();
    let fork = |session: &str| {
        format!(
            r#"
child = os.fork()
if child:
    notify("MAINPID=%d\nREADY=1" % child)
    os._exit(0)
{session}
signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
print("child goes on", flush=True)
while True: signal.pause()
"#
        )
    };
    for (name, session) in [("s", "os.setsid()"), ("g", "")] {
        python(&host, name, &[], &fork(session));
        let status = host.until(name, |status| status.daemon.state == DaemonState::Ready);
        until_log(&host, name, "child goes on");
        let child = status.daemon.pid.expect("the child");
        assert!(std::path::Path::new(&format!("/proc/{child}")).exists());
        host.ok(&["signal", "--name", name, "--signal", "USR1"]);
        let exit = host.exit(name);
        assert_eq!((exit.exit, exit.advice), (Exit::code(7), None));
    }
    // A process that is not the daemon's is not followed.
    python(&host, "x", &[], &format!("notify('MAINPID={}\\nREADY=1')\nsys.exit(5)", std::process::id()));
    assert_eq!(host.exit("x").exit, Exit::code(5));
}

fn until_log(host: &Host, name: &str, words: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !host.ok(&["logs", "--name", name]).contains(words) {
        assert!(Instant::now() < deadline, "{name} does not say {words:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_daemon_that_asks_for_more_time_while_it_stops_gets_it_from_everybody() {
    // semantics 7.14
    let host = Host::new();
    let body = r#"
def stop(*_):
    notify("STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000")
    time.sleep(3)
    print("all flushed", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
notify("READY=1")
while True: signal.pause()
"#;
    python(&host, "a", &[], body);
    host.until("a", |status| status.daemon.state == DaemonState::Ready);
    host.ask(
        "a",
        MonitorRequest::Stop { signal: Signal::TERM, timeout_ms: 300, force: false, if_idle: false },
    );
    let exit = host.exit("a");
    assert_eq!((exit.exit, exit.daemon), (Exit::StopRequested, Some(Exit::code(0))), "{:?}", exit.evidence);
    assert!(exit.console.iter().any(|line| line == "all flushed"), "{:?}", exit.console);
}

#[test]
fn a_daemon_with_a_watchdog_knows_that_it_is_meant() {
    // semantics 1.13
    let host = Host::new();
    let body = "print(os.environ['WATCHDOG_USEC'], os.environ['WATCHDOG_PID'] == str(os.getpid()), sys.argv, flush=True)";
    python(&host, "a", &["--env", "WATCHDOG_USEC=4000000"], body);
    assert_eq!(host.exit("a").exit, Exit::code(0));
    assert_eq!(host.ok(&["logs", "--name", "a"]), "4000000 True ['-c']\n");
    start(&host, "n", &["--env", "WATCHDOG_USEC=1"], &["/no/such/file"]);
    assert!(matches!(host.exit("n").exit, Exit::NotExecutable { errno: 2, .. }));
    start(&host, "m", &["--env", "WATCHDOG_USEC=1"], &["no-such-program"]);
    assert!(matches!(host.exit("m").exit, Exit::NotExecutable { errno: 2, .. }));
}

#[test]
fn what_a_guest_writes_into_its_status_or_its_end_moves_no_terminal() {
    // semantics 1.19
    let host = Host::new();
    let body = r#"
notify("STATUS=\x1b[31mred\x07 \u202eturned " + "x" * 1000)
print("\x1b]0;title\x07 last words\tof it", flush=True)
time.sleep(0.2)
notify("READY=1")
while True: signal.pause()
"#;
    python(&host, "a", &[], body);
    let status = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    let said = &status.daemon.status;
    assert!(said.starts_with("\\x1b[31mred\\x07 \\u{202e}turned xxx"), "{said}");
    assert!(said.chars().count() <= 256 && !said.contains(char::is_control), "{said}");
    host.ok(&["signal", "--name", "a", "--signal", "QUIT"]);
    let exit = host.exit("a");
    assert!(exit.console.contains(&"\\x1b]0;title\\x07 last words\\tof it".to_owned()), "{:?}", exit.console);
    assert!(host.ok(&["logs", "--name", "a"]).contains('\x1b'), "the log is as it came");
    start(&host, "b", &[], &["/no/such\x1b[31mfile\nState: fine"]);
    let Exit::NotExecutable { path, .. } = host.exit("b").exit else { panic!("not executable") };
    assert_eq!(path, "/no/such\\x1b[31mfile\\nState: fine");
    let list = host.ok(&["list"]);
    assert!(!list.contains('\x1b') && list.lines().count() == 3, "{list}");
}

#[test]
fn what_a_daemon_says_before_its_end_is_heard_before_its_end() {
    let host = Host::new();
    for round in 0..5 {
        let name = format!("n{round}");
        start(&host, &name, &["--hold", "--wait-ready"], &[]);
        let mut link = host.link(&name);
        link.watch();
        let script = format!("{NOTIFY}notify('READY=1')\nos._exit(0)");
        host.ok(&["start", "--name", &name, "--", "python3", "-c", &script]);
        let is_either = |event: &GuestEvent| matches!(event, GuestEvent::Ready | GuestEvent::Exited(_));
        assert_eq!(link.until(is_either), GuestEvent::Ready, "round {round}");
    }
}

#[test]
fn an_older_record_with_raw_texts_is_read_without_them() {
    let text = r#"{"name":"a","daemon":{"status":"\u001b[2Jx"},"exit":{"evidence":["\u001b[2Jx\n"],"console":["\u001b[2Jx"]}}"#;
    let record: StatusRecord = serde_json::from_str(text).expect("reads");
    let exit = record.exit.expect("an end");
    assert_eq!((record.daemon.status.as_str(), &exit.evidence[0]), ("\\x1b[2Jx", &"\\x1b[2Jx\\n".to_owned()));
    assert_eq!(exit.console, ["\\x1b[2Jx"]);
}
