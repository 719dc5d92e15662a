//! Puts the VM to sleep, and wakes it: its virtual CPUs are paused until a client comes.

use super::Monitor;
use super::life::Event;
use super::requests::in_use;
use pepita_wire::frame::Outcome;
use pepita_wire::record::VcpuState;
use pepita_wire::{ErrorKind, WireError};
use serde_json::json;
use std::time::Instant;

impl Monitor {
    /// Notes the use that is made of the VM, and tells it when that is due.
    pub(super) fn note_activity(&mut self, now: Instant) {
        // The time before the daemon serves, and of a pause, is no time of being idle.
        let is_used = self.ports.are_used() || !self.life.may_sleep();
        if let Some(since) = self.activity.look(now, is_used) {
            self.happened(Event::Idle(since));
        }
    }

    /// Returns whether a client is served or waits, or the guest wants to stay awake.
    pub(super) fn is_used(&self) -> bool {
        self.activity.is_kept_awake() || self.ports.are_used() || self.ports.has_waiting()
    }

    /// Pauses the virtual CPUs until a client comes.
    pub(super) fn sleep(&mut self) -> Outcome {
        if self.life.is_asleep() {
            return Ok(json!({}));
        }
        if self.is_used() {
            return Err(in_use());
        }
        if !self.life.may_sleep() {
            return Err(WireError::new(
                ErrorKind::Conflict,
                "the daemon does not run, or its agent cannot be reached",
            ));
        }
        self.set_vcpus(VcpuState::Paused);
        self.happened(Event::FellAsleep);
        Ok(json!({}))
    }

    /// Resumes the virtual CPUs of a VM that is asleep.
    pub(super) fn wake(&mut self) {
        if self.life.is_asleep() {
            self.set_vcpus(VcpuState::Running);
        }
    }
}
