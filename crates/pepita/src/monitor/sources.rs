//! The event sources of the monitor: waits for all of them, and reads those that are ready.

use super::Monitor;
use super::agent::{Asker, Heard};
use super::evidence::LastWords;
use super::life::Event;
use super::qmp::QmpMessage;
use super::qmp_connection::Qmp;
use super::starter::{Reaction, Starter};
use super::stream::read;
use crate::host::clock::{ClockWatch, unix_ms};
use crate::host::wait::wait_readable;
use crate::rundir::monitor_log;
use crate::vm_config::VmmKind;
use pepita_wire::GuestEvent;
use pepita_wire::conversation::News;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The size of one read of the console, in bytes.
const CONSOLE_READ: usize = 64 * 1024;

/// The maximum number of such reads in a row, so that a flood does not delay the other sources.
const CONSOLE_READS: usize = 8;

/// A source that can be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Vmm,
    Backend,
    /// The server of the share with this index.
    Share(usize),
    Console,
    /// The output of VMM and back-end.
    Words,
    Qmp,
    Agent,
    /// A dial on behalf of a client.
    Dial(u64),
    Listener,
    Client(u64),
    /// A published port; `None` = a forwarded connection has ended.
    Port(Option<u64>),
    /// A connection of the daemon, on its way to its target.
    Reach(u64),
    Starter,
    Clock,
}

