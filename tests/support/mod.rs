//! A host that exists only in memory: simulates the launcher, the monitors and the guests, so that the whole tree,
//! executor and links included, runs under a clock that a test controls. The host records every call, and every fault
//! that must never happen.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod guest;
mod launcher;
mod rig;
mod sockets;

pub(crate) use rig::{Rig, group, tree, vm};

use pepita_supervisor::executor::argv::OWNER_LABEL;
use pepita_supervisor::spec::{Cid, Incarnation, VmName};
use pepita_wire::agent::Health;
use pepita_wire::record::DaemonState;
use pepita_wire::{Exit, ExitRecord, GuestEvent, ProcessExit, StatusRecord, VmState};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

/// The simulated host. All clones are one host.
#[derive(Debug, Clone)]
pub(crate) struct Host(Arc<Mutex<World>>);

#[derive(Debug)]
struct World {
    since: Instant,
    machines: BTreeMap<String, Machine>,
    /// The machine that has claimed a CID last.
    claims: HashMap<u32, String>,
    plans: HashMap<String, VecDeque<Plan>>,
    /// The plans of single launches, by the number of the incarnation.
    numbered: HashMap<(String, u64), Plan>,
    defaults: HashMap<String, Plan>,
    calls: Vec<Call>,
    /// The number of calls about the state of a VM, or for its end, that are under way, and the most that ever were.
    under_way: (usize, usize),
    /// The number of calls that have asked for the state of one VM.
    questions: usize,
    /// The faults that were seen: events that must never happen.
    faults: Vec<String>,
    /// The requests that guests have received.
    asked: Vec<Asked>,
    /// The number of the newest machine: by its number a task of a former machine notices that it was replaced.
    last_serial: u64,
}

/// A request to a guest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// The time since the host exists.
    pub(crate) at: Duration,
    pub(crate) vm: String,
    pub(crate) incarnation: u64,
    pub(crate) method: String,
}

/// A call of the launcher.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// The time since the host exists.
    pub(crate) at: Duration,
    pub(crate) what: What,
    pub(crate) vm: String,
    /// The state of the VM at that moment, if its machine exists.
    pub(crate) state: Option<VmState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Run(u64),
    Adopt,
    Destroy,
    Signal(i32),
    /// The stop that the monitor carries out.
    Stop,
}

#[derive(Debug)]
struct Machine {
    serial: u64,
    record: watch::Sender<StatusRecord>,
    plan: Plan,
    /// Whether a monitor watches the machine.
    monitored: bool,
    /// The events that its daemon sends.
    news: broadcast::Sender<(u64, GuestEvent)>,
    told: u64,
}

impl Machine {
    fn new(serial: u64, record: StatusRecord, plan: Plan) -> Self {
        let (record, news) = (watch::Sender::new(record), broadcast::Sender::new(64));
        Self { serial, record, plan, monitored: true, news, told: 0 }
    }

    /// Returns the record as the launcher finds it.
    fn seen(&self) -> StatusRecord {
        let record = self.record.borrow().clone();
        StatusRecord { monitor_pid: record.monitor_pid.filter(|_| self.monitored), ..record }
    }

    fn is_alive(&self) -> bool {
        !self.record.borrow().state.is_terminal()
    }
}

