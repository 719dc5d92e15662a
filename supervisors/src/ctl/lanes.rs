//! Decides in which order the VMs of a command are told, and when each has done what was asked.
//!
//! VMs that are named themselves are told at once. The VMs of a named group are told one after the other, in start order,
//! or for a stop last first; a group comes after the groups that it waits for, or for a stop before them.

use super::outlook::{Outlook, Outlooks};
use super::targets::Found;
use super::view::{find, list, text};
use pepita_supervisor::Command;
use serde_json::Value;
use std::collections::{HashMap, HashSet, VecDeque};

/// The VMs of a command.
#[derive(Debug)]
pub(super) struct Lanes {
    command: Command,
    lanes: Vec<Lane>,
    problems: Vec<String>,
}

/// VMs that are told one after the other.
#[derive(Debug)]
struct Lane {
    /// The group, if a group or all VMs were named.
    group: Option<String>,
    /// The groups of other lanes that are to be done first.
    after: Vec<String>,
    /// Whether the rest of the lane is told although a VM in it has failed.
    goes_on: bool,
    rest: VecDeque<String>,
    /// The VM that was told last, and has not done it yet.
    current: Option<Told>,
    has_failed: bool,
}

/// A VM that was told, and how it was before.
#[derive(Debug)]
struct Told {
    vm: String,
    incarnation: u64,
    was_live: bool,
    /// Whether the VM had been given up and may run on: it is looked for first, and then its incarnation stays (semantics
    /// 13.2).
    is_sought: bool,
}

/// How far a VM is.
#[derive(Debug, PartialEq)]
enum Progress {
    Done,
    Waits,
    Failed(String),
}

impl Lanes {
    /// Plans a command for the VMs that were found in a status.
    pub(super) fn new(command: Command, status: &Value, found: Found) -> Self {
        let down = command == Command::Stop;
        let lane = |group, vms: VecDeque<String>| Lane {
            group,
            after: Vec::new(),
            goes_on: false,
            rest: vms,
            current: None,
            has_failed: false,
        };
        if found.by_name {
            let lanes = found.vms.into_iter().map(|vm| lane(None, VecDeque::from([vm]))).collect();
            return Self { command, lanes, problems: Vec::new() };
        }
        let mut wanted: HashSet<String> = found.vms.into_iter().collect();
        let mut lanes = Vec::new();
        for group in list(&status["groups"]) {
            let of_group = found.groups.contains(text(&group["name"]));
            let vms = list(&group["vms"]).iter().filter(|vm| {
                // What the operator has stopped stays down when its group is restarted (semantics 5.6).
                let stays = command == Command::Restart && of_group && vm["wanted"] == false;
                wanted.remove(text(&vm["name"])) && !stays
            });
            let mut vms: VecDeque<String> = vms.map(|vm| text(&vm["name"]).to_owned()).collect();
            if down {
                vms = vms.into_iter().rev().collect();
            }
            let mut lane = lane(Some(text(&group["name"]).to_owned()), vms);
            lane.after = list(&group["after"]).iter().map(|after| text(after).to_owned()).collect();
            lane.goes_on = down || command == Command::Start && group["strategy"] == "one_for_one";
            lanes.push(lane);
        }
        lanes.retain(|lane| !lane.rest.is_empty());
        if down {
            turn_round(&mut lanes);
        }
        Self { command, lanes, problems: Vec::new() }
    }

    /// Returns all VMs that are not told yet, in the order in which they are told.
    pub(super) fn all(&self) -> Vec<String> {
        self.lanes.iter().flat_map(|lane| lane.rest.iter().cloned()).collect()
    }

    /// Takes in a status, and returns the VMs to tell now.
    pub(super) fn step(&mut self, status: &Value) -> Vec<String> {
        let command = self.command;
        let outlooks = Outlooks::new(status);
        let mut known: HashMap<&str, (&Value, &Value)> = HashMap::new();
        for group in list(&status["groups"]) {
            known.extend(list(&group["vms"]).iter().map(|vm| (text(&vm["name"]), (group, vm))));
        }
        for lane in &mut self.lanes {
            let Some(told) = &lane.current else { continue };
            match progress(command, told, known.get(told.vm.as_str()).copied(), &outlooks) {
                Progress::Waits => {}
                Progress::Done => lane.current = None,
                Progress::Failed(why) => {
                    self.problems.push(why);
                    self.problems.extend(lane.fail());
                }
            }
        }
        let mut now = Vec::new();
        while let Some(index) = (0..self.lanes.len()).find(|index| self.may_go_on(*index)) {
            let lane = &mut self.lanes[index];
            let Some(vm) = lane.rest.pop_front() else { break };
            let before = known.get(vm.as_str()).map(|(_, vm)| *vm);
            now.push(vm.clone());
            lane.current = Some(Told {
                incarnation: before.and_then(|before| before["incarnation"].as_u64()).unwrap_or_default(),
                was_live: before.is_some_and(is_live),
                is_sought: before.is_some_and(is_unreadable),
                vm,
            });
        }
        now
    }

