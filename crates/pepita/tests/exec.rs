//! Tests of `pepita exec` as people call it: streams, a real pseudo-terminal, signals, exit codes, many at once, a guest that
//! is hostile or old. The VMs are plain processes; `faults/exec.rs` does the same in a microVM.

mod host;
mod terminal;

use host::{Host, PATIENCE, beside, errors, kill, text};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use terminal::Typist;

fn vm() -> Host {
    let host = Host::new();
    host.process("a", &["/bin/sleep", "100000"]);
    host
}

/// Starts `pepita exec` of a shell script with pipes for all of its streams.
fn shell(host: &Host, options: &[&str], script: &str) -> Child {
    let mut command = host.command(&[&["exec"], options, &["a", "--", "/bin/sh", "-c", script]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("pepita runs")
}

/// Reads a line of a child's output.
fn line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("a line");
    line.trim_end().to_owned()
}

/// Waits for the end of a process that is not a child.
fn await_end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return };
    assert!(pepita_launcher::host::wait::wait_readable(&handle, PATIENCE), "{pid:?} does not end");
}

#[test]
fn the_streams_of_a_command_stay_apart_and_its_exit_code_is_the_client_s() {
    let host = vm();
    let run = |command: &[&str]| host.call(&[&["exec", "a", "--"], command].concat());
    let output = run(&["sh", "-c", "echo said; echo complained >&2; pwd; exit 7"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(7), "said\n/\n"));
    assert_eq!(text(&output.stderr), "complained\n");
    for (command, code, said) in [
        (&["sh", "-c", "kill -9 $$"][..], 137, ""),
        (&["sh", "-c", "kill -15 $$"], 143, ""),
        (&["/nowhere/x"], 127, "pepita: a: cannot execute /nowhere/x: No such file or directory\n"),
        (&["nowhere"], 127, "pepita: a: cannot execute nowhere: No such file or directory\n"),
        (&["/etc/passwd"], 126, "pepita: a: cannot execute /etc/passwd: Permission denied\n"),
        // Without --interactive the input has ended, whatever this process could read.
        (&["sh", "-c", "read x || exit 9"], 9, ""),
    ] {
        let output = run(command);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(code), said), "{command:?}");
    }
    let options = ["exec", "-w", "/usr", "-e", "A=1", "-e", "B=x=y", "a", "--"];
    let said = host.ok(&[&options[..], &["sh", "-c", "echo $PWD $A $B"]].concat());
    assert_eq!(said, "/usr 1 x=y\n");
    host.fails(&["exec", "-w", "/nowhere", "a", "--", "true"], 127);
    assert!(host.fails(&["exec", "b", "--", "true"], 125).contains("no VM b"));
    let error = host.fails(&["exec", "-it", "a", "--", "true"], 125);
    assert!(error.contains("no terminal"), "{error}");
}

#[test]
fn a_hundred_megabytes_go_in_and_come_out_unchanged() {
    let host = vm();
    let mut seed = 7_u64;
    let bytes: Vec<u8> = (0..100_000_000 / 8)
        .flat_map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_le_bytes()
        })
        .collect();
    let mut child = shell(&host, &["-i"], "cat; echo done >&2");
    let mut input = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&bytes).expect("written");
            drop(input);
        });
        child.wait_with_output().expect("an end")
    });
    assert!(output.status.success(), "{}", errors(&output));
    assert!(output.stdout == bytes, "{} bytes came out", output.stdout.len());
    assert_eq!(text(&output.stderr), "done\n");
}

#[test]
fn fifty_commands_at_once_each_get_their_own_answer() {
    let host = vm();
    // All of them run at the same time: each waits for the last one's file.
    let go = host.path().join("go");
    let script =
        |n: u32| format!("echo {n}; until [ -e {} ]; do sleep 0.05; done; echo {n} end", go.display());
    let mut all: Vec<(u32, Child)> = (0..50).map(|n| (n, shell(&host, &["-i"], &script(n)))).collect();
    for (n, child) in &mut all {
        assert_eq!(line(child), n.to_string());
    }
    // The supervisor's and the monitor's conversations are not kept out.
    assert!(host.exec("a", &["true"], 0).exit == pepita_wire::Exit::code(0));
    std::fs::write(&go, "").expect("written");
    for (n, child) in all {
        let output = child.wait_with_output().expect("an end");
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), format!("{n} end\n")));
    }
}

