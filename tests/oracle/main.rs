//! Compares this project's supervisor with OTP's own: the same trees, the same ends, the same commands. Compared are who
//! is started and stopped, in which order, when a supervisor gives up, and what is left.
//!
//! Where this project differs on purpose, the rule has a name (`Rule`, or a test in `differences`) and a clause in
//! `docs/semantics.md`. A step to which a rule applies is put to OTP a second time as the rule says, and then the answers
//! must be equal. So a rule cannot hide a difference of another kind; and each rule must still be needed.
//!
//! A failure prints the seed of its scenario: `PEPITA_ORACLE_SEED=<seed>` repeats it, `PEPITA_ORACLE_SCENARIOS` sets
//! the number of scenarios. `scripts/setup-tests.sh` fetches OTP into `.tools/otp`.

#[path = "../support/mod.rs"]
mod support;

mod answer;
mod compare;
mod differences;
mod otp;
mod ours;
mod random;
mod scenario;

use compare::{Rule, Rules};
use otp::Otp;
use std::collections::BTreeMap;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
}

/// Prints the seed of a scenario that fails before its answers are compared.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PEPITA_ORACLE_SEED={} repeats this scenario", self.0);
        }
    }
}

/// The result of a part of the scenarios.
#[derive(Default)]
struct Tally {
    /// The rules that were needed, and for how many scenarios.
    rules: BTreeMap<Rules, usize>,
    /// The seeds of scenarios that differ, and what differs.
    different: Vec<(u64, String)>,
}

/// Puts the scenarios of these seeds to both.
fn compare_all(seeds: impl Iterator<Item = u64>, shows: bool) -> Tally {
    let mut otp = Otp::start();
    let mut tally = Tally::default();
    for seed in seeds {
        let guard = Seed(seed);
        let scenario = random::scenario(seed);
        // OTP works on it meanwhile.
        otp.send(&scenario);
        let ours = ours::run(&scenario);
        let theirs = otp.answer(&scenario);
        if shows {
            println!("{}\nours:\n{ours}OTP:\n{theirs}", scenario.term());
        }
        match compare::explain(&scenario, &ours, &theirs, &mut otp) {
            Ok(used) => *tally.rules.entry(used).or_default() += 1,
            Err(difference) => tally.different.push((seed, difference)),
        }
        drop(guard);
    }
    tally
}

#[test]
fn random_trees_do_what_they_do_in_otp() {
    let one = number("PEPITA_ORACLE_SEED");
    let total = if one.is_some() { 1 } else { number("PEPITA_ORACLE_SCENARIOS").unwrap_or(2400) };
    let first = one.unwrap_or(1);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let part = |thread| (first..first + total).skip(thread).step_by(threads);
        let parts: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || compare_all(part(thread), one.is_some())))
            .collect();
        for part in parts {
            let part = part.join().expect("no scenario panics");
            tally.different.extend(part.different);
            for (rules, times) in part.rules {
                *tally.rules.entry(rules).or_default() += times;
            }
        }
    });
    let Tally { rules, different } = tally;
    println!("{total} scenarios; the rules that were needed, and how often: {rules:?}");
    for (seed, difference) in different.iter().take(5) {
        println!("PEPITA_ORACLE_SEED={seed}\n{difference}");
    }
    let all: Vec<u64> = different.iter().map(|(seed, _)| *seed).collect();
    assert!(all.is_empty(), "{} of {total} differ: {all:?}", all.len());
    if one.is_none() {
        for rule in Rule::ALL {
            assert!(rules.keys().flatten().any(|used| *used == rule), "{rule:?} is not needed any more");
        }
    }
}

#[test]
fn the_window_ages_as_in_otp() {
    let scenarios: Vec<_> = (1..=24).map(random::timed).collect();
    let mut otp = Otp::start();
    // All of them at the same time: they take real time.
    scenarios.iter().for_each(|scenario| otp.send(scenario));
    for scenario in &scenarios {
        let (ours, theirs) = (ours::run(scenario), otp.answer(scenario));
        assert_eq!(ours, theirs, "{}\nours:\n{ours}OTP:\n{theirs}", scenario.term());
    }
}
