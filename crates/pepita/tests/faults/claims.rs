//! Tests of many launches at the same time: with one name, with one CID, or with any CID.

use crate::host::{Form, Host, errors, times};
use pepita_wire::StatusRecord;
use std::collections::BTreeSet;
use std::process::{Child, Output, Stdio};

fn at_once(count: usize, run: impl Fn(usize) -> std::process::Command) -> Vec<Output> {
    let spawn = |n| run(n).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let all: Vec<Child> = (0..count).map(spawn).collect();
    all.into_iter().map(|child| child.wait_with_output().expect("an end")).collect()
}

fn one_winner(outputs: &[Output]) {
    let won = outputs.iter().filter(|output| output.status.success()).count();
    for output in outputs.iter().filter(|output| !output.status.success()) {
        assert_eq!(output.status.code(), Some(73), "{}", errors(output));
    }
    assert_eq!(won, 1);
}

fn one_name(form: Form) {
    let host = Host::of(form);
    one_winner(&at_once(32, |_| host.run("n", &["--daemon"], &[])));
    assert_eq!(host.ok(&["list", "--format", "name"]), "n\n");
    host.destroy("n", &["--force"]);
}

fn one_cid(form: Form) {
    let host = Host::of(form);
    one_winner(&at_once(32, |n| host.run(&format!("v{n}"), &["--daemon", "--vsock-cid", "99"], &[])));
    let names = host.ok(&["list", "--format", "name"]);
    assert_eq!(names.lines().count(), 1, "{names}");
    let directories = std::fs::read_dir(&host.dir).expect("a directory").flatten();
    let half_made = directories.filter(|entry| entry.file_name().to_string_lossy().starts_with('v')).count();
    assert_eq!(half_made, 1);
    host.destroy(names.trim(), &["--force"]);
}

fn any_cid(form: Form, count: usize) {
    let host = Host::alone(form);
    let outputs = at_once(count, |n| host.run(&format!("v{n}"), &["--daemon", "--hold"], &[]));
    let cid = |output: &Output| {
        assert!(output.status.success(), "{}", errors(output));
        serde_json::from_slice::<StatusRecord>(&output.stdout).expect("a status record").vsock.cid
    };
    let cids: BTreeSet<u32> = outputs.iter().map(cid).collect();
    assert_eq!(cids.len(), count, "{cids:?}");
    for n in 0..count {
        host.destroy(&format!("v{n}"), &["--force"]);
    }
}

#[test]
fn of_32_runs_with_one_name_one_wins() {
    one_name(Form::Qemu);
    one_name(Form::Process);
}

#[test]
fn of_32_runs_with_one_cid_one_wins() {
    one_cid(Form::Qemu);
    one_cid(Form::Process);
}

#[test]
fn cids_that_are_chosen_for_vms_are_unique() {
    any_cid(Form::Process, 32);
    any_cid(Form::Qemu, times(6, 32));
}

#[test]
fn a_call_that_only_reads_takes_no_name_from_a_start() {
    let host = Host::of(Form::Process);
    host.start("l", &["--exit", "0"]);
    host.exit("l");
    for incarnation in 2..times(10, 100) as u64 {
        // The VM has ended. While other calls list it, it is started again.
        let lookers: Vec<Child> =
            (0..4).map(|_| host.command(&["list"]).stdout(Stdio::null()).spawn().expect("runs")).collect();
        assert_eq!(host.start("l", &["--exit", "0"]).incarnation, incarnation);
        for mut looker in lookers {
            assert!(looker.wait().expect("an end").success());
        }
        host.exit("l");
    }
    host.destroy("l", &[]);
}
