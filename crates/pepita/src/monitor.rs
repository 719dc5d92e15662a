//! The monitor of a VM: a small process with one thread, the parent of the VMM. The monitor runs as long as the VM.
//!
//! The monitor waits for the VMM's end, the agent, QEMU and the console, answers clients, keeps the log and writes the
//! exit record. `life` decides what follows from an event, and `evidence` decides how a VM ended; `sources` waits and
//! reads, `requests` answers clients, `finish` does the last work after the end.

#![warn(clippy::wildcard_enum_match_arm)]

mod activity;
mod agent;
mod backend;
mod balloon;
mod carry;
mod console_scan;
mod control;
pub(crate) mod dial;
mod evidence;
mod finish;
mod handover;
mod keep;
mod life;
mod log;
mod ports;
mod promote;
mod qmp;
mod qmp_connection;
mod reach;
mod requests;
mod sleep;
mod sources;
mod starter;
mod stream;
mod timeline;
mod world;

pub use agent::{Agent, Asker, Heard};
pub use console_scan::Scanner;
pub(crate) use control::Control;
pub use dial::Address;
pub(crate) use life::Life;
pub(crate) use log::Log;
pub use qmp::QmpMessage;
pub(crate) use starter::Starter;
pub(crate) use stream::connect_unix;
pub(crate) use timeline::{Before, Timeline};
pub(crate) use world::secrets;

use crate::error::eprint_line;
use crate::host::cgroup::Limits;
use crate::host::clock::{ClockWatch, unix_ms};
use crate::host::process_id::ProcessId;
use crate::host::{priority, rights};
use crate::rundir::files::{self, State, Sync};
use crate::rundir::lock::Lock;
use crate::rundir::uids::UidClaim;
use crate::rundir::{layout, monitor_log};
use crate::vm_config::{VmConfig, VmmKind};
use crate::vmm::{Process, Processes, Server, lost};
use activity::Activity;
use backend::Backend;
use balloon::Sleep;
use carry::Carrier;
use handover::Handover;
use keep::Keep;
use life::{Effect, Event, Milestone};
use pepita_ports::Listening;
use pepita_wire::protocol::HEALTH_INTERVAL;
use pepita_wire::record::VcpuState;
use pepita_wire::{Publish, StatusRecord};
use ports::Ports;
use qmp_connection::Qmp;
use reach::Reach;
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The monitor of one VM.
pub(crate) struct Monitor {
    config: VmConfig,
    dir: PathBuf,
    /// The claim of the VM's name, which the monitor holds as long as it lives.
    _name: Lock,
    /// The sign in the kernel that the VM runs; `None` for an adopted VM, whose VMM holds it.
    _sign: Option<OwnedFd>,
    /// The claim of the CID; `None` for an adopted VM, whose VMM holds the claim.
    cid: Option<Lock>,
    cid_path: PathBuf,
    /// The claim of the user ids of the VM's jails; `None` for an adopted VM, whose VMM holds the claim.
    uids: Option<UidClaim>,
    limits: Limits,
    life: Life,
    activity: Activity,
    sleep: Sleep,
    vmm: Process,
    backend: Option<Backend>,
    /// The servers of the shares.
    shares: Vec<Server>,
    /// How the back-end has ended, if that is known.
    backend_end: Option<String>,
    daemon: Option<ProcessId>,
    /// Whether the agent of a plain process has reported the process of its daemon, and the process is below the agent.
    daemon_heard: bool,
    console: Option<OwnedFd>,
    /// The pipe with the output of VMM and back-end; `None` for a VM that an older monitor has started.
    words: Option<OwnedFd>,
    qmp: Qmp,
    /// Tells when the guest's clock is to be compared with the host's; `None` for a plain process, which has the host's.
    clock: Option<ClockWatch>,
    agent: Agent,
    handover: Handover,
    ports: Ports,
    reach: Reach,
    /// Keeps the sockets of dials open; `None` without a back-end, and for an adopted VM as long as QEMU takes no connection.
    keep: Option<Keep>,
    /// The name under which QEMU holds the dials of the former monitor, until the guest has answered a later dial.
    former_dials: Option<String>,
    scanner: Scanner,
    log: Log,
    control: Control,
    published: Option<Published>,
    /// The time at which a change that did not have to be published at once is published.
    publish_at: Option<Instant>,
    /// The program that started this monitor, until the monitor has answered it.
    starter: Option<Starter>,
    /// The pipe of the program that started this monitor, from the answer until the program has taken the VM.
    to_be_taken: Option<OwnedFd>,
    /// Whether the program that ordered the launch has given it up.
    is_abandoned: bool,
    is_over: bool,
}