/// The course of a launch.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The time until the launcher returns; `None` = the launcher hangs.
    pub(crate) launch: Option<Duration>,
    /// The error with which the launcher refuses, if it does.
    pub(crate) refusal: Option<pepita_wire::record::CallErrorKind>,
    /// The time from then until the daemon runs; `None` = the daemon never runs.
    pub(crate) boot: Option<Duration>,
    /// The time from then until the daemon reports that it is ready; `None` = it does not.
    pub(crate) ready: Option<Duration>,
    /// The time from the daemon's start until its end, and how it ends.
    pub(crate) end: Option<(Duration, Fate)>,
    /// The time from a graceful stop until the daemon has stopped; `None` = the daemon ignores the stop.
    pub(crate) stop: Option<Duration>,
    /// Whether the monitor waits for the daemon beyond its grace, because the daemon has asked for more time.
    pub(crate) patient: bool,
    /// The time that a destroy takes.
    pub(crate) destroy: Duration,
    /// Whether the guest agent answers.
    pub(crate) answers: bool,
    /// The exit code of a command that the guest agent runs. With any but 0 the daemon fails its probes, too.
    pub(crate) exec: i32,
    /// Whether the guest agent knows probes of the daemon.
    pub(crate) probes: bool,
    /// Another VM that ends, if it runs, when the launcher is called.
    pub(crate) ends_other: Option<(String, Fate)>,
}

/// The way in which a VM ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Exit(i32),
    Signal(i32),
    /// The VMM crashes.
    Crash,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            launch: Some(Duration::from_millis(10)),
            refusal: None,
            boot: Some(Duration::from_millis(90)),
            ready: None,
            end: None,
            stop: Some(Duration::from_millis(50)),
            patient: false,
            destroy: Duration::from_millis(5),
            answers: true,
            exec: 0,
            probes: true,
            ends_other: None,
        }
    }
}

impl Plan {
    /// Makes a plan in which the daemon exits this time after its start.
    pub(crate) fn exits(code: i32, after_ms: u64) -> Self {
        Self { end: Some((Duration::from_millis(after_ms), Fate::Exit(code))), ..Self::default() }
    }

    /// Makes a plan in which the launcher refuses.
    pub(crate) fn refused(kind: pepita_wire::record::CallErrorKind) -> Self {
        Self { refusal: Some(kind), ..Self::default() }
    }

    /// Makes a plan in which the launcher returns only after this time.
    pub(crate) fn slow_launch(ms: u64) -> Self {
        Self { launch: Some(Duration::from_millis(ms)), ..Self::default() }
    }

    /// Makes a plan in which the daemon never runs.
    pub(crate) fn never_boots() -> Self {
        Self { boot: None, ..Self::default() }
    }

