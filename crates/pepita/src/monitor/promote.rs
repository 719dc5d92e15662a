//! Promotes a warm spare: the VM gets the name and the number of the VM whose place it takes, and its daemon is started.
//!
//! The name comes first and the daemon last. When this process is killed in between, the VM is a spare still, under one name
//! or the other, and no daemon of it runs.

use super::life::Event;
use super::{Monitor, world};
use crate::rundir::files::{self, Sync};
use crate::rundir::layout;
use crate::rundir::promoted::{self, Former};
use pepita_wire::launch::SPARE_LABEL;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{ErrorKind, VmId, WireError};
use std::path::Path;
use std::time::Instant;

impl Monitor {
    /// Promotes the VM. Returns the former run directory of the name, which the caller removes.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the VM is no spare that is ready, [`ErrorKind::Conflict`] when a VM of that name may run.
    pub(super) fn promote(&mut self, name: &VmId, incarnation: u64) -> Result<Former, WireError> {
        let since = Instant::now();
        if !self.life.is_ready_to_start() {
            let why = "only a VM that was launched with --hold, and whose guest agent is up, can be promoted";
            return Err(WireError::new(ErrorKind::Busy, why));
        }
        // The guest is prepared for the start of one VM.
        let known = world::name_in_guest(name.as_str());
        if let Some(of) = self.config.request.labels.get(SPARE_LABEL).filter(|of| *of != known) {
            let why = format!("this is a spare of {of}, and not of {known}");
            return Err(WireError::new(ErrorKind::Busy, why));
        }
        let own = self.dir.parent().unwrap_or(Path::new("/")).join(name.as_str());
        let former = promoted::take_name(&self.dir, &own).map_err(|e| {
            let kind = if e.kind == CallErrorKind::NameTaken { ErrorKind::Conflict } else { ErrorKind::Os };
            WireError::new(kind, e.message)
        })?;
        self.dir = own;
        self.config.booted_as = Some(self.config.guest_incarnation());
        self.config.incarnation = incarnation;
        self.config.request.name = name.to_string();
        self.config.request.labels.remove(SPARE_LABEL);
        self.config.request.hold = false;
        // The file names the VM that a later monitor adopts; without it the daemon must not run.
        files::write(Path::new(layout::CONFIG), &self.config, Sync::No)
            .map_err(|e| WireError::new(ErrorKind::Os, e.message))?;
        self.happened(Event::Promoted { name: name.clone(), incarnation, since });
        Ok(former)
    }
}
