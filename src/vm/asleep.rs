//! The requests of a VM actor to the monitor about the sleep of its VM.

use super::phase::Event;
use super::{VmMsg, VmState};
use crate::reply::Reply;
use pepita_wire::MonitorRequest;

impl VmState {
    /// Asks the monitor to put the VM to sleep. The answer is an event.
    pub(super) fn ask_to_sleep(&self, how: MonitorRequest) {
        let reply = self.reply(|done: Option<Result<(), String>>| {
            Event::SleepAnswered(done.unwrap_or_else(|| Err("no answer".into())))
        });
        self.request(how, reply);
    }

    /// Has the monitor tell how long the VM is idle, if that matters and it has a monitor. One of an earlier version cannot tell.
    pub(super) fn await_idleness(&self) {
        if self.life.spec().idle.is_set() && self.monitor.is_some() {
            let me = self.me.clone();
            let reply = Reply::new(move |done: Option<Result<(), String>>| {
                if let Some(Err(why)) = done {
                    let text = format!("cannot be put to sleep before its next start: {why}");
                    // The actor may have ended.
                    let _ = me.cast(VmMsg::NotPublished(text));
                }
            });
            self.request(MonitorRequest::TellIdle, reply);
        }
    }
}