#[test]
fn signals_reach_the_command_also_behind_input_and_output_that_nobody_reads() {
    let host = vm();
    for (signal, number) in [(Signal::INT, 2), (Signal::TERM, 15), (Signal::HUP, 1)] {
        // The command reads none of its input, and the test none of its flood.
        let script = format!(
            "trap 'echo got >&2; exit {}' {number}; echo up >&2; yes & while :; do sleep 0.05; done",
            40 + number
        );
        let mut child = shell(&host, &["-i"], &script);
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        errors.read_line(&mut said).expect("a line");
        let input = child.stdin.take().expect("piped");
        rustix::io::ioctl_fionbio(&input, true).expect("set");
        while rustix::io::write(&input, &[0; 65536]).is_ok() {}
        kill(Some(child.id()), signal);
        // From here on the output is read, as far as there is any.
        let mut output = child.stdout.take().expect("piped");
        std::thread::scope(|scope| {
            scope.spawn(|| std::io::copy(&mut output, &mut std::io::sink()));
            // The shell may tell of its other commands, which got the signal, too.
            while !said.ends_with("got\n") && errors.read_line(&mut said).expect("a line") > 0 {}
            assert!(said.ends_with("got\n"), "{said:?}");
            assert_eq!(child.wait().expect("an end").code(), Some(40 + number));
        });
    }
}

#[test]
fn a_command_ends_with_its_client_and_so_does_what_it_leaves_behind() {
    let host = vm();
    let endings: [(&str, Option<Signal>, Option<i32>); 4] = [
        // Ctrl-\ leaves, whatever the command does about signals.
        ("trap '' 1 2 3 15; echo $$; while :; do sleep 1; done", Some(Signal::QUIT), Some(131)),
        ("echo $$; while :; do sleep 1; done", Some(Signal::KILL), None),
        ("setsid sh -c 'trap \"\" 1; echo $$; while :; do sleep 1; done' & wait", Some(Signal::KILL), None),
        // The command itself ends, and what it has started is in a session of its own.
        ("setsid sh -c 'echo $$; while :; do sleep 1; done' & sleep 1", None, Some(0)),
    ];
    for (script, signal, code) in endings {
        let mut child = shell(&host, &["-i"], script);
        let pid = line(&mut child).parse().expect("a pid");
        if let Some(signal) = signal {
            kill(Some(child.id()), signal);
        }
        let status = child.wait().expect("an end");
        assert_eq!(status.code(), code, "{script}: {:?}", status.signal());
        await_end(pid);
    }
}

#[test]
fn a_command_whose_reader_has_gone_gets_a_broken_pipe() {
    let host = vm();
    let mut child = shell(&host, &[], "yes; echo $? >&2");
    assert_eq!(line(&mut child), "y");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), "141\n"));
}

#[test]
fn a_vm_that_ends_takes_its_commands_and_their_clients_are_told() {
    let host = vm();
    let mut child = shell(&host, &["-i"], "trap '' 1 15; echo $$; while :; do sleep 1; done");
    let pid = line(&mut child).parse().expect("a pid");
    host.destroy("a", &["--force"]);
    let output = child.wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(125), "{}", errors(&output));
    assert!(text(&output.stderr).contains("VM a"), "{}", errors(&output));
    await_end(pid);
}

/// A program that says what it sees of its terminal.
const AT_TERMINAL: &str = "
import os, signal, sys, time
def size(*_):
    it = os.get_terminal_size()
    os.write(1, f'{it.lines} {it.columns}\\n'.encode())
