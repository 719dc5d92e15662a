//! Where this project differs from OTP in ways that no change of a scenario can express: each with the answers of both.

use crate::answer::Answer;
use crate::otp::Otp;
use crate::ours;
use crate::scenario::{Exit, Group, Intensity, Scenario, Start, Step, Stop, Vm};
use pepita_supervisor::spec::{AutoShutdown, OnIntensityExceeded, OnStartFailure, Restart, Strategy};

fn vm(name: &str, restart: Restart) -> Vm {
    Vm { name: name.to_owned(), restart, significant: false, stop: Stop::Graceful, starts: Vec::new() }
}

fn fails_at(vm: Vm, start: u64) -> Vm {
    Vm { starts: vec![(start, Start::Fails)], ..vm }
}

/// A tree of one group, with two restarts in an hour.
fn one_group(strategy: Strategy, vms: Vec<Vm>, steps: Vec<Step>) -> Scenario {
    let intensity = Intensity { restarts: 2, period_s: 3600 };
    let group = Group {
        name: "g".to_owned(),
        strategy,
        intensity,
        auto_shutdown: AutoShutdown::Never,
        escalates: true,
        vms,
    };
    Scenario {
        seed: 0,
        chained: true,
        intensity,
        groups: vec![group],
        steps,
        settled_ms: 60_000,
        stopped_stay_down: false,
    }
}

fn ends(vm: &str, exit: Exit) -> Step {
    Step::Exits(vec![(vm.to_owned(), exit)])
}

#[track_caller]
fn assert_answers(scenario: &Scenario, ours: &Answer, expected: &[&str], otp: &[&str]) {
    assert_eq!(Otp::start().ask(scenario), Answer::parse(&otp.join(" | ")), "OTP");
    assert_eq!(*ours, Answer::parse(&expected.join(" | ")), "this project");
}

#[test]
fn a_tree_whose_first_start_fails_is_tried_again() {
    // semantics 15.7: a group whose start fails is started afresh, also the first time. OTP's root does not start.
    let scenario = one_group(
        Strategy::OneForOne,
        vec![vm("a", Restart::Always), fails_at(vm("b", Restart::Always), 1), vm("c", Restart::Always)],
        Vec::new(),
    );
    let ours = ours::run(&scenario);
    assert_answers(&scenario, &ours, &["+a !b -a +a +b +c =g:a,b,c"], &["+a !b -a refused b"]);
}

#[test]
fn a_start_that_fails_is_left_to_the_policy_unless_it_aborts() {
    // semantics 15.6: the default is `retry`; OTP has `abort` only.
    let scenario = one_group(
        Strategy::OneForOne,
        vec![vm("a", Restart::Always), fails_at(vm("b", Restart::Always), 1), vm("c", Restart::Always)],
        Vec::new(),
    );
    let mut spec = ours::spec(&scenario);
    for vm in &mut spec.groups[0].vms {
        vm.start.on_failure = OnStartFailure::Retry;
    }
    let ours = ours::run_spec(&scenario, spec);
    assert_eq!(ours.0[0].left, ["g:a,b,c"]);
    assert!(ours.0[0].deeds.iter().all(|deed| !deed.mark.is_down()), "{ours}");
    assert_eq!(Otp::start().ask(&scenario), Answer::parse("+a !b -a refused b"));
}

#[test]
fn a_significant_vm_that_can_end_nothing_is_accepted() {
    // semantics 15.9: that is advice of `--check`. OTP does not start such a supervisor.
    let significant = |restart| Vm { significant: true, ..vm("a", restart) };
    let never = one_group(Strategy::OneForOne, vec![significant(Restart::OnFailure)], Vec::new());
    assert_answers(&never, &ours::run(&never), &["+a =g:a"], &["refused bad_combination"]);
    let mut always = one_group(Strategy::OneForOne, vec![significant(Restart::Always)], Vec::new());
    (always.groups[0].auto_shutdown, always.groups[0].escalates) = (AutoShutdown::AnySignificant, false);
    assert_answers(&always, &ours::run(&always), &["+a =g:a"], &["refused bad_combination"]);
}

