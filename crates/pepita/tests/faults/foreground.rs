//! Tests of launches whose caller goes away, and of `pepita run` in the foreground: nothing is left running that was
//! called failed or stopped.

use crate::host::{Form, Host, PATIENCE, kill, pepita, processes_in, text};
use pepita_launcher::host::process_id::ProcessId;
use pepita_launcher::host::wait::wait_readable;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A VMM that never comes up: it says its pid, and then nothing.
struct SlowVmm {
    host: Host,
    pipe: PathBuf,
}

impl SlowVmm {
    fn new() -> Self {
        let host = Host::of(Form::Qemu);
        let aside = host.dir.with_extension("vmm");
        std::fs::create_dir(&aside).expect("made");
        let (pipe, program) = (aside.join("pid"), aside.join("qemu"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe");
        let script = format!("#!/bin/sh\necho $$ >{}\nexec sleep 1000\n", pipe.display());
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        // In a jail there is no such pipe.
        Self { host: host.with("PEPITA_QEMU", program).with("PEPITA_JAIL", "none"), pipe }
    }

    /// Returns the VMM, once it has been started.
    fn started(&self) -> ProcessId {
        let pid = std::fs::read_to_string(&self.pipe).expect("a pid");
        ProcessId::of(pid.trim().parse().expect("a number")).expect("a process that runs")
    }

    /// Waits until the VMM and the monitor have ended, and checks that nothing is left.
    fn assert_nothing_left(&self, vmm: &ProcessId) {
        if let Some(handle) = vmm.open() {
            assert!(wait_readable(&handle, PATIENCE), "the VMM runs on");
        }
        for process in processes_in(&self.host.dir) {
            let process = ProcessId::of(process.pid);
            if let Some(handle) = process.and_then(|process| process.open()) {
                assert!(wait_readable(&handle, PATIENCE), "a process runs on");
            }
        }
        assert!(!self.host.vm("a").exists(), "the run directory is left");
        assert!(!self.host.dir.join(".ends/a").exists(), "the last words are left (semantics 10.8)");
    }
}

impl Drop for SlowVmm {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.pipe.with_file_name(""));
    }
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pepita runs")
}

#[test]
fn a_launch_whose_caller_is_killed_leaves_nothing() {
    for options in [&["--daemon"][..], &["--daemon", "--wait-ready"], &[]] {
        let slow = SlowVmm::new();
        let mut run = piped(&mut slow.host.run("a", options, &[]));
        let vmm = slow.started();
        run.kill().expect("a child");
        run.wait().expect("an end");
        slow.assert_nothing_left(&vmm);
    }
}

#[test]
fn a_launch_that_is_interrupted_in_the_foreground_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let slow = SlowVmm::new();
        let run = piped(&mut slow.host.run("a", &[], &[]));
        let vmm = slow.started();
        kill(Some(run.id()), signal);
        let output = run.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(128 + signal.as_raw()), "{}", text(&output.stderr));
        // The command returns when the VM is gone.
        assert!(vmm.open().is_none() && !slow.host.vm("a").exists());
    }
}

