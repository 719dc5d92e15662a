//! Runs single daemons in microVMs: spawn a daemon, ask for its status, signal it, destroy it.
//! The adapter is a thin layer over a [`Tree`](crate::Tree), and makes no decisions about restarts.
//!
//! ```no_run
//! use pepita_supervisor::adapter::{Daemon, PepitaAdapter, Signal};
//!
//! struct MyDaemon;
//! impl Daemon for MyDaemon {
//!     fn name(&self) -> &str { "my-daemon" }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let adapter = PepitaAdapter::with_images("/boot/vmlinuz", "/var/lib/pepita/rootfs.ext4");
//! let handle = adapter.spawn(Box::new(MyDaemon)).await?;
//! println!("{} at CID {}", handle.pepita_vm_id().unwrap(), handle.vsock_cid().unwrap());
//! adapter.signal(&handle, Signal::Term).await?;
//! adapter.destroy(handle.pepita_vm_id().unwrap()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Spawned daemons are supervised, and outlive the process: a new adapter finds them again. Where several processes of
//! a host use adapters at the same time, each adapter has a slot of its own, and takes over the daemons that a former
//! adapter left there.

mod daemon;
mod daemons;
mod error;
mod name;
mod place;
mod tree;

pub use daemon::{Daemon, DaemonHandle, DaemonStatus, Resources, Signal};
pub use error::AdapterError;
pub use name::vm_name;

use crate::config;
use crate::executor::ExecutorMsg;
use crate::group::Command;
use crate::observe::{EventKind, Received, VmPhase};
use crate::policy::Ending;
use crate::spec::{MachineSpec, Port, VmName, VmSpec, Vmm};
use futures_core::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tree::AdapterTree;

/// The future that the methods of a [`PlatformAdapter`] return.
pub type Pending<'a, T> = BoxFuture<'a, Result<T, AdapterError>>;

/// The calls that every adapter has, on whichever platform it runs daemons.
pub trait PlatformAdapter: Send + Sync + 'static {
    /// Starts a daemon. Returns when it runs.
    fn spawn(&self, daemon: Box<dyn Daemon>) -> Pending<'_, DaemonHandle>;
    /// Returns the status of a daemon.
    fn status<'a>(&'a self, handle: &'a DaemonHandle) -> Pending<'a, DaemonStatus>;
    /// Sends a daemon a signal.
    fn signal<'a>(&'a self, handle: &'a DaemonHandle, signal: Signal) -> Pending<'a, ()>;
}

/// Runs daemons in microVMs.
#[derive(Debug, Clone)]
pub struct PepitaAdapter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    machine: MachineSpec,
    state_dir: PathBuf,
    pepita: PathBuf,
    run_dir: Option<PathBuf>,
    tree: OnceCell<AdapterTree>,
}

impl PepitaAdapter {
    /// Makes an adapter without images: spawning needs [`PepitaAdapter::with_images`] or a configuration.
    pub fn new() -> Self {
        Self::of(MachineSpec { vcpus: 1, ..MachineSpec::qemu("", "") })
    }

    /// Makes an adapter as [`PepitaAdapter::new`] does, with guest agents on another vsock port.
    pub fn with_vsock_port(port: u32) -> Self {
        Self::of(MachineSpec { vcpus: 1, port: Port(port), ..MachineSpec::qemu("", "") })
    }

    /// Makes an adapter whose VMs boot this kernel and this root file system.
    pub fn with_images(kernel: impl Into<PathBuf>, rootfs: impl Into<PathBuf>) -> Self {
        Self::of(MachineSpec { vcpus: 1, ..MachineSpec::qemu(kernel, rootfs) })
    }

    /// Makes an adapter whose VMs are as the `[platform.pepita]` section of a configuration file says.
    ///
    /// # Errors
    /// Returns an error when the file cannot be read or has mistakes.
    pub fn from_config(file: &Path) -> Result<Self, AdapterError> {
        let checked = config::load(file)?;
        let mut adapter = Self::of(checked.machine);
        let inner = Arc::get_mut(&mut adapter.inner).expect("the adapter was just made, and has no clone");
        inner.pepita = checked.spec.pepita;
        inner.run_dir = checked.spec.run_dir;
        if let Some(dir) = checked.spec.state_dir {
            inner.state_dir = dir;
        }
        Ok(adapter)
    }

    fn of(machine: MachineSpec) -> Self {
        let (state_dir, pepita) = (place::default_state_dir(), PathBuf::from("pepita"));
        Self { inner: Arc::new(Inner { machine, state_dir, pepita, run_dir: None, tree: OnceCell::new() }) }
    }

