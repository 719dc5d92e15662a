//! Tests in which the daemon ends by itself: the exact code or signal is reported, or the reason why its program could
//! not be executed.

use crate::host::{Form, Host, errors, times};
use pepita_wire::{Exit, ExitRecord, MonitorRequest};

/// The ways in which the ticker ends, and the expected exits.
const CODES: [(&str, i32); 4] = [("0", 0), ("1", 1), ("42", 42), ("255", 255)];
const SIGNALS: [(&str, i32); 2] = [("11", 11), ("9", 9)];

/// Programs that cannot be executed: a file that does not exist, and a file that is not a program.
const REFUSED: [(&str, i32); 2] = [("/nowhere/daemon", 2), ("/etc/passwd", 13)];

fn check(host: &Host, name: &str, expected: impl Fn(&Exit) -> bool) {
    let ExitRecord { exit, evidence, .. } = host.exit(name);
    assert!(expected(&exit), "{exit:?}: {evidence:?}");
    assert!(host.status(name).state.is_terminal());
    host.destroy(name, &["--force"]);
}

fn ends(form: Form, after: &[&str]) {
    let host = Host::of(form);
    for round in 0..times(1, 50) {
        for (text, code) in CODES {
            let name = format!("c{code}-{round}");
            host.start(&name, &[after, &["--exit", text]].concat());
            check(&host, &name, |exit| *exit == Exit::code(code));
        }
        for (text, signal) in SIGNALS {
            let name = format!("s{signal}-{round}");
            host.start(&name, &[after, &["--die", text]].concat());
            check(
                &host,
                &name,
                |exit| matches!(exit, Exit::Signalled { signal: seen, .. } if *seen == signal),
            );
        }
    }
}

#[test]
fn a_daemon_that_ends_at_once_is_told_exactly() {
    ends(Form::Qemu, &[]);
}

#[test]
fn a_daemon_that_ends_after_a_second_is_told_exactly() {
    ends(Form::Qemu, &["--after", "1000"]);
}

#[test]
fn a_plain_process_that_ends_is_told_exactly() {
    ends(Form::Process, &[]);
    ends(Form::Process, &["--after", "1000"]);
}

fn refused(form: Form) {
    let host = Host::of(form);
    // In the image there is no /etc/passwd, but its description is no program either.
    let programs = match form {
        Form::Qemu => [REFUSED[0], ("/etc/pepita/image.json", 13)],
        Form::Process => REFUSED,
    };
    for round in 0..times(1, 50) {
        for (program, errno) in programs {
            for later in [false, true] {
                let name = format!("e{errno}-{round}-{later}");
                let mut words =
                    host.run_args(&name, if later { &["--daemon", "--hold"] } else { &["--daemon"] }, &[]);
                *words.last_mut().expect("a daemon") = program.to_owned();
                host.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
                if later {
                    host.until(&name, |status| status.agent.ready);
                    std::thread::sleep(std::time::Duration::from_secs(1));
                    // The agent reports the end over vsock, too.
                    let output = host.call(&["start", "--name", &name, "--", program]);
                    assert!(
                        !output.status.success() && errors(&output).contains(program),
                        "{}",
                        errors(&output)
                    );
                }
                check(
                    &host,
                    &name,
                    |exit| matches!(exit, Exit::NotExecutable { path, errno: seen, .. } if *seen == errno && path == program),
                );
            }
        }
    }
}

#[test]
fn a_daemon_that_cannot_be_executed_is_told_as_such() {
    refused(Form::Qemu);
}

#[test]
fn a_plain_process_that_cannot_be_executed_is_told_as_such() {
    refused(Form::Process);
}

#[test]
fn in_the_foreground_the_exit_code_is_the_daemon_s() {
    let host = Host::of(Form::Process);
    for (ticker, expected) in [(["--exit", "42"], 42), (["--die", "11"], 139), (["--exit", "0"], 0)] {
        let output = host.run("fg", &["--rm"], &ticker).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(expected), "{}", errors(&output));
    }
    let mut words = host.run_args("fg", &["--rm"], &[]);
    *words.last_mut().expect("a daemon") = "/nowhere/daemon".into();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(host.call(&words).status.code(), Some(127));
    assert!(!host.vm("fg").exists());
    let gone = host.call(&["status", "--name", "fg"]);
    assert_eq!(gone.status.code(), Some(4), "{}", errors(&gone));
    assert!(pepita_launcher::client::ask(&host.vm("fg"), MonitorRequest::Status).is_err());
}
