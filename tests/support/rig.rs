//! A tree on a host that exists only in memory. Dropping the rig fails the test if any VM is left alive, or if a fault
//! was seen.

use super::Host;
use pepita_supervisor::observe::{Change, Event, EventKind, Events, GroupEnd, Received};
use pepita_supervisor::spec::{
    Backoff, GroupName, GroupSpec, HealthSpec, MachineSpec, Strategy, TreeSpec, VmName, VmSpec,
};
use pepita_supervisor::tree::{Parts, StartError, Tree, TreeEnd};
use ractor::ActorCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Returns a VM without jitter and without probes.
pub(crate) fn vm(name: &str) -> VmSpec {
    let mut vm =
        VmSpec::new(VmName::new(name).expect("a good name"), MachineSpec::qemu("/kernel", "/rootfs"));
    vm.restart.backoff = Backoff { jitter: 0.0, ..Backoff::default() };
    vm.health = HealthSpec { interval: Duration::ZERO, ..HealthSpec::default() };
    vm
}

pub(crate) fn group(name: &str, strategy: Strategy, vms: impl IntoIterator<Item = VmSpec>) -> GroupSpec {
    let name = GroupName::new(name).expect("a good name");
    GroupSpec { strategy, ..GroupSpec::new(name, vms.into_iter().collect()) }
}

pub(crate) fn tree(groups: impl IntoIterator<Item = GroupSpec>) -> TreeSpec {
    let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
    TreeSpec { groups: groups.into_iter().collect(), backoff, ..TreeSpec::new("test") }
}

pub(crate) struct Rig {
    pub(crate) tree: Tree,
    pub(crate) host: Host,
    events: Events,
    seen: Vec<Event>,
    /// Whether VMs are left running on purpose.
    leaves: bool,
}

impl Rig {
    pub(crate) async fn start(spec: TreeSpec) -> Self {
        Self::on(Host::new(), spec).await
    }

    /// Starts a tree on a host that was prepared.
    pub(crate) async fn on(host: Host, spec: TreeSpec) -> Self {
        Self::try_on(host, spec).await.expect("the tree starts")
    }

    pub(crate) async fn try_on(host: Host, spec: TreeSpec) -> Result<Self, StartError> {
        let parts = Parts { pepita: Arc::new(host.clone()), sockets: Arc::new(host.clone()), run_dir: None };
        let tree = Tree::start_with(spec, parts).await?;
        let events = tree.events();
        Ok(Self { tree, host, events, seen: Vec::new(), leaves: false })
    }

    /// Starts a tree and waits until it is ready.
    pub(crate) async fn ready(spec: TreeSpec) -> Self {
        let rig = Self::start(spec).await;
        rig.tree.wait_ready(Duration::from_secs(60)).await.expect("the tree gets ready");
        rig
    }

    /// Waits for an event, beginning with the first one that was not seen yet.
    pub(crate) async fn event(&mut self, is_it: impl Fn(&Event) -> bool) -> Event {
        let hour = Duration::from_secs(3600 * 48);
        let found = async {
            loop {
                match self.events.next().await {
                    Some(Received::Event(event)) => {
                        self.seen.push(event.clone());
                        if is_it(&event) {
                            return event;
                        }
                    }
                    Some(Received::Lagged(missed)) => panic!("{missed} events missed"),
                    None => panic!("the tree has ended"),
                }
            }
        };
        match tokio::time::timeout(hour, found).await {
            Ok(event) => event,
            Err(_) => panic!("no such event; seen: {:#?}\nstatus: {:#?}", self.lines(), self.tree.status()),
        }
    }

    /// Waits for a VM to change to this phase.
    pub(crate) async fn change(&mut self, vm: &str, to: &str) -> Change {
        let event = self.event(|event| {
            matches!(&event.kind, EventKind::Vm(change) if change.vm.as_str() == vm && change.to.word() == to)
        });
        let EventKind::Vm(change) = event.await.kind else { panic!("a change") };
        change
    }