#[test]
fn a_group_that_may_end_by_itself_escalates_all_the_same() {
    // semantics 15.8: to end because the work is done is not to give up. In OTP both ends are `shutdown`, after which the
    // root does not start a transient child again.
    let significant = Vm { significant: true, ..vm("b", Restart::OnFailure) };
    let fails = || ends("a", Exit::Failed);
    let mut scenario = one_group(
        Strategy::OneForOne,
        vec![vm("a", Restart::Always), significant],
        vec![fails(), fails(), fails()],
    );
    (scenario.groups[0].auto_shutdown, scenario.groups[0].escalates) = (AutoShutdown::AnySignificant, false);
    let mut spec = ours::spec(&scenario);
    spec.groups[0].on_intensity_exceeded = OnIntensityExceeded::Escalate;
    let ours = ours::run_spec(&scenario, spec);
    let both = ["+a +b =g:a,b", "+a =g:a,b", "+a =g:a,b"];
    let expected = [&both[..], &["-b +a +b ^g =g:a,b"]].concat();
    assert_answers(&scenario, &ours, &expected, &[&both[..], &["-b ^g =g:down"]].concat());
}

#[test]
fn a_start_by_an_operator_that_fails_is_retried_and_starts_any_vm() {
    // semantics 15.6, 15.11: the operator wants the VM up. OTP's `restart_child` leaves a child down whose start fails, and
    // does not know a temporary child that has ended.
    let scenario = one_group(
        Strategy::OneForOne,
        vec![fails_at(vm("a", Restart::OnFailure), 2), vm("b", Restart::Never)],
        vec![
            Step::Stop("a".to_owned()),
            Step::Start("a".to_owned()),
            ends("b", Exit::Failed),
            Step::Start("b".to_owned()),
        ],
    );
    let expected = ["+a +b =g:a,b", "-a =g:b", "!a +a =g:a,b", "=g:a", "+b =g:a,b"];
    let otp = ["+a +b =g:a,b", "-a =g:b", "!a =g:b", "=g:", "=g:"];
    assert_answers(&scenario, &ours::run(&scenario), &expected, &otp);
}

#[test]
fn the_window_is_exact_and_not_of_whole_seconds() {
    // semantics 15.10: an entry of 1.1 s ago does not count in a period of 1 s. OTP cuts off the fractions of both times.
    let fails = || ends("a", Exit::Failed);
    let mut scenario = one_group(
        Strategy::OneForOne,
        vec![vm("a", Restart::Always)],
        vec![Step::NextSecond, fails(), Step::Pass { ms: 1100 }, fails()],
    );
    (scenario.groups[0].intensity, scenario.groups[0].escalates) =
        (Intensity { restarts: 1, period_s: 1 }, false);
    scenario.settled_ms = 200;
    let both = ["+a =g:a", "=g:a", "+a =g:a", "=g:a"];
    let expected = [&both[..], &["+a =g:a"]].concat();
    assert_answers(&scenario, &ours::run(&scenario), &expected, &[&both[..], &["^g =g:down"]].concat());
}

#[test]
fn a_group_that_escalates_waits_for_the_groups_before_it() {
    // semantics 15.13: a group that comes after a group that has failed does not start afresh without it. OTP's
    // `one_for_one` knows no such dependency.
    let mut scenario = one_group(
        Strategy::OneForOne,
        vec![vm("a", Restart::Always)],
        vec![ends("a", Exit::Failed), ends("b", Exit::Failed)],
    );
    scenario.groups[0].intensity.restarts = 0;
    let web =
        Group { name: "h".to_owned(), vms: vec![vm("b", Restart::Always)], ..scenario.groups[0].clone() };
    scenario.groups.push(web);
    scenario.groups[0].escalates = false;
    let both = ["+a +b =g:a =h:b", "^g =g:down =h:b"];
    let expected = [&both[..], &["^h =g:down =h:"]].concat();
    assert_answers(
        &scenario,
        &ours::run(&scenario),
        &expected,
        &[&both[..], &["+b ^h =g:down =h:b"]].concat(),
    );
}
