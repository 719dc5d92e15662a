use super::*;
use crate::policy::{Action, Decision, Exit, Failure, Reason, WindowCount};
use crate::spec::{GroupSpec, VmName};

fn name(name: &str) -> GroupName {
    GroupName::new(name).expect("a good name")
}

/// Three groups in a chain, `edge` after `web` after `storage`, and the group `lone`.
fn spec() -> TreeSpec {
    let group = |of: &str, after: &[&str]| GroupSpec {
        after: after.iter().map(|after| name(after)).collect(),
        ..GroupSpec::new(name(of), Vec::new())
    };
    let groups =
        vec![group("edge", &["web"]), group("web", &["storage"]), group("storage", &[]), group("lone", &[])];
    let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
    let intensity = Intensity { max_restarts: 2, period: Duration::from_secs(300) };
    TreeSpec { groups, backoff, intensity, ..TreeSpec::new("test") }
}

struct Rig {
    schedule: Schedule,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self { schedule: Schedule::new(&spec()), now: Instant::now() }
    }

    fn up() -> Self {
        let mut rig = Self::new();
        rig.schedule.tick(rig.now);
        for group in ["storage", "lone", "web", "edge"] {
            rig.schedule.ready(rig.now, &name(group));
        }
        rig
    }

    fn ended(&mut self, group: &str, end: GroupEnd) -> Vec<Step> {
        self.schedule.ended(At { now: self.now, draw: 0.0 }, &name(group), end)
    }

    fn after(&mut self, seconds: u64) -> Vec<Step> {
        self.now += Duration::from_secs(seconds);
        self.schedule.tick(self.now)
    }
}

fn failure() -> Failure {
    let window = WindowCount { count: 1, max: 1, period: Duration::from_secs(60) };
    let (action, reason) = (Action::Escalate, Reason::IntensityExceeded);
    let decision =
        Decision { action, reason, delay: None, attempt: 2, max_attempts: 0, window, joined: false };
    Failure { ending: Exit::code(1).into(), decision }
}

fn escalated() -> GroupEnd {
    GroupEnd::Escalated { vm: VmName::new("vm").expect("good"), failure: failure() }
}

#[test]
fn a_group_starts_when_those_it_comes_after_are_ready_and_stops_before_them() {
    let mut rig = Rig::new();
    assert_eq!(rig.schedule.tick(rig.now), [Step::Start(name("storage")), Step::Start(name("lone"))]);
    assert_eq!(rig.schedule.ready(rig.now, &name("lone")), []);
    assert_eq!(rig.schedule.ready(rig.now, &name("storage")), [Step::Start(name("web"))]);
    assert_eq!(rig.schedule.ready(rig.now, &name("web")), [Step::Start(name("edge"))]);
    assert_eq!(rig.schedule.ready(rig.now, &name("edge")), [Step::Ready]);
    assert_eq!(rig.schedule.progress(), Progress::Ready);
    assert_eq!(rig.schedule.stop(rig.now), [Step::Stop(name("edge")), Step::Stop(name("lone"))]);
    assert_eq!(rig.ended("lone", GroupEnd::Stopped), []);
    assert_eq!(rig.ended("edge", GroupEnd::Stopped), [Step::Stop(name("web"))]);
    assert_eq!(rig.ended("web", GroupEnd::Stopped), [Step::Stop(name("storage"))]);
    assert_eq!(rig.ended("storage", GroupEnd::Stopped), [Step::Down(TreeEnd::Stopped)]);
}

#[test]
fn a_group_that_ended_normally_holds_up_no_other_and_a_failed_group_does() {
    let mut rig = Rig::new();
    rig.schedule.tick(rig.now);
    assert_eq!(rig.ended("storage", GroupEnd::AutoShutdown), [Step::Start(name("web"))]);
    assert_eq!(
        rig.ended("web", GroupEnd::Failed { vm: VmName::new("vm").expect("good"), failure: failure() }),
        []
    );
    assert!(matches!(rig.schedule.progress(), Progress::Failed { .. }));
}

#[test]
fn an_escalated_group_starts_afresh_after_a_delay_that_grows() {
    let mut rig = Rig::up();
    assert!(matches!(rig.ended("web", escalated())[..], [Step::Tell(Some(_), _)]));
    assert_eq!(rig.schedule.wake_at(), Some(rig.now + Duration::from_secs(1)));
    assert_eq!(rig.after(1), [Step::StartAfresh(name("web"))]);
    rig.ended("web", escalated());
    assert_eq!(rig.after(1), []);
    assert_eq!(rig.after(1), [Step::StartAfresh(name("web"))]);
}

#[test]
fn an_escalation_too_many_stops_all_in_order_and_ends_the_tree_with_its_reason() {
    let mut rig = Rig::up();
    rig.ended("lone", escalated());
    rig.ended("web", escalated());
    let steps = rig.ended("storage", escalated());
    assert!(
        matches!(&steps[0], Step::Tell(None, text) if text.contains("more than 2 restarts in 5m")),
        "{steps:?}"
    );
    // Groups that are down are told to stop, too: an operator may have started one of their VMs.
    assert_eq!(steps[1..], [Step::Stop(name("edge")), Step::Stop(name("lone"))]);
    for group in ["edge", "lone", "web"] {
        rig.ended(group, GroupEnd::Stopped);
    }
    let last = rig.ended("storage", GroupEnd::Stopped);
    assert!(
        matches!(&last[..], [Step::Down(TreeEnd::Failed { reason })] if reason.contains("group storage"))
    );
}

