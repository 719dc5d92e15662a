//! Judges from a status whether a VM is ready, may still get ready, or cannot without an operator.

use super::view::{list, text};
use serde_json::Value;
use std::collections::HashMap;

/// What can be expected of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outlook {
    /// The VM is ready.
    Ready,
    /// The VM has ended cleanly, or its group has because its work was done.
    Done,
    /// The VM may get ready by itself.
    Coming,
    /// The VM does not get ready without an operator, for this reason.
    Never(String),
}

/// A status with its groups by name.
pub(super) struct Outlooks<'s> {
    groups: HashMap<&'s str, &'s Value>,
}

impl<'s> Outlooks<'s> {
    pub(super) fn new(status: &'s Value) -> Self {
        Self { groups: list(&status["groups"]).iter().map(|group| (text(&group["name"]), group)).collect() }
    }

    /// Returns the outlook of every VM of a group, in start order.
    pub(super) fn of_group(&self, group: &'s Value) -> Vec<(&'s Value, Outlook)> {
        let blocked = self.waits_in_vain(group, &mut Vec::new());
        let mut failed_before: Option<&str> = None;
        let vms = list(&group["vms"]).iter().map(|vm| {
            let outlook = outlook(group, vm, failed_before, blocked.as_deref());
            if given_up(vm) {
                failed_before.get_or_insert(text(&vm["name"]));
            }
            (vm, outlook)
        });
        vms.collect()
    }

    /// Returns why the groups that a group waits for will not be Ready, if it waits and one of them will not.
    fn waits_in_vain(&self, group: &'s Value, seen: &mut Vec<&'s str>) -> Option<String> {
        // In a group that has been started a VM that waits has a VM before it that is under way, or has failed.
        let waits = |vm: &Value| matches!(text(&vm["phase"]), "waiting" | "stopped" | "completed" | "failed");
        if !list(&group["vms"]).iter().all(waits) {
            return None;
        }
        let name = text(&group["name"]);
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        list(&group["after"]).iter().find_map(|after| {
            let before = *self.groups.get(text(after))?;
            let name = text(after);
            if let Some(why) = failed_group(before) {
                return Some(format!("group {name}, which has failed ({why})"));
            }
            if let Some(vm) = list(&before["vms"]).iter().find(|vm| given_up(vm)) {
                return Some(format!("group {name}, in which {} has failed", text(&vm["name"])));
            }
            self.waits_in_vain(before, seen).map(|why| format!("group {name}, which waits for {why}"))
        })
    }
}

fn outlook(group: &Value, vm: &Value, failed_before: Option<&str>, blocked: Option<&str>) -> Outlook {
    let name = text(&vm["name"]);
    let start = format!("`pepitactl start {name}` starts it");
    match text(&vm["phase"]) {
        // A client is served as by a VM that is ready.
        "ready" | "idle" => Outlook::Ready,
        "completed" => Outlook::Done,
        "failed" if given_up(vm) => {
            Outlook::Never(format!("{name} has failed: {}; {start}", text(&vm["reason"])))
        }
        "stopped" if vm["wanted"] == false => Outlook::Never(format!("{name} is stopped; {start}")),
        "stopped" => match (text(&group["ended"]["end"]), failed_group(group)) {
            ("auto-shutdown", _) => Outlook::Done,
            (_, Some(why)) => Outlook::Never(format!(
                "{name} is stopped: group {} has failed ({why})",
                text(&group["name"])
            )),
            (_, None) => Outlook::Coming,
        },
        "waiting" => match (failed_before, blocked) {
            (Some(failed), _) if group["strategy"] != "one_for_one" => {
                Outlook::Never(format!("{name} waits for {failed}, which has failed"))
            }
            (_, Some(why)) => Outlook::Never(format!("{name} waits for {why}")),
            (_, None) => Outlook::Coming,
        },
        _ => Outlook::Coming,
    }
}

/// Returns whether a VM has failed for good. A VM whose failure escalates starts again with its group.
fn given_up(vm: &Value) -> bool {
    vm["phase"] == "failed" && vm["failure"]["decision"]["action"] != "escalate"
}

