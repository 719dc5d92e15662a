//! What lies where in a VM's run directory. What other programs may read of it is named in [`pepita_wire::rundir`].

pub use pepita_wire::rundir::{CONTROL, EXIT, HYBRID, TOKEN};

/// Held for life by the monitor: the claim of the name.
pub const LOCK: &str = "lock";
/// What was asked for. Mode 0600: it has the environment.
pub const PLAN: &str = "spec.json";
/// Where the VM is: its status and its processes.
pub const STATE: &str = "state.json";
/// The token on the kernel's command line, good for the first hello.
pub const BOOT_TOKEN: &str = "boot.token";
/// The vsock back-end's socket for QEMU.
pub const BACKEND: &str = "vh.sock";
/// QEMU's monitor protocol.
pub const QMP: &str = "qmp.sock";
/// The console of a plain process.
pub const CONSOLE: &str = "console.sock";
/// The guest's console, as QEMU names it: a pair of pipes.
pub const CONSOLE_PIPES: &str = "console";
/// What it reads; nobody writes.
pub const CONSOLE_IN: &str = "console.in";
/// What it writes.
pub const CONSOLE_OUT: &str = "console.out";
/// What the guest's console said.
pub const CONSOLE_LOG: &str = "console.log";
/// What monitor, VMM and back-end had to say.
pub const MONITOR_LOG: &str = "monitor.log";
/// Where claims on CIDs lie, in the directory of run directories.
pub const CIDS: &str = ".cids";
/// What can be made again, in the directory of run directories.
pub const CACHE: &str = ".cache";
/// Which moment stands where in the console's log.
pub const CONSOLE_INDEX: &str = "console.index";
/// Where a plain process finds its notify socket.
pub const NOTIFY: &str = "notify.sock";
/// Room on the disk that is kept for the exit record.
pub const RESERVE: &str = "reserve";
/// How run directories that are being removed begin: no VM can be called so.
pub const GONE: &str = ".gone-";

/// Every socket of a run directory but the control socket, and the tokens.
pub const TRANSIENT: [&str; 9] =
    [HYBRID, BACKEND, QMP, CONSOLE, CONSOLE_IN, CONSOLE_OUT, NOTIFY, TOKEN, BOOT_TOKEN];
