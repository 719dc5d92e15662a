//! The promotion of a warm spare, as its actor makes it.

use super::VmState;
use super::phase::Event;
use pepita_wire::MonitorRequest;
use std::sync::Arc;

impl VmState {
    /// Has the monitor make the spare the VM that it is from now on, over the connection of the watch. Its ports are handed
    /// over meanwhile.
    pub(super) fn promote(&self) {
        let reply = self.reply(|answer: Option<Result<(), String>>| {
            Event::Promoted(answer.unwrap_or_else(|| Err("the request was lost".into())))
        });
        let request = MonitorRequest::Promote {
            name: self.life.spec().name.id().clone(),
            incarnation: self.incarnation.0,
        };
        let Some(monitor) = &self.monitor else { return reply.send(Err("it has no monitor".into())) };
        let (sockets, socket, line) =
            (Arc::clone(&self.services.sockets), monitor.socket.clone(), monitor.watch.line());
        let written = self.written.clone();
        tokio::spawn(async move {
            written.reached().await;
            let outcome = match line {
                Some(line) => line.request(request).await,
                None => sockets.request(socket, request).await,
            };
            reply.send(outcome.map(drop).map_err(|e| e.message));
        });
        if !self.life.spec().publish.is_empty() {
            self.publish();
        }
    }
}
