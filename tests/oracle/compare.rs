//! Compares two answers, and knows the rules by which they may differ.

use crate::answer::{Answer, BrokenOff, Deed, Mark, Report};
use crate::otp::Otp;
use crate::scenario::{Exit, Group, Scenario, Step};
use pepita_supervisor::spec::{Restart, Strategy};
use std::collections::{BTreeMap, BTreeSet};

/// A rule of `docs/semantics.md` by which this project differs from OTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// What is being booted is killed at once, before those that run are stopped in order, and a launch that waits is
    /// cancelled (semantics 15.1). OTP waits for each start.
    BootingIsCutOff,
    /// A failure while VMs after it are still being started begins the restart anew at once (semantics 15.2). OTP starts
    /// the rest first, and stops it again.
    RestartBeginsAnew,
    /// With `rest_for_one`, a failure joins the restart of VMs after it that is under way (semantics 15.3). OTP is
    /// asked what it does when the failures come in that order.
    EarlierFailureJoins,
    /// A VM with policy `never` that ends by itself in a group restart has ended all the same (semantics 15.4). OTP is
    /// asked what it does when that end comes first.
    SignificantEndCounts,
    /// What the operator has stopped stays down, whatever restarts the others (semantics 15.5). The start function of
    /// OTP then declines to start it.
    StoppedStaysDown,
}

impl Rule {
    pub(crate) const ALL: [Self; 5] = [
        Self::BootingIsCutOff,
        Self::RestartBeginsAnew,
        Self::EarlierFailureJoins,
        Self::SignificantEndCounts,
        Self::StoppedStaysDown,
    ];
}

/// The rules that were needed for a scenario.
pub(crate) type Rules = BTreeSet<Rule>;

/// A difference: the place of its step, and what differs.
struct Difference {
    step: usize,
    what: String,
}

/// Returns the rules that are needed to explain the answer of this project by those of OTP: the first difference is
/// explained by a rule for its step, then the next one.
pub(crate) fn explain(
    scenario: &Scenario,
    ours: &Answer,
    theirs: &Answer,
    otp: &mut Otp,
) -> Result<Rules, String> {
    explain_from(scenario, ours, theirs, &Rules::new(), otp).map_err(|Difference { step, what }| {
        format!("step {step}: {what}\n{}\nours:\n{ours}OTP:\n{theirs}", scenario.term())
    })
}

fn explain_from(
    scenario: &Scenario,
    ours: &Answer,
    theirs: &Answer,
    before: &Rules,
    otp: &mut Otp,
) -> Result<Rules, Difference> {
    let difference = match compare(scenario, ours, theirs) {
        Ok(rules) => return Ok(before.union(&rules).copied().collect()),
        Err(difference) => difference,
    };
    for (changed, rules) in alternatives(scenario, difference.step) {
        let theirs = otp.ask(&changed);
        let goes_on = match compare(&changed, ours, &theirs) {
            Ok(_) => true,
            Err(next) => next.step > difference.step,
        };
        let rules = before.union(&rules).copied().collect();
        if goes_on && let Ok(rules) = explain_from(&changed, ours, &theirs, &rules, otp) {
            return Ok(rules);
        }
    }
    Err(difference)
}

/// Returns the scenarios in which OTP does in this step what a rule says, each with its rules.
fn alternatives(scenario: &Scenario, step: usize) -> Vec<(Scenario, Rules)> {
    let mut alternatives = Vec::new();
    let stops = |step: &Step| matches!(step, Step::Stop(_));
    if !scenario.stopped_stay_down && scenario.steps.iter().any(stops) {
        let changed = Scenario { stopped_stay_down: true, ..scenario.clone() };
        alternatives.push((changed, Rules::from([Rule::StoppedStaysDown])));
    }
    // The first report is that of the start.
    if let Some(place) = step.checked_sub(1)
        && let Step::Exits(ends) = &scenario.steps[place]
    {
        let group = scenario.group_of(&ends[0].0);
        for (order, rules) in orders(group, ends) {
            let mut changed = scenario.clone();
            changed.steps[place] = Step::Exits(order);
            alternatives.push((changed, rules));
        }
    }
    alternatives
}

