//! Carries out the requests of clients of the control socket.

use super::Monitor;
use super::agent::Asker;
use super::handover::Asked;
use super::life::{Event, Route};
use crate::vm_config::MAX_TIME_MS;
use pepita_wire::frame::Outcome;
use pepita_wire::record::VcpuState;
use pepita_wire::{Ask, ErrorKind, MonitorRequest, Request, Signal, WireError};
use serde_json::json;
use std::time::Duration;

/// The client and the request that an answer is for.
#[derive(Debug, Clone, Copy)]
struct ReplyTo {
    client: u64,
    id: u64,
}

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
            Ok(MonitorRequest::Stop { force: true, .. }) => self.order(reply, Event::Kill),
            Ok(MonitorRequest::Stop { signal, timeout_ms, force: false }) => {
                self.order(
                    reply,
                    Event::Stop { signal, grace: Duration::from_millis(timeout_ms.min(MAX_TIME_MS)) },
                );
            }
            Ok(MonitorRequest::Pause | MonitorRequest::Signal(Signal::STOP)) => {
                self.set_vcpus(VcpuState::Paused);
                self.reply(reply, done());
            }
            Ok(MonitorRequest::Resume | MonitorRequest::Signal(Signal::CONT)) => {
                self.set_vcpus(VcpuState::Running);
                self.reply(reply, done());
            }
            Ok(MonitorRequest::Signal(Signal::KILL)) => self.order(reply, Event::Kill),
            Ok(MonitorRequest::Signal(signal)) => match self.life.route(signal) {
                Route::Ask(ask) => self.forward(reply, ask),
                Route::Accept(event) => self.order(reply, event),
                Route::Refuse(refusal) => self.reply(reply, Err(refusal)),
            },
            Ok(MonitorRequest::Forward(Ask::Start(start))) if self.life.must_wait_to_start() => {
                self.order(reply, Event::Start(start));
            }
            Ok(MonitorRequest::Dial) if self.life.expects_the_agent() => {
                let why = "the guest agent does not listen yet";
                self.reply(reply, Err(WireError::new(ErrorKind::Busy, why)));
            }
            Ok(MonitorRequest::Dial) => {
                let asked = Asked { client, id };
                if let Err(refusal) = self.handover.ask(asked, |client| self.control.has(client)) {
                    self.reply(reply, Err(refusal));
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
        let asker = Asker::Client { client: reply.client, id: reply.id, is_signal };
        if let Err(refusal) = self.agent.ask(ask, asker) {
            self.reply(reply, Err(refusal));
        }
    }

    /// Continues a dial on behalf of clients. A complete connection goes to the client that has waited longest and is
    /// still there; without such a client it is closed.
    pub(super) fn hand_over(&mut self, number: u64) {
        match self.handover.ready(number) {
            None => {}
            Some(Ok(connection)) => {
                while let Some(Asked { client, id }) = self.handover.next_client() {
                    if self.control.hand_over(client, id, &connection) {
                        return;
                    }
                }
            }
            Some(Err(refusal)) => {
                if let Some(Asked { client, id }) = self.handover.next_client() {
                    self.control.answer(client, id, Err(refusal));
                }
            }
        }
    }

    fn reply(&mut self, reply: ReplyTo, outcome: Outcome) {
        self.control.answer(reply.client, reply.id, outcome);
    }
}

fn done() -> Result<serde_json::Value, WireError> {
    Ok(json!({}))
}
