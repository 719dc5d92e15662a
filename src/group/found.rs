//! Interprets the launcher's record of a VM for a group whose actor has not started the VM. Knows no actors and no I/O.

use crate::executor::argv::{CONFIG_LABEL, SPARE_LABEL};
use crate::group::{Found, FoundSpare};
use crate::spec::{Incarnation, VmName, VmSpec};
use pepita_wire::{StatusRecord, VmState};

impl Found {
    /// Returns the VM that was found, compared with the configuration in force. `ended` is the newest incarnation whose
    /// end was recorded. `None`: the VM has ended, and that end was recorded before.
    pub fn of(record: &StatusRecord, spec: &VmSpec, ended: Incarnation) -> Option<Self> {
        let incarnation = Incarnation(record.incarnation);
        let over = record.state.is_terminal();
        if over && incarnation <= ended {
            return None;
        }
        let ending = record.exit.clone().unwrap_or_default().into();
        let config = record.labels.get(CONFIG_LABEL);
        Some(Self {
            incarnation,
            unchanged: config.is_some_and(|config| spec.was_started_with(config)),
            reachable: record.state != VmState::Unknown,
            ended: over.then_some(ending),
        })
    }

    /// Returns a VM whose state the launcher could not tell. The VM is treated as running: the actor that takes it over
    /// finds its true state.
    pub fn perhaps(incarnation: Incarnation) -> Self {
        Self { incarnation, unchanged: true, reachable: false, ended: None }
    }
}

impl FoundSpare {
    /// Returns the warm spare that was found; `None` when it has ended, or is none.
    pub fn of(name: &VmName, record: &StatusRecord) -> Option<Self> {
        let of = VmName::new(record.labels.get(SPARE_LABEL)?).ok()?;
        let config = record.labels.get(CONFIG_LABEL).cloned().unwrap_or_default();
        // One that had begun to take the place of its VM has its name, and no daemon.
        let is_spare = of != *name && !record.state.is_terminal();
        is_spare.then(|| Self { name: name.clone(), of, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::MachineSpec;
    use pepita_wire::{Exit, ExitRecord};

    #[test]
    fn an_end_is_news_once_and_a_changed_configuration_is_seen() {
        let spec = VmSpec::new(VmName::new("api").expect("good"), MachineSpec::process());
        let exit = ExitRecord { exit: Exit::code(3), ..ExitRecord::default() };
        let mut record = StatusRecord { incarnation: 7, state: VmState::Failed, ..StatusRecord::default() };
        record.exit = Some(exit);
        record.labels.insert(CONFIG_LABEL.into(), spec.fingerprint());
        let found = Found::of(&record, &spec, Incarnation(6)).expect("news");
        assert_eq!((found.ended, found.unchanged), (Some(Exit::code(3).into()), true));
        assert_eq!(Found::of(&record, &spec, Incarnation(7)), None);
        record.state = VmState::Running;
        record.labels.insert(CONFIG_LABEL.into(), "another".into());
        let found = Found::of(&record, &spec, Incarnation(7)).expect("the VM runs");
        assert_eq!((found.ended, found.unchanged), (None, false));
    }
}
