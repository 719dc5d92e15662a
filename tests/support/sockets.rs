//! Simulates the monitors, and the way to the guests.

use super::{Host, What, finish, guest, of_dir};
use futures_core::future::BoxFuture;
use pepita_supervisor::link::dial::{Address, Dialled, Guests};
use pepita_supervisor::monitor_client::{MonitorReport, Monitors, TellReport, Watch};
use pepita_wire::{ErrorKind, Exit, MonitorRequest, Outcome, VmState, WireError};
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::sleep;

impl Monitors for Host {
    fn watch(&self, socket: PathBuf, tell: TellReport) -> Watch {
        let id = of_dir(&socket);
        let receiver = {
            let world = self.world();
            let machine = world.machines.get(&id).filter(|machine| machine.monitored);
            machine.map(|machine| machine.record.subscribe())
        };
        Watch::spawn(async move {
            let Some(mut receiver) = receiver else {
                return tell(MonitorReport::Lost("there is no monitor".into()));
            };
            loop {
                let record = receiver.borrow_and_update().clone();
                let last = record.state.is_terminal();
                tell(MonitorReport::Status(Box::new(record)));
                if last {
                    return;
                }
                if receiver.changed().await.is_err() {
                    return tell(MonitorReport::Lost("the monitor hung up".into()));
                }
            }
        })
    }

    fn request(&self, socket: PathBuf, request: MonitorRequest) -> BoxFuture<'static, Outcome> {
        let (host, id) = (self.clone(), of_dir(&socket));
        Box::pin(async move {
            let gone = || WireError::new(ErrorKind::Os, "there is no monitor");
            let (serial, stop, patient) = {
                let world = host.world();
                let machine = world.machines.get(&id).filter(|m| m.monitored).ok_or_else(gone)?;
                (machine.serial, machine.plan.stop, machine.plan.patient)
            };
            match request {
                MonitorRequest::Stop { timeout_ms, .. } => {
                    host.record_call(What::Stop, &id);
                    host.change(&id, serial, |record| record.state = VmState::Stopping);
                    let grace = Duration::from_millis(timeout_ms);
                    let (time, exit) = match stop {
                        Some(time) if time < grace || patient => (time, Some(Exit::code(0))),
                        // The monitor's own stop ends with a kill.
                        _ => (grace, None),
                    };
                    sleep(time).await;
                    host.change(&id, serial, |record| finish(record, Exit::StopRequested, exit));
                }
                MonitorRequest::Signal(signal) => host.record_call(What::Signal(signal.number()), &id),
                MonitorRequest::Pause => host.change(&id, serial, |record| record.state = VmState::Paused),
                MonitorRequest::Resume => host.change(&id, serial, |record| record.state = VmState::Running),
                MonitorRequest::Status
                | MonitorRequest::Watch { .. }
                | MonitorRequest::Dial { .. }
                | MonitorRequest::Publish(_)
                | MonitorRequest::Published
                | MonitorRequest::PortUse
                | MonitorRequest::TellIdle
                | MonitorRequest::KeepAwake
                | MonitorRequest::Sleep
                | MonitorRequest::Promote { .. }
                | MonitorRequest::Forward(_) => {
                    panic!("a supervisor does not ask a monitor for {request:?}")
                }
            }
            Ok(json!({}))
        })
    }
}

impl Guests for Host {
    fn dial(&self, _: Address, token: PathBuf) -> BoxFuture<'static, io::Result<Dialled>> {
        let (host, id) = (self.clone(), of_dir(&token));
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let (serial, record) = {
                let world = host.world();
                let machine = world.machines.get(&id).ok_or_else(refused)?;
                let record = machine.record.borrow().clone();
                (machine.serial, record)
            };
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            tokio::spawn(guest::serve(host, id, serial, record.incarnation, theirs));
            Ok(Dialled { stream: Box::new(ours), token: "token".to_owned() })
        })
    }
}
