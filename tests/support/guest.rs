//! Simulates a guest agent: sends its hello, answers pings and commands while its plan says so, and passes on the
//! events of its daemon.

use super::{Asked, Host, Machine, Plan, short};
use pepita_wire::{ErrorKind, ExecResult, Exit, Hello, Lines, Outcome, ToGuest, ToHost, WireError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(super) async fn serve(host: Host, id: String, serial: u64, incarnation: u64, mut stream: DuplexStream) {
    let (mut lines, mut buffer) = (Lines::new(), vec![0; 4096]);
    let Some(mut news) = host.guest(&id, serial, |machine| machine.news.subscribe()) else { return };
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => match read {
                Ok(n) if n > 0 => n,
                _ => return,
            },
            news = news.recv() => {
                let Ok((seq, event)) = news else { return };
                if stream.write_all(&ToHost::Event { seq, event }.encode()).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let Some(plan) = host.guest(&id, serial, |machine| machine.plan.clone()) else { return };
        lines.push(&buffer[..read]);
        let mut output = Vec::new();
        while let Some(line) = lines.next_line() {
            let line = line.expect("the host does not flood");
            match ToGuest::decode(line).expect("the host talks sense") {
                ToGuest::Hello(_) => {
                    let hello = Hello { protocol_version: 1, incarnation, ..Hello::default() };
                    output.extend(ToHost::Hello(hello).encode());
                }
                ToGuest::Request(request) => {
                    host.was_asked(&id, incarnation, &request.method);
                    if plan.answers {
                        let outcome = answer(&plan, &request.method);
                        output.extend(ToHost::Answer { id: request.id, outcome }.encode());
                    }
                }
            }
        }
        if stream.write_all(&output).await.is_err() {
            return;
        }
    }
}

fn answer(plan: &Plan, method: &str) -> Outcome {
    match method {
        "ping" | "watch" | "ack" => Ok(json!({})),
        "status" => Ok(json!({ "started": true })),
        "exec" => {
            let result = ExecResult { exit: Exit::code(plan.exec), ..ExecResult::default() };
            Ok(serde_json::to_value(result).expect("plain"))
        }
        "probe" if plan.probes => {
            let output = if plan.exec == 0 { "well" } else { "not\nwell" };
            Ok(json!({ "healthy": plan.exec == 0, "output": output }))
        }
        other => Err(WireError::new(ErrorKind::Unsupported, other)),
    }
}

impl Host {
    /// Looks at a guest, if it is still the same guest and has not ended.
    fn guest<T>(&self, id: &str, serial: u64, look: impl FnOnce(&Machine) -> T) -> Option<T> {
        let world = self.world();
        let machine = world.machines.get(id).filter(|machine| machine.serial == serial)?;
        machine.is_alive().then(|| look(machine))
    }

    fn was_asked(&self, id: &str, incarnation: u64, method: &str) {
        let mut world = self.world();
        let at = world.since.elapsed();
        world.asked.push(Asked { at, vm: short(id), incarnation, method: method.to_owned() });
    }
}
