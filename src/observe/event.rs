//! News for the host: every change of a VM with the decision behind it (semantics 10.2).

use super::phase::VmPhase;
use crate::policy::{Ending, Exit};
use crate::spec::{GroupName, Incarnation, VmName};
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One piece of news.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Grows by one with each event of a tree, so that a reader can tell what it missed.
    pub seq: u64,
    /// When, by the wall clock.
    pub time: SystemTime,
    /// The group it is about; `None` for the tree itself.
    pub group: Option<GroupName>,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// A VM changed.
    Vm(Change),
    /// The last VM of a group became Ready.
    GroupReady,
    /// A group was taken down, and why.
    GroupEnded {
        /// In words.
        reason: String,
        /// It ended by failure, not because it was told to.
        failed: bool,
    },
    /// Something a person should know: an actor that failed, VMs that were found, a stop that takes long.
    Notice {
        /// The VM it is about.
        vm: Option<VmName>,
        /// In words.
        text: String,
    },
}

/// A change of a VM.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The VM.
    pub vm: VmName,
    /// Which incarnation the change is about.
    pub incarnation: Incarnation,
    /// Where it was.
    pub from: VmPhase,
    /// Where it is.
    pub to: VmPhase,
    /// Why.
    pub ending: Option<Ending>,
    /// What was decided.
    pub decision: Option<Decision>,
}

impl Change {
    /// Returns the exit of the VM that the change is about, if the change is its end and the monitor recorded one.
    pub fn exit(&self) -> Option<&Exit> {
        self.ending.as_ref().and_then(Ending::exit)
    }
}

/// What was decided on an end.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What follows.
    pub action: Action,
    /// The rule that decided.
    pub rule: String,
    /// Until the restart.
    pub delay: Option<Duration>,
    /// Consecutive failures so far.
    pub attempt: u32,
    /// The group's window, such as `3/5 in 60s`.
    pub window: String,
    /// Part of a group restart that was under way already.
    pub coalesced: bool,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is started again.
    Restart,
    /// It is taken over by a new actor, without a reboot.
    Adopt,
    /// It stays down: ended cleanly.
    Complete,
    /// It stays down: gave up.
    GiveUp,
    /// Its group is stopped and the root decides.
    Escalate,
    /// Its group is stopped.
    StopGroup,
    /// Nothing: it was asked for.
    Leave,
}

impl Action {
    /// For programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Adopt => "adopt",
            Self::Complete => "complete",
            Self::GiveUp => "give_up",
            Self::Escalate => "escalate",
            Self::StopGroup => "stop_group",
            Self::Leave => "leave",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.action, self.delay) {
            (Action::Restart, Some(delay)) => {
                write!(f, "restart in {:.1} s: {}", delay.as_secs_f64(), self.rule)?
            }
            (Action::Restart, None) => write!(f, "restart: {}", self.rule)?,
            (Action::Adopt, _) => write!(f, "taken over: {}", self.rule)?,
            (Action::Complete, _) => return write!(f, "not restarted: {}", self.rule),
            (Action::Leave, _) => return write!(f, "not restarted: {}", self.rule),
            (Action::GiveUp, _) => return write!(f, "gave up: {}", self.rule),
            (Action::Escalate, _) => write!(f, "escalated: {}", self.rule)?,
            (Action::StopGroup, _) => write!(f, "group stopped: {}", self.rule)?,
        }
        write!(f, ", attempt {}, window {}", self.attempt, self.window)?;
        if self.coalesced { f.write_str(", joins the restart under way") } else { Ok(()) }
    }
}

impl fmt::Display for Event {
    /// One line for a log, without the time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.group, &self.kind) {
            (_, EventKind::Vm(change)) => {
                let Change { vm, incarnation, from, to, ending, decision } = change;
                write!(f, "{vm} {incarnation}: {} -> ", from.word())?;
                match to {
                    // The decision says the rest.
                    VmPhase::Backoff { .. } if decision.is_some() => f.write_str(to.word())?,
                    to => write!(f, "{to}")?,
                }
                let rule = decision.as_ref().map_or("", |decision| &decision.rule);
                // Once is enough.
                let ending = ending.as_ref().map(ToString::to_string);
                if let Some(ending) = ending.filter(|ending| ending != to.word() && !rule.contains(ending)) {
                    write!(f, "; {ending}")?;
                }
                if let Some(decision) = decision {
                    write!(f, "; {decision}")?;
                }
                Ok(())
            }
            (Some(group), EventKind::GroupReady) => write!(f, "group {group}: ready"),
            (None, EventKind::GroupReady) => f.write_str("tree: ready"),
            (group, EventKind::GroupEnded { reason, failed }) => {
                let who = group.as_ref().map_or("tree".to_owned(), |g| format!("group {g}"));
                write!(f, "{who}: {}: {reason}", if *failed { "failed" } else { "ended" })
            }
            (_, EventKind::Notice { vm: Some(vm), text }) => write!(f, "{vm}: {text}"),
            (Some(group), EventKind::Notice { vm: None, text }) => write!(f, "group {group}: {text}"),
            (None, EventKind::Notice { vm: None, text }) => f.write_str(text),
        }
    }
}

impl Event {
    /// The event as JSON, with the words of the documentation; times in milliseconds.
    pub fn to_json(&self) -> Value {
        let time =
            self.time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
        let mut json = json!({
            "seq": self.seq,
            "time_ms": time,
            "group": self.group.as_ref().map(GroupName::as_str),
            "text": self.to_string(),
        });
        let more = match &self.kind {
            EventKind::Vm(change) => json!({
                "event": "vm",
                "vm": change.vm.as_str(),
                "incarnation": change.incarnation.0,
                "from": change.from.word(),
                "to": change.to.word(),
                "ending": change.ending.as_ref().map(super::json::ending),
                "decision": change.decision.as_ref().map(|d| json!({
                    "action": d.action.word(),
                    "rule": d.rule,
                    "delay_ms": d.delay.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
                    "attempt": d.attempt,
                    "window": d.window,
                    "coalesced": d.coalesced,
                })),
            }),
            EventKind::GroupReady => json!({ "event": "group_ready" }),
            EventKind::GroupEnded { reason, failed } => {
                json!({ "event": "group_ended", "reason": reason, "failed": failed })
            }
            EventKind::Notice { vm, text } => {
                json!({ "event": "notice", "vm": vm.as_ref().map(VmName::as_str), "notice": text })
            }
        };
        if let (Value::Object(json), Value::Object(more)) = (&mut json, more) {
            json.extend(more);
        }
        json
    }
}