    /// Makes a plan in which the daemon ignores a graceful stop.
    pub(crate) fn deaf() -> Self {
        Self { stop: None, ..Self::default() }
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            since: Instant::now(),
            machines: BTreeMap::new(),
            claims: HashMap::new(),
            plans: HashMap::new(),
            numbered: HashMap::new(),
            defaults: HashMap::new(),
            calls: Vec::new(),
            under_way: (0, 0),
            questions: 0,
            faults: Vec::new(),
            asked: Vec::new(),
            last_serial: 0,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans the next launches of a VM: each plan is used once, in this order.
    pub(crate) fn plan(&self, vm: &str, plans: impl IntoIterator<Item = Plan>) {
        self.world().plans.entry(id(vm)).or_default().extend(plans);
    }

    /// Plans the launch of one incarnation of a VM.
    pub(crate) fn plan_incarnation(&self, vm: &str, incarnation: u64, plan: Plan) {
        self.world().numbered.insert((id(vm), incarnation), plan);
    }

    /// Plans all other launches of a VM.
    pub(crate) fn always(&self, vm: &str, plan: Plan) {
        self.world().defaults.insert(id(vm), plan);
    }

    /// Changes the plan of a running VM.
    pub(crate) fn becomes(&self, vm: &str, change: impl FnOnce(&mut Plan)) {
        if let Some(machine) = self.world().machines.get_mut(&id(vm)) {
            change(&mut machine.plan);
        }
    }

    /// Makes every launch succeed from now on.
    pub(crate) fn calms_down(&self) {
        let mut world = self.world();
        (world.plans, world.defaults) = (HashMap::new(), HashMap::new());
    }

    /// Sends a message of a VM's daemon, as through sd_notify(3).
    pub(crate) fn says(&self, vm: &str, health: Health) {
        let mut world = self.world();
        let machine = world.machines.get_mut(&id(vm)).expect("there is such a VM");
        machine.told += 1;
        // Without a link the message is lost.
        let _ = machine.news.send((machine.told, GuestEvent::Health(health)));
    }

    /// Reports that the daemon of a VM is ready.
    pub(crate) fn gets_ready(&self, vm: &str) {
        let serial = self.world().machines.get(&id(vm)).map(|machine| machine.serial);
        let ready = |record: &mut StatusRecord| record.daemon.state = DaemonState::Ready;
        self.change(&id(vm), serial.expect("there is such a VM"), ready);
    }

    /// Returns the requests that the guest of a VM received, by the name of the method.
    pub(crate) fn asked(&self, vm: &str, method: &str) -> Vec<Asked> {
        let world = self.world();
        world.asked.iter().filter(|asked| asked.vm == vm && asked.method == method).cloned().collect()
    }

    /// Ends the VM from inside.
    pub(crate) fn end(&self, vm: &str, fate: Fate) {
        let serial = self.world().machines.get(&id(vm)).map(|machine| machine.serial);
        self.end_of(&id(vm), serial.expect("there is such a VM"), fate);
    }

    /// Makes the launcher refuse to adopt the VM from now on.
    pub(crate) fn refuse_adoption(&self, vm: &str, kind: pepita_wire::record::CallErrorKind) {
        let mut world = self.world();
        world.machines.get_mut(&id(vm)).expect("there is such a VM").plan.refusal = Some(kind);
    }

    /// Kills the monitor of a VM; the VM runs on.
    pub(crate) fn kill_monitor(&self, vm: &str) {
        let mut world = self.world();
        let machine = world.machines.get_mut(&id(vm)).expect("there is such a VM");
        machine.monitored = false;
        // The watchers of the monitor hold the former sender, which ends here.
        let record = machine.record.borrow().clone();
        machine.record = watch::Sender::new(record);
    }

    /// Adds a VM that existed before the supervisor.
    pub(crate) fn has(&self, record: StatusRecord) {
        let mut world = self.world();
        world.last_serial += 1;
        world.claims.insert(record.vsock.cid, record.name.clone());
        let machine = Machine::new(world.last_serial, record.clone(), Plan::default());
        world.machines.insert(record.name, machine);
    }

    /// Returns the names of the VMs whose VMM runs.
    pub(crate) fn alive(&self) -> Vec<String> {
        let world = self.world();
        world.machines.iter().filter(|(_, machine)| machine.is_alive()).map(|(id, _)| short(id)).collect()
    }

    /// Returns the names of the VMs of which any trace is left.
    pub(crate) fn left(&self) -> Vec<String> {
        self.world().machines.keys().map(|id| short(id)).collect()
    }

    /// Returns the incarnation that runs.
    pub(crate) fn incarnation(&self, vm: &str) -> Option<u64> {
        let world = self.world();
        let record = world.machines.get(&id(vm))?.record.borrow().clone();
        (!record.state.is_terminal()).then_some(record.incarnation)
    }

    pub(crate) fn cid(&self, vm: &str) -> Option<Cid> {
        let world = self.world();
        let cid = world.machines.get(&id(vm))?.record.borrow().vsock.cid;
        Cid::new(cid).ok()
    }

    /// Returns the most calls that were under way at once and were no launches.
    pub(crate) fn most_at_once(&self) -> usize {
        self.world().under_way.1
    }

    /// Returns the number of calls that have asked for the state of one VM.
    pub(crate) fn questions(&self) -> usize {
        self.world().questions
    }

    /// Returns all calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.world().calls.clone()
    }

    /// Returns the VMs that were launched, in order.
    pub(crate) fn launched(&self) -> Vec<String> {
        self.of(|what| matches!(what, What::Run(_))).into_iter().map(|call| call.vm).collect()
    }

