//! The names of the files in a VM's run directory and in the directory of run directories. The files that other programs
//! may use are named in [`pepita_wire::rundir`].

pub use pepita_wire::rundir::{CONTROL, EXIT, HYBRID, TOKEN};

/// The file whose lock the monitor holds for life: the claim of the name.
pub const LOCK: &str = "lock";
/// What the VM is ([`crate::vm_config::VmConfig`]). Its mode is 0600: it has the environment.
pub const CONFIG: &str = "spec.json";
/// Where the VM is ([`crate::rundir::files::State`]).
pub const STATE: &str = "state.json";
/// The token on the kernel's command line, good for the first hello.
pub const BOOT_TOKEN: &str = "boot.token";
/// The socket of the vsock back-end for QEMU.
pub const BACKEND: &str = "vh.sock";
/// The socket of QEMU's monitor protocol.
pub const QMP: &str = "qmp.sock";
/// The console of a plain process.
pub const CONSOLE: &str = "console.sock";
/// The guest's console, as QEMU names it: a pair of pipes.
pub const CONSOLE_PIPES: &str = "console";
/// The pipe that the console reads; no process writes to it.
pub const CONSOLE_IN: &str = "console.in";
/// The pipe that the console writes to.
pub const CONSOLE_OUT: &str = "console.out";
/// The output of the guest's console.
pub const CONSOLE_LOG: &str = "console.log";
/// Which moment stands where in the console's log.
pub const CONSOLE_INDEX: &str = "console.index";
/// The output of monitor, VMM and back-end.
pub const MONITOR_LOG: &str = "monitor.log";
/// The notify socket of a plain process (sd_notify(3)).
pub const NOTIFY: &str = "notify.sock";
/// Room on the disk that is kept for the exit record.
pub const RESERVE: &str = "reserve";

/// The directory of claims on CIDs, in the directory of run directories.
pub const CIDS: &str = ".cids";
/// The directory of what can be made again, in the directory of run directories.
pub const CACHE: &str = ".cache";
/// How the names of run directories begin that are being removed. No VM can have such a name.
pub const GONE: &str = ".gone-";

/// The files that go when a VM has ended: every socket but the control socket, and the tokens.
pub const TRANSIENT: [&str; 9] =
    [HYBRID, BACKEND, QMP, CONSOLE, CONSOLE_IN, CONSOLE_OUT, NOTIFY, TOKEN, BOOT_TOKEN];
