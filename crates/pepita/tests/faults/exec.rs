//! Tests of `pepita exec` in a real microVM: over vsock, with the terminals of its own kernel.

use crate::host::{Form, Host, errors, figure, kill, text};
use crate::terminal::Typist;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Instant;

const TICKER: [&str; 2] = ["/usr/bin/ticker", "--no-ready"];

fn exec(host: &Host, options: &[&str], ticker: &[&str]) -> Child {
    let words = [&["exec"], options, &["a", "--"], &TICKER, ticker].concat();
    let mut command = host.command(&words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("pepita runs")
}

#[test]
fn commands_of_a_microvm_have_streams_terminals_and_exit_codes() {
    let host = Host::of(Form::Qemu);
    host.ready("a", &[]);
    let mut took = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        let output = exec(&host, &["-e", "A=b c"], &["--show", "A", "--exit", "7"]).wait_with_output();
        let output = output.expect("an end");
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(7), "A=b c\n"));
        took.push(began.elapsed());
    }
    figure("exec of a small program in a microVM", took);
    host.fails(&["exec", "a", "--", "/nowhere"], 127);

    // As another user, which the image need not know, and in another directory.
    let as_user = |options: &[&str], path: &str| {
        let output =
            exec(&host, options, &["--cat", path, "--show", "HOME", "--exit", "0"]).wait_with_output();
        text(&output.expect("an end").stdout)
    };
    let shown = as_user(&["-u", "1234:567"], "/proc/self/status");
    assert!(shown.contains("Uid:\t1234\t1234") && shown.contains("Gid:\t567\t567"), "{shown}");
    assert!(shown.contains("HOME=/\n"), "{shown}");
    assert!(as_user(&["-w", "/proc/self"], "status").contains("ticker"));
    let error = host.fails(&["exec", "-u", "nobody-here", "a", "--", TICKER[0]], 126);
    assert!(error.contains("nobody-here"), "{error}");

    // 100 MB in and out, over one connection.
    let bytes: Vec<u8> = (0..100_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = exec(&host, &["-i"], &["--copy", "--exit", "3"]);
    let began = Instant::now();
    let mut input = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            input.write_all(&bytes).expect("written");
            drop(input);
        });
        child.wait_with_output().expect("an end")
    });
    assert_eq!(output.status.code(), Some(3), "{}", errors(&output));
    assert!(output.stdout == bytes, "{} bytes came out", output.stdout.len());
    println!("100 MB into a microVM and out of it: {:?}", began.elapsed());

    // Fifty at once, each with its own stream; the conversations are not kept out.
    let mut all: Vec<(String, Child)> =
        (0..50).map(|n| (format!("{n}\n"), exec(&host, &["-i"], &["--copy", "--exit", "0"]))).collect();
    for (words, child) in &mut all {
        child.stdin.as_mut().expect("piped").write_all(words.as_bytes()).expect("written");
        let mut echo = vec![0; words.len()];
        let read = child.stdout.as_mut().expect("piped").read_exact(&mut echo);
        if read.is_err() {
            let mut why = String::new();
            let _ = child.stderr.as_mut().expect("piped").read_to_string(&mut why);
            panic!("{words:?}: {why}");
        }
        assert_eq!(text(&echo), *words);
    }
    assert_eq!(host.exec("a", &[&TICKER[..], &["--exit", "9"]].concat(), 0).exit, pepita_wire::Exit::code(9));
    for (_, child) in all {
        let output = child.wait_with_output().expect("an end");
        assert!(output.status.success(), "{}", errors(&output));
    }

    // A terminal: echo, Ctrl-D, Ctrl-C.
    let mut typist = Typist::open(33, 111);
    let words =
        [&["exec", "-it", "a", "--"], &TICKER[..], &["--copy", "--show", "TERM", "--interval", "100000"]]
            .concat();
    let mut child = typist.spawn(host.command(&words), "vt220");
    typist.expect("TERM=vt220\r\n");
    typist.say("typed\r");
    typist.expect("typed\r\ntyped\r\n");
    typist.resize(20, 70);
    typist.say("\x04");
    typist.say("\x03");
    assert_eq!(child.wait().expect("an end").code(), Some(0), "the ticker stops on SIGINT");
    assert!(typist.is_as_before());

    // Files go in and come out, in an image without a shell.
    let files = tempfile::tempdir().expect("a directory");
    let at = |name: &str| files.path().join(name).display().to_string();
    std::fs::create_dir(at("site")).expect("made");
    std::fs::write(at("site/page"), "words").expect("written");
    std::fs::write(at("site/large"), &bytes[..20_000_000]).expect("written");
    std::os::unix::fs::symlink("page", at("site/link")).expect("linked");
    let began = Instant::now();
    host.ok(&["cp", &at("site"), "a:/run/site"]);
    println!("20 MB into a microVM by cp: {:?}", began.elapsed());
    assert!(as_user(&["-u", "0"], "/run/site/link").contains("words"));
    let began = Instant::now();
    host.ok(&["cp", "a:/run/site", &at("back")]);
    println!("20 MB out of a microVM by cp: {:?}", began.elapsed());
    assert!(std::fs::read(at("back/large")).expect("there") == bytes[..20_000_000]);
    assert_eq!(std::fs::read(at("back/link")).expect("there"), b"words");
    assert!(host.fails(&["cp", "a:/nowhere", &at("x")], 74).contains("in the guest: /nowhere"));
    host.ok(&["cp", "a:/proc/version", &at("version")]);
    assert!(std::fs::read_to_string(at("version")).expect("there").contains("Linux version"));

    // A client that is killed, and one that is told to end.
    let mut child = exec(&host, &["-i"], &["--say", "up", "--interval", "100000"]);
    child.stdout.as_mut().expect("piped").read_exact(&mut [0; 3]).expect("up");
    kill(Some(child.id()), Signal::TERM);
    assert_eq!(child.wait().expect("an end").code(), Some(0), "the ticker stops on SIGTERM");
    // The end of the VM is told.
    let mut child = exec(&host, &["-i"], &["--say", "up", "--interval", "100000"]);
    child.stdout.as_mut().expect("piped").read_exact(&mut [0; 3]).expect("up");
    host.destroy("a", &["--force"]);
    assert_eq!(child.wait().expect("an end").code(), Some(125));
}

#[test]
fn a_command_waits_for_a_guest_that_boots_and_one_that_is_paused_or_has_no_voice_is_told_as_such() {
    let host = Host::of(Form::Qemu);
    let status = host.start("a", &[]);
    assert!(!status.agent.ready, "the guest boots");
    let output = exec(&host, &[], &["--exit", "7"]).wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(7), "{}", errors(&output));
    host.ok(&["signal", "--signal", "STOP", "a"]);
    let began = Instant::now();
    let error = host.fails(&["exec", "a", "--", TICKER[0]], 125);
    assert!(error.contains("paused; `pepita signal --signal CONT a`"), "{error}");
    let error = host.fails(&["cp", "a:/etc/passwd", "-"], 75);
    assert!(error.contains("paused"), "{error}");
    host.ok(&["signal", "--signal", "CONT", "a"]);
    let monitor = host.status("a").monitor_pid;
    kill(monitor, Signal::STOP);
    let error = host.fails(&["exec", "a", "--", TICKER[0]], 125);
    kill(monitor, Signal::CONT);
    assert!(error.contains("its monitor (pid ") && error.contains("does not answer"), "{error}");
    println!("told after {:?}", began.elapsed());
    host.destroy("a", &["--force"]);
}
