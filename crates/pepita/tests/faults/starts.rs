//! Tests in which a monitor is killed at any moment of a start: the next call finds the remaining processes and claims,
//! ends the processes and releases the claims.

use crate::host::{Form, Host, errors, kill, processes_in, times};
use rustix::process::Signal;
use std::process::Stdio;
use std::time::Duration;

/// Starts a VM and kills its monitor after a time. Returns `None` when there was no monitor at that time.
fn half_start(host: &Host, name: &str, after: Duration) -> Option<String> {
    let mut run = host.run(name, &["--daemon", "--vsock-cid", "77"], &[]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut monitor = None;
    while monitor.is_none() && run.try_wait().expect("a child").is_none() {
        monitor = processes_in(&host.dir).into_iter().find(|p| p.what.contains(" monitor "));
    }
    std::thread::sleep(after);
    if let Some(monitor) = &monitor {
        kill(Some(monitor.pid), Signal::KILL);
    }
    let ended = run.wait_with_output().expect("an end");
    monitor.map(|monitor| format!("{} {ended:?}", monitor.what))
}

fn killed_while_starting(form: Form, rounds: u64, step: Duration) {
    let host = Host::of(form);
    let mut hit = 0;
    for round in 0..rounds {
        let name = format!("h{round}");
        let after = step * u32::try_from(round).expect("few");
        let Some(run) = half_start(&host, &name, after) else {
            // The start was over before the kill.
            host.destroy(&name, &["--force"]);
            continue;
        };
        hit += 1;
        match round % 4 {
            // A list finds either a running VM or no VM.
            0 => {
                host.ok(&["list"]);
            }
            1 => {
                let output = host.call(&["adopt", "--name", &name]);
                assert!(matches!(output.status.code(), Some(0 | 4)), "{}", errors(&output));
            }
            // The name and the CID can be claimed again at once, unless the VM runs.
            2 => {
                let output = host.run(&name, &["--daemon", "--vsock-cid", "77"], &[]).output().expect("runs");
                assert!(matches!(output.status.code(), Some(0 | 73)), "{}", errors(&output));
            }
            _ => {}
        }
        host.destroy(&name, &["--force"]);
        let left: Vec<String> = processes_in(&host.dir).into_iter().map(|p| p.what).collect();
        assert!(left.iter().all(|what| what.contains(" monitor ")), "round {round}: {left:#?} {run}");
    }
    println!("{form:?}: monitors killed in the middle of a start: {hit} of {rounds}");
    assert!(hit > 0);
}

#[test]
fn a_monitor_killed_in_the_middle_of_a_start_leaves_nothing_that_is_not_found() {
    killed_while_starting(Form::Qemu, times(12, 60) as u64, Duration::from_millis(times(8, 2) as u64));
}

#[test]
fn a_plain_process_monitor_killed_in_the_middle_of_a_start_leaves_nothing_that_is_not_found() {
    killed_while_starting(Form::Process, times(24, 200) as u64, Duration::from_micros(1500));
}

#[test]
fn runs_adoptions_and_destructions_of_one_name_at_once_leave_one_vm_or_none() {
    let host = Host::of(Form::Process);
    for _ in 0..times(4, 50) {
        let calls: Vec<_> = (0..16)
            .map(|n| {
                let mut call = match n % 4 {
                    0 | 1 => host.run("x", &["--daemon"], &[]),
                    2 => host.command(&["destroy", "--name", "x", "--force"]),
                    _ => host.command(&["adopt", "--name", "x"]),
                };
                call.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program runs")
            })
            .collect();
        for call in calls {
            let output = call.wait_with_output().expect("an end");
            // The only allowed errors: the name is taken, there is no such VM, or another call has ended the VM before
            // it was up.
            assert!(matches!(output.status.code(), Some(0 | 4 | 73 | 75)), "{}", errors(&output));
        }
        let found = processes_in(&host.dir);
        let agents: Vec<_> = found.iter().filter(|p| p.what.contains("--process")).collect();
        // A daemon that its agent has forked, and that has not executed its program yet, still looks like the agent.
        let vms = agents.iter().filter(|p| agents.iter().all(|other| p.parent != Some(other.pid))).count();
        let shown: Vec<_> = agents.iter().map(|p| &p.what).collect();
        assert!(vms <= 1, "{vms} VMs of one name: {shown:#?}");
    }
    host.destroy("x", &["--force"]);
}
