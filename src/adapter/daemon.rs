//! What an adapter is given and what it hands out: a daemon, a handle, a status, a signal. Types only.

use crate::policy::Ending;
use crate::spec::{self, Cid, RestartSpec, VmName};
use std::collections::BTreeMap;

/// A daemon to be run in a microVM of its own.
pub trait Daemon: Send + Sync + 'static {
    /// Its name. Names that differ never become one VM.
    fn name(&self) -> &str;

    /// Its program in the image; `None` = what the image names.
    fn command(&self) -> Option<String> {
        None
    }

    /// The arguments of [`Daemon::command`].
    fn args(&self) -> Vec<String> {
        Vec::new()
    }

    /// Its environment.
    fn env(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// What it needs that differs from the adapter's.
    fn resources(&self) -> Resources {
        Resources::default()
    }

    /// Whether it comes back when it ends.
    fn restart(&self) -> RestartSpec {
        RestartSpec::default()
    }
}

/// What a daemon needs that differs from its adapter's `[platform.pepita]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Virtual CPUs.
    pub vcpus: Option<u32>,
    /// Memory, in MiB.
    pub memory_mb: Option<u32>,
}

/// A daemon that was spawned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonHandle {
    name: String,
    vm: VmName,
    cid: Option<Cid>,
}

impl DaemonHandle {
    pub(super) fn new(name: &str, vm: VmName, cid: Option<Cid>) -> Self {
        Self { name: name.to_owned(), vm, cid }
    }

    /// The handle of a VM that is known by its id; `None` when that is no id of an adapter's VM.
    pub fn of_vm(vm_id: &str, cid: Option<u32>) -> Option<Self> {
        let vm = VmName::from_id(vm_id)?;
        Some(Self { name: vm.as_str().to_owned(), vm, cid: cid.and_then(|cid| Cid::new(cid).ok()) })
    }

    /// The daemon's name, as it was given; of a handle made from an id, the VM's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The VM's id, `duende-vm-<name>`. An adapter for another platform would have none.
    pub fn pepita_vm_id(&self) -> Option<&str> {
        Some(self.vm.id().as_str())
    }

    /// The VM's vsock address.
    pub fn vsock_cid(&self) -> Option<u32> {
        self.cid.map(Cid::get)
    }

    pub(super) fn vm(&self) -> &VmName {
        &self.vm
    }
}

/// How a daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonStatus {
    /// Its VM boots, or is about to be booted again after a failure.
    Starting,
    /// It runs.
    Running,
    /// Its virtual CPUs stand still.
    Paused,
    /// It is on its way down.
    Stopping,
    /// It has ended cleanly, was stopped, or is not there.
    Stopped,
    /// It has failed and is not started again; how it ended.
    Failed(Ending),
}

/// The signals that an adapter sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Hang up: reload.
    Hup,
    /// Interrupt.
    Int,
    /// Quit, with a core dump.
    Quit,
    /// Please end.
    Term,
    /// End at once; the daemon is not started again.
    Kill,
    /// User-defined 1.
    Usr1,
    /// User-defined 2.
    Usr2,
    /// Pause.
    Stop,
    /// Resume.
    Cont,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Hup,
        Self::Int,
        Self::Quit,
        Self::Term,
        Self::Kill,
        Self::Usr1,
        Self::Usr2,
        Self::Stop,
        Self::Cont,
    ];
}

impl From<Signal> for spec::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hup => Self::HUP,
            Signal::Int => Self::INT,
            Signal::Quit => Self::QUIT,
            Signal::Term => Self::TERM,
            Signal::Kill => Self::KILL,
            Signal::Usr1 => Self::USR1,
            Signal::Usr2 => Self::USR2,
            Signal::Stop => Self::STOP,
            Signal::Cont => Self::CONT,
        }
    }
}
