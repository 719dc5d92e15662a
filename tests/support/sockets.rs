//! Plays the monitors.

use super::{Host, What, finish, guest, of_dir};
use pepita_supervisor::link::dial::{Address, Stream};
use pepita_supervisor::link::watch::{MonitorReport, Watch};
use pepita_supervisor::link::{Boxed, Sockets, Tell};
use pepita_wire::{ErrorKind, Exit, Outcome, VmState, WireError};
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::sleep;

impl Sockets for Host {
    fn watch(&self, monitor: PathBuf, tell: Tell) -> Watch {
        let id = of_dir(&monitor);
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

    fn ask(&self, monitor: PathBuf, method: &'static str, params: Value) -> Boxed<Outcome> {
        let (host, id) = (self.clone(), of_dir(&monitor));
        Box::pin(async move {
            let gone = || WireError::new(ErrorKind::Os, "there is no monitor");
            let (serial, stop) = {
                let world = host.world();
                let machine = world.machines.get(&id).filter(|m| m.monitored).ok_or_else(gone)?;
                (machine.serial, machine.plan.stop)
            };
            match method {
                "stop" => {
                    host.record_call(What::Stop, &id);
                    host.change(&id, serial, |record| record.state = VmState::Stopping);
                    let grace = Duration::from_millis(params["timeout_ms"].as_u64().unwrap_or(0));
                    let (time, exit) = match stop {
                        Some(time) if time < grace => (time, Some(Exit::code(0))),
                        // The monitor's own ladder ends with a kill.
                        _ => (grace, None),
                    };
                    sleep(time).await;
                    host.change(&id, serial, |record| finish(record, Exit::StopRequested, exit));
                }
                "pause" => host.change(&id, serial, |record| record.state = VmState::Paused),
                "resume" => host.change(&id, serial, |record| record.state = VmState::Running),
                other => panic!("nobody asks a monitor for {other}"),
            }
            Ok(json!({}))
        })
    }

    fn dial(&self, _: Address, token: PathBuf) -> Boxed<io::Result<(Box<dyn Stream>, String)>> {
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
            Ok((Box::new(ours) as Box<dyn Stream>, "token".to_owned()))
        })
    }
}