    /// Returns the adapter with another launcher, another directory for run directories and another directory for its
    /// own state. Must be called before the first daemon is spawned.
    pub fn with_places(
        self,
        pepita: impl Into<PathBuf>,
        run_dir: Option<PathBuf>,
        state_dir: impl Into<PathBuf>,
    ) -> Self {
        let inner = Inner {
            machine: self.inner.machine.clone(),
            state_dir: state_dir.into(),
            pepita: pepita.into(),
            run_dir,
            tree: OnceCell::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the vsock port of guest agents.
    pub fn vsock_base_port(&self) -> u32 {
        self.inner.machine.port.0
    }

    /// Boots a microVM for a daemon. Returns when the daemon runs; from then on it is supervised.
    ///
    /// # Errors
    /// Returns an error when no images are configured, the launcher is missing, a daemon of that name exists already,
    /// or the daemon did not run; then nothing of the daemon is left.
    pub async fn spawn(&self, daemon: Box<dyn Daemon>) -> Result<DaemonHandle, AdapterError> {
        let spec = self.spec_of(&*daemon)?;
        let vm = spec.name.clone();
        let adapter = self.tree().await?;
        let mut events = adapter.tree.events();
        adapter.add(daemon.name(), spec).await?;
        let timeout = crate::spec::StartSpec::default().timeout;
        let runs = async {
            loop {
                match events.next().await {
                    Some(Received::Event(event)) => match event.kind {
                        EventKind::Vm(change) if change.vm == vm => match change.to {
                            VmPhase::Running | VmPhase::Ready => return Ok(()),
                            VmPhase::Completed => return Ok(()),
                            VmPhase::Failed(failure) => {
                                return Err(AdapterError::Spawn(failure.to_string()));
                            }
                            VmPhase::Backoff { ending, .. } => {
                                return Err(AdapterError::Spawn(ending.to_string()));
                            }
                            _ => {}
                        },
                        _ => {}
                    },
                    // The status shows what the missed events would have said.
                    Some(Received::Lagged(_)) => {}
                    None => return Err(AdapterError::Ended),
                }
            }
        };
        let ran = tokio::time::timeout(timeout, runs).await.unwrap_or(Err(AdapterError::Timeout(timeout)));
        if let Err(e) = ran {
            adapter.remove(&vm).await;
            return Err(e);
        }
        let cid = adapter.tree.status().vm(vm.as_str()).and_then(|status| status.cid);
        Ok(DaemonHandle::new(daemon.name(), vm, cid))
    }

    fn spec_of(&self, daemon: &dyn Daemon) -> Result<VmSpec, AdapterError> {
        let machine = &self.inner.machine;
        let images = [("kernel", &machine.kernel), ("rootfs", &machine.rootfs)];
        if machine.vmm == Vmm::Qemu
            && machine.image.is_none()
            && let Some((what, _)) = images.into_iter().find(|(_, path)| path.as_os_str().is_empty())
        {
            return Err(AdapterError::NoImages(what));
        }
        let mut machine = machine.clone();
        let resources = daemon.resources();
        machine.vcpus = resources.vcpus.unwrap_or(machine.vcpus);
        machine.memory_mb = resources.memory_mb.unwrap_or(machine.memory_mb);
        let mut spec = VmSpec::new(vm_name(daemon.name())?, machine);
        if let Some(command) = daemon.command() {
            spec.command = std::iter::once(command).chain(daemon.args()).collect();
        } else if !daemon.args().is_empty() {
            return Err(AdapterError::ArgsWithoutCommand(daemon.name().to_owned()));
        }
        spec.env = daemon.env();
        spec.restart = daemon.restart();
        // `destroy` ends a daemon at once: a caller that wants a graceful stop sends a signal first.
        spec.stop.timeout = Duration::ZERO;
        Ok(spec)
    }

    /// Returns the status of a daemon. A daemon whose VM does not exist, or no longer exists, is stopped.
    ///
    /// # Errors
    /// Returns an error when the launcher fails.
    pub async fn status(&self, handle: &DaemonHandle) -> Result<DaemonStatus, AdapterError> {
        self.tree().await?.status(handle.vm()).await
    }

    /// Sends a daemon a signal. KILL ends the VM and its supervision; STOP and CONT pause and resume its virtual CPUs. While
    /// the VM boots, TERM, INT and QUIT stop it, and the others reach the daemon when it runs. A paused VM
    /// takes KILL, STOP and CONT alone.
    ///
    /// # Errors
    /// Returns an error when the daemon does not run, or the launcher refuses.
    pub async fn signal(&self, handle: &DaemonHandle, signal: Signal) -> Result<(), AdapterError> {
        let adapter = self.tree().await?;
        let vm = handle.vm();
        if !adapter.knows(vm) {
            return Ok(adapter.tree.runner().signal_any(vm, signal.into()).await?);
        }
        let phase = adapter.tree.status().vm(vm.as_str()).map(|status| status.phase.clone());
        let has_daemon = phase.is_some_and(|phase| phase.has_daemon());
        match signal {
            // With a grace of zero a stop is a kill that no restart follows.
            Signal::Kill => Ok(adapter.tree.command(vm.as_str(), Command::Stop).await?),
            Signal::Stop => Ok(adapter.tree.pause(vm.as_str()).await?),
            Signal::Cont => Ok(adapter.tree.resume(vm.as_str()).await?),
            // While the VM is launched, the launcher knows nothing of it. The tree keeps the signal, or stops the VM.
            Signal::Hup | Signal::Int | Signal::Quit | Signal::Term | Signal::Usr1 | Signal::Usr2
                if !has_daemon =>
            {
                Ok(adapter.tree.signal(vm.as_str(), signal.into()).await?)
            }
            // The documentation of the adapter says that it runs `pepita signal`, which goes over the monitor's socket,
            // too.
            Signal::Hup | Signal::Int | Signal::Quit | Signal::Term | Signal::Usr1 | Signal::Usr2 => {
                Ok(adapter.tree.runner().signal_any(vm, signal.into()).await?)
            }
        }
    }

    /// Ends a VM and its supervision, and removes all traces. Destroying a VM that does not exist is no error.
    ///
    /// # Errors
    /// Returns an error when the id is not one of an adapter's VM, or the launcher fails.
    pub async fn destroy(&self, vm_id: &str) -> Result<(), AdapterError> {
        let vm = VmName::from_id(vm_id).ok_or_else(|| AdapterError::Foreign(vm_id.to_owned()))?;
        let adapter = self.tree().await?;
        if adapter.knows(&vm) {
            adapter.remove(&vm).await;
        }
        Ok(adapter.tree.runner().destroy_any(&vm).await?)
    }

    /// Returns the ids of the VMs of all daemons on this host, also the VMs of other adapters.
    ///
    /// # Errors
    /// Returns an error when the launcher fails.
    pub async fn list_vms(&self) -> Result<Vec<String>, AdapterError> {
        let adapter = self.tree().await?;
        let records = adapter.tree.runner().ask(|reply| ExecutorMsg::List { reply }).await?;
        let names = records.into_iter().map(|record| record.name);
        Ok(names.filter(|name| VmName::from_id(name).is_some()).collect())
    }

    /// Returns how a daemon of this adapter ended last, as far as the adapter has seen.
    pub async fn last_end(&self, handle: &DaemonHandle) -> Option<Ending> {
        self.tree().await.ok()?.last_end(handle.vm()).await
    }

    /// Gives the slot up without touching the daemons: the next adapter finds them. The end of the process has the same
    /// effect.
    pub async fn leave(self) {
        if let Some(adapter) = self.inner.tree.get() {
            adapter.tree.leave().await;
        }
    }

    /// Returns a handle to a daemon by its name, also to a daemon that a former adapter spawned.
    ///
    /// # Errors
    /// Returns an error when no daemon of that name is supervised here.
    pub async fn find(&self, name: &str) -> Result<DaemonHandle, AdapterError> {
        let vm = vm_name(name)?;
        let adapter = self.tree().await?;
        let status = adapter.tree.status();
        match status.vm(vm.as_str()) {
            Some(found) => Ok(DaemonHandle::new(name, vm, found.cid)),
            None => Err(AdapterError::NotFound(name.to_owned())),
        }
    }

    /// Returns the tree behind the adapter. The first call starts the tree, and takes over the daemons that a former
    /// adapter left.
    async fn tree(&self) -> Result<&AdapterTree, AdapterError> {
        let inner = &self.inner;
        let open = || AdapterTree::open(&inner.state_dir, &inner.pepita, inner.run_dir.clone());
        inner.tree.get_or_try_init(open).await
    }
}

impl Default for PepitaAdapter {
    fn default() -> Self {
        Self::new()
    }
}

impl PlatformAdapter for PepitaAdapter {
    fn spawn(&self, daemon: Box<dyn Daemon>) -> Pending<'_, DaemonHandle> {
        Box::pin(Self::spawn(self, daemon))
    }

    fn status<'a>(&'a self, handle: &'a DaemonHandle) -> Pending<'a, DaemonStatus> {
        Box::pin(Self::status(self, handle))
    }

    fn signal<'a>(&'a self, handle: &'a DaemonHandle, signal: Signal) -> Pending<'a, ()> {
        Box::pin(Self::signal(self, handle, signal))
    }
}
