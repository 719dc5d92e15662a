//! Plays a guest agent: says hello, answers pings and commands as long as it is said to.

use super::Host;
use pepita_wire::{ErrorKind, ExecResult, Hello, Lines, ToGuest, ToHost, WireError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

pub(super) async fn serve(host: Host, id: String, serial: u64, incarnation: u64, mut stream: DuplexStream) {
    let (mut lines, mut buffer) = (Lines::new(), vec![0; 4096]);
    loop {
        let answers = {
            let world = host.world();
            let machine = world.machines.get(&id).filter(|machine| machine.serial == serial);
            let Some(machine) = machine.filter(|m| !m.record.borrow().state.is_terminal()) else { return };
            machine.plan.answers
        };
        let mut output = Vec::new();
        while let Some(line) = lines.next_line() {
            let line = line.expect("the host does not flood");
            match ToGuest::decode(line).expect("the host talks sense") {
                ToGuest::Hello(_) => {
                    let hello = Hello { generation: 1, incarnation, ..Hello::default() };
                    output.extend(ToHost::Hello(hello).encode());
                }
                ToGuest::Request(request) if answers => {
                    let outcome = match request.method.as_str() {
                        "ping" | "watch" | "ack" => Ok(json!({})),
                        "status" => Ok(json!({ "started": true })),
                        "exec" => Ok(serde_json::to_value(ExecResult::default()).expect("plain")),
                        other => Err(WireError::new(ErrorKind::Unsupported, other)),
                    };
                    output.extend(ToHost::Answer { id: request.id, outcome }.encode());
                }
                ToGuest::Request(_) => {}
            }
        }
        if stream.write_all(&output).await.is_err() {
            return;
        }
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => lines.push(&buffer[..n]),
            _ => return,
        }
    }
}
