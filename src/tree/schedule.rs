//! Decides when groups start and stop: which group may start, which group stops next, and the consequence of an
//! escalation. Knows no actors, no clock and no I/O: the time comes in with each question, and the answer is a list of
//! steps for the root.
//!
//! A group, as the root sees it:
//!
//! ```text
//! Waiting ── dependencies Ready ──▶ Starting ── Ready ──▶ Ready
//!                                     ▲  ▲ └─────┬──────────┘
//!    dependencies Ready, start afresh │  │       ├── ended by itself, failed ──▶ Down ── brought back ──▶ Starting
//!                                    Due └───────┼────────────── by an operator ──┘
//!                                     ▲          └── escalated ──▶ Delayed
//!                                     └───────── its delay is over ───┘
//!
//! each of them ── removed from the configuration, or the tree stops, in its turn ──▶ Stopping ── stopped ──▶ Gone
//! ```
//!
//! The tree:
//!
//! ```text
//! Up ── told to stop, or too many failures ──▶ Stopping ── every group Gone ──▶ Down
//!                                                 ├ at the deadline: every group that is not Gone is destroyed
//!                                                 └ a while later: no group is waited for any more ──▶ Down
//! ```

#[cfg(test)]
mod tests;

use super::error::{Progress, TreeEnd};
use super::limits::kill_limit;
use crate::group::{At, Goal, GroupEnd};
use crate::observe::delay_in_words;
use crate::policy::Window;
use crate::spec::{Backoff, GroupName, Intensity, TreeSpec};
use std::time::{Duration, Instant};

/// The number of actors of a group that may fail while the group goes down; after that the shutdown ends its VMs.
const MAX_FAILURES_GOING_DOWN: u32 = 3;

/// The state of a group, as the root sees it.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// The group waits for the groups that it comes after.
    Waiting,
    /// The group was told to start.
    Starting,
    /// The group was Ready once, and is up.
    Ready { since: Instant },
    /// The group escalated, and starts afresh when its delay is over.
    Delayed { until: Instant },
    /// The delay of the group is over, and the group starts afresh when the groups that it comes after are up.
    Due,
    /// The group ended by itself, for good.
    Down { end: GroupEnd },
    /// The group was told to stop.
    Stopping,
    /// The group has stopped as it was told.
    Gone,
}

#[derive(Debug, Clone)]
struct Entry {
    name: GroupName,
    after: Vec<GroupName>,
    phase: Phase,
    /// The number of escalations in a row.
    attempts: u32,
    /// The number of its actors that failed while the group went down.
    actor_failures: u32,
    /// Whether the group is no longer in the configuration.
    removed: bool,
}

/// The state of the tree as a whole.
#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Up,
    Stopping {
        /// The moment at which all VMs that are left are killed.
        deadline: Instant,
        end: TreeEnd,
        /// The moment at which the tree ends anyway; set when the VMs are killed.
        give_up_at: Option<Instant>,
    },
    Down,
}

/// A step of the root.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Start(GroupName),
    StartAfresh(GroupName),
    Stop(GroupName),
    Destroy(GroupName),
    /// The group is gone and no longer in the configuration: its actor may end.
    Remove(GroupName),
    /// Tell the host an event, about a group or about the tree.
    Tell(Option<GroupName>, String),
    /// All groups are Ready.
    Ready,
    /// All groups are gone.
    Down(TreeEnd),
}

/// The schedule of a tree.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    groups: Vec<Entry>,
    intensity: Intensity,
    backoff: Backoff,
    shutdown_timeout: Duration,
    kill_limit: Duration,
    window: Window,
    stage: Stage,
    ready_told: bool,
    steps: Vec<Step>,
}

impl Schedule {
    /// Makes the schedule of a tree of which nothing has been started.
    pub(crate) fn new(spec: &TreeSpec) -> Self {
        let mut schedule = Self {
            groups: Vec::new(),
            intensity: spec.intensity,
            backoff: spec.backoff,
            shutdown_timeout: spec.shutdown_timeout,
            kill_limit: kill_limit(spec),
            window: Window::new(),
            stage: Stage::Up,
            ready_told: false,
            steps: Vec::new(),
        };
        schedule.take(spec);
        schedule
    }