/// The parts of the state that are on the disk and that clients know, to recognise a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Published {
    revision: u64,
    log_base: u64,
    milestone: Milestone,
    at: Instant,
}

/// The parts of a VM that was started or adopted.
pub(crate) struct Parts {
    pub(crate) config: VmConfig,
    pub(crate) dir: PathBuf,
    pub(crate) name: Lock,
    pub(crate) sign: Option<OwnedFd>,
    pub(crate) cid: Option<Lock>,
    pub(crate) cid_path: PathBuf,
    pub(crate) uids: Option<UidClaim>,
    pub(crate) limits: Limits,
    pub(crate) life: Life,
    pub(crate) processes: Processes,
    pub(crate) daemon: Option<ProcessId>,
    /// The process id of the former monitor of an adopted VM.
    pub(crate) former: Option<u32>,
    pub(crate) agent: Agent,
    pub(crate) log: Log,
    pub(crate) control: Control,
    /// The ports that the monitor itself publishes.
    pub(crate) ports: Vec<(Publish, Listening)>,
    pub(crate) starter: Starter,
}

/// Returns the name under which QEMU holds the dials of an adopting monitor.
fn dials_of(monitor: u32) -> String {
    format!("dials-{monitor}")
}

impl Monitor {
    pub(crate) fn new(parts: Parts) -> Self {
        let Processes { vmm, backend, shares, console, qmp, keep, jail: _ } = parts.processes;
        let is_machine = parts.config.request.vmm == VmmKind::Qemu;
        let mut agent = parts.agent;
        let mut handover = Handover::new(agent.address().clone());
        if parts.life.is_paused() {
            agent.hold();
            handover.hold();
        }
        let carrier = Carrier::default();
        let run_dir = parts.dir.parent().unwrap_or(Path::new("/"));
        let reach = Reach::new(&parts.config.request.reach, run_dir, carrier.clone());
        let qmp = match (qmp, parts.config.request.vmm) {
            (Some(qmp), _) => Qmp::new(qmp),
            (None, VmmKind::Qemu) => Qmp::full(Instant::now()),
            (None, VmmKind::Process) => Qmp::Closed,
        };
        Self {
            config: parts.config,
            dir: parts.dir,
            _name: parts.name,
            _sign: parts.sign,
            cid: parts.cid,
            cid_path: parts.cid_path,
            uids: parts.uids,
            limits: parts.limits,
            life: parts.life,
            activity: Activity::new(Instant::now()),
            sleep: Sleep::default(),
            vmm,
            backend: backend.map(Backend::new),
            shares,
            backend_end: None,
            daemon_heard: parts.daemon.is_some(),
            daemon: parts.daemon,
            console: Some(console),
            words: monitor_log::reader().ok(),
            qmp,
            clock: if is_machine { ClockWatch::begin() } else { None },
            keep: keep.map(Keep::new),
            former_dials: parts.former.map(dials_of),
            handover,
            agent,
            scanner: Scanner::new(),
            log: parts.log,
            control: parts.control,
            ports: Ports::new(parts.ports, carrier.clone()),
            reach,
            published: None,
            publish_at: None,
            starter: Some(parts.starter),
            to_be_taken: None,
            is_abandoned: false,
            is_over: false,
        }
    }

