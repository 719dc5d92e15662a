//! Tests of what is told about the time that each part of a start takes.

use crate::host::{Form, Host, errors, guest_file, kill, text};
use pepita_wire::StatusRecord;
use pepita_wire::record::{DaemonState, Part, Timings};
use rustix::process::Signal;
use std::time::Instant;

fn parts(timings: &Timings) -> Vec<Part> {
    timings.parts.iter().map(|timed| timed.part).collect()
}

fn timings(status: &StatusRecord) -> Timings {
    *status.timings.clone().expect("measured")
}

/// Returns the parts of a start by `pepita run` in this form, up to the hello.
fn booted(form: Form) -> Vec<Part> {
    let all = [
        Part::Request,
        Part::Monitor,
        Part::Claims,
        Part::Configuration,
        Part::Spawn,
        Part::Vmm,
        Part::Kernel,
        Part::Hello,
    ];
    // A plain process has neither a machine nor a kernel. What is not there is not told, not even as zero.
    let is_there = |part: &Part| form == Form::Qemu || !matches!(part, Part::Vmm | Part::Kernel);
    all.into_iter().filter(is_there).collect()
}

fn told_part_by_part(form: Form) {
    let host = Host::of(form);
    let began = Instant::now();
    let output = host.run("a", &["--daemon", "--timings"], &[]).output().expect("pepita runs");
    let took = began.elapsed();
    assert!(output.status.success(), "{}", errors(&output));
    let record: StatusRecord = serde_json::from_slice(&output.stdout).expect("a record");
    assert_eq!(record.daemon.state, DaemonState::Ready, "the call has waited");
    let told = timings(&record);
    // On a busy host, an agent may have answered before its note on the console was read: the hello is a part of the boot then.
    let is_sure = |part: &Part| form == Form::Process || *part != Part::Hello;
    let [mut seen, mut expected] = [parts(&told), [booted(form), vec![Part::Daemon, Part::Ready]].concat()];
    seen.retain(is_sure);
    expected.retain(is_sure);
    assert_eq!(seen, expected);
    let sum: u64 = told.parts.iter().map(|timed| timed.us).sum();
    let lost = told.total_us.checked_sub(sum).expect("the parts are no more than the whole");
    assert!(lost <= u64::try_from(told.parts.len()).expect("few"), "{told:?}");
    assert!(u128::from(told.total_us) <= took.as_micros(), "{told:?}, and the call took {took:?}");

    // The record outlives the monitor that has measured.
    kill(host.status("a").monitor_pid, Signal::KILL);
    host.ok(&["adopt", "--name", "a"]);
    let adopted = host.until("a", |status| status.daemon.state == DaemonState::Ready && status.agent.ready);
    assert_eq!(timings(&adopted), told);
    host.destroy("a", &["--force"]);

    // People get a table.
    let words = host.run_args("a", &["--daemon", "--timings=started"], &[]);
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "--json").collect();
    let output = host.call(&words);
    assert_eq!((output.status.code(), text(&output.stdout).trim()), (Some(0), "a"), "{}", errors(&output));
    let printed = text(&output.stderr);
    let lines: Vec<(f64, &str)> = printed
        .lines()
        .filter_map(|line| line.trim().split_once(" ms  "))
        .map(|(ms, rest)| (ms.parse().expect("a number"), rest.split("  ").next().unwrap_or_default()))
        .collect();
    let (&(total, all), parts) = lines.split_last().expect("lines");
    let sure = booted(form).into_iter().chain([Part::Daemon]).filter(is_sure);
    let named: Vec<String> = sure.map(|part| part.to_string()).collect();
    // The daemon may be ready already.
    let shown = parts.iter().map(|(_, part)| part.trim());
    let shown: Vec<&str> = shown.filter(|part| named.iter().any(|name| name == part)).collect();
    assert_eq!(shown, named.iter().map(String::as_str).collect::<Vec<_>>(), "{printed}");
    assert_eq!(all, "in all");
    let sum: f64 = parts.iter().map(|(ms, _)| ms).sum();
    assert!((sum - total).abs() <= 0.06 * f64::from(u32::try_from(lines.len()).expect("few")), "{printed}");
    host.destroy("a", &["--force"]);
}

#[test]
fn the_start_of_a_microvm_is_told_part_by_part() {
    told_part_by_part(Form::Qemu);
}

#[test]
fn the_start_of_a_plain_process_is_told_part_by_part() {
    told_part_by_part(Form::Process);
}

#[test]
fn the_time_for_which_a_daemon_is_held_back_is_a_part() {
    let host = Host::of(Form::Process);
    let held = host.start_with("a", &["--hold", "--timings"], &[]);
    assert!(held.agent.ready, "the call has waited for the agent");
    assert_eq!(parts(&timings(&held)), booted(Form::Process));
    let ticker = guest_file("ticker");
    host.ok(&["start", "--name", "a", "--", &ticker.to_string_lossy()]);
    let ready = host.until("a", |status| status.daemon.state == DaemonState::Ready);
    assert_eq!(parts(&timings(&ready)), [booted(Form::Process), vec![Part::Held, Part::Ready]].concat());
    host.destroy("a", &["--force"]);
}

#[test]
fn a_daemon_that_never_says_ready_ends_its_start_with_its_end_or_with_the_time_limit() {
    let host = Host::of(Form::Process);
    let run = ["run", "--vmm", "process", "--name", "a", "--timings"];
    let output = host.call(&[&run[..], &["--rm", "--", "true"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(text(&output.stderr).contains(" ms  in all\n"), "{}", errors(&output));
    let output =
        host.call(&[&run[..], &["--daemon", "--ready-timeout", "5s", "--", "sleep", "1000"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(text(&output.stderr).contains("has not said READY=1"), "{}", errors(&output));
    host.destroy("a", &["--force"]);
}
