//! What clients of the control socket can ask, and what is done then.

use super::Monitor;
use super::agent::Asker;
use super::life::Event;
use crate::vm_config::VmmKind;
use pepita_wire::agent::Start;
use pepita_wire::record::VcpuState;
use pepita_wire::{Ask, ErrorKind, Request, Signal, WireError};
use rustix::process::{Pid, kill_process_group};
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
    pub(super) fn requested(&mut self, client: u64, request: Request) {
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
            "pause" => self.set_paused(true, Some((client, id))),
            "resume" => self.set_paused(false, Some((client, id))),
            "signal" => match Signal::new(given.signal) {
                Some(Signal::KILL) => {
                    self.control.answer(client, id, done);
                    self.happened(Event::Kill);
                }
                Some(Signal::STOP) => self.set_paused(true, Some((client, id))),
                Some(Signal::CONT) => self.set_paused(false, Some((client, id))),
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
        if !self.agent.ask(ask, Asker::Client(client, id)) {
            let why = WireError::new(ErrorKind::Busy, "the guest agent is not up");
            self.control.answer(client, id, Err(why));
        }
    }

    /// Stops the virtual CPUs or lets them run, by stopping the VMM as a whole. QEMU's own `stop` would take its devices
    /// along, and vhost-device-vsock does not come back from that: every connection with the guest would hang for ever.
    pub(super) fn set_paused(&mut self, paused: bool, asker: Option<(u64, u64)>) {
        let signal = if paused { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        self.vmm.signal(signal);
        if self.config.request.vmm == VmmKind::Process
            && let Some(daemon) = &self.daemon
            && daemon.open().is_some()
            && let Some(pid) = i32::try_from(daemon.pid).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(pid, signal);
        }
        self.answer(asker, Ok(json!({})));
        self.happened(Event::Vcpus(if paused { VcpuState::Paused } else { VcpuState::Running }));
    }

    fn answer(&mut self, asker: Option<(u64, u64)>, outcome: pepita_wire::frame::Outcome) {
        if let Some((client, id)) = asker {
            self.control.answer(client, id, outcome);
        }
    }
}
