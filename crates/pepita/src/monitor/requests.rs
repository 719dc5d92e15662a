//! What a client of the control socket can ask, and what is done then.

use super::Monitor;
use super::agent::Asker;
use super::life::Event;
use pepita_wire::agent::Start;
use pepita_wire::record::VcpuState;
use pepita_wire::{Ask, ErrorKind, Request, Signal, WireError};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Deserialize)]
#[serde(default)]
struct Params {
    since: u64,
    signal: i32,
    timeout_ms: u64,
    force: bool,
    #[serde(flatten)]
    start: Start,
}

impl Default for Params {
    fn default() -> Self {
        let (since, signal, timeout_ms, force) = (0, Signal::TERM.number(), 30_000, false);
        Self { since, signal, timeout_ms, force, start: Start::default() }
    }
}

impl Monitor {
    /// Carries out a client's request, or passes it on to the agent.
    pub(super) fn on_request(&mut self, client: u64, request: Request) {
        let Request { id, method, params } = request;
        let given = match &params {
            Value::Null => Ok(Params::default()),
            _ => serde_json::from_value::<Params>(params.clone()),
        };
        let given = match given {
            Ok(given) => given,
            Err(e) => {
                let why = WireError::new(ErrorKind::BadRequest, format!("{method}: {e}"));
                return self.control.answer(client, id, Err(why));
            }
        };
        let done = Ok(json!({}));
        match method.as_str() {
            "status" => {
                let status = serde_json::to_value(self.status()).expect("a record becomes JSON");
                self.control.answer(client, id, Ok(status));
            }
            "watch" => {
                self.control.watch(client, id, given.since);
                self.publish();
                let status = self.status();
                self.control.tell(&status);
            }
            "stop" => {
                let signal = Signal::new(given.signal).unwrap_or(Signal::TERM);
                let grace = Duration::from_millis(given.timeout_ms);
                // Answered first: the end may come at once.
                self.control.answer(client, id, done);
                self.happened(if given.force { Event::Kill } else { Event::Stop { signal, grace } });
            }
            "pause" => self.set_vcpus_for(client, id, VcpuState::Paused),
            "resume" => self.set_vcpus_for(client, id, VcpuState::Running),
            "signal" => match Signal::new(given.signal) {
                Some(Signal::KILL) => {
                    self.control.answer(client, id, done);
                    self.happened(Event::Kill);
                }
                Some(Signal::STOP) => self.set_vcpus_for(client, id, VcpuState::Paused),
                Some(Signal::CONT) => self.set_vcpus_for(client, id, VcpuState::Running),
                Some(signal) => self.forward(client, id, Ask::Signal(signal)),
                None => {
                    let why = format!("signal: {} is not a signal", given.signal);
                    self.control.answer(client, id, Err(WireError::new(ErrorKind::BadRequest, why)));
                }
            },
            "start" => self.forward(client, id, Ask::Start(given.start)),
            // Anything else is for the agent, if it is anything.
            _ => match Ask::from_parts(&method, params) {
                Ok(ask @ (Ask::Ping | Ask::Exec(_) | Ask::SetTime { .. })) => self.forward(client, id, ask),
                Ok(_) => {
                    let why = format!("{method:?} is not for the monitor");
                    self.control.answer(client, id, Err(WireError::new(ErrorKind::Unsupported, why)));
                }
                Err(e) => self.control.answer(client, id, Err(e)),
            },
        }
    }

    fn forward(&mut self, client: u64, id: u64, ask: Ask) {
        if let Err(refusal) = self.agent.ask(ask, Asker::Client { client, id }) {
            self.control.answer(client, id, Err(refusal));
        }
    }

    fn set_vcpus_for(&mut self, client: u64, id: u64, vcpus: VcpuState) {
        self.set_vcpus(vcpus);
        self.control.answer(client, id, Ok(json!({})));
    }
}