    fn may_go_on(&mut self, index: usize) -> bool {
        let lane = &self.lanes[index];
        if lane.current.is_some() || lane.rest.is_empty() {
            return false;
        }
        let before: Vec<&Lane> = self
            .lanes
            .iter()
            .filter(|other| other.group.as_ref().is_some_and(|group| lane.after.contains(group)))
            .collect();
        if before.iter().any(|before| before.has_failed && !before.goes_on) {
            // It would only wait.
            let left_out = self.lanes[index].give_up();
            self.problems.extend(left_out);
            return false;
        }
        before.iter().all(|before| before.is_done())
    }

    /// Takes in that the supervisor has refused the command for a VM.
    pub(super) fn refused(&mut self, vm: &str, why: String) {
        self.problems.push(why);
        let lane = self.lanes.iter_mut().find(|lane| lane.current.as_ref().is_some_and(|told| told.vm == vm));
        if let Some(lane) = lane {
            self.problems.extend(lane.fail());
        }
    }

    /// Returns whether nothing is left to wait for.
    pub(super) fn is_done(&self) -> bool {
        self.lanes.iter().all(Lane::is_done)
    }

    /// Returns what went wrong.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Returns what is waited for, and which VMs are not told yet, in words.
    pub(super) fn waiting_for(&self, status: &Value) -> String {
        let phase = |vm: &str| find(status, vm).map_or("gone", |(_, vm)| text(&vm["phase"])).to_owned();
        let current = self.lanes.iter().filter_map(|lane| lane.current.as_ref());
        let words: Vec<String> = current.map(|told| format!("{} is {}", told.vm, phase(&told.vm))).collect();
        let waiting = (!words.is_empty()).then(|| words.join(", "));
        waiting.into_iter().chain(left_as_they_are(&self.all())).collect::<Vec<_>>().join("; ")
    }
}

impl Lane {
    fn is_done(&self) -> bool {
        self.current.is_none() && self.rest.is_empty()
    }

    /// Takes in that a VM has failed. Returns a sentence about those that are not told any more.
    fn fail(&mut self) -> Option<String> {
        (self.current, self.has_failed) = (None, true);
        if self.goes_on { None } else { self.give_up() }
    }

    fn give_up(&mut self) -> Option<String> {
        self.has_failed = true;
        let rest: Vec<String> = self.rest.drain(..).collect();
        left_as_they_are(&rest)
    }
}

/// Returns a sentence about VMs that are not told, if there are any.
fn left_as_they_are(vms: &[String]) -> Option<String> {
    (!vms.is_empty()).then(|| format!("left as they are: {}", vms.join(", ")))
}

/// Turns the order of lanes, and what each comes after, round.
fn turn_round(lanes: &mut [Lane]) {
    lanes.reverse();
    let forwards: Vec<(Option<String>, Vec<String>)> =
        lanes.iter().map(|lane| (lane.group.clone(), lane.after.clone())).collect();
    for lane in lanes {
        let comes_after = |after: &[String]| lane.group.as_ref().is_some_and(|group| after.contains(group));
        let backwards = forwards.iter().filter(|(_, after)| comes_after(after));
        lane.after = backwards.filter_map(|(group, _)| group.clone()).collect();
    }
}

fn is_live(vm: &Value) -> bool {
    match text(&vm["phase"]) {
        "starting" | "running" | "ready" | "unhealthy" | "paused" | "stopping" | "unknown" => true,
        // It is paused, and not down.
        "idle" => !vm["vmm_pid"].is_null(),
        _ => false,
    }
}

fn is_unreadable(vm: &Value) -> bool {
    vm["phase"] == "failed" && vm["failure"]["ending"]["kind"] == "unreadable"
}

fn progress(
    command: Command,
    told: &Told,
    now: Option<(&Value, &Value)>,
    outlooks: &Outlooks<'_>,
) -> Progress {
    let name = &told.vm;
    match (command, now) {
        (Command::Stop, None) => Progress::Done,
        (Command::Start | Command::Restart | Command::Reset, None) => {
            Progress::Failed(format!("{name} was removed from the configuration"))
        }
        (Command::Stop, Some((_, vm))) => stopped(name, vm),
        (Command::Start | Command::Restart, Some((group, vm))) => {
            let incarnation = vm["incarnation"].as_u64().unwrap_or_default();
            let is_new = incarnation > told.incarnation;
            let counts = is_new || told.is_sought || command == Command::Start && told.was_live;
            came_up(name, group, vm, counts, outlooks)
        }
        // Nothing has to come.
        (Command::Reset, Some(_)) => Progress::Done,
    }
}