type Ends = Vec<(String, Exit)>;

/// Returns the other orders of these ends in which a rule puts each end that comes earlier.
fn orders(group: &Group, ends: &Ends) -> Vec<(Ends, Rules)> {
    let place = |vm: &str| group.vms.iter().position(|known| known.name == vm).expect("a VM of the group");
    let counts = |vm: &str| {
        let vm = &group.vms[place(vm)];
        vm.significant && vm.restart == Restart::Never
    };
    let mut orders = Vec::new();
    'orders: for order in permutations(ends) {
        let mut rules = Rules::new();
        for (later, (first, _)) in order.iter().enumerate() {
            for (second, _) in &order[later + 1..] {
                let was = |vm: &str| ends.iter().position(|(known, _)| known == vm);
                if was(first) < was(second) {
                    continue;
                }
                let rule = if group.strategy == Strategy::RestForOne && place(first) < place(second) {
                    Rule::EarlierFailureJoins
                } else if group.strategy != Strategy::OneForOne && counts(first) {
                    Rule::SignificantEndCounts
                } else {
                    continue 'orders;
                };
                rules.insert(rule);
            }
        }
        if !rules.is_empty() {
            orders.push((order, rules));
        }
    }
    orders
}

fn permutations(ends: &[(String, Exit)]) -> Vec<Ends> {
    if ends.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for first in 0..ends.len() {
        let mut rest = ends.to_vec();
        let end = rest.remove(first);
        all.extend(permutations(&rest).into_iter().map(|rest| [vec![end.clone()], rest].concat()));
    }
    all
}

/// Compares the answers, step by step, and returns the rules that the comparison itself needed.
fn compare(scenario: &Scenario, ours: &Answer, theirs: &Answer) -> Result<Rules, Difference> {
    let mut rules = Rules::new();
    for step in 0..ours.0.len().max(theirs.0.len()) {
        let compared = match (ours.0.get(step), theirs.0.get(step)) {
            (Some(ours), Some(theirs)) => compare_step(scenario, ours, theirs),
            (None, _) | (_, None) => Err("the numbers of steps differ".to_owned()),
        };
        rules.extend(compared.map_err(|what| Difference { step, what })?);
    }
    Ok(rules)
}

/// Compares the reports of a step, and returns the rules that this needed.
fn compare_step(scenario: &Scenario, ours: &Report, theirs: &Report) -> Result<Rules, String> {
    let equal = |what: &str, equal: bool| if equal { Ok(()) } else { Err(format!("{what} differ")) };
    let mut rules = Rules::new();
    // Groups that do not come after each other start and stop at the same time (semantics 15.12).
    let together: Vec<Vec<&Group>> = if scenario.chained {
        vec![scenario.groups.iter().collect()]
    } else {
        scenario.groups.iter().map(|group| vec![group]).collect()
    };
    for groups in together {
        let mut comparison = Comparison {
            ours: deeds_of(&groups, &ours.deeds),
            theirs: deeds_of(&groups, &theirs.deeds),
            rules: Rules::new(),
        };
        let broken_off: Vec<_> = ours.broken_off.iter().filter(|start| has(&groups, &start.vm)).collect();
        comparison.without_broken_off(&broken_off)?;
        comparison.with_restarts_at_once(&groups);
        equal("starts and stops", comparison.ours == comparison.theirs)?;
        rules.extend(comparison.rules);
    }
    equal("supervisors that gave up", ours.exceeded == theirs.exceeded)?;
    equal("VMs that do not run", ours.absent == theirs.absent)?;
    equal("VMs that are left", ours.left == theirs.left)?;
    Ok(rules)
}

fn has(groups: &[&Group], vm: &str) -> bool {
    groups.iter().any(|group| group.vms.iter().any(|known| known.name == vm))
}

