//! The mounts of disks: ordered when the agent is up, and made before the daemon starts.

use super::mounts::Mounts;
use super::phase::Phase;
use super::{Effect, Life};
use pepita_wire::record::Part;
use pepita_wire::{Ask, ErrorKind, WireError};
use std::time::Instant;

impl Life {
    /// Orders the mounts, unless they are ordered. The daemon is started when the agent has answered.
    pub(super) fn order_mounts(&mut self) {
        if let Mounts::Wanted(mounts) = &mut self.mounts {
            let mounts = std::mem::take(mounts);
            self.effects.push(Effect::Mount(mounts.clone()));
            self.mounts = Mounts::Asked(mounts);
        }
    }

    /// Handles the agent's answer to the order.
    pub(super) fn on_mount_answered(&mut self, now: Instant, result: Result<(), WireError>) {
        let refusal = match result {
            Ok(()) => {
                self.mounts = Mounts::Made;
                self.passed(Part::Mounts, now);
                return self.when_it_runs(Self::start_the_daemon);
            }
            // The agent hung up before it answered, and is asked again after the next hello.
            Err(e) if e.kind == ErrorKind::Os => return,
            Err(e) => e,
        };
        let why = match refusal.kind {
            ErrorKind::Unsupported => {
                "the agent in this image is too old for disks and shares; build the image again".to_owned()
            }
            ErrorKind::BadRequest
            | ErrorKind::Unauthorized
            | ErrorKind::Conflict
            | ErrorKind::NotFound
            | ErrorKind::Busy
            | ErrorKind::Timeout
            | ErrorKind::Os
            | ErrorKind::Other => refusal.message,
        };
        self.when_it_runs(|life| {
            life.evidence.agent_failed = Some(why);
            // The disks that are mounted are unmounted.
            life.effects.push(Effect::Tell(Ask::PowerOff));
            life.phase = Phase::leaving(now, life.linger);
        });
    }

    fn when_it_runs(&mut self, then: impl FnOnce(&mut Self)) {
        match self.phase {
            Phase::Created(_) | Phase::Booting(_) | Phase::Running => then(self),
            // The VM ends for another reason already.
            Phase::Severed { .. }
            | Phase::Leaving { .. }
            | Phase::Stopping(_)
            | Phase::Terminating { .. }
            | Phase::Killing { .. }
            | Phase::Ended(_) => {}
        }
    }
}