    /// Watches the VM until it has ended and its exit record is written.
    pub(crate) fn run(mut self) {
        // A guest may take its VMM over, and speaks with this process, too.
        self.reduce_rights();
        self.save();
        match self.config.request.vmm {
            // QEMU answers this command when the machine is set up.
            VmmKind::Qemu => self.greet_qemu(),
            VmmKind::Process => self.happened(Event::VmmUp),
        }
        if self.backend.is_none() && self.config.needs_backend() {
            // The back-end of an adopted VM ended while the VM had no monitor.
            self.on_backend_ended();
        }
        self.look_for_shares();
        self.make_room_for_connections();
        self.note_worker();
        self.publish();
        while !self.is_over {
            self.keep_dials();
            for source in self.wait() {
                self.attend(source);
            }
            // The monitor's own messages go to the log directly.
            monitor_log::bound();
            let now = Instant::now();
            self.agent.tick(now);
            self.ports.note(now, self.life.serving());
            self.ports.tick(now);
            self.reach.note(self.life.dials_out());
            self.reach.tick(now, self.agent.address());
            self.give_greetings_up();
            if self.backend.as_mut().is_some_and(|backend| backend.tick(now)) {
                self.on_backend_broken();
            }
            if self.qmp.tick(now) {
                self.greet_qemu();
            }
            if self.life.wake_at().is_some_and(|at| now >= at) {
                self.happened(Event::Tick);
            }
            self.tick_sleep(now);
            self.note_activity(now);
            self.publish();
        }
    }

    fn reduce_rights(&self) {
        if self.config.request.jail.is_some() {
            rights::reduce(self.config.request.tap.is_some(), priority::is_low(self.vmm.identity.pid));
        }
    }

    /// Notices the servers of shares that ended while the VM had no monitor.
    fn look_for_shares(&mut self) {
        let served: Vec<&str> = self.shares.iter().map(|server| server.mount.as_str()).collect();
        let all = self.config.request.shares.iter().map(|share| &share.mount);
        let gone = all.filter(|mount| !served.contains(&mount.as_str())).map(|mount| lost(mount, "is gone"));
        for how in gone.collect::<Vec<_>>() {
            self.on_share_ended(how);
        }
    }

    /// Begins the conversation with QEMU. The QEMU of an adopted VM gets the socket by which the dials of this monitor are
    /// kept open; a VM that this monitor has started has inherited one.
    fn greet_qemu(&mut self) {
        self.qmp.greet();
        // The former monitor may have ended while the guest gave memory back.
        if self.former_dials.is_some() && !self.life.is_paused() {
            self.sleep.take_memory_at(Instant::now());
        }
        if self.keep.is_none()
            && self.config.needs_backend()
            && let Ok(ends) = UnixDatagram::pair()
            && self.qmp.deposit(&dials_of(std::process::id()), &ends.1).is_ok()
        {
            self.keep = Some(Keep::new(ends.into()));
        }
    }

    /// Keeps the sockets of all dials under way open for the case that this process is killed. A dial that has just begun
    /// writes nothing before.
    fn keep_dials(&mut self) {
        let Self { keep: Some(keep), agent, handover, ports, reach, .. } = self else { return };
        let own = agent.dialling().into_iter().chain(reach.dialling());
        let dials: Vec<_> = own.chain(handover.dialling()).chain(ports.dialling()).collect();
        keep.keep(&dials);
    }

