//! How the tree ends: after a stop a last look whether really nothing is left; on leaving, not before launches that are
//! under way have come to their end.

use super::{RootMsg, RootState};
use crate::executor::argv::OWNER_LABEL;
use crate::executor::{ExecutorError, ExecutorMsg};
use crate::observe::{EventKind, VmPhase};
use crate::reply::Reply;
use crate::spec::VmName;
use crate::tree::error::{Progress, TreeEnd};
use pepita_wire::StatusRecord;
use ractor::ActorRef;
use std::time::Duration;

/// Last looks before what is left is only told about.
const LOOKS: u32 = 5;

/// Between two of them.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// The tree is ending, with no group at work any more.
#[derive(Debug)]
pub(super) struct Ending {
    end: TreeEnd,
    looks: u32,
    /// Calls that have not come back yet.
    pending: usize,
    problems: Vec<String>,
}

impl RootState {
    /// All groups are gone.
    pub(super) fn end(&mut self, me: &ActorRef<RootMsg>, end: TreeEnd) {
        self.ending = Some(Ending { end, looks: 0, pending: 0, problems: Vec::new() });
        self.sweep(me);
    }

    /// Asks what there is still: traces of VMs that ended by themselves, and what an actor that failed has lost.
    pub(super) fn sweep(&mut self, me: &ActorRef<RootMsg>) {
        let Some(ending) = &mut self.ending else { return };
        ending.looks += 1;
        let me = me.clone();
        let reply = Reply::new(move |list: Option<Result<Vec<StatusRecord>, ExecutorError>>| {
            let list = list.unwrap_or(Err(ExecutorError::Gone)).map_err(|e| e.to_string());
            // The root may have failed.
            let _ = me.cast(RootMsg::Listed(list));
        });
        self.shared.services.executor.send(ExecutorMsg::List { reply });
    }

    pub(super) fn listed(&mut self, me: &ActorRef<RootMsg>, list: Result<Vec<StatusRecord>, String>) {
        let Some(ending) = &mut self.ending else { return };
        let records = match list {
            Ok(records) => records,
            Err(e) => {
                ending.problems.push(e);
                return self.settle(me);
            }
        };
        // A tree that gave up leaves the records of those that had ended: somebody will want to know why.
        let all = ending.end == TreeEnd::Stopped;
        let owner = &self.shared.services.owner;
        let ours = |record: &&StatusRecord| {
            record.labels.get(OWNER_LABEL).is_some_and(|label| **label == **owner)
                && (all || !record.state.is_terminal())
        };
        let left: Vec<VmName> =
            records.iter().filter(ours).filter_map(|record| VmName::from_id(&record.name)).collect();
        ending.pending = left.len();
        for vm in left {
            let (me, name) = (me.clone(), vm.clone());
            let reply = Reply::new(move |done: Option<Result<(), ExecutorError>>| {
                let done = done.unwrap_or(Err(ExecutorError::Gone));
                let problem = done.err().map(|e| format!("{name}: cannot be destroyed: {e}"));
                let _ = me.cast(RootMsg::Settled(problem));
            });
            self.shared.services.executor.send(ExecutorMsg::Destroy { vm, reply });
        }
        self.settle(me);
    }

    pub(super) fn settled(&mut self, me: &ActorRef<RootMsg>, problem: Option<String>) {
        if let Some(ending) = &mut self.ending {
            ending.pending = ending.pending.saturating_sub(1);
            ending.problems.extend(problem);
            self.settle(me);
        }
    }

    /// Ends the tree once every call has come back; looks again if one of them failed.
    fn settle(&mut self, me: &ActorRef<RootMsg>) {
        let Some(ending) = &mut self.ending else { return };
        if ending.pending > 0 {
            return;
        }
        let problems = std::mem::take(&mut ending.problems);
        if !problems.is_empty() && ending.looks < LOOKS {
            me.send_after(BETWEEN_LOOKS, || RootMsg::Sweep);
            return;
        }
        for text in problems {
            self.shared.bus.tell(None, EventKind::Notice { vm: None, text });
        }
        self.finish(me);
    }

    /// Ends the actors and leaves the VMs alone.
    pub(super) fn leave(&mut self, me: &ActorRef<RootMsg>) {
        if self.ending.is_some() {
            return;
        }
        // Their VM actors go with them: from here on nothing is launched, stopped or destroyed.
        for member in self.groups.values() {
            member.actor.kill();
        }
        let under_way: Vec<VmName> = (self.shared.status_table.snapshot().vms())
            .filter(|vm| matches!(vm.phase, VmPhase::Starting | VmPhase::Stopping))
            .map(|vm| vm.name.clone())
            .collect();
        let pending = under_way.len();
        self.ending = Some(Ending { end: TreeEnd::Left, looks: LOOKS, pending, problems: Vec::new() });
        self.progress.send_replace(Progress::Ending);
        for vm in under_way {
            let me = me.clone();
            // Calls about one VM are made one after the other: this is answered behind a launch that is under way. A
            // launcher that is killed half-way, because our process ends, would leave half a VM.
            let reply = Reply::new(move |_: Option<_>| drop(me.cast(RootMsg::Settled(None))));
            self.shared.services.executor.send(ExecutorMsg::Status { vm, reply });
        }
        self.settle(me);
    }

    fn finish(&mut self, me: &ActorRef<RootMsg>) {
        let Some(ending) = &self.ending else { return };
        let end = ending.end.clone();
        let failed = matches!(end, TreeEnd::Failed { .. });
        self.shared.bus.tell(None, EventKind::GroupEnded { reason: end.to_string(), failed });
        self.outcome.set(end);
        me.stop(None);
    }
}