/// Starts a VM in the foreground and waits for its first line. `ignored`: the caller has set these signals to be ignored,
/// as `nohup` and a shell's `&` do.
fn foreground(
    host: &Host,
    ignored: &[Signal],
    daemon: &str,
) -> (Child, BufReader<std::process::ChildStdout>) {
    let args = ["run", "--rm", "--name", "a", "--vmm", "process", "--", "/bin/sh", "-c", daemon];
    let mut command = host.command(&args);
    let ignored: Vec<i32> = ignored.iter().map(|signal| signal.as_raw()).collect();
    if !ignored.is_empty() {
        let names: Vec<String> = ignored.iter().map(i32::to_string).collect();
        let script = format!("trap '' {}; exec \"$0\" \"$@\"", names.join(" "));
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(script).arg(pepita()).args(args).stdin(Stdio::null());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command = shell;
    }
    command.process_group(0);
    let mut run = piped(&mut command);
    let mut out = BufReader::new(run.stdout.take().expect("piped"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "up\n");
    (run, out)
}

const TICKS: &str = "trap 'echo ended; exit 3' TERM; echo up; while :; do sleep 0.1; echo tick; done";

#[test]
fn every_signal_that_ends_a_command_stops_the_vm_in_the_foreground_and_removes_it() {
    let all = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
    for signal in all {
        let host = Host::of(Form::Process);
        let (run, mut out) = foreground(&host, &[], TICKS);
        kill(Some(run.id()), signal);
        let mut rest = String::new();
        out.read_to_string(&mut rest).expect("text");
        let output = run.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(3), "{signal:?}: {}", text(&output.stderr));
        assert!(rest.ends_with("ended\n"), "the stop is graceful: {rest}");
        assert!(!host.vm("a").exists(), "{signal:?}");
    }
    let host = Host::of(Form::Process);
    let (mut run, _out) = foreground(&host, &all, "echo up; sleep 1000");
    kill(Some(run.id()), Signal::QUIT);
    run.wait().expect("an end");
    assert!(!host.vm("a").exists(), "the caller had set the signal to be ignored");
}

#[test]
fn a_second_signal_ends_a_vm_whose_monitor_stands_still() {
    let host = Host::of(Form::Process);
    let (run, mut out) = foreground(&host, &[], TICKS);
    let monitor = host.status("a").monitor_pid;
    kill(monitor, Signal::STOP);
    let told = host.fails(&["adopt", "--name", "a"], 75);
    let pid = monitor.expect("a monitor");
    assert!(told.contains(&format!("kill -CONT {pid}")) && told.contains("destroy --force"), "{told}");
    // Two different signals, because of two equal ones that wait one is lost.
    kill(Some(run.id()), Signal::TERM);
    kill(Some(run.id()), Signal::INT);
    out.read_to_string(&mut String::new()).expect("text");
    let output = run.wait_with_output().expect("an end");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert!(error.contains("an end at once was asked for"), "{error}");
    assert!(!host.vm("a").exists());
}

/// An agent that is a program of these lines, in the place of `daemonctl`.
fn agent_of(host: &Host, lines: &str) -> PathBuf {
    let path = host.dir.with_extension("agent");
    std::fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

#[test]
fn a_plain_process_that_never_answers_is_told_without_advice_about_kernels() {
    let host = Host::of(Form::Process);
    let agent = agent_of(&host, "exec sleep 1000");
    let host = host.with("PEPITA_AGENT", &agent);
    let output = host.run("a", &["--rm", "--ready-timeout", "300ms"], &[]).output().expect("pepita runs");
    let error = text(&output.stderr);
    assert!(error.contains("did not come up in time"), "{error}");
    assert!(!error.contains("memory") && !error.contains("kernel"), "{error}");
    std::fs::remove_file(agent).expect("removed");
}

#[test]
fn an_agent_with_too_few_open_files_ends_its_vm_and_lets_nobody_wait() {
    let host = Host::of(Form::Process);
    let agent = crate::host::program("daemonctl");
    let mut codes = Vec::new();
    for limit in 6..=20 {
        let script = agent_of(&host, &format!("ulimit -n {limit}\nexec {agent} \"$@\""));
        let mut call = host.command(&["run", "--rm", "--name", "a", "--vmm", "process"]);
        call.args(["--ready-timeout", "1s", "--", "/bin/echo", "said"]).env("PEPITA_AGENT", &script);
        let output = call.output().expect("pepita runs");
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 74 | 75 | 125 | 126)), "{limit}: {}", text(&output.stderr));
        codes.push((limit, code));
        std::fs::remove_file(script).expect("removed");
    }
    println!("{codes:?}");
    let cannot_execute = |(_, code): &(u64, Option<i32>)| *code == Some(126);
    assert!(codes.iter().any(cannot_execute) && codes.last() == Some(&(20, Some(0))), "{codes:?}");
}