    /// Passes an event to [`Life`] and carries out the effects.
    fn happened(&mut self, event: Event) {
        let effects = self.life.on(Instant::now(), unix_ms(), event);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dial => self.agent.dial(Instant::now()),
            Effect::StartDaemon(start) => match world::start(&self.config.request, start) {
                Ok(start) => {
                    // When the agent cannot be asked now, the start is ordered again after the next hello.
                    let _ = self.agent.ask(pepita_wire::Ask::Start(start), Asker::Start);
                }
                Err(refusal) => self.happened(Event::StartAnswered(Err(refusal))),
            },
            Effect::Mount(mounts) => {
                // As for the start.
                let _ = self.agent.ask(pepita_wire::Ask::Mount(mounts), Asker::Mount);
            }
            Effect::Prepare { of, start } => {
                let start = world::preparation(&self.config.request, &of, start);
                self.agent.tell(pepita_wire::Ask::Prepare(start));
            }
            Effect::Tell(ask) => self.agent.tell(ask),
            Effect::RestorePriority => {
                priority::restore(self.vmm.identity.pid);
                self.reduce_rights();
            }
            Effect::Resume => self.set_vcpus(VcpuState::Running),
            Effect::TermVmm => {
                // A stopped process does not receive SIGTERM before SIGCONT.
                self.set_vcpus(VcpuState::Running);
                self.vmm.signal(Signal::TERM);
            }
            Effect::KillVmm => {
                self.vmm.signal(Signal::KILL);
                self.kill_daemon();
            }
            Effect::Finish(exit) => self.finish(&exit),
        }
    }

    /// Pauses or resumes the virtual CPUs by stopping or continuing the whole VMM process. QEMU's own command `stop`
    /// would also stop its devices, and vhost-device-vsock does not recover from that: every connection with the guest
    /// would hang for ever.
    ///
    /// Nothing dials a paused guest: it answers nothing, and vhost-device-vsock would not survive the end of this process
    /// meanwhile.
    fn set_vcpus(&mut self, vcpus: VcpuState) {
        let signal = match vcpus {
            VcpuState::Running => Signal::CONT,
            VcpuState::Paused => Signal::STOP,
        };
        self.vmm.signal(signal);
        match vcpus {
            VcpuState::Running => {
                self.qmp.hurry(Instant::now());
                self.sleep.take_memory_at(Instant::now());
                self.agent.release();
                let outcomes = self.handover.release(|client| self.control.has(client));
                self.tell(outcomes);
            }
            VcpuState::Paused => {
                self.agent.hold();
                self.handover.hold();
            }
        }
        if self.config.request.vmm == VmmKind::Process
            && let Some(daemon) = &self.daemon
        {
            daemon.signal_group(signal);
        }
        self.happened(Event::Vcpus(vcpus));
        // Clients that come from now on wait until the guest can answer a dial.
        self.ports.note(Instant::now(), self.life.serving());
    }

    /// Kills the daemon of a plain process, with its process group, when the agent is gone and cannot kill it.
    fn kill_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.signal_group(Signal::KILL);
        }
    }

    /// Publishes a changed status: first to the disk and then to the clients, so that a client never knows more than a
    /// later monitor that reads the disk. A milestone is published at once. Everything else may change as often as the
    /// guest likes, and is published at most once in [`HEALTH_INTERVAL`].
    fn publish(&mut self) {
        if self.is_over {
            return;
        }
        let (revision, log_base) = (self.life.revision(), self.log.base());
        let now = Published { revision, log_base, milestone: self.life.milestone(), at: Instant::now() };
        self.publish_at = match self.published {
            Some(last) if self.is_published() && last.log_base == log_base => None,
            Some(last) if last.milestone == now.milestone && now.at < last.at + HEALTH_INTERVAL => {
                Some(last.at + HEALTH_INTERVAL)
            }
            Some(_) | None => {
                self.save();
                self.published = Some(now);
                let status = self.status();
                self.control.tell(&status);
                None
            }
        };
        if self.life.vmm_ran()
            && let Some(starter) = self.starter.take()
        {
            self.to_be_taken = starter.started(&self.status());
        }
    }

    /// Returns whether the present status is published.
    fn is_published(&self) -> bool {
        self.published.is_some_and(|last| last.revision == self.life.revision())
    }

    fn status(&self) -> StatusRecord {
        let status = self.life.status(Instant::now());
        StatusRecord {
            dropped_log_bytes: self.log.dropped(),
            ports: self.ports.names(),
            vmm_pid: status.exit.is_none().then_some(self.vmm.identity.pid),
            ..status
        }
    }

    fn save(&self) {
        let status = self.status();
        let state = State {
            monitor: ProcessId::of(std::process::id()),
            vmm: status.exit.is_none().then(|| self.vmm.identity.clone()),
            backend: self.backend.as_ref().map(|backend| backend.identity().clone()),
            shares: self
                .shares
                .iter()
                .map(|server| (server.mount.clone(), server.process.identity.clone()))
                .collect(),
            daemon: self.daemon.clone(),
            cgroup: self.limits.cgroup(),
            log_base: self.log.base(),
            status,
        };
        if let Err(e) = files::write(Path::new(layout::STATE), &state, Sync::No) {
            eprint_line(format_args!("pepita monitor: {}", e.message));
        }
    }
}
