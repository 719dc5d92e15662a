//! duende-core's [`PlatformAdapter`] on pepita-supervisor: a daemon that it spawns is supervised, and outlives this process.
//!
//! A user of duende swaps one line:
//!
//! ```
//! // use duende_core::adapters::PepitaAdapter;
//! use duende_interop::PepitaAdapter;
//!
//! let adapter = PepitaAdapter::with_images("/boot/vmlinuz", "/var/lib/pepita/rootfs.ext4");
//! ```

use async_trait::async_trait;
use duende_core::adapter::{DaemonHandle, PlatformError, PlatformResult, TracerHandle};
use duende_core::types::{DaemonStatus, FailureReason, Signal};
use duende_core::{Daemon, Platform, PlatformAdapter};
use pepita_supervisor::adapter as ours;
use pepita_supervisor::{Ending, Exit};
use std::path::PathBuf;

/// The adapter. It has the constructors of duende-core's own.
#[derive(Debug, Clone, Default)]
pub struct PepitaAdapter {
    inner: ours::PepitaAdapter,
}

/// The name of a duende daemon. The program that runs in the VM is the program that the image names.
struct Named(String);

impl ours::Daemon for Named {
    fn name(&self) -> &str {
        &self.0
    }
}

impl PepitaAdapter {
    /// Returns an adapter without images.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an adapter whose guest agents listen on this vsock port.
    pub fn with_vsock_port(port: u32) -> Self {
        Self { inner: ours::PepitaAdapter::with_vsock_port(port) }
    }

    /// Returns an adapter whose VMs boot these images.
    pub fn with_images(kernel: impl Into<PathBuf>, rootfs: impl Into<PathBuf>) -> Self {
        Self { inner: ours::PepitaAdapter::with_images(kernel, rootfs) }
    }

    /// Returns the vsock port of the guest agents.
    pub fn vsock_base_port(&self) -> u32 {
        self.inner.vsock_base_port()
    }

    /// Ends a VM and removes its traces.
    ///
    /// # Errors
    /// Returns an error when the launcher reports one.
    pub async fn destroy(&self, vm_id: &str) -> PlatformResult<()> {
        self.inner.destroy(vm_id).await.map_err(|e| PlatformError::spawn_failed(e.to_string()))
    }

    /// Returns the ids of the VMs of all daemons.
    ///
    /// # Errors
    /// Returns an error when the launcher reports one.
    pub async fn list_vms(&self) -> PlatformResult<Vec<String>> {
        self.inner.list_vms().await.map_err(|e| PlatformError::status_failed(e.to_string()))
    }
}

impl From<ours::PepitaAdapter> for PepitaAdapter {
    fn from(inner: ours::PepitaAdapter) -> Self {
        Self { inner }
    }
}

fn handle_of(handle: &DaemonHandle) -> PlatformResult<ours::DaemonHandle> {
    let of_vm = handle.pepita_vm_id().and_then(|vm| ours::DaemonHandle::of_vm(vm, handle.vsock_cid()));
    of_vm.ok_or_else(|| PlatformError::InvalidState("this is no handle of a pepita VM".into()))
}

/// Returns the reason of duende-core that is nearest to an ending.
fn failure(ending: &Ending) -> FailureReason {
    match ending {
        Ending::Unhealthy | Ending::WatchdogExpired => FailureReason::HealthCheckTimeout,
        ending => match ending.exit() {
            Some(Exit::Exited { code }) => FailureReason::ExitCode(*code),
            Some(Exit::Signalled { signal, .. }) => FailureReason::Signal(*signal),
            Some(Exit::GuestOom) => FailureReason::ResourceExhausted,
            // duende-core has no word for these endings, or the daemon's own end is not known.
            Some(
                Exit::NotExecutable { .. }
                | Exit::GuestPanic { .. }
                | Exit::GuestReset
                | Exit::HostOom
                | Exit::VmmCrashed(_)
                | Exit::VmmRefused { .. }
                | Exit::BootTimeout
                | Exit::AgentLost { .. }
                | Exit::TransportLost
                | Exit::ShareLost { .. }
                | Exit::StopRequested
                | Exit::Killed
                | Exit::Unknown,
            )
            | None => FailureReason::Internal,
        },
    }
}

#[async_trait]
impl PlatformAdapter for PepitaAdapter {
    fn platform(&self) -> Platform {
        Platform::PepitaMicroVM
    }

    async fn spawn(&self, daemon: Box<dyn Daemon>) -> PlatformResult<DaemonHandle> {
        let spawned = self.inner.spawn(Box::new(Named(daemon.name().to_owned()))).await;
        let handle = spawned.map_err(|e| match e {
            ours::AdapterError::NoImages(_) => PlatformError::Config(e.to_string()),
            e => PlatformError::spawn_failed(e.to_string()),
        })?;
        let vm_id = handle.pepita_vm_id().unwrap_or_default().to_owned();
        Ok(DaemonHandle::pepita(daemon.id(), vm_id, handle.vsock_cid().unwrap_or_default()))
    }

    async fn signal(&self, handle: &DaemonHandle, signal: Signal) -> PlatformResult<()> {
        let signal = match signal {
            Signal::Hup => ours::Signal::Hup,
            Signal::Int => ours::Signal::Int,
            Signal::Quit => ours::Signal::Quit,
            Signal::Term => ours::Signal::Term,
            Signal::Kill => ours::Signal::Kill,
            Signal::Usr1 => ours::Signal::Usr1,
            Signal::Usr2 => ours::Signal::Usr2,
            Signal::Stop => ours::Signal::Stop,
            Signal::Cont => ours::Signal::Cont,
        };
        let sent = self.inner.signal(&handle_of(handle)?, signal).await;
        sent.map_err(|e| PlatformError::signal_failed(e.to_string()))
    }

    async fn status(&self, handle: &DaemonHandle) -> PlatformResult<DaemonStatus> {
        let status = self.inner.status(&handle_of(handle)?).await;
        Ok(match status.map_err(|e| PlatformError::status_failed(e.to_string()))? {
            ours::DaemonStatus::Starting => DaemonStatus::Starting,
            ours::DaemonStatus::Running => DaemonStatus::Running,
            ours::DaemonStatus::Paused => DaemonStatus::Paused,
            ours::DaemonStatus::Stopping => DaemonStatus::Stopping,
            ours::DaemonStatus::Stopped => DaemonStatus::Stopped,
            ours::DaemonStatus::Failed(ending) => DaemonStatus::Failed(failure(&ending)),
        })
    }

    async fn attach_tracer(&self, handle: &DaemonHandle) -> PlatformResult<TracerHandle> {
        match handle.vsock_cid() {
            Some(cid) if cid > 0 => Ok(TracerHandle::remote_vsock(handle.id())),
            _ => Err(PlatformError::tracer_failed("this is no handle of a pepita VM")),
        }
    }
}