impl Monitor {
    /// Waits until a source is ready or a time has come, and returns the ready sources.
    pub(super) fn wait(&self) -> Vec<Source> {
        let mut fds: Vec<(Source, BorrowedFd<'_>, PollFlags)> = Vec::with_capacity(8);
        fds.push((Source::Vmm, self.vmm.handle().as_fd(), PollFlags::IN));
        if let Some(backend) = &self.backend {
            fds.push((Source::Backend, backend.handle().as_fd(), PollFlags::IN));
        }
        for (index, server) in self.shares.iter().enumerate() {
            fds.push((Source::Share(index), server.process.handle().as_fd(), PollFlags::IN));
        }
        if let Some(console) = &self.console {
            fds.push((Source::Console, console.as_fd(), PollFlags::IN));
        }
        if let Some(words) = &self.words {
            fds.push((Source::Words, words.as_fd(), PollFlags::IN));
        }
        if let Qmp::Up { stream, .. } = &self.qmp {
            fds.push((Source::Qmp, stream.as_fd(), stream.interest()));
        }
        let now = Instant::now();
        if let Some(ended) = self.ports.ended().filter(|_| self.activity.awaits_ends(now)) {
            fds.push((Source::Port(None), ended, PollFlags::IN));
        }
        if let Some((fd, interest)) = self.agent.interest() {
            fds.push((Source::Agent, fd, interest));
        }
        for (dial, fd, interest) in self.handover.interest() {
            fds.push((Source::Dial(dial), fd, interest));
        }
        for (client, fd, interest) in self.control.interest() {
            fds.push((client.map_or(Source::Listener, Source::Client), fd, interest));
        }
        for (port, fd, interest) in self.ports.interest(self.life.is_asleep()) {
            fds.push((Source::Port(port), fd, interest));
        }
        for (number, fd, interest) in self.reach.interest() {
            fds.push((Source::Reach(number), fd, interest));
        }
        if let Some(pipe) = self.starters_pipe() {
            fds.push((Source::Starter, pipe.as_fd(), PollFlags::IN));
        }
        if let Some(clock) = &self.clock {
            fds.push((Source::Clock, clock.fd(), PollFlags::IN));
        }
        let times = [
            self.life.wake_at(),
            self.agent.wake_at(),
            self.handover.wake_at(),
            self.qmp.wake_at(),
            self.ports.wake_at(),
            self.reach.wake_at(),
            self.publish_at,
            self.sleep.wake_at(),
            self.activity.wake_at(now),
            self.backend.as_ref().and_then(|backend| backend.wake_at()),
        ];
        let left = times.into_iter().flatten().min().map(|at| at.saturating_duration_since(now));
        let limit = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled: Vec<PollFd<'_>> =
            fds.iter().map(|(_, fd, interest)| PollFd::from_borrowed_fd(*fd, *interest)).collect();
        // An interrupted wait counts as a wait in which nothing became ready.
        let _ = poll(&mut polled, limit.as_ref());
        let ready = polled.iter().zip(&fds).filter(|(fd, _)| !fd.revents().is_empty());
        ready.map(|(_, (source, ..))| *source).collect()
    }

    /// Reads a ready source.
    pub(super) fn attend(&mut self, source: Source) {
        match source {
            Source::Console => self.read_console(),
            Source::Words => {
                if let Some(words) = &self.words {
                    monitor_log::carry(words);
                }
                if let Some(backend) = &mut self.backend {
                    backend.has_written(Instant::now());
                }
            }
            Source::Qmp => self.read_qmp(),
            Source::Agent => self.read_agent(),
            Source::Dial(number) => self.hand_over(number),
            Source::Port(None) => self.ports.forget_ended(),
            Source::Port(Some(number)) => {
                self.wake();
                let greeting = self.agent.greeting();
                self.ports.ready(number, Instant::now(), self.agent.address(), greeting);
            }
            Source::Reach(number) => self.reach.ready(number, Instant::now(), self.agent.greeting()),
            Source::Listener => self.control.accept(),
            Source::Client(number) => {
                for request in self.control.read(number) {
                    self.on_request(number, request);
                }
            }
            Source::Backend => {
                if let Some(backend) = self.backend.take() {
                    self.backend_end = backend.ended();
                    self.on_backend_ended();
                }
            }
            Source::Share(index) => {
                // Of two that end at once, the second has another index now, and is noticed in the next round.
                let ended = self
                    .shares
                    .get(index)
                    .is_some_and(|server| wait_readable(server.process.handle(), Duration::ZERO));
                if ended {
                    let how = self.shares.remove(index).ended();
                    self.on_share_ended(how);
                }
            }
            Source::Starter => self.read_starter(),
            Source::Clock => {
                if self.clock.as_ref().is_some_and(ClockWatch::has_rung) {
                    self.happened(Event::ClockRang);
                }
            }
            Source::Vmm if self.is_over => {}
            Source::Vmm => self.on_vmm_gone(),
        }
    }

    /// Returns the pipe of the program that ordered the launch, until that program has taken the VM.
    fn starters_pipe(&self) -> Option<&OwnedFd> {
        self.to_be_taken.as_ref().or_else(|| self.starter.as_ref()?.pipe())
    }

    /// Ends a VM whose launch was given up: the program that ordered it reports a failure, or is dead.
    fn read_starter(&mut self) {
        match self.starters_pipe().map(Starter::reaction) {
            Some(Reaction::Taken) => self.to_be_taken = None,
            Some(Reaction::Gone) => {
                (self.to_be_taken, self.starter) = (None, None);
                self.is_abandoned = true;
                self.happened(Event::Kill);
            }
            Some(Reaction::None) | None => {}
        }
    }

    fn on_vmm_gone(&mut self) {
        // The last output of the VMM and of the guest is still in the pipes, and is read first.
        while self.console.as_ref().is_some_and(|fd| wait_readable(fd, Duration::ZERO)) {
            self.read_console();
        }
        self.read_qmp();
        self.read_agent();
        // An agent that is gone answers no request any more.
        let heard = self.agent.close(Instant::now());
        self.on_heard(heard);
        if self.limits.oom_kills() > 0 {
            self.happened(Event::HostOom);
        }
        let last_words = LastWords {
            vmm: self.vmm.end(),
            vmm_words: crate::vmm::last_words(),
            backend: self.backend_end.take(),
            panic_line: self.scanner.panic_line().map(str::to_owned),
            console: self.scanner.last_lines(),
            around_panic: self.scanner.lines_around_panic(),
        };
        self.happened(Event::VmmEnded(last_words));
    }

    /// Handles the end of the back-end. When the VMM ends, its back-end follows, and the monitor may notice the end of
    /// the back-end first: the kernel closes the VMM's socket before the VMM's process is gone.
    pub(super) fn on_backend_ended(&mut self) {
        self.read_qmp();
        self.happened(Event::BackendEnded { vmm_is_exiting: self.vmm.identity.is_exiting() });
    }

    /// Ends a VM that has lost the server of a share: the guest would wait for it for ever. A server follows its VMM, as
    /// the back-end does.
    pub(super) fn on_share_ended(&mut self, how: String) {
        self.read_qmp();
        self.happened(Event::ShareEnded { vmm_is_exiting: self.vmm.identity.is_exiting(), how });
    }

    /// Ends a back-end without which the guest cannot be reached any more.
    pub(super) fn on_backend_broken(&mut self) {
        if let Some(backend) = self.backend.take() {
            self.backend_end = Some(backend.end_broken());
            self.on_backend_ended();
        }
    }

    /// Notes the thread of the back-end, so that its end is noticed.
    pub(super) fn note_worker(&mut self) {
        if let Some(backend) = &mut self.backend {
            backend.note_worker();
        }
    }

    fn read_console(&mut self) {
        let mut buffer = vec![0; CONSOLE_READ];
        let mut output = Vec::new();
        for _ in 0..CONSOLE_READS {
            let Some(console) = &self.console else { return };
            let read = match read(console, &mut buffer) {
                Ok(Some(n)) if n > 0 => n,
                Ok(None) => return,
                // The VMM is gone, or is exiting.
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
        let Qmp::Up { stream, lines } = &mut self.qmp else { return };
        let is_over = stream.pump_into(lines).is_err();
        let mut said = Vec::new();
        while let Some(line) = lines.next_line() {
            said.extend(line.ok().map(QmpMessage::parse));
        }
        if is_over {
            self.qmp = Qmp::Closed;
        }
        for said in said {
            match said {
                // QEMU answers the greeting first.
                QmpMessage::Done | QmpMessage::Refused(_) => self.happened(Event::VmmUp),
                QmpMessage::Shutdown(reason) => self.happened(Event::Shutdown(reason)),
                QmpMessage::Stopped => self.happened(Event::VmmStopped),
                QmpMessage::DiskError(reason) => self.happened(Event::DiskError(reason)),
                QmpMessage::Memory { bytes } => self.on_memory(bytes),
                QmpMessage::Other => {}
            }
        }
    }

    fn read_agent(&mut self) {
        let heard = self.agent.ready(Instant::now());
        self.on_heard(heard);
    }

    fn on_heard(&mut self, all: Vec<Heard>) {
        for heard in all {
            match heard {
                Heard::News(News::Up { protocol_version }) => {
                    // The guest has answered the dials of the former monitor before this one.
                    if let Some(former) = self.former_dials.take() {
                        self.qmp.take_back(&former);
                    }
                    self.note_worker();
                    self.happened(Event::AgentUp { protocol_version })
                }
                Heard::News(News::Event { seq, event, is_new: _ }) => {
                    if let (Some(pid), VmmKind::Process) = (daemon_pid(&event), self.config.request.vmm) {
                        // A plain process has no pid namespace of its own, so the pid that its agent reports is a pid
                        // of the host. The agent is not trusted: only a process below it is the daemon.
                        self.daemon = self.vmm.identity.descendant(pid);
                        self.daemon_heard = self.daemon.is_some();
                    }
                    if let GuestEvent::Health(pepita_wire::agent::Health { awake: Some(awake), .. }) = event {
                        self.activity.keep_awake(Instant::now(), awake);
                    }
                    self.happened(Event::AgentSaid { seq, event });
                }
                Heard::News(News::Answer { tag: Asker::Start, outcome }) => {
                    self.happened(Event::StartAnswered(outcome.map(drop)));
                }
                Heard::News(News::Answer { tag: Asker::Mount, outcome }) => {
                    self.happened(Event::MountAnswered(outcome.map(drop)));
                }
                Heard::News(News::Answer { tag: Asker::FreeMemory, outcome }) => {
                    self.on_free_memory(outcome);
                }
                Heard::News(News::Answer {
                    tag: Asker::Client { client, id, is_signal: _ } | Asker::Usage { client, id },
                    outcome,
                }) => {
                    self.control.answer(client, id, outcome);
                }
                Heard::Unanswered(Asker::Mount) => {
                    self.happened(Event::MountAnswered(self.life.unanswered(false)));
                }
                Heard::Unanswered(Asker::FreeMemory) => self.fall_asleep(),
                Heard::Unanswered(Asker::Start) => {
                    self.happened(Event::StartAnswered(self.life.unanswered(false)));
                }
                Heard::Unanswered(Asker::Client { client, id, is_signal }) => {
                    let outcome = self.life.unanswered(is_signal).map(|()| Value::Null);
                    self.control.answer(client, id, outcome);
                }
                Heard::Unanswered(Asker::Usage { client, id }) => {
                    let outcome = self.life.unanswered(false).map(|()| Value::Null);
                    self.control.answer(client, id, outcome);
                }
                Heard::Down => self.happened(Event::AgentDown),
            }
        }
    }
}

/// Returns the process that an event of the agent names as the daemon.
fn daemon_pid(event: &GuestEvent) -> Option<u32> {
    match event {
        GuestEvent::Started { pid } => Some(*pid),
        GuestEvent::Health(said) => said.main_pid,
        GuestEvent::Ready | GuestEvent::Memory { .. } | GuestEvent::Exited(_) | GuestEvent::Unknown(_) => {
            None
        }
    }
}