/// Returns why a group has failed and stays down.
fn failed_group(group: &Value) -> Option<&str> {
    (group["ended"]["end"] == "failed").then(|| text(&group["ended"]["reason"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vm(name: &str, phase: &str) -> Value {
        json!({ "name": name, "phase": phase, "wanted": true })
    }

    fn failed(name: &str, action: &str) -> Value {
        json!({ "name": name, "phase": "failed", "wanted": true, "reason": "exit 3; gave up",
            "failure": { "decision": { "action": action } } })
    }

    fn group(name: &str, strategy: &str, after: &[&str], vms: &[Value]) -> Value {
        json!({ "name": name, "strategy": strategy, "after": after, "ended": null, "vms": vms })
    }

    /// Returns the outlook of each VM of a group as a word, with its reason.
    fn outlooks(groups: &[Value], of: usize) -> Vec<String> {
        let status = json!({ "groups": groups });
        let outlooks = Outlooks::new(&status);
        let word = |(_, outlook): (&Value, Outlook)| match outlook {
            Outlook::Ready => "ready".to_owned(),
            Outlook::Done => "done".to_owned(),
            Outlook::Coming => "coming".to_owned(),
            Outlook::Never(why) => why,
        };
        outlooks.of_group(&status["groups"][of]).into_iter().map(word).collect()
    }

    #[test]
    fn each_phase_has_its_outlook() {
        let mut stopped = vm("d", "stopped");
        stopped["wanted"] = json!(false);
        let vms = [
            vm("a", "ready"),
            vm("b", "backoff"),
            failed("c", "give-up"),
            stopped,
            vm("e", "completed"),
            failed("f", "escalate"),
            vm("g", "waiting"),
            vm("h", "a-phase-of-a-later-version"),
        ];
        assert_eq!(
            outlooks(&[group("g", "one_for_one", &[], &vms)], 0),
            [
                "ready",
                "coming",
                "c has failed: exit 3; gave up; `pepitactl start c` starts it",
                "d is stopped; `pepitactl start d` starts it",
                "done",
                "coming",
                "coming",
                "coming"
            ]
        );
    }

    #[test]
    fn what_waits_behind_a_failure_waits_in_vain() {
        let first = [failed("a", "give-up"), vm("b", "waiting")];
        let behind = |strategy| outlooks(&[group("g", strategy, &[], &first)], 0)[1].clone();
        assert_eq!(behind("rest_for_one"), "b waits for a, which has failed");
        assert_eq!(behind("one_for_one"), "coming");
        let groups = [
            group("storage", "one_for_one", &[], &[vm("s", "ready"), failed("db", "give-up")]),
            group("web", "one_for_one", &["storage"], &[vm("api", "waiting")]),
            group("edge", "one_for_one", &["web"], &[vm("proxy", "waiting")]),
            // It was started before: its VM waits for a sibling.
            group("up", "one_for_one", &["storage"], &[vm("x", "starting"), vm("y", "waiting")]),
        ];
        assert_eq!(outlooks(&groups, 1), ["api waits for group storage, in which db has failed"]);
        assert_eq!(
            outlooks(&groups, 2),
            ["proxy waits for group web, which waits for group storage, in which db has failed"]
        );
        assert_eq!(outlooks(&groups, 3), ["coming", "coming"]);
        // Groups that wait for each other do not exist, and would end nothing here.
        let circle =
            [group("a", "x", &["b"], &[vm("v", "waiting")]), group("b", "x", &["a"], &[vm("w", "waiting")])];
        assert_eq!(outlooks(&circle, 0), ["coming"]);
    }

    #[test]
    fn the_end_of_a_group_decides_for_what_is_stopped_in_it() {
        let ended = |end: &str| {
            let mut group = group("g", "one_for_all", &[], &[vm("a", "stopped")]);
            group["ended"] = json!({ "end": end, "reason": "b: exit 3" });
            outlooks(&[group], 0)[0].clone()
        };
        assert_eq!(ended("auto-shutdown"), "done");
        assert_eq!(ended("escalated"), "coming");
        assert_eq!(ended("stopped"), "coming");
        assert_eq!(ended("failed"), "a is stopped: group g has failed (b: exit 3)");
    }
}