fn deeds_of(groups: &[&Group], deeds: &[Deed]) -> Vec<Deed> {
    deeds.iter().filter(|deed| has(groups, &deed.vm)).cloned().collect()
}

/// The deeds of a step, as they are made comparable: what OTP does only because it waits for each start is taken out.
struct Comparison {
    ours: Vec<Deed>,
    theirs: Vec<Deed>,
    rules: Rules,
}

impl Comparison {
    /// Takes out what OTP does with starts that are broken off here: it takes these VMs down in their turn, and until
    /// then goes on with the starts after them, in vain.
    fn without_broken_off(&mut self, starts: &[&BrokenOff]) -> Result<(), String> {
        let mut gone = BTreeMap::<&str, usize>::new();
        for (number, BrokenOff { vm, place, launched }) in starts.iter().enumerate() {
            let start = self.start_of(vm, place - gone.get(vm.as_str()).unwrap_or(&0))?;
            self.rules.insert(Rule::BootingIsCutOff);
            if self.theirs[start].mark == Mark::Started {
                let mut down = self.down_of(start)?;
                let mut next = start + 1;
                while next < down {
                    // A start that is broken off, too, has its own turn.
                    let place = self.starts_of(&self.theirs[next].vm).position(|place| place == next);
                    let is_this = |other: &&&BrokenOff| {
                        let gone = gone.get(other.vm.as_str()).unwrap_or(&0);
                        other.vm == self.theirs[next].vm && Some(other.place - gone) == place
                    };
                    if self.theirs[next].mark != Mark::Started
                        || starts[number + 1..].iter().any(|other| is_this(&other))
                    {
                        next += 1;
                        continue;
                    }
                    let end = self.down_of(next)?;
                    self.theirs.remove(end);
                    self.theirs.remove(next);
                    down -= 1 + usize::from(end < down);
                    self.rules.insert(Rule::RestartBeginsAnew);
                }
                self.theirs.remove(down);
            }
            if !launched {
                self.theirs.remove(start);
                *gone.entry(vm).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Brings starts of OTP forward that it does only after others because it was starting those when a VM ended: with
    /// `one_for_one` the VM that ended is started at once here.
    fn with_restarts_at_once(&mut self, groups: &[&Group]) {
        while let Some(place) = self.theirs.iter().position(|deed| deed.mark == Mark::EndedMeanwhile) {
            let ended = self.theirs.remove(place).vm;
            let group = groups.iter().find(|group| group.vms.iter().any(|vm| vm.name == ended));
            let alone = group.is_some_and(|group| group.strategy == Strategy::OneForOne);
            let next = self.theirs[place..].iter().position(|deed| deed.vm == ended);
            if let Some(next) = next.map(|next| place + next)
                && alone
                && next > place + 1
                && self.theirs[place + 1..=next].iter().all(|deed| deed.mark.is_start())
            {
                let start = self.theirs.remove(next);
                self.theirs.insert(place + 1, start);
                self.rules.insert(Rule::RestartBeginsAnew);
            }
        }
    }

    /// Returns where the start of a VM with this number, from 0, stands in OTP.
    fn start_of(&self, vm: &str, number: usize) -> Result<usize, String> {
        self.starts_of(vm).nth(number).ok_or_else(|| format!("OTP has no start {number} of {vm}"))
    }

    /// Returns where the starts of a VM stand in OTP.
    fn starts_of(&self, vm: &str) -> impl Iterator<Item = usize> {
        let starts =
            self.theirs.iter().enumerate().filter(move |(_, deed)| deed.vm == vm && deed.mark.is_start());
        starts.map(|(place, _)| place)
    }

    /// Returns where the VM that was started there is taken down in OTP.
    fn down_of(&self, start: usize) -> Result<usize, String> {
        let vm = &self.theirs[start].vm;
        let down = self.theirs[start..].iter().position(|deed| deed.vm == *vm && deed.mark.is_down());
        down.map(|down| start + down).ok_or_else(|| format!("OTP does not take {vm} down again"))
    }
}
