//! The preparations that a start and an adoption of a VM have in common.

use crate::error::CallError;
use crate::monitor::{Address, Control};
use crate::rundir::layout;
use crate::vm_config::{VmConfig, VmmKind};
use pepita_wire::record::Transport;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Makes this process the parent of the orphans of a plain process, so that the orphans can be ended.
pub(super) fn become_reaper(config: &VmConfig) {
    if config.request.vmm == VmmKind::Process {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    }
}

/// Listens on the control socket, in the current directory.
pub(super) fn listen() -> Result<Control, CallError> {
    let path = Path::new(layout::CONTROL);
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).and_then(Control::new).map_err(|e| crate::error::io(path, e))
}

/// Returns the address on which the VM's agent listens.
pub(super) fn address(config: &VmConfig) -> Address {
    let port = config.request.port;
    match config.request.transport {
        Transport::Hybrid => Address::Hybrid { path: PathBuf::from(layout::HYBRID), port },
        Transport::Vhost => Address::Vhost { cid: config.cid.get(), port },
    }
}
