//! Carries out the requests of clients of the control socket.

use super::Monitor;
use super::agent::Asker;
use super::control::ReplyTo;
use super::handover::{Asked, HandedOver};
use super::life::{Event, Route};
use super::world;
use crate::vm_config::MAX_TIME_MS;
use pepita_wire::frame::Outcome;
use pepita_wire::port::PORTS_CAP;
use pepita_wire::record::VcpuState;
use pepita_wire::{Ask, ErrorKind, MonitorRequest, Publish, Request, Signal, WireError};
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

impl Monitor {
    /// Carries out a client's request, or passes it on to the agent.
    pub(super) fn on_request(&mut self, client: u64, request: Request) {
        let Request { id, method, params } = request;
        let reply = ReplyTo { client, id };
        match MonitorRequest::from_parts(&method, params) {
            Ok(MonitorRequest::Status) => {
                let status = serde_json::to_value(self.status()).expect("a record becomes JSON");
                self.reply(reply, Ok(status));
            }
            Ok(MonitorRequest::Watch { since }) => {
                self.control.watch(client, id, since);
                self.publish();
                // A change that is not published yet answers the client when it is.
                if self.is_published() {
                    let status = self.status();
                    self.control.tell(&status);
                }
            }
            Ok(MonitorRequest::Stop { if_idle: true, .. }) if self.is_used() => {
                self.reply(reply, Err(in_use()))
            }
            Ok(MonitorRequest::TellIdle) => {
                self.activity.tell();
                self.reply(reply, done());
            }
            Ok(MonitorRequest::KeepAwake) => {
                self.control.keep_awake(client);
                self.reply(reply, done());
            }
            Ok(MonitorRequest::Sleep) => {
                if let Some(outcome) = self.sleep(reply) {
                    self.reply(reply, outcome);
                }
            }
            Ok(MonitorRequest::Stop { force: true, .. }) => self.order(reply, Event::Kill),
            Ok(MonitorRequest::Stop { signal, timeout_ms, force: false, if_idle: _ }) => {
                self.order(
                    reply,
                    Event::Stop { signal, grace: Duration::from_millis(timeout_ms.min(MAX_TIME_MS)) },
                );
            }
            Ok(MonitorRequest::Pause | MonitorRequest::Signal(Signal::STOP)) => {
                self.stay_awake();
                self.set_vcpus(VcpuState::Paused);
                self.reply(reply, done());
            }
            Ok(MonitorRequest::Resume | MonitorRequest::Signal(Signal::CONT)) => {
                self.set_vcpus(VcpuState::Running);
                self.reply(reply, done());
            }
            Ok(MonitorRequest::Signal(Signal::KILL)) => self.order(reply, Event::Kill),
            Ok(MonitorRequest::Signal(signal)) => {
                self.wake();
                match self.life.route(signal) {
                    Route::Ask(ask) => self.forward(reply, ask),
                    Route::Accept(event) => self.order(reply, event),
                    Route::Refuse(refusal) => self.reply(reply, Err(refusal)),
                }
            }
            Ok(MonitorRequest::Forward(Ask::Start(start))) if self.life.must_wait_to_start() => {
                self.order(reply, Event::Start(start));
            }
            Ok(MonitorRequest::Dial { .. }) if self.life.expects_the_agent() => {
                let why = "the guest agent does not listen yet";
                self.reply(reply, Err(WireError::new(ErrorKind::Busy, why)));
            }
            Ok(MonitorRequest::Dial { greet }) => {
                // A supervisor that takes the VM over dials, too, and wakes nobody.
                if greet {
                    self.wake();
                    self.activity.touch(Instant::now());
                }
                let hello = if greet { self.agent.hello_for_stream().map(Some) } else { Ok(None) };
                let asked = hello.map(|hello| Asked { client, id, hello });
                let is_connected = |client| self.control.has(client);
                if let Err(refusal) = asked.and_then(|asked| self.handover.ask(asked, is_connected)) {
                    self.reply(reply, Err(refusal));
                }
            }
            Ok(MonitorRequest::Publish(ports)) => {
                let outcome = self.publish_ports(client, ports);
                self.reply(reply, outcome);
            }
            Ok(MonitorRequest::PortUse) => self.reply(reply, Ok(json!({ "ports": self.ports.in_use() }))),
            Ok(MonitorRequest::Promote { name, incarnation }) => {
                let promoted = self.promote(&name, incarnation);
                self.publish();
                let status = || serde_json::to_value(self.status()).expect("a record becomes JSON");
                let (outcome, former) = match promoted {
                    Ok(former) => (Ok(status()), Some(former)),
                    Err(refusal) => (Err(refusal), None),
                };
                self.reply(reply, outcome);
                if let Some(former) = former {
                    former.remove();
                }
            }
            Ok(MonitorRequest::Published) => self.hand_ports_over(reply),
            Ok(MonitorRequest::Forward(Ask::Start(start))) => {
                match world::start(&self.config.request, start) {
                    Ok(start) => self.forward(reply, Ask::Start(start)),
                    Err(refusal) => self.reply(reply, Err(refusal)),
                }
            }
            Ok(MonitorRequest::Forward(ask)) => self.forward(reply, ask),
            Err(refusal) => self.reply(reply, Err(refusal)),
        }
    }