#[test]
fn a_vm_that_another_program_destroys_ends_its_command_with_the_vm_s_own_end() {
    for (options, code) in [(&[][..], 3), (&["--force"][..], 125)] {
        let host = Host::of(Form::Process);
        let (run, mut out) = foreground(&host, &[], TICKS);
        host.destroy("a", options);
        out.read_to_string(&mut String::new()).expect("text");
        let output = run.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(code), "{options:?}: {}", text(&output.stderr));
    }
}

/// Runs `pepita` with a limit of open files, and returns its exit code and all that it has written.
fn with_open_files(host: &Host, limit: u64, args: &[&str]) -> (Option<i32>, String) {
    let command = host.command(args);
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={limit}")).arg(pepita()).args(args);
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.stdin(Stdio::null()).output().expect("it runs");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn with_too_few_open_files_a_launch_fails_at_once_and_with_enough_it_works() {
    let host = Host::of(Form::Process);
    let args = ["run", "--rm", "--name", "a", "--vmm", "process", "--", "/bin/echo", "said"];
    for limit in 8..=40 {
        let (code, said) = with_open_files(&host, limit, &args);
        if limit < 32 {
            assert_eq!(code, Some(75), "{limit}: {said}");
            assert!(said.contains(&format!("{limit} open files")) && said.contains("ulimit -n"), "{said}");
        } else {
            assert!(code == Some(0) && said.contains("said"), "{limit}: {said}");
        }
        assert!(!host.vm("a").exists(), "{limit}");
    }
}

#[test]
fn a_limit_on_the_size_of_files_ends_no_monitor_and_loses_no_exit_code() {
    let host = Host::of(Form::Process);
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; exit 5";
    let args = ["run", "--daemon", "--name", "a", "--vmm", "process", "--", "/bin/sh", "-c", script];
    let command = host.command(&args);
    let mut shell = Command::new("/bin/sh");
    // In blocks of 512 bytes.
    shell.args(["-c", "ulimit -f 2048; exec \"$0\" \"$@\""]).arg(pepita()).args(args);
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let exit = host.exit("a");
    let is_unseen = exit.evidence.iter().any(|text| text.contains("no process saw"));
    assert!(exit.exit == pepita_wire::Exit::code(5) && !is_unseen, "{exit:?}");
    host.destroy("a", &[]);
}

#[test]
fn a_reader_that_goes_away_stops_the_vm_in_the_foreground_and_removes_it() {
    for daemon in [TICKS, "echo up; exec sleep 1000"] {
        let host = Host::of(Form::Process);
        let (run, out) = foreground(&host, &[], daemon);
        drop(out);
        let output = run.wait_with_output().expect("an end");
        assert!(output.status.code().is_some(), "{output:?}");
        assert!(!host.vm("a").exists(), "{daemon}");
    }
}

#[test]
fn a_terminal_that_is_closed_stops_the_vm_in_the_foreground_and_removes_it() {
    const TERMINAL: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
seen = b""
while b"up" not in seen:
    seen += os.read(terminal, 1000)
os.close(terminal)
os.waitpid(pid, 0)
"#;
    for daemon in [TICKS, "echo up; exec sleep 1000"] {
        let host = Host::of(Form::Process);
        let args = ["run", "--rm", "--name", "a", "--vmm", "process", "--", "/bin/sh", "-c", daemon];
        let call = host.command(&args);
        let mut python = Command::new("python3");
        python.arg("-c").arg(TERMINAL).arg(pepita()).args(args);
        python.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = python.stdin(Stdio::null()).output().expect("python3 runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(!host.vm("a").exists(), "{daemon}");
    }
}

#[test]
fn a_disk_that_is_full_loses_output_and_no_vm_in_the_foreground() {
    let host = Host::of(Form::Process);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a full disk");
    let daemon = "echo one; echo two; exit 3";
    let mut command =
        host.command(&["run", "--rm", "--name", "a", "--vmm", "process", "--", "/bin/sh", "-c", daemon]);
    let output = command.stdout(full).stderr(Stdio::piped()).output().expect("pepita runs");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr).matches("standard output").count(), 1, "{}", text(&output.stderr));
}
