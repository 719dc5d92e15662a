//! A long run: random commands and kills on 50 VMs that are plain processes and 4 microVMs, with the invariants checked
//! all the time. No VM runs twice, counters only grow, no end is told twice, no command crashes; and whenever all is
//! calm, every VM is ready and nothing has grown: descriptors, memory, processes, files.
//!
//! `PEPITA_SOAK_SECONDS` (default 180) says for how long, `PEPITA_SOAK_SEED` which operations; the seed is printed.
//! The processes answer in real time, so that a seed repeats the operations, not their results.

#[path = "../programs/events.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod events;
#[path = "../programs/host.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod host;

mod census;
mod operations;
mod story;

use census::Sample;
use host::Host;
use operations::{Operation, Operations};
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use story::Story;

const MICROVMS: usize = 4;

/// The number of all VMs.
pub(crate) const VMS: usize = 50 + MICROVMS;

/// The groups of plain processes, with their strategies and numbers of VMs: 50 VMs.
const PROCESSES: [(&str, usize); 4] =
    [("one_for_one", 30), ("one_for_one", 10), ("rest_for_one", 6), ("one_for_all", 4)];

/// How long operations go on between two moments of calm.
const BUSY: Duration = Duration::from_secs(25);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
}

/// Returns the groups of the configuration. `changed` is the value of a variable that a reload gives to some VMs.
fn groups(changed: &[(String, u64)]) -> (String, Vec<String>) {
    let (mut text, mut names) = (String::new(), Vec::new());
    let ticker = host::program("ticker");
    let mut add = |text: &mut String, name: String, command: &str| {
        let _ = write!(text, "[[group.vm]]\nname = {name:?}\n{command}");
        if let Some((_, value)) = changed.iter().rev().find(|(vm, _)| *vm == name) {
            let _ = writeln!(text, "env = {{ CHANGED = \"{value}\" }}");
        }
        names.push(name);
    };
    for (group, (strategy, vms)) in PROCESSES.into_iter().enumerate() {
        let _ = write!(
            text,
            "[[group]]\nname = \"p{group}\"\nstrategy = {strategy:?}\nvmm = \"process\"\nintensity = 1000000\n"
        );
        for vm in 0..vms {
            add(
                &mut text,
                format!("p{group}-{vm}"),
                &format!("command = [{:?}, \"--interval\", \"1000\"]\n", ticker),
            );
        }
    }
    text.push_str("[[group]]\nname = \"micro\"\nintensity = 1000000\n");
    for vm in 0..MICROVMS {
        add(&mut text, format!("m{vm}"), "");
    }
    (text, names)
}

#[test]
fn nothing_is_lost_doubled_or_leaked() {
    let seconds = number("PEPITA_SOAK_SECONDS").unwrap_or(180);
    let seed = number("PEPITA_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("PEPITA_SOAK_SEED={seed} PEPITA_SOAK_SECONDS={seconds}");
    let (text, names) = groups(&[]);
    assert_eq!(names.len(), VMS);
    let host = Host::with_microvms(&text);
    let mut run = Operations::new(&host, names, seed);
    let mut story = Story::default();
    let end = Instant::now() + Duration::from_secs(seconds);
    run.calm(&mut story);
    let mut samples: Vec<Sample> = Vec::new();
    // What a first round leaves for good, such as the records of last ends, is there before the first sample.
    loop {
        let busy = Instant::now() + BUSY;
        while Instant::now() < busy {
            run.operate(&mut story);
            let doubles = census::doubles(&host.path("r"));
            assert!(doubles.is_empty(), "VMs run twice: {doubles:?}\n{}", story.tail());
        }
        run.calm(&mut story);
        let sample = Sample::take(&host.path(""), &host.path("r"), run.supervisor());
        println!("{:?} left: {sample:?}", end.saturating_duration_since(Instant::now()));
        samples.push(sample);
        let grown = Sample::growth(&samples);
        assert!(grown.is_empty(), "{grown:#?}\nof {samples:#?}");
        if Instant::now() >= end {
            break;
        }
    }
    println!("{:?}", run.done);
    for operation in Operation::ALL {
        assert!(run.done.get(&operation).is_some_and(|times| *times > 0), "{operation:?} was never done");
    }
    run.stop(&mut story);
    host.assert_nothing_left();
}
