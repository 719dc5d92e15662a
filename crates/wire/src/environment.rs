//! The environment that the processes of a VM get from the program that starts them.
//!
//! The supervisor's own environment is not theirs: it may hold secrets, the notify socket and the sockets of the service
//! manager, settings of the supervisor's log. Only the variables of [`PASSED`] are handed on.

/// The variables that are handed on to the monitor, the VMM, the vsock back-end and the daemon of a plain process: where
/// programs and temporary files are, whose process it is, language and time zone.
pub const PASSED: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// The search path of a daemon whose environment names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The socket on which a daemon reports about itself (sd_notify(3)).
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The interval in which a daemon must send `WATCHDOG=1`, in microseconds (sd_watchdog_enabled(3)).
pub const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// The process that [`WATCHDOG_USEC`] is meant for (sd_watchdog_enabled(3)).
pub const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// The environment variable that names a VM's run directory. Every process of a plain-process VM has it, so that
/// processes that are left over are found by it.
pub const VM_DIR: &str = "PEPITA_VM_DIR";

/// The environment variable that has the vsock address of a daemon's VM.
pub const VSOCK_CID: &str = "PEPITA_VSOCK_CID";
