//! The types of an adapter's callers: a daemon, a handle, a status, a signal.

use crate::policy::Ending;
use crate::spec::{self, Cid, RestartSpec, VmName};
use std::collections::BTreeMap;

/// A daemon to be run in a microVM of its own.
pub trait Daemon: Send + Sync + 'static {
    /// Returns the name of the daemon. Different names never share a VM.
    fn name(&self) -> &str;

    /// Returns the program in the image; `None` = the program that the image names.
    fn command(&self) -> Option<String> {
        None
    }

    /// Returns the arguments of [`Daemon::command`].
    fn args(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the environment of the daemon.
    fn env(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Returns the machine settings of the daemon that differ from the settings of the adapter.
    fn resources(&self) -> Resources {
        Resources::default()
    }

    /// Returns whether the daemon is restarted when it ends, and how.
    fn restart(&self) -> RestartSpec {
        RestartSpec::default()
    }
}

/// The settings of a daemon's machine that differ from the `[platform.pepita]` section of its adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// The number of virtual CPUs.
    pub vcpus: Option<u32>,
    /// The memory, in MiB.
    pub memory_mb: Option<u32>,
}

/// A handle to a daemon that was spawned.
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

    /// Returns the handle of a VM that is known by its id; `None` when an adapter cannot have given that id.
    pub fn of_vm(vm_id: &str, cid: Option<u32>) -> Option<Self> {
        let vm = VmName::from_id(vm_id)?;
        Some(Self { name: vm.as_str().to_owned(), vm, cid: cid.and_then(|cid| Cid::new(cid).ok()) })
    }

    /// Returns the name of the daemon as it was given. For a handle that was made from an id this is the name of the
    /// VM.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id of the VM, `duende-vm-<name>`. Always `Some` on this platform; an adapter for another platform
    /// would have no such id.
    pub fn pepita_vm_id(&self) -> Option<&str> {
        Some(self.vm.id().as_str())
    }

    /// Returns the vsock address of the VM.
    pub fn vsock_cid(&self) -> Option<u32> {
        self.cid.map(Cid::get)
    }

    pub(super) fn vm(&self) -> &VmName {
        &self.vm
    }
}

/// The status of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonStatus {
    /// Its VM boots, or is about to be booted again after a failure.
    Starting,
    /// The daemon runs.
    Running,
    /// The virtual CPUs of its VM are paused.
    Paused,
    /// The daemon is being stopped.
    Stopping,
    /// The daemon has ended cleanly, was stopped, or is not there.
    Stopped,
    /// The daemon has failed in this way and is not started again.
    Failed(Ending),
}

/// The signals that an adapter sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Asks the daemon to reload (SIGHUP).
    Hup,
    /// Interrupts the daemon (SIGINT).
    Int,
    /// Ends the daemon with a core dump (SIGQUIT).
    Quit,
    /// Asks the daemon to end (SIGTERM).
    Term,
    /// Ends the daemon at once; it is not started again.
    Kill,
    /// Sends SIGUSR1, whose meaning is defined by the daemon.
    Usr1,
    /// Sends SIGUSR2, whose meaning is defined by the daemon.
    Usr2,
    /// Pauses the virtual CPUs of the VM.
    Stop,
    /// Resumes the virtual CPUs of the VM.
    Cont,
}

impl Signal {
    /// All signals that an adapter sends.
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
