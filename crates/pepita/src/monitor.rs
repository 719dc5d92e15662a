//! What stays behind with a VM: the parent of its VMM, one small process with one thread.
//!
//! It hears the VMM's end, the agent, QEMU and the console, answers clients, keeps the log and writes the exit record.
//! What anything means is decided in [`life`] and [`evidence`]; here is only who to wait for, and what to do then.

pub mod agent;
pub mod conn;
pub mod control;
pub mod evidence;
mod finish;
pub mod life;
pub mod log;
pub mod qmp;
mod requests;
pub mod scan;
pub mod starter;

use crate::error::eprint_line;
use crate::host::cgroup::Limits;
use crate::host::clock::unix_ms;
use crate::host::process_id::ProcessId;
use crate::host::wait::wait_readable;
use crate::rundir::files::{self, State, Sync};
use crate::rundir::layout;
use crate::rundir::lock::Lock;
use crate::vm_config::{VmConfig, VmmKind};
use crate::vmm::{Process, Processes};
use agent::{Agent, Asker, Heard};
use conn::Conn;
use control::Control;
use life::{Effect, Event, LastWords, Life};
use log::Log;
use pepita_wire::record::VcpuState;
use pepita_wire::{GuestEvent, StatusRecord};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use scan::Scanner;
use starter::Starter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is read of the console at once.
const CONSOLE_READ: usize = 64 * 1024;

/// Such reads in a row, so that a flood does not keep the others waiting.
const CONSOLE_READS: usize = 8;

/// The monitor of one VM.
pub(crate) struct Monitor {
    config: VmConfig,
    dir: PathBuf,
    /// Held for life: the claims of the name and of the CID. (Of an adopted VM its VMM holds the latter.)
    _name: Lock,
    cid: Option<Lock>,
    cid_path: PathBuf,
    limits: Limits,
    life: Life,
    vmm: Process,
    backend: Option<Process>,
    daemon: Option<ProcessId>,
    /// A plain process' agent was told to start the daemon, and who that is was heard.
    daemon_heard: bool,
    console: Option<OwnedFd>,
    qmp: Option<Conn>,
    agent: Agent,
    scanner: Scanner,
    log: Log,
    control: Control,
    /// The generation that is on the disk, and where the log began then.
    saved: Option<(u64, u64)>,
    /// Where the answer to whoever started us goes, until it is given.
    starter: Option<Starter>,
    over: bool,
}

/// Who is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Vmm,
    Backend,
    Console,
    Qmp,
    Agent,
    Listener,
    Client(u64),
}

/// What a VM that was started or adopted consists of.
pub(crate) struct Parts {
    pub(crate) config: VmConfig,
    pub(crate) dir: PathBuf,
    pub(crate) name: Lock,
    pub(crate) cid: Option<Lock>,
    pub(crate) cid_path: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) life: Life,
    pub(crate) processes: Processes,
    pub(crate) daemon: Option<ProcessId>,
    pub(crate) agent: Agent,
    pub(crate) log: Log,
    pub(crate) control: Control,
    pub(crate) starter: Starter,
}

impl Monitor {
    pub(crate) fn new(parts: Parts) -> Self {
        let Processes { vmm, backend, console, qmp } = parts.processes;
        Self {
            config: parts.config,
            dir: parts.dir,
            _name: parts.name,
            cid: parts.cid,
            cid_path: parts.cid_path,
            limits: parts.limits,
            life: parts.life,
            vmm,
            backend,
            daemon_heard: parts.daemon.is_some(),
            daemon: parts.daemon,
            console: Some(console),
            qmp: qmp.map(Conn::new),
            agent: parts.agent,
            scanner: Scanner::new(),
            log: parts.log,
            control: parts.control,
            saved: None,
            starter: Some(parts.starter),
            over: false,
        }
    }