    /// Returns the VMs that were stopped gracefully or were destroyed while they ran, in order.
    pub(crate) fn stopped(&self) -> Vec<String> {
        self.of(|what| matches!(what, What::Stop)).into_iter().map(|call| call.vm).collect()
    }

    /// Returns the moments at which a VM was launched.
    pub(crate) fn launches(&self, vm: &str) -> Vec<Duration> {
        let runs = self.of(|what| matches!(what, What::Run(_)));
        runs.into_iter().filter(|call| call.vm == vm).map(|call| call.at).collect()
    }

    fn of(&self, what: impl Fn(What) -> bool) -> Vec<Call> {
        self.calls().into_iter().filter(|call| what(call.what)).collect()
    }

    /// Returns the faults that were seen.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.world().faults.clone()
    }

    /// Clears the faults, for a test whose point they were.
    pub(crate) fn forgive(&self) {
        self.world().faults.clear();
    }

    fn record_call(&self, what: What, id: &str) {
        let mut world = self.world();
        let state = world.machines.get(id).map(|machine| machine.record.borrow().state);
        let call = Call { at: world.since.elapsed(), what, vm: short(id), state };
        world.calls.push(call);
    }

    /// Changes a machine's record, unless the machine was replaced or has ended.
    fn change(&self, id: &str, serial: u64, change: impl FnOnce(&mut StatusRecord)) {
        let world = self.world();
        let Some(machine) = world.machines.get(id).filter(|machine| machine.serial == serial) else { return };
        machine.record.send_if_modified(|record| {
            if record.state.is_terminal() {
                return false;
            }
            change(record);
            record.revision += 1;
            true
        });
    }

    fn end_of(&self, id: &str, serial: u64, fate: Fate) {
        self.change(id, serial, |record| {
            let exit = match fate {
                Fate::Exit(code) => Exit::code(code),
                Fate::Signal(number) => Exit::signal(number),
                Fate::Crash => Exit::VmmCrashed(ProcessExit { code: None, signal: Some(9) }),
            };
            finish(record, exit, None);
        });
    }
}

/// Makes a record terminal.
fn finish(record: &mut StatusRecord, exit: Exit, daemon: Option<Exit>) {
    let (name, incarnation) = (record.name.clone(), record.incarnation);
    record.state = VmState::after(&exit);
    record.daemon.state = DaemonState::Exited;
    record.exit = Some(ExitRecord { name, incarnation, exit, daemon, ..ExitRecord::default() });
}

/// Returns a record of a VM as the launcher keeps it.
pub(crate) fn record(vm: &str, owner: &str, incarnation: u64, cid: u32) -> StatusRecord {
    let mut record = StatusRecord {
        name: id(vm),
        state: VmState::Starting,
        incarnation,
        vmm: "qemu".into(),
        vmm_pid: Some(4000 + cid),
        monitor_pid: Some(1),
        dir: format!("/host/{}", id(vm)),
        revision: 1,
        ..StatusRecord::default()
    };
    record.vsock.cid = cid;
    record.labels.insert(OWNER_LABEL.into(), owner.into());
    record
}

/// Returns such a record of a VM whose daemon runs.
pub(crate) fn running(vm: &str, owner: &str, incarnation: Incarnation, cid: u32) -> StatusRecord {
    let mut record = record(vm, owner, incarnation.0, cid);
    record.state = VmState::Running;
    record.daemon.state = DaemonState::Running;
    record.agent.ready = true;
    record
}

fn id(vm: &str) -> String {
    VmName::new(vm).expect("a good name").id().to_string()
}

fn short(id: &str) -> String {
    VmName::from_id(id).map_or_else(|| id.to_owned(), |vm| vm.to_string())
}

/// Returns the name of the VM that a run directory belongs to.
fn of_dir(path: &Path) -> String {
    let dir = path.parent().and_then(Path::file_name).unwrap_or_default();
    dir.to_string_lossy().into_owned()
}
