//! Tests of `pepita attach` as people call it: the output from now on, signals, the keys that leave, the exit code.

mod host;
mod terminal;

use host::{Host, kill, text};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use terminal::Typist;

/// A daemon that says something again and again, and ends with 7 when it is interrupted.
const DAEMON: &str =
    "echo earlier; trap 'echo interrupted; exit 7' INT; while :; do echo tick; sleep 0.05; done";

fn vm() -> Host {
    let host = Host::new();
    host.process("a", &["/bin/sh", "-c", DAEMON]);
    let mut follower =
        host.command(&["logs", "--follow", "a"]).stdout(Stdio::piped()).spawn().expect("pepita");
    let mut said = BufReader::new(follower.stdout.take().expect("piped")).lines();
    assert!(said.any(|line| line.expect("a line") == "tick"), "the daemon has said nothing");
    drop(said);
    follower.wait().expect("an end");
    host
}

fn is_running(host: &Host) -> bool {
    !host.status("a").state.is_terminal()
}

#[test]
fn the_output_from_now_on_is_printed_and_signals_reach_the_daemon_whose_exit_code_is_ours() {
    let host = vm();
    let mut command = host.command(&["attach", "a"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pepita runs");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut said = String::new();
    output.read_line(&mut said).expect("a line");
    kill(Some(child.id()), Signal::INT);
    output.read_to_string(&mut said).expect("the rest");
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(7), ""));
    assert!(!said.contains("earlier") && said.ends_with("interrupted\n"), "{said}");
    let error = host.fails(&["attach", "a"], 4);
    assert!(error.contains("VM a has ended"), "{error}");
}

#[test]
fn ctrl_p_ctrl_q_leaves_the_daemon_as_it_is_and_ctrl_c_is_its_signal_unless_it_is_kept() {
    let host = vm();
    for (keys, options, code) in [("x\x10y\x10\x11", &[][..], 0), ("\x03", &["--sig-proxy=false"], 130)] {
        let mut typist = Typist::open(24, 80);
        let mut child = typist.spawn(host.command(&[&["attach", "a"], options].concat()), "vt100");
        typist.expect("tick\r\n");
        typist.say(keys);
        assert_eq!(child.wait().expect("an end").code(), Some(code));
        assert!(typist.is_as_before(), "the terminal is not as it was");
        assert!(is_running(&host));
    }
    let mut typist = Typist::open(24, 80);
    let mut child = typist.spawn(host.command(&["attach", "a"]), "vt100");
    typist.expect("tick\r\n");
    typist.say("\x03");
    typist.expect("interrupted\r\n");
    assert_eq!(child.wait().expect("an end").code(), Some(7));
    assert!(typist.is_as_before(), "the terminal is not as it was");
}
