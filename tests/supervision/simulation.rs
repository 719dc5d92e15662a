//! Whole trees under random operations: failures, commands, reloads, changes, killed actors, lost monitors, a
//! supervisor that is itself killed. In every run, no VM runs twice, none is lost, and when the operations end the tree
//! comes to rest. A run that fails prints its seed: `PEPITA_SIMULATION_SEED=<seed>` repeats it,
//! `PEPITA_SIMULATION_RUNS` sets the number of runs.

mod random_ops;

use crate::support::{Host, Rig};
use pepita_supervisor::observe::{EventKind, Received, TreeStatus, VmPhase, VmStatus};
use pepita_supervisor::spec::{Cid, Restart, TreeSpec};
use pepita_supervisor::tree::{Parts, Tree, TreeEnd};
use random_ops::RandomOps;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Prints the seed of a run that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PEPITA_SIMULATION_SEED={} repeats this run", self.0);
        }
    }
}

fn runs() -> u64 {
    std::env::var("PEPITA_SIMULATION_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

/// Runs every second seed, so that two tests share the work.
fn all(offset: u64) {
    match std::env::var("PEPITA_SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) if seed % 2 == offset => run(seed),
        Some(_) => {}
        None => (1..=runs()).filter(|seed| seed % 2 == offset).for_each(run),
    }
}

#[test]
fn whatever_happens_nothing_runs_twice_and_all_come_to_rest_even() {
    all(0);
}

#[test]
fn whatever_happens_nothing_runs_twice_and_all_come_to_rest_odd() {
    all(1);
}

fn run(seed: u64) {
    let guard = Seed(seed);
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(simulate(seed));
    drop(guard);
}

async fn start(host: &Host, spec: &TreeSpec) -> Tree {
    let parts = Parts { pepita: Arc::new(host.clone()), sockets: Arc::new(host.clone()), run_dir: None };
    Tree::start_with(spec.clone(), parts).await.expect("the tree starts")
}

async fn simulate(seed: u64) {
    let mut ops = RandomOps::new(seed);
    let host = Host::new();
    let dir = tempfile::tempdir().expect("a directory");
    let spec = ops.tree(dir.path());
    ops.plans(&host, &spec);
    let mut tree = start(&host, &spec).await;
    let mut log = Log::of(&tree);
    for _ in 0..ops.length() {
        tokio::time::sleep(ops.pause()).await;
        log.read();
        if ops.supervisor_dies() {
            // The supervisor ends as by a SIGKILL: no actor finishes its work. Calls of the launcher under way come to
            // their end.
            tree.root().kill();
            tree.wait().await;
            log.read();
            tokio::time::sleep(Duration::from_secs(3)).await;
            tree = start(&host, &ops.spec(&spec)).await;
            log = Log::of(&tree);
        } else {
            ops.apply_one(&host, &tree).await;
        }
        assert_eq!(host.faults(), Vec::<String>::new(), "what must never happen: {:#?}", log.lines);
        unique(&tree.status(), &host);
    }
    host.calms_down();
    ops.calm_down(&host, &tree).await;
    tokio::time::sleep(Duration::from_secs(900)).await;
    log.read();
    at_rest(&tree, &tree.spec().await, &host, &log);
    let end = if ops.leaves() {
        let end = tree.leave().await;
        let rig = Rig::on(host.clone(), ops.spec(&spec)).await;
        rig.pass(Duration::from_secs(60)).await;
        rig.end().await;
        end
    } else {
        tree.stop().await
    };
    log.read();
    if let TreeEnd::Stopped = end {
        assert_eq!(host.left(), Vec::<String>::new(), "traces are left: {:#?}", log.lines);
    }
    assert_eq!(host.alive(), Vec::<String>::new(), "{end:?}: {:#?}", log.lines);
    assert_eq!(host.faults(), Vec::<String>::new(), "what must never happen: {:#?}", log.lines);
}

/// Asserts that every CID is held once, and that a VM that runs has the one that the status shows.
fn unique(status: &TreeStatus, host: &Host) {
    let mut held: BTreeMap<Cid, String> = BTreeMap::new();
    for vm in status.vms() {
        if let Some(cid) = vm.cid
            && let Some(other) = held.insert(cid, vm.name.to_string())
        {
            panic!("{cid} is held by {} and by {other}", vm.name);
        }
        let settled = matches!(vm.phase, VmPhase::Ready | VmPhase::Running | VmPhase::Unhealthy);
        if settled && host.incarnation(vm.name.as_str()) == Some(vm.incarnation.0) {
            assert_eq!(host.cid(vm.name.as_str()), vm.cid, "{}", vm.name);
        }
    }
}

/// Asserts that every VM that is to be up is up, or is down for a reason.
fn at_rest(tree: &Tree, spec: &Option<TreeSpec>, host: &Host, log: &Log) {
    let status = tree.status();
    let failed = |vm: &VmStatus| matches!(vm.phase, VmPhase::Failed(_));
    // A VM that failed makes the VMs after it wait: in its group, and in the groups after that one.
    let mut held: BTreeSet<&str> = BTreeSet::new();
    for group in &status.groups {
        let after = spec.iter().flat_map(|spec| &spec.groups).find(|known| known.name == group.name);
        let waits = after.is_some_and(|spec| spec.after.iter().any(|after| held.contains(after.as_str())));
        if waits || group.ended.is_some() || group.vms.iter().any(failed) {
            held.insert(group.name.as_str());
        }
    }
    let running: BTreeSet<String> = host.alive().into_iter().collect();
    let mut expected = BTreeSet::new();
    for group in &status.groups {
        for vm in &group.vms {
            let never = log.spec_of(vm.name.as_str()) == Some(Restart::Never);
            let at_rest = match &vm.phase {
                VmPhase::Ready => vm.wanted,
                VmPhase::Completed | VmPhase::Failed(_) => true,
                // The VM was taken down with its siblings and is not to be restarted; or it was taken down with its
                // group, of which the operator has brought back another VM.
                VmPhase::Stopped => !vm.wanted || never || log.ended.contains(group.name.as_str()),
                VmPhase::Waiting => held.contains(group.name.as_str()),
                _ => false,
            };
            assert!(at_rest || !log.up, "{} is {}: {status:#?} {:#?}", vm.name, vm.phase, log.lines);
            if vm.phase == VmPhase::Ready {
                expected.insert(vm.name.to_string());
                assert_eq!(host.incarnation(vm.name.as_str()), Some(vm.incarnation.0), "{}", vm.name);
                assert_eq!(host.cid(vm.name.as_str()), vm.cid, "{}", vm.name);
            } else if log.up && !matches!(vm.phase, VmPhase::Waiting) {
                assert_eq!(vm.cid, None, "{} is {} and holds a CID: {:#?}", vm.name, vm.phase, log.lines);
            }
        }
    }
    assert_eq!(running, expected, "what runs is what is shown: {status:#?} {:#?}", log.lines);
}

/// The events of a tree, with the check that their numbers have no gap and that incarnations only grow.
struct Log {
    events: pepita_supervisor::observe::Events,
    policies: BTreeMap<String, Restart>,
    last: u64,
    newest: BTreeMap<String, u64>,
    lines: Vec<String>,
    /// The groups that have been down.
    ended: BTreeSet<String>,
    /// Whether the tree has not ended by itself.
    up: bool,
}

impl Log {
    fn of(tree: &Tree) -> Self {
        let events = tree.events();
        let (policies, newest) = (random_ops::policies(), BTreeMap::new());
        let ended = BTreeSet::new();
        Self { events, policies, last: 0, newest, lines: Vec::new(), ended, up: true }
    }

    fn spec_of(&self, vm: &str) -> Option<Restart> {
        self.policies.get(vm).copied()
    }

    /// Reads the events that were told so far.
    fn read(&mut self) {
        loop {
            let next = std::pin::pin!(self.events.next());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let std::task::Poll::Ready(received) = std::future::Future::poll(next, &mut context) else {
                return;
            };
            match received {
                Some(Received::Event(event)) => {
                    assert_eq!(event.seq, self.last + 1, "a gap: {:#?}", self.lines);
                    self.last = event.seq;
                    self.lines.push(format!("{} {event}", event.seq));
                    match &event.kind {
                        EventKind::Vm(change) => {
                            let newest = self.newest.entry(change.vm.to_string()).or_default();
                            assert!(change.incarnation.0 >= *newest, "{event}: {:#?}", self.lines);
                            *newest = change.incarnation.0;
                        }
                        EventKind::GroupEnded(_) => {
                            self.ended.insert(event.group.as_ref().expect("of a group").to_string());
                        }
                        EventKind::TreeEnded { .. } => self.up = false,
                        EventKind::GroupReady | EventKind::Notice { .. } => {}
                    }
                }
                Some(Received::Lagged(missed)) => panic!("{missed} events missed"),
                None => {
                    self.up = false;
                    return;
                }
            }
        }
    }
}