    /// Answers a request and then carries it out. For requests that may end the VM at once: the client gets its answer
    /// before.
    fn order(&mut self, reply: ReplyTo, event: Event) {
        self.reply(reply, done());
        self.happened(event);
    }

    fn forward(&mut self, reply: ReplyTo, ask: Ask) {
        let is_signal = matches!(ask, Ask::Signal(_));
        let ReplyTo { client, id } = reply;
        let is_usage = ask == Ask::Usage;
        let asker =
            if is_usage { Asker::Usage { client, id } } else { Asker::Client { client, id, is_signal } };
        if let Err(refusal) = self.agent.ask(ask, asker) {
            self.reply(reply, Err(refusal));
        }
    }

    /// Continues a dial on behalf of clients. A complete connection goes to the client that has waited longest and is
    /// still there; without such a client it is closed.
    pub(super) fn hand_over(&mut self, number: u64) {
        let outcomes = self.handover.ready(number, |client| self.control.has(client));
        self.tell(outcomes);
    }

    /// Refuses the clients whose connection the agent has not greeted in time.
    pub(super) fn give_greetings_up(&mut self) {
        let outcomes = self.handover.tick(Instant::now(), |client| self.control.has(client));
        self.tell(outcomes);
    }

    pub(super) fn tell(&mut self, outcomes: Vec<HandedOver>) {
        for HandedOver { client, id, outcome } in outcomes {
            match outcome {
                Ok((connection, answer)) => {
                    let _ = self.control.hand_over(client, id, answer, &[connection.as_fd()]);
                }
                Err(refusal) => self.control.answer(client, id, Err(refusal)),
            }
        }
    }

    /// Takes the listening sockets that a client has sent for these ports.
    fn publish_ports(&mut self, client: u64, ports: Vec<Publish>) -> Outcome {
        let sockets = self.control.take_descriptors(client, ports.len());
        if ports.len() > PORTS_CAP || sockets.len() != ports.len() {
            let why = format!(
                "publish: {} sockets for {} ports; there may be {PORTS_CAP}",
                sockets.len(),
                ports.len()
            );
            return Err(WireError::new(ErrorKind::BadRequest, why));
        }
        self.ports.replace(ports.into_iter().zip(sockets).collect());
        self.make_room_for_connections();
        done()
    }

    /// Hands the listening sockets over that a client has sent before.
    fn hand_ports_over(&mut self, reply: ReplyTo) {
        let (ports, sockets): (Vec<_>, Vec<_>) = self.ports.handed_over().into_iter().unzip();
        let answer = json!({ "ports": ports });
        match sockets.is_empty() {
            true => self.control.answer(reply.client, reply.id, Ok(answer)),
            false => drop(self.control.hand_over(reply.client, reply.id, answer, &sockets)),
        }
    }

    /// Lets the back-end open as many files as it may: each forwarded connection is one.
    pub(super) fn make_room_for_connections(&self) {
        let pid = |pid: u32| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?);
        if let Some(backend) = self.backend.as_ref().and_then(|backend| pid(backend.identity().pid))
            && !(self.ports.is_empty() && self.reach.is_empty())
        {
            let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
            // With the present limit fewer connections are possible.
            let _ = prlimit(Some(backend), Resource::Nofile, Rlimit { current: maximum, maximum });
        }
    }

    pub(super) fn reply(&mut self, reply: ReplyTo, outcome: Outcome) {
        self.control.answer(reply.client, reply.id, outcome);
    }
}

pub(super) fn in_use() -> WireError {
    WireError::new(ErrorKind::Conflict, "the VM is in use")
}

fn done() -> Result<serde_json::Value, WireError> {
    Ok(json!({}))
}