    fn take(&mut self, spec: &TreeSpec) {
        for group in &spec.groups {
            match self.entry(&group.name) {
                Some(entry) => entry.after.clone_from(&group.after),
                None => {
                    self.ready_told = false;
                    self.groups.push(Entry {
                        name: group.name.clone(),
                        after: group.after.clone(),
                        phase: Phase::Waiting,
                        attempts: 0,
                        actor_failures: 0,
                        removed: false,
                    });
                }
            }
        }
    }

    /// Records that time has passed.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Step> {
        self.finish(now)
    }

    /// Records that an operator has brought back a group that was down: from now on the group is kept up.
    pub(crate) fn brought_back(&mut self, now: Instant, group: &GroupName) -> Vec<Step> {
        if let Some(entry) = self.entry(group)
            && matches!(entry.phase, Phase::Down { .. })
        {
            entry.phase = Phase::Starting;
        }
        self.finish(now)
    }

    /// Records that a group is Ready.
    pub(crate) fn ready(&mut self, now: Instant, group: &GroupName) -> Vec<Step> {
        if let Some(entry) = self.entry(group)
            && matches!(entry.phase, Phase::Starting)
        {
            entry.phase = Phase::Ready { since: now };
        }
        self.finish(now)
    }

    /// Records that a group is down.
    pub(crate) fn ended(&mut self, at: At, group: &GroupName, end: GroupEnd) -> Vec<Step> {
        let up = self.stage == Stage::Up;
        let (intensity, backoff) = (self.intensity, self.backoff);
        let Some(place) = self.groups.iter().position(|entry| entry.name == *group) else {
            return Vec::new();
        };
        let entry = &mut self.groups[place];
        match (&entry.phase, end) {
            (Phase::Stopping, _) => entry.phase = Phase::Gone,
            (Phase::Gone, _) => {}
            (_, end @ GroupEnd::Escalated { .. }) if up && !entry.removed => {
                // The escalations of a group that was Ready for a whole period are cleared.
                if let Phase::Ready { since } = entry.phase
                    && at.now - since >= intensity.period
                {
                    entry.attempts = 0;
                }
                entry.attempts += 1;
                let delay = backoff.delay(entry.attempts, at.draw);
                entry.phase = Phase::Delayed { until: at.now + delay };
                match self.window.enter(at.now, intensity) {
                    Ok(window) => self.steps.push(Step::Tell(
                        Some(group.clone()),
                        format!("starts afresh in {}, window of the tree {window}", delay_in_words(delay)),
                    )),
                    Err(exceeded) => self.fail(at.now, format!("group {group}: {end}; {exceeded}")),
                }
            }
            (_, end) => entry.phase = Phase::Down { end },
        }
        self.finish(at.now)
    }

    /// Records that a group's actor has failed. Returns the goal of its successor, `None` if it gets no successor.
    pub(crate) fn group_failed(
        &mut self,
        now: Instant,
        group: &GroupName,
        why: &str,
    ) -> (Option<Goal>, Vec<Step>) {
        let up = self.stage == Stage::Up;
        let Some(entry) = self.entry(group) else { return (None, Vec::new()) };
        let then = match entry.phase {
            Phase::Gone => None,
            Phase::Waiting | Phase::Delayed { .. } | Phase::Due | Phase::Down { .. }
                if up && !entry.removed =>
            {
                Some(Goal::Wait)
            }
            Phase::Starting | Phase::Ready { .. } if up && !entry.removed => Some(Goal::Up),
            Phase::Waiting
            | Phase::Delayed { .. }
            | Phase::Due
            | Phase::Down { .. }
            | Phase::Starting
            | Phase::Ready { .. }
            | Phase::Stopping => {
                entry.actor_failures += 1;
                entry.phase = Phase::Stopping;
                Some(Goal::Down)
            }
        };
        if then == Some(Goal::Down) && entry.actor_failures > MAX_FAILURES_GOING_DOWN {
            entry.phase = Phase::Gone;
            return (None, self.finish(now));
        }
        if then == Some(Goal::Down)
            && let Stage::Stopping { give_up_at: Some(_), .. } = self.stage
        {
            self.steps.push(Step::Destroy(group.clone()));
        }
        let mut then = then;
        if up && matches!(then, Some(Goal::Up | Goal::Wait)) {
            self.record_failure(now, &format!("the actor of group {group} failed: {why}"));
            if self.stage != Stage::Up {
                let entry = self.entry(group).expect("found above");
                entry.phase = Phase::Stopping;
                then = Some(Goal::Down);
            }
        }
        (then, self.finish(now))
    }

    /// Records that an actor that all groups use has failed and is replaced.
    pub(crate) fn service_failed(&mut self, now: Instant, what: &str) -> Vec<Step> {
        if self.stage == Stage::Up {
            self.record_failure(now, what);
        }
        self.finish(now)
    }

    /// Counts a failure in the window of the tree, which gives up when there are too many.
    fn record_failure(&mut self, now: Instant, what: &str) {
        match self.window.enter(now, self.intensity) {
            Ok(window) => {
                self.steps.push(Step::Tell(None, format!("{what}; replaced, window of the tree {window}")));
            }
            Err(exceeded) => self.fail(now, format!("{what}; {exceeded}")),
        }
    }

    /// Stops all groups, in order, by a deadline.
    pub(crate) fn stop(&mut self, now: Instant) -> Vec<Step> {
        self.go_down(now, TreeEnd::Stopped);
        self.finish(now)
    }

    /// Kills all VMs at once.
    pub(crate) fn destroy(&mut self, now: Instant) -> Vec<Step> {
        self.go_down(now, TreeEnd::Stopped);
        if let Stage::Stopping { deadline, .. } = &mut self.stage {
            *deadline = (*deadline).min(now);
        }
        self.finish(now)
    }

    fn fail(&mut self, now: Instant, reason: String) {
        self.steps.push(Step::Tell(None, format!("gives up: {reason}")));
        self.go_down(now, TreeEnd::Failed { reason });
    }

    fn go_down(&mut self, now: Instant, end: TreeEnd) {
        // The first reason holds, and so does the first deadline.
        if self.stage == Stage::Up {
            self.stage = Stage::Stopping { deadline: now + self.shutdown_timeout, end, give_up_at: None };
        }
    }

    /// Applies a new specification that was checked. New groups start in their turn, and removed groups stop in theirs.
    pub(crate) fn reload(&mut self, now: Instant, spec: &TreeSpec) -> Vec<Step> {
        self.intensity = spec.intensity;
        self.backoff = spec.backoff;
        self.shutdown_timeout = spec.shutdown_timeout;
        self.kill_limit = kill_limit(spec);
        for entry in &mut self.groups {
            entry.removed |= !spec.groups.iter().any(|group| group.name == entry.name);
        }
        self.take(spec);
        self.finish(now)
    }

    /// Returns the moment at which to call [`Schedule::tick`], if no event comes before.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Up => {
                let kept = self.groups.iter().filter(|entry| !entry.removed);
                kept.filter_map(
                    |entry| if let Phase::Delayed { until } = entry.phase { Some(until) } else { None },
                )
                .min()
            }
            Stage::Stopping { deadline, give_up_at, .. } => Some(give_up_at.unwrap_or(deadline)),
            Stage::Down => None,
        }
    }

    /// Returns whether the tree is not going down.
    pub(crate) fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    /// Returns the stage of the tree.
    pub(crate) fn progress(&self) -> Progress {
        if self.stage != Stage::Up {
            return Progress::Ending;
        }
        let failed = self.groups.iter().find_map(|entry| {
            let Phase::Down { end } = &entry.phase else { return None };
            let failed = || Progress::Failed { group: entry.name.clone(), reason: end.to_string() };
            end.is_failure().then(failed)
        });
        let ready = if self.all_ready() { Progress::Ready } else { Progress::Starting };
        failed.unwrap_or(ready)
    }

    fn entry(&mut self, group: &GroupName) -> Option<&mut Entry> {
        self.groups.iter_mut().find(|entry| entry.name == *group)
    }

    fn all_ready(&self) -> bool {
        self.groups.iter().filter(|entry| !entry.removed).all(Entry::is_satisfied)
    }

    /// Brings all groups to the state that belongs to this moment, and returns the steps.
    fn finish(&mut self, now: Instant) -> Vec<Step> {
        match self.stage {
            Stage::Up => {
                self.remove_gone();
                self.stop_in_turn();
                self.start_in_turn(now);
                if self.all_ready() && !std::mem::replace(&mut self.ready_told, true) {
                    self.steps.push(Step::Ready);
                }
            }
            Stage::Stopping { .. } => self.go_on_stopping(now),
            Stage::Down => {}
        }
        std::mem::take(&mut self.steps)
    }

    fn go_on_stopping(&mut self, now: Instant) {
        if let Stage::Stopping { deadline, give_up_at: give_up_at @ None, .. } = &mut self.stage
            && now >= *deadline
        {
            *give_up_at = Some(now + self.kill_limit);
            for entry in self.groups.iter_mut().filter(|entry| entry.phase != Phase::Gone) {
                entry.phase = Phase::Stopping;
                self.steps.push(Step::Destroy(entry.name.clone()));
            }
        }
        self.stop_in_turn();
        let left: Vec<&str> =
            self.groups.iter().filter(|e| e.phase != Phase::Gone).map(|e| e.name.as_str()).collect();
        let Stage::Stopping { end, give_up_at, .. } = &self.stage else { return };
        if left.is_empty() {
            self.steps.push(Step::Down(end.clone()));
        } else if give_up_at.is_some_and(|at| now >= at) {
            let reason = format!("not all VMs are confirmed gone, of the groups: {}", left.join(", "));
            self.steps.push(Step::Tell(None, reason.clone()));
            self.steps.push(Step::Down(TreeEnd::Failed { reason }));
        } else {
            return;
        }
        self.stage = Stage::Down;
    }

    /// Stops each group that is to be stopped, unless another group comes after it that still has to stop. That holds
    /// for groups that are down, too: an operator may have started one of their VMs.
    fn stop_in_turn(&mut self) {
        let everything = self.stage != Stage::Up;
        let goes = |entry: &Entry| (everything || entry.removed) && entry.phase != Phase::Gone;
        let held: Vec<GroupName> =
            self.groups.iter().filter(|e| goes(e)).flat_map(|e| e.after.iter().cloned()).collect();
        for entry in &mut self.groups {
            if goes(entry) && entry.phase != Phase::Stopping && !held.contains(&entry.name) {
                entry.phase = Phase::Stopping;
                self.steps.push(Step::Stop(entry.name.clone()));
            }
        }
    }

    fn remove_gone(&mut self) {
        let gone = |entry: &Entry| entry.removed && entry.phase == Phase::Gone;
        self.steps.extend(self.groups.iter().filter(|e| gone(e)).map(|e| Step::Remove(e.name.clone())));
        self.groups.retain(|entry| !gone(entry));
    }

    fn start_in_turn(&mut self, now: Instant) {
        let up: Vec<GroupName> =
            self.groups.iter().filter(|e| e.is_satisfied()).map(|e| e.name.clone()).collect();
        let known: Vec<GroupName> = self.groups.iter().map(|e| e.name.clone()).collect();
        for entry in self.groups.iter_mut().filter(|entry| !entry.removed) {
            // The state changes before the dependencies are looked at: otherwise a moment that has passed would be
            // waited for again and again.
            if matches!(entry.phase, Phase::Delayed { until } if until <= now) {
                entry.phase = Phase::Due;
            }
            if !entry.after.iter().all(|after| up.contains(after) || !known.contains(after)) {
                continue;
            }
            match entry.phase {
                Phase::Waiting => {
                    entry.phase = Phase::Starting;
                    self.steps.push(Step::Start(entry.name.clone()));
                }
                Phase::Due => {
                    entry.phase = Phase::Starting;
                    self.steps.push(Step::StartAfresh(entry.name.clone()));
                }
                Phase::Delayed { .. }
                | Phase::Starting
                | Phase::Ready { .. }
                | Phase::Down { .. }
                | Phase::Stopping
                | Phase::Gone => {}
            }
        }
    }
}

impl Entry {
    /// Returns whether the groups that come after this group may start: it is Ready, or has done its work and ended.
    fn is_satisfied(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. } | Phase::Down { end: GroupEnd::AutoShutdown })
    }
}