fn stopped(name: &str, vm: &Value) -> Progress {
    match text(&vm["phase"]) {
        "failed" if is_unreadable(vm) => {
            Progress::Failed(format!("{name} may run on: {}", text(&vm["reason"])))
        }
        "stopped" | "completed" | "failed" => Progress::Done,
        "stopping" => Progress::Waits,
        _ if vm["wanted"] == true => Progress::Failed(format!("{name} was started again meanwhile")),
        _ => Progress::Waits,
    }
}

/// `counts` tells whether an end that the status shows is one of the start that was asked for.
fn came_up(name: &str, group: &Value, vm: &Value, counts: bool, outlooks: &Outlooks<'_>) -> Progress {
    let ended = |why: &Value| Progress::Failed(format!("{name} did not come up: {}", text(why)));
    match text(&vm["phase"]) {
        "ready" | "completed" | "idle" if counts => Progress::Done,
        "backoff" if counts => ended(&vm["backoff"]["ending"]["text"]),
        "failed" if counts => ended(&vm["reason"]),
        "paused" => Progress::Failed(format!("{name} is paused; `pepitactl resume {name}` resumes it")),
        "stopping" if vm["wanted"] == false => Progress::Failed(format!("{name} was stopped meanwhile")),
        "waiting" | "stopped" => {
            let of_group = outlooks.of_group(group);
            let outlook = of_group.into_iter().find(|(other, _)| other["name"] == vm["name"]);
            match outlook.map(|(_, outlook)| outlook) {
                Some(Outlook::Never(why)) => Progress::Failed(why),
                Some(Outlook::Ready | Outlook::Done | Outlook::Coming) | None => Progress::Waits,
            }
        }
        _ => Progress::Waits,
    }
}

#[cfg(test)]
mod tests {
    use super::super::targets::resolve;
    use super::*;
    use serde_json::json;

    /// A tree in memory, whose VMs do what they are told when the test says so.
    struct Tree(Value);

    impl Tree {
        fn new() -> Self {
            let vm = |name| json!({ "name": name, "phase": "ready", "incarnation": 1, "wanted": true });
            Self(json!({ "groups": [
                { "name": "storage", "strategy": "rest_for_one", "after": [], "vms": [vm("db"), vm("cache")] },
                { "name": "web", "strategy": "one_for_one", "after": ["storage"], "vms": [vm("api"), vm("www")] },
            ] }))
        }

        fn set(&mut self, vm: &str, phase: &str, incarnation: u64) -> &mut Value {
            let groups = self.0["groups"].as_array_mut().expect("groups");
            let mut vms = groups.iter_mut().flat_map(|group| group["vms"].as_array_mut().expect("VMs"));
            let vm = vms.find(|found| found["name"] == vm).expect("known");
            (vm["phase"], vm["incarnation"]) = (json!(phase), json!(incarnation));
            vm["wanted"] = json!(!matches!(phase, "stopped" | "stopping-for-good"));
            vm
        }

        fn lanes(&self, command: Command, targets: &[&str]) -> Lanes {
            let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
            Lanes::new(command, &self.0, resolve(&self.0, &targets).expect("known"))
        }
    }

    #[test]
    fn a_stop_of_groups_goes_backwards_one_by_one() {
        let mut tree = Tree::new();
        let mut lanes = tree.lanes(Command::Stop, &["all"]);
        let mut order = Vec::new();
        while !lanes.is_done() {
            let told = lanes.step(&tree.0);
            assert!(told.len() <= 1, "{told:?}");
            for vm in told {
                tree.set(&vm, "stopping", 1);
                assert_eq!(lanes.step(&tree.0), [] as [&str; 0], "it is waited for");
                tree.set(&vm, "stopped", 1);
                order.push(vm);
            }
        }
        assert_eq!((order.join(" "), lanes.problems()), ("www api cache db".to_owned(), &[][..]));
    }

    #[test]
    fn vms_that_are_named_are_told_at_once() {
        let tree = Tree::new();
        assert_eq!(tree.lanes(Command::Stop, &["db", "api"]).step(&tree.0), ["db", "api"]);
        assert_eq!(tree.lanes(Command::Stop, &["web", "db"]).all(), ["www", "api", "db"]);
    }

    #[test]
    fn the_words_about_a_wait_name_the_vms_whose_turn_has_not_come() {
        let mut tree = Tree::new();
        let mut lanes = tree.lanes(Command::Stop, &["all"]);
        assert_eq!(lanes.waiting_for(&tree.0), "left as they are: www, api, cache, db");
        assert_eq!(lanes.step(&tree.0), ["www"]);
        tree.set("www", "stopping", 1);
        assert_eq!(lanes.waiting_for(&tree.0), "www is stopping; left as they are: api, cache, db");
    }

