//! Create and destroy, over and over: what there was before is what there is after.

use crate::support::{Counts, Form, World, figure, times};
use std::time::Instant;

fn cycles(form: Form, rounds: usize) {
    let world = World::alone(form);
    // The first one makes what is made once.
    world.start("c", &[]);
    world.destroy("c", &["--force"]);
    let before = Counts::of(&world.dir);
    let mut times = Vec::new();
    for round in 0..rounds {
        let began = Instant::now();
        match round % 3 {
            0 => drop(world.start("c", &[])),
            1 => drop(world.start_with("c", &["--wait-ready"], &[])),
            _ => {
                world.start("c", &["--exit", "3"]);
                world.exit("c");
            }
        }
        world.destroy("c", if round % 2 == 0 { &["--force"] } else { &[] });
        times.push(began.elapsed());
    }
    figure(&format!("{form:?}: create and destroy"), times);
    assert_eq!(Counts::of(&world.dir), before);
}

#[test]
fn vms_that_come_and_go_leave_nothing() {
    cycles(Form::Qemu, times(9, 200));
}

#[test]
fn plain_processes_that_come_and_go_leave_nothing() {
    cycles(Form::Process, times(30, 200));
}