signal.signal(signal.SIGWINCH, size)
signal.signal(signal.SIGINT, signal.SIG_DFL)
assert os.isatty(0) and os.isatty(2)
size()
print(os.environ['TERM'], flush=True)
for line in sys.stdin:
    print('<' + line.strip() + '>', flush=True)
print('asleep', flush=True)
time.sleep(100000)
";

#[test]
fn a_terminal_has_the_size_of_ours_and_follows_it_and_ctrl_c_is_a_key() {
    let host = vm();
    let mut typist = Typist::open(30, 100);
    let command = host.command(&["exec", "-it", "a", "--", "python3", "-c", AT_TERMINAL]);
    let mut child = typist.spawn(command, "vt100");
    typist.expect("30 100\r\nvt100\r\n");
    typist.say("some words\r");
    typist.expect("some words\r\n<some words>\r\n");
    typist.resize(41, 77);
    typist.expect("41 77\r\n");
    // Ctrl-D ends the loop, and Ctrl-C the sleep behind it.
    typist.say("\x04");
    typist.expect("asleep\r\n");
    typist.say("\x03");
    typist.expect("^C");
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert!(typist.is_as_before(), "the terminal is not as it was");
}

#[test]
fn a_terminal_that_closes_ends_its_command() {
    let host = vm();
    let mut typist = Typist::open(24, 80);
    let script = "echo pid=$$.; trap '' 1; while :; do sleep 1; done";
    let mut child = typist.spawn(host.command(&["exec", "-it", "a", "--", "/bin/sh", "-c", script]), "vt100");
    let said = typist.expect(".\r\n");
    let pid = said.trim().trim_end_matches('.').trim_start_matches("pid=").parse().expect("a pid");
    drop(typist);
    child.wait().expect("an end");
    await_end(pid);
}

/// Makes a VM with a hostile agent.
fn hostile(how: &str) -> Host {
    let host = Host::new();
    let agent = host.path().join("agent");
    let script = format!("#!/bin/sh\nHOSTILE={how} exec {} \"$@\"\n", beside("hostile_agent.py").display());
    std::fs::write(&agent, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&agent, mode).expect("executable");
    let host = host.with("PEPITA_AGENT", agent);
    host.ok(&["run", "--vmm", "process", "--name", "a", "--daemon", "--wait-ready", "--", "x"]);
    host
}

#[test]
fn an_agent_of_an_older_version_is_told_as_that() {
    let error = hostile("old").fails(&["exec", "a", "--", "true"], 125);
    assert!(error.contains("older version"), "{error}");
}

#[test]
fn a_hostile_guest_costs_its_client_no_memory_and_the_client_can_always_leave() {
    // What is no chunk, or a length beyond the cap, ends the client.
    for how in ["exec-garbage", "exec-long"] {
        let error = hostile(how).fails(&["exec", "a", "--", "true"], 125);
        assert!(error.contains("streams"), "{how}: {error}");
    }
    // Texts of the guest are made fit to be shown.
    let error = hostile("exec-escapes").fails(&["exec", "a", "--", "true"], 126);
    assert!(error.contains(r"\x1b[2J") && !error.contains('\x1b'), "{error:?}");
    // A guest that grants room without end, and floods, is held back by whoever reads the output.
    let host = hostile("exec-flood");
    let mut child = shell(&host, &["-i"], "");
    let mut output = child.stdout.take().expect("piped");
    output.read_exact(&mut vec![0; 64 << 20]).expect("a flood");
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim();
    let peak: u64 = peak.trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 24 << 10, "{peak} KiB");
    kill(Some(child.id()), Signal::QUIT);
    assert_eq!(child.wait().expect("an end").code(), Some(131));
    // A guest that says nothing can be left, too.
    let host = hostile("exec-silent");
    let mut child = shell(&host, &["-i"], "");
    while !host.vm("a").join("asked").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(Some(child.id()), Signal::QUIT);
    child.wait().expect("an end");
}
