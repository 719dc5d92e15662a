//! The preparations that a start and an adoption of a VM have in common.

use crate::error::{CallError, call_error, eprint_line};
use crate::monitor::{Address, Control};
use crate::rundir::layout;
use crate::vm_config::{VmConfig, VmmKind};
use pepita_ports::Listening;
use pepita_wire::Publish;
use pepita_wire::record::{CallErrorKind, Transport};
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

/// Listens on the ports that the VM itself publishes.
///
/// # Errors
/// When another program listens on one of them; the error names it.
pub(super) fn open_ports(config: &VmConfig) -> Result<Vec<(Publish, Listening)>, CallError> {
    let open = |publish: &Publish| match Listening::at(&publish.host) {
        Ok(listening) => Ok((publish.clone(), listening)),
        Err(e) => Err(call_error(CallErrorKind::TryAgain, e.to_string())),
    };
    config.request.publish.iter().map(open).collect()
}

/// Listens again on the ports that the VM itself publishes, after its former monitor has died. A VM runs on without a
/// port that another program has taken meanwhile.
pub(super) fn open_again(config: &VmConfig) -> Vec<(Publish, Listening)> {
    let open = |publish: &Publish| match Listening::at(&publish.host) {
        Ok(listening) => Some((publish.clone(), listening)),
        Err(e) => {
            eprint_line(format_args!("pepita monitor: {e}"));
            None
        }
    };
    config.request.publish.iter().filter_map(open).collect()
}

/// Returns the address on which the VM's agent listens.
pub(super) fn address(config: &VmConfig) -> Address {
    let port = config.request.port;
    match config.request.transport {
        Transport::Hybrid => Address::Hybrid { path: PathBuf::from(layout::HYBRID), port },
        Transport::Vhost => Address::Vhost { cid: config.cid.get(), port },
    }
}