    /// Watches until the VM has ended and its record is written.
    pub(crate) fn run(mut self) {
        self.save();
        match &mut self.qmp {
            // Its answer comes when the machine is set up. One that is broken already says so when it is read.
            Some(qmp) => drop(qmp.send(qmp::CAPABILITIES)),
            None => self.happened(Event::VmmUp),
        }
        self.publish();
        while !self.over {
            for source in self.wait() {
                self.attend(source);
            }
            let now = Instant::now();
            self.agent.tick(now);
            if self.life.wake_at().is_some_and(|at| now >= at) {
                self.happened(Event::Tick);
            }
            self.publish();
        }
    }

    fn wait(&self) -> Vec<Source> {
        let mut fds: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::with_capacity(8);
        fds.push((Source::Vmm, self.vmm.handle().as_fd(), PollFlags::IN));
        if let Some(backend) = &self.backend {
            fds.push((Source::Backend, backend.handle().as_fd(), PollFlags::IN));
        }
        if let Some(console) = &self.console {
            fds.push((Source::Console, console.as_fd(), PollFlags::IN));
        }
        if let Some(qmp) = &self.qmp {
            fds.push((Source::Qmp, qmp.as_fd(), qmp.interest()));
        }
        if let Some((fd, interest)) = self.agent.interest() {
            fds.push((Source::Agent, fd, interest));
        }
        for (client, fd, interest) in self.control.interest() {
            fds.push((client.map_or(Source::Listener, Source::Client), fd, interest));
        }
        let wake_at = self.life.wake_at().into_iter().chain(self.agent.wake_at()).min();
        let left = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().map(|(_, fd, interest)| PollFd::from_borrowed_fd(*fd, *interest)).collect();
        // An interrupted wait is a short one.
        let _ = poll(&mut polled, limit.as_ref());
        let ready = polled.iter().zip(&fds).filter(|(fd, _)| !fd.revents().is_empty());
        ready.map(|(_, (source, ..))| *source).collect()
    }

    fn attend(&mut self, source: Source) {
        match source {
            Source::Console => self.read_console(),
            Source::Qmp => self.read_qmp(),
            Source::Agent => self.read_agent(),
            Source::Listener => self.control.accept(),
            Source::Client(number) => {
                for request in self.control.read(number) {
                    self.requested(number, request);
                }
            }
            Source::Backend => {
                if let Some(mut backend) = self.backend.take() {
                    backend.end();
                    self.backend_ended();
                }
            }
            Source::Vmm if self.over => {}
            Source::Vmm => {
                // What it and the guest said last is still on its way to us.
                while self.console.is_some() && self.console_has_more() {
                    self.read_console();
                }
                self.read_qmp();
                self.read_agent();
                if self.limits.oom_kills() > 0 {
                    self.happened(Event::HostOom);
                }
                let last_words = LastWords {
                    end: self.vmm.end(),
                    vmm_words: crate::vmm::last_words(),
                    panic_line: self.scanner.panic_line().map(str::to_owned),
                    console: self.scanner.last_lines(),
                };
                self.happened(Event::VmmEnded(last_words));
            }
        }
    }

    /// Of a VMM that ends, the back-end's end may be seen first: its socket goes before its process.
    pub(crate) fn backend_ended(&mut self) {
        self.read_qmp();
        self.happened(Event::BackendEnded { vmm_is_exiting: self.vmm.identity.is_exiting() });
    }

    fn console_has_more(&self) -> bool {
        self.console.as_ref().is_some_and(|fd| wait_readable(fd, std::time::Duration::ZERO))
    }

    fn read_console(&mut self) {
        let mut buffer = vec![0; CONSOLE_READ];
        let mut output = Vec::new();
        for _ in 0..CONSOLE_READS {
            let Some(console) = &self.console else { return };
            let read = match conn::read(console, &mut buffer) {
                Ok(Some(n)) if n > 0 => n,
                Ok(None) => return,
                // The VMM is gone, or about to be.
                Ok(Some(_)) | Err(_) => return drop(self.console.take()),
            };
            output.clear();
            let notes = self.scanner.push(&buffer[..read], &self.agent.tokens(), &mut output);
            self.log.write(Instant::now(), unix_ms(), &output);
            self.happened(Event::ConsoleSpoke);
            for note in notes {
                self.happened(Event::Noted(note));
            }
        }
    }

