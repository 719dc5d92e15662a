//! A warm spare: booted with its daemon held, it waits until it takes the place of its VM (semantics 8).

use super::{Effect, Life, Phase, Role, Stage};
use crate::policy::Ending;
use crate::spec::VmSpec;
use crate::vm::report::Transition;
use pepita_wire::Exit;
use std::sync::Arc;
use std::time::Instant;

impl Life {
    /// Follows the guest agent of a spare: one that has answered makes the spare ready, one that is lost makes it useless.
    pub(super) fn spare_status(&mut self, now: Instant, agent_is_up: bool) {
        let Phase::Alive { stage, .. } = &mut self.phase else { return };
        match (&*stage, agent_is_up) {
            (Stage::Booting { .. }, true) => {
                *stage = Stage::Spare;
                self.effects.push(Effect::Tell(Transition::SpareReady));
            }
            (Stage::Spare, false) => self.remove(now, Exit::AgentLost { message: String::new() }.into()),
            (Stage::Booting { .. }, false)
            | (Stage::Spare, true)
            | (Stage::Running { .. } | Stage::Ready { .. } | Stage::Paused(_), _) => {}
        }
    }

    /// Begins to make the spare the VM with this specification.
    pub(super) fn promote(&mut self, now: Instant, spec: Arc<VmSpec>) {
        if self.role != Role::Spare {
            return;
        }
        let spare = std::mem::replace(&mut self.spec, spec).name.clone();
        self.role = Role::Promoting { spare };
        self.complete_health();
        // Its daemon has never run, whether or not the spare was found.
        self.is_adopted = false;
        match &mut self.phase {
            Phase::Alive { stage: stage @ Stage::Spare, .. } => {
                *stage = Stage::Booting { deadline: now + self.spec.start.timeout };
                self.effects.push(Effect::Promote);
            }
            // It is on its way out already, which tells that the promotion has failed.
            Phase::Undoing | Phase::Removing { .. } | Phase::Gone => {}
            Phase::Created
            | Phase::Leasing { .. }
            | Phase::Launching(_)
            | Phase::Adopting(_)
            | Phase::Alive { .. }
            | Phase::Stopping { .. } => self.not_promoted(now, "it was not ready"),
        }
    }

    pub(super) fn promoted(&mut self, now: Instant, result: Result<(), String>) {
        let Role::Promoting { .. } = self.role else { return };
        match (result, &self.phase) {
            (Ok(()), Phase::Alive { .. } | Phase::Stopping { .. }) => self.role = Role::Vm,
            (Err(why), Phase::Alive { .. }) => self.not_promoted(now, &why),
            // What was ordered meanwhile holds.
            (Ok(()) | Err(_), _) => {}
        }
    }

    fn not_promoted(&mut self, now: Instant, why: &str) {
        self.remove(now, not_launched(why));
    }

    /// Returns how an incarnation ends whose spare has not taken its place.
    pub(super) fn in_role(&self, ending: Ending) -> Ending {
        match &self.role {
            Role::Vm | Role::Spare => ending,
            Role::Promoting { .. }
                if ending.was_not_launched() || ending.exit() == Some(&Exit::StopRequested) =>
            {
                ending
            }
            Role::Promoting { spare } => not_launched(&format!("{spare} ended before: {ending}")),
        }
    }

    /// Returns the effect that removes the VM.
    pub(super) fn removal(&self) -> Effect {
        match &self.role {
            Role::Vm | Role::Spare => Effect::Remove,
            Role::Promoting { spare } => Effect::RemoveBoth { spare: spare.clone() },
        }
    }
}

fn not_launched(why: &str) -> Ending {
    let message = format!("its spare could not take its place: {why}");
    Ending::NotLaunched { recoverable: true, refused: false, message }
}