#[test]
fn what_has_not_stopped_by_the_deadline_is_destroyed_whatever_its_turn() {
    let mut rig = Rig::up();
    rig.schedule.stop(rig.now);
    rig.ended("lone", GroupEnd::Stopped);
    assert_eq!(rig.schedule.wake_at(), Some(rig.now + spec().shutdown_timeout));
    let destroyed: Vec<Step> = ["edge", "web", "storage"].map(|group| Step::Destroy(name(group))).into();
    assert_eq!(rig.after(120), destroyed);
    assert_eq!(rig.after(5), [], "once");
    for group in ["storage", "web"] {
        assert_eq!(rig.ended(group, GroupEnd::Stopped), []);
    }
    assert_eq!(rig.ended("edge", GroupEnd::Stopped), [Step::Down(TreeEnd::Stopped)]);
}

/// Tests semantics 7.13.
#[test]
fn what_is_not_confirmed_gone_in_time_holds_up_no_end() {
    let mut rig = Rig::up();
    rig.schedule.stop(rig.now);
    for group in ["lone", "edge", "web"] {
        rig.ended(group, GroupEnd::Stopped);
    }
    assert_eq!(rig.after(120), [Step::Destroy(name("storage"))]);
    let limit = kill_limit(&spec());
    assert_eq!(rig.schedule.wake_at(), Some(rig.now + limit));
    assert_eq!(rig.after(limit.as_secs() - 1), []);
    let last = rig.after(2);
    assert!(
        matches!(&last[..], [Step::Tell(None, _), Step::Down(TreeEnd::Failed { reason })] if reason.contains("storage")),
        "{last:?}"
    );
    assert_eq!(rig.ended("storage", GroupEnd::Stopped), [], "the end has come already");
}

#[test]
fn the_successor_of_a_failed_group_actor_does_what_the_group_was_at() {
    let mut rig = Rig::new();
    rig.schedule.tick(rig.now);
    let failed = |rig: &mut Rig, group| rig.schedule.group_failed(rig.now, &name(group), "panic").0;
    assert_eq!(failed(&mut rig, "storage"), Some(Goal::Up));
    assert_eq!(failed(&mut rig, "web"), Some(Goal::Wait));
    rig.schedule.stop(rig.now);
    for _ in 0..MAX_FAILURES_GOING_DOWN {
        assert_eq!(failed(&mut rig, "edge"), Some(Goal::Down));
    }
    assert_eq!(failed(&mut rig, "edge"), None, "the group gets no successor; the shutdown removes its VMs");
}

#[test]
fn an_actor_that_fails_too_often_ends_the_tree() {
    let mut rig = Rig::up();
    assert_eq!(rig.schedule.group_failed(rig.now, &name("web"), "panic").0, Some(Goal::Up));
    rig.schedule.service_failed(rig.now, "the executor failed");
    let (then, _) = rig.schedule.group_failed(rig.now, &name("web"), "panic");
    assert_eq!(then, Some(Goal::Down));
    assert!(!rig.schedule.is_up());
}

#[test]
fn a_reload_starts_what_is_new_and_stops_what_is_gone_in_order() {
    let mut rig = Rig::up();
    let mut new = spec();
    new.groups.retain(|group| group.name == name("lone"));
    new.groups.push(GroupSpec { after: vec![name("lone")], ..GroupSpec::new(name("new"), Vec::new()) });
    assert_eq!(rig.schedule.reload(rig.now, &new), [Step::Stop(name("edge")), Step::Start(name("new"))]);
    assert_eq!(rig.ended("edge", GroupEnd::Stopped), [Step::Remove(name("edge")), Step::Stop(name("web"))]);
    assert_eq!(rig.ended("web", GroupEnd::Stopped), [Step::Remove(name("web")), Step::Stop(name("storage"))]);
    assert_eq!(rig.schedule.ready(rig.now, &name("new")), [Step::Ready]);
    assert_eq!(rig.ended("storage", GroupEnd::Stopped), [Step::Remove(name("storage"))]);
}

#[test]
fn a_group_whose_delay_is_over_waits_for_those_it_comes_after_and_not_for_the_clock() {
    let mut rig = Rig::up();
    rig.ended("web", escalated());
    rig.ended("storage", GroupEnd::Failed { vm: VmName::new("vm").expect("good"), failure: failure() });
    assert_eq!(rig.after(3600), []);
    assert_eq!(rig.schedule.wake_at(), None, "a moment that has passed is not waited for");
    assert_eq!(rig.schedule.brought_back(rig.now, &name("storage")), []);
    assert_eq!(rig.schedule.progress(), Progress::Starting, "a group that was brought back has not failed");
    assert_eq!(rig.schedule.ready(rig.now, &name("storage")), [Step::StartAfresh(name("web"))]);
}