    fn read_qmp(&mut self) {
        let Some(qmp) = &mut self.qmp else { return };
        let ended = qmp.flush().and_then(|()| qmp.read()).is_err();
        let mut said = Vec::new();
        while let Some(line) = qmp.lines.next_line() {
            said.extend(line.ok().map(qmp::parse));
        }
        if ended {
            self.qmp = None;
        }
        for said in said {
            match said {
                // The one command that it is given is the first.
                qmp::Said::Done | qmp::Said::Refused(_) => self.happened(Event::VmmUp),
                qmp::Said::Shutdown(reason) => self.happened(Event::Shutdown(reason)),
                qmp::Said::Stopped => self.happened(Event::Vcpus(VcpuState::Paused)),
                qmp::Said::Resumed => self.happened(Event::Vcpus(VcpuState::Running)),
                qmp::Said::Other => {}
            }
        }
    }

    fn read_agent(&mut self) {
        for heard in self.agent.ready(Instant::now()) {
            match heard {
                Heard::Up(generation) => self.happened(Event::AgentUp { generation }),
                Heard::Down => self.happened(Event::AgentDown),
                Heard::Said(seq, event) => {
                    if let (GuestEvent::Started { pid }, VmmKind::Process) = (&event, self.config.request.vmm)
                    {
                        // Of a plain process the "guest's" pid is the host's.
                        self.daemon = ProcessId::of(*pid);
                        self.daemon_heard = true;
                    }
                    self.happened(Event::AgentSaid { seq, event });
                }
                Heard::Answered(Asker::Start, outcome) => {
                    self.happened(Event::StartAnswered(outcome.map(drop)));
                }
                Heard::Answered(Asker::Client(client, id), outcome) => {
                    self.control.answer(client, id, outcome);
                }
                Heard::Answered(Asker::Nobody, _) => {}
            }
        }
    }

    /// Something happened: asks what it means, and does it.
    fn happened(&mut self, event: Event) {
        let effects = self.life.on(Instant::now(), unix_ms(), event);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dial => self.agent.dial(Instant::now()),
            Effect::Ask(ask) => {
                let asker = match ask {
                    pepita_wire::Ask::Start(_) => Asker::Start,
                    _ => Asker::Nobody,
                };
                self.agent.ask(ask, asker);
            }
            Effect::Resume => self.set_paused(false, None),
            Effect::TermVmm => {
                self.set_paused(false, None);
                self.vmm.signal(Signal::TERM);
            }
            Effect::KillVmm => {
                self.vmm.signal(Signal::KILL);
                self.kill_daemon();
            }
            Effect::Finish(exit) => self.finish(&exit),
        }
    }

    /// Tells whoever wants to know what has changed: the disk first, so that nobody knows more than a monitor to come.
    fn publish(&mut self) {
        if self.over {
            return;
        }
        let now = Some((self.life.generation(), self.log.base()));
        if self.saved != now {
            self.save();
            self.saved = now;
            let status = self.status();
            self.control.tell(&status);
        }
        if self.life.vmm_ran()
            && let Some(starter) = self.starter.take()
        {
            starter.started(&self.status());
        }
    }

    fn status(&self) -> StatusRecord {
        let status = self.life.status(Instant::now());
        StatusRecord {
            dropped_log_bytes: self.log.dropped(),
            vmm_pid: status.exit.is_none().then_some(self.vmm.identity.pid),
            ..status
        }
    }

    fn save(&self) {
        let status = self.status();
        let state = State {
            monitor: ProcessId::of(std::process::id()),
            vmm: status.exit.is_none().then(|| self.vmm.identity.clone()),
            backend: self.backend.as_ref().map(|b| b.identity.clone()),
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
