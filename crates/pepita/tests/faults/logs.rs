//! Tests of the console's log: floods, ordinary rates, followers, and the monitor's memory.

use crate::host::{Form, Host, times};
use crate::images::Disk;
use pepita_launcher::rundir::console_log::{FILE_CAP, FILES};
use pepita_wire::MonitorRequest;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant, SystemTime};

fn on_disk(host: &Host, name: &str) -> u64 {
    let entries = std::fs::read_dir(host.vm(name)).expect("a directory").flatten();
    let logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("console.log"));
    logs.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

/// Returns the numbers that the ticker printed, one per line.
fn numbers(text: &[u8]) -> Vec<u64> {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| line.len() == 63);
    lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect()
}

fn flood(form: Form) {
    let host = Host::of(form);
    host.ready("f", &["--flood"]);
    let mut link = host.link("f");
    let until = Instant::now() + Duration::from_secs(times(3, 20) as u64);
    let mut slowest = Duration::ZERO;
    while Instant::now() < until {
        let began = Instant::now();
        link.ask("ping", serde_json::Value::Null);
        host.ask("f", MonitorRequest::Status);
        slowest = slowest.max(began.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = host.status("f");
    let (kept, seconds) = (on_disk(&host, "f"), status.uptime_ms / 1000);
    println!(
        "{form:?}: flood: {kept} bytes on disk, {} dropped in {seconds} s, slowest answer {slowest:?}",
        status.dropped_log_bytes
    );
    // A full file is rotated by the next write.
    assert!(kept <= (FILE_CAP + (64 << 10) + 4096) * FILES as u64, "{kept}");
    pss(&host, "f");
    assert!(host.destroy("f", &[]) < Duration::from_secs(10));
}

#[test]
fn the_output_of_a_vm_fills_no_small_run_directory_and_its_newest_part_is_kept() {
    let host = Host::of(Form::Process);
    let _disk = Disk::mount(&host.dir, "3m");
    // Two VMs share the quarter.
    let names = ["f", "g"];
    for name in names {
        let script = "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo the newest; exec sleep 1000";
        host.process(name, &["/bin/sh", "-c", script]);
    }
    for name in names {
        let deadline = Instant::now() + crate::host::PATIENCE;
        while !host.ok(&["logs", "--name", name]).ends_with("the newest\n") {
            assert!(Instant::now() < deadline, "{name}: the newest output was lost");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(host.status(name).dropped_log_bytes > 0, "{name}");
    }
    let fs = rustix::fs::statvfs(&host.dir).expect("a file system");
    let (free, all) = (fs.f_bavail * fs.f_frsize, fs.f_blocks * fs.f_frsize);
    let logs: u64 = names.iter().map(|name| on_disk(&host, name)).sum();
    println!("{logs} bytes of logs on {all}, {free} are free");
    // A look is taken after a sixteenth of a quarter, and what is read at once is written at once.
    assert!(
        logs <= all / 4 + (256 << 10) && free > all / 2,
        "{logs} bytes of logs, {free} of {all} are free"
    );
    for name in names {
        host.destroy(name, &[]);
    }
}

#[test]
fn a_flood_stays_within_the_caps_and_the_vm_answers() {
    flood(Form::Qemu);
}

#[test]
fn a_flood_of_a_plain_process_stays_within_the_caps_and_is_counted() {
    flood(Form::Process);
}

#[test]
fn an_ordinary_rate_of_output_is_kept_whole_and_followed_through_rotations() {
    for form in [Form::Qemu, Form::Process] {
        let host = Host::of(form);
        let bytes: u64 = 24 << 20;
        let (size, rate) = (bytes.to_string(), (5_u64 << 20).to_string());
        host.start("p", &["--print", &size, "--rate", &rate, "--exit", "0"]);
        let follower =
            host.command(&["logs", "--name", "p", "-f"]).stdout(Stdio::piped()).spawn().expect("runs");
        let followed = follower.wait_with_output().expect("an end");
        assert_eq!(host.exit("p").exit, pepita_wire::Exit::code(0));
        let printed = host.call(&["logs", "--name", "p"]).stdout;
        let expected: Vec<u64> = (0..bytes / 64).collect();
        assert_eq!(host.status("p").dropped_log_bytes, 0);
        assert!(on_disk(&host, "p") > 2 * FILE_CAP, "the log was not rotated");
        for (what, text) in [("logs", printed), ("logs -f", followed.stdout)] {
            let seen = numbers(&text);
            let lost = expected.len() - seen.len();
            println!("{form:?}: {what}: {} lines, {lost} lost", seen.len());
            assert!(seen == expected, "{what}: {lost} lines lost, or out of order");
        }
        host.destroy("p", &[]);
    }
}

#[test]
fn what_is_older_than_asked_for_is_not_shown() {
    let host = Host::of(Form::Process);
    // The output is longer than one rotation, so that the oldest file is not the beginning of the output.
    let size = (12_u64 << 20).to_string();
    host.ready("s", &["--print", &size, "--interval", "200"]);
    std::thread::sleep(Duration::from_secs(4));
    let recent = host.ok(&["logs", "--name", "s", "--since", "2s"]);
    let ticks: Vec<&str> = recent.lines().filter(|line| line.starts_with("tick ")).collect();
    println!("--since 2s: {} ticks", ticks.len());
    assert!(numbers(recent.as_bytes()).is_empty() && (3..=15).contains(&ticks.len()), "{ticks:?}");
    assert!(host.ok(&["logs", "--name", "s"]).len() > 12 << 20);
    host.destroy("s", &[]);
}

#[test]
fn a_follower_hears_what_is_said_at_once_and_ends_with_the_vm() {
    let host = Host::of(Form::Process);
    host.ready("s", &["--interval", "100"]);
    let mut follower =
        host.command(&["logs", "--name", "s", "-f"]).stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("its output")).lines().map_while(Result::ok);
    for tick in 1..5 {
        assert_eq!(lines.next(), Some(format!("tick {tick}")));
    }
    host.ok(&["destroy", "--name", "s"]);
    assert_eq!(lines.last().as_deref(), Some("stopping"));
    assert!(follower.wait().expect("an end").success());
}

/// Prints the memory of the monitor. The limit of 2 MiB applies to a release build.
fn pss(host: &Host, name: &str) {
    let monitor = host.status(name).monitor_pid.expect("a monitor");
    let rollup = std::fs::read_to_string(format!("/proc/{monitor}/smaps_rollup")).unwrap_or_default();
    let line = |key: &str| rollup.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned();
    println!("{:?}: monitor: {} {} {}", host.form, line("Pss:"), line("Pss_Anon:"), line("Private_Dirty:"));
}

#[test]
fn logs_are_kept_in_the_directory_that_is_named_for_them_and_go_with_their_vm() {
    let host = Host::of(Form::Process);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let dir = elsewhere.path().to_string_lossy().into_owned();
    host.start_with("s", &["--log-dir", &dir], &["--say", "on the disk", "--after", "300", "--exit", "0"]);
    host.exit("s");
    let log = elsewhere.path().join("s/console.log");
    assert!(std::fs::read_to_string(log).expect("a log").contains("on the disk"));
    assert!(!host.vm("s").join("console.log").exists());
    assert!(host.ok(&["logs", "--name", "s"]).contains("on the disk"));
    assert!(host.ok(&["logs", "--name", "s", "--previous"]).contains("on the disk"));
    host.destroy("s", &[]);
    assert_eq!(std::fs::read_dir(elsewhere.path()).expect("a directory").count(), 0);
}

/// Returns the names of the VMs whose ends are kept.
fn kept_ends(host: &Host) -> Vec<String> {
    let entries = std::fs::read_dir(host.dir.join(".ends")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Semantics 10.8.
#[test]
fn what_a_person_removes_leaves_no_last_words_and_a_supervised_vm_keeps_them_until_it_is_destroyed_again() {
    let host = Host::of(Form::Process);
    let says = ["--say", "LAST WORDS", "--after", "50", "--exit", "0"];
    for options in [&[][..], &["--force"]] {
        host.start("s", &says);
        host.exit("s");
        assert!(host.ok(&["logs", "--name", "s", "--previous"]).contains("LAST WORDS"));
        host.destroy("s", options);
        assert_eq!(kept_ends(&host), [""; 0], "destroy {options:?}");
        host.fails(&["logs", "--name", "s"], 4);
    }
    // With a random name, as in each run of a script.
    host.ok(&["run", "--rm", "--vmm", "process", "--", "/bin/echo", "hello"]);
    assert_eq!(kept_ends(&host), [""; 0], "--rm");
    let mark = ["--label", "pepita-supervisor.owner=edge"];
    for _ in 0..2 {
        host.start_with("v", &mark, &says);
        host.exit("v");
        // As a supervisor does between two incarnations.
        host.destroy("v", &["--force"]);
    }
    for call in [&["logs", "--name", "v"][..], &["logs", "--name", "v", "--previous=2"]] {
        assert!(host.ok(call).contains("LAST WORDS"), "{call:?}");
    }
    // A supervisor that is late, and asks again, loses nothing; a person does away with them.
    host.destroy("v", &["--force"]);
    assert_eq!(kept_ends(&host), ["v"]);
    assert!(host.ok(&["destroy", "--name", "v"]).contains("last ends is removed"));
    assert_eq!(kept_ends(&host), [""; 0]);
}

#[test]
fn what_the_vmm_writes_stays_within_its_cap_and_its_end_is_kept() {
    // The program in the place of the agent writes far more than the cap on its standard error.
    let host = Host::of(Form::Process);
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("talker");
    std::fs::write(
        &script,
        "#!/bin/sh\nyes 'far too much' | head -c 5000000 >&2\necho the end >&2\nexit 3\n",
    )
    .expect("written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let host = host.with("PEPITA_AGENT", &script);
    host.start("t", &[]);
    let exit = host.exit("t");
    assert!(matches!(exit.exit, pepita_wire::Exit::VmmCrashed(_)), "{:?}", exit.exit);
    let log = std::fs::read_to_string(host.vm("t").join("monitor.log")).expect("a log");
    assert!(log.len() < 1100 << 10 && log.trim_end().ends_with("the end"), "{} bytes", log.len());
    host.destroy("t", &[]);
}

/// Splits what `logs -t` prints of a line: the time, and the rest.
fn stamped(line: &str) -> (SystemTime, &str) {
    let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no stamp: {line:?}"));
    (humantime::parse_rfc3339(time).unwrap_or_else(|e| panic!("{line:?}: {e}")), rest)
}

/// Waits until the log of a VM contains a text.
fn until_logged(host: &Host, name: &str, text: &str) {
    let deadline = Instant::now() + crate::host::PATIENCE;
    while !host.ok(&["logs", "--name", name]).contains(text) {
        assert!(Instant::now() < deadline, "{name} never said {text:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn each_line_is_printed_with_its_time_and_incarnation_and_the_last_ones_alone_if_they_are_wanted() {
    let host = Host::of(Form::Process);
    let dir = tempfile::tempdir().expect("a directory");
    let go = dir.path().join("go");
    let wait = format!("while [ ! -e {} ]; do sleep 0.02; done", go.display());
    let script = format!("echo one; printf 'two, '; {wait}; echo and more; printf last; exit 3");
    let options = ["--daemon", "--incarnation", "7", "--label", "pepita-supervisor.owner=edge"];
    let run = ["run", "--vmm", "process", "--name", "s"];
    host.ok(&[&run[..], &options, &["--", "/bin/sh", "-c", &script]].concat());
    until_logged(&host, "s", "two, ");
    // Each follower has printed what there is before more is said.
    let follow = |args: &[&str]| {
        let args = [&["logs", "--name", "s", "-f"], args].concat();
        let mut follower = host.command(&args).stdout(Stdio::piped()).spawn().expect("runs");
        let mut output = follower.stdout.take().expect("its output");
        let mut text = Vec::new();
        while !text.ends_with(b"two, ") {
            let mut byte = [0];
            output.read_exact(&mut byte).expect("more output");
            text.extend(byte);
        }
        (follower, output, text)
    };
    let (follower, last) = (follow(&["-t"]), follow(&["--tail", "1"]));
    let began = SystemTime::now();
    std::fs::write(&go, "").expect("written");
    host.exit("s");
    // The agent ends the last line before it says how the daemon has ended.
    let logs = |args: &[&str]| host.ok(&[&["logs", "--name", "s"], args].concat()).trim_end().to_owned();
    let lines = logs(&["-t"]);
    let lines: Vec<_> = lines.lines().map(stamped).collect();
    let texts: Vec<&str> = lines.iter().map(|(_, rest)| *rest).collect();
    assert_eq!(texts, ["#7 one", "#7 two, and more", "#7 last"]);
    // A line has the time of its beginning, to a tenth of a second.
    let tenth = Duration::from_millis(101);
    assert!(
        lines[0].0 <= began && lines[1].0 <= began && lines[2].0 + tenth >= began,
        "{lines:?}, {began:?}"
    );
    assert!(lines[0].0 + Duration::from_secs(600) > began, "{lines:?}");
    let printed = |(mut follower, mut output, mut text): (Child, ChildStdout, Vec<u8>)| {
        output.read_to_end(&mut text).expect("output");
        assert!(follower.wait().expect("an end").success());
        String::from_utf8(text).expect("text").trim_end().to_owned()
    };
    assert_eq!(printed(follower), logs(&["-t"]));
    assert_eq!(printed(last), "two, and more\nlast");
    for (tail, text) in
        [("0", ""), ("1", "last"), ("2", "two, and more\nlast"), ("9", "one\ntwo, and more\nlast")]
    {
        assert_eq!(logs(&["--tail", tail]), text, "--tail {tail}");
        assert_eq!(logs(&["--tail", tail, "--since", "1h"]), text, "--tail {tail} --since");
        assert_eq!(logs(&["--tail", tail, "--until", "0s"]), text, "--tail {tail} --until");
    }
    assert_eq!(
        (logs(&["--tail", "all"]), logs(&["--tail", "9", "--until", "1h"])),
        (logs(&[]), String::new())
    );
    assert!(host.fails(&["logs", "--name", "s", "--tail", "few"], 64).contains("--tail"));
    // What is kept of an end has its times, too, also when the VM is gone.
    let words = logs(&["-t"]);
    assert_eq!(logs(&["--previous", "-t"]), words);
    host.destroy("s", &["--force"]);
    assert_eq!(logs(&["-t"]), words);
    let last = words.lines().last().expect("a line");
    assert_eq!(logs(&["--previous", "--tail=1", "-t"]), last);
    assert!(host.ok(&["destroy", "--name", "s"]).contains("last ends is removed"));
}

#[test]
fn a_follower_of_several_incarnations_says_where_one_ends_on_a_line_of_its_own() {
    let host = Host::of(Form::Process);
    let run = |number: &str| {
        let options = ["--daemon", "--incarnation", number];
        let run = ["run", "--vmm", "process", "--name", "s"];
        let script = format!("printf 'the words of {number}'; exit 3");
        host.ok(&[&run[..], &options, &["--", "/bin/sh", "-c", &script]].concat());
        host.exit("s");
    };
    run("1");
    let args = ["logs", "--name", "s", "-f", "--restarts", "-t"];
    let mut follower = host.command(&args).stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let mut next = || lines.next().map(|line| stamped(&line).1.to_owned());
    assert_eq!(next().as_deref(), Some("#1 the words of 1"));
    assert_eq!(next().as_deref(), Some("#1 [pepita: incarnation 1 has ended: exit 3]"));
    host.destroy("s", &[]);
    run("2");
    assert_eq!(next().as_deref(), Some("#2 [pepita: incarnation 2 has started]"));
    assert_eq!(next().as_deref(), Some("#2 the words of 2"));
    assert_eq!(next().as_deref(), Some("#2 [pepita: incarnation 2 has ended: exit 3]"));
    follower.kill().expect("ours");
    follower.wait().expect("an end");
    host.destroy("s", &[]);
}