    #[test]
    fn a_restart_waits_for_the_next_incarnation_and_ends_at_the_first_failure() {
        let mut tree = Tree::new();
        tree.set("cache", "stopped", 4);
        let mut lanes = tree.lanes(Command::Restart, &["all"]);
        assert_eq!(lanes.all(), ["db", "api", "www"], "what the operator has stopped stays down");
        assert_eq!(lanes.step(&tree.0), ["db"]);
        // The old incarnation is no answer.
        assert_eq!(lanes.step(&tree.0), [] as [&str; 0]);
        tree.set("db", "ready", 2);
        assert_eq!(lanes.step(&tree.0), ["api"]);
        tree.set("api", "backoff", 2)["backoff"] = json!({ "ending": { "text": "exit 3" } });
        assert_eq!(lanes.step(&tree.0), [] as [&str; 0]);
        assert!(lanes.is_done());
        assert_eq!(lanes.problems(), ["api did not come up: exit 3", "left as they are: www"]);
    }

    #[test]
    fn a_start_is_done_when_it_is_ready_and_failed_when_it_ends() {
        let mut tree = Tree::new();
        tree.set("db", "starting", 3);
        tree.set("www", "backoff", 5);
        let mut lanes = tree.lanes(Command::Start, &["db", "api", "www"]);
        assert_eq!(lanes.step(&tree.0), ["db", "api", "www"]);
        // The former end of www is no answer; api was ready before.
        lanes.step(&tree.0);
        assert_eq!(lanes.waiting_for(&tree.0), "db is starting, www is backoff");
        tree.set("db", "failed", 3)["reason"] = json!("exit 1; gave up");
        tree.set("www", "completed", 6);
        lanes.step(&tree.0);
        assert!(lanes.is_done());
        assert_eq!(lanes.problems(), ["db did not come up: exit 1; gave up"]);
    }

    #[test]
    fn a_vm_that_was_given_up_and_is_found_again_is_up_with_its_incarnation() {
        for (phase, problems) in [("ready", vec![]), ("failed", vec!["db did not come up: state.json"])] {
            let mut tree = Tree::new();
            let unreadable = json!({ "ending": { "kind": "unreadable" } });
            let db = tree.set("db", "failed", 1);
            (db["reason"], db["failure"]) = (json!("state.json"), unreadable);
            let mut lanes = tree.lanes(Command::Start, &["db"]);
            assert_eq!(lanes.step(&tree.0), ["db"]);
            tree.set("db", "starting", 1);
            lanes.step(&tree.0);
            assert!(!lanes.is_done());
            tree.set("db", phase, 1);
            lanes.step(&tree.0);
            assert!(lanes.is_done());
            assert_eq!(lanes.problems(), problems);
        }
    }

    #[test]
    fn what_cannot_come_ends_the_wait() {
        for (command, phase, words) in [
            (Command::Start, "paused", "db is paused"),
            (Command::Start, "stopped", "db is stopped"),
            (Command::Stop, "starting", "db was started again meanwhile"),
        ] {
            let mut tree = Tree::new();
            tree.set("db", "backoff", 1);
            let mut lanes = tree.lanes(command, &["db"]);
            lanes.step(&tree.0);
            tree.set("db", phase, 2);
            lanes.step(&tree.0);
            assert!(lanes.is_done() && lanes.problems()[0].starts_with(words), "{:?}", lanes.problems());
        }
        // Its group is gone.
        let tree = Tree::new();
        let mut lanes = tree.lanes(Command::Start, &["db"]);
        lanes.step(&tree.0);
        lanes.step(&json!({ "groups": [] }));
        assert_eq!(lanes.problems(), ["db was removed from the configuration"]);
        let mut lanes = tree.lanes(Command::Stop, &["db"]);
        lanes.step(&tree.0);
        lanes.step(&json!({ "groups": [] }));
        assert!(lanes.is_done() && lanes.problems().is_empty());
    }

    #[test]
    fn a_vm_that_may_run_on_is_not_called_stopped() {
        let mut tree = Tree::new();
        let db = tree.set("db", "failed", 1);
        (db["reason"], db["failure"]) = (json!("state.json"), json!({ "ending": { "kind": "unreadable" } }));
        let mut lanes = tree.lanes(Command::Stop, &["db"]);
        lanes.step(&tree.0);
        lanes.step(&tree.0);
        assert_eq!(lanes.problems(), ["db may run on: state.json"]);
        // After its files were mended it is found, and stopped.
        let mut lanes = tree.lanes(Command::Stop, &["db"]);
        lanes.step(&tree.0);
        tree.set("db", "stopping", 1);
        lanes.step(&tree.0);
        tree.set("db", "stopped", 1);
        lanes.step(&tree.0);
        assert!(lanes.is_done() && lanes.problems().is_empty());
    }
}