    /// Waits until a VM is in this phase, if it is not already.
    pub(crate) async fn until(&mut self, vm: &str, phase: &str) {
        while self.phase(vm) != phase {
            self.change(vm, phase).await;
        }
    }

    /// Waits until the tree does not know these VMs any more.
    pub(crate) async fn until_gone(&self, vms: &[&str]) {
        while vms.iter().any(|vm| self.tree.status().vm(vm).is_some()) {
            self.pass(Duration::from_millis(10)).await;
        }
    }

    /// Waits for an event whose text contains this.
    pub(crate) async fn said(&mut self, text: &str) -> Event {
        self.event(|event| event.to_string().contains(text)).await
    }

    /// Waits for the end of a group.
    pub(crate) async fn group_ended(&mut self, group: &str) -> GroupEnd {
        let event = self.event(|event| {
            matches!(event.kind, EventKind::GroupEnded(_))
                && event.group.as_ref().is_some_and(|name| name.as_str() == group)
        });
        let EventKind::GroupEnded(end) = event.await.kind else { panic!("an end") };
        end
    }

    /// Returns the changes of VMs seen so far.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Change> {
        self.seen.iter().filter_map(|event| match &event.kind {
            EventKind::Vm(change) => Some(change),
            _ => None,
        })
    }

    /// Returns the number of entries in the window of a group, and the number that is allowed.
    pub(crate) fn window(&self, group: usize) -> (u32, u32) {
        let window = self.tree.status().groups[group].window;
        (window.count, window.max)
    }

    /// Lets time pass.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub(crate) fn phase(&self, vm: &str) -> &'static str {
        self.tree.status().vm(vm).expect("there is such a VM").phase.word()
    }

    pub(crate) fn phases(&self) -> Vec<(String, &'static str)> {
        self.tree.status().vms().map(|vm| (vm.name.to_string(), vm.phase.word())).collect()
    }

    /// Returns the events seen so far, as lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen.iter().map(ToString::to_string).collect()
    }

    /// Reads the events that were told so far.
    pub(crate) async fn catch_up(&mut self) -> Vec<String> {
        while let Ok(Some(Received::Event(event))) =
            tokio::time::timeout(Duration::from_millis(1), self.events.next()).await
        {
            self.seen.push(event);
        }
        self.lines()
    }

    /// Returns all actors below the root.
    pub(crate) fn actors(&self) -> Vec<ActorCell> {
        let mut all = Vec::new();
        let mut next = self.tree.root().get_children();
        while let Some(actor) = next.pop() {
            next.extend(actor.get_children());
            all.push(actor);
        }
        all
    }

    /// Returns the actors that take this kind of message.
    pub(crate) fn actors_of<M: ractor::Message>(&self) -> Vec<ActorCell> {
        self.actors().into_iter().filter(|actor| actor.is_message_type_of::<M>() == Some(true)).collect()
    }

    /// Stops the tree in order, and returns how it ended and how long that took.
    pub(crate) async fn stop(&self) -> (TreeEnd, Duration) {
        let before = Instant::now();
        let end = self.tree.stop().await;
        (end, before.elapsed())
    }

    /// Ends the supervision, leaves the VMs running, and returns the host.
    pub(crate) async fn leave(mut self) -> Host {
        self.tree.leave().await;
        self.leaves = true;
        self.host.clone()
    }

    /// Ends the test: all must be gone.
    pub(crate) async fn end(self) {
        assert_eq!(self.stop().await.0, TreeEnd::Stopped);
        assert_eq!(self.host.left(), Vec::<String>::new(), "traces are left");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}\n{:#?}", self.lines(), self.host.calls());
            return;
        }
        assert_eq!(self.host.faults(), Vec::<String>::new(), "what must never happen");
        if !self.leaves {
            assert_eq!(self.host.alive(), Vec::<String>::new(), "left alive; stop the tree first");
        }
    }
}
