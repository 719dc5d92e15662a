//! VMs are started and destroyed many times: processes, files, CIDs and sockets are the same before and after.

use crate::host::{Counts, Form, Host, figure, times};
use std::time::Instant;

fn cycles(form: Form, rounds: usize) {
    let host = Host::alone(form);
    // The first cycle creates the files that are created only once.
    host.start("c", &[]);
    host.destroy("c", &["--force"]);
    let before = Counts::of(&host.dir);
    let mut times = Vec::new();
    for round in 0..rounds {
        let began = Instant::now();
        match round % 3 {
            0 => drop(host.start("c", &[])),
            1 => drop(host.start_with("c", &["--wait-ready"], &[])),
            _ => {
                host.start("c", &["--exit", "3"]);
                host.exit("c");
            }
        }
        host.destroy("c", if round % 2 == 0 { &["--force"] } else { &[] });
        times.push(began.elapsed());
    }
    figure(&format!("{form:?}: create and destroy"), times);
    assert_eq!(Counts::of(&host.dir), before);
}

#[test]
fn vms_that_come_and_go_leave_nothing() {
    cycles(Form::Qemu, times(9, 200));
}

#[test]
fn plain_processes_that_come_and_go_leave_nothing() {
    cycles(Form::Process, times(30, 200));
}
