//! The files of a VM's run directory, `<runtime>/pepita/<name>/`, that programs other than `pepita` may use.

/// The control socket of the monitor. [`crate::MonitorRequest`] lists the requests.
pub const CONTROL: &str = "ctl.sock";

/// The file with the token for a hello to the guest agent. Mode 0600.
pub const TOKEN: &str = "token";

/// The file with the exit record, once the VM has ended.
pub const EXIT: &str = "exit.json";

/// The Unix socket of the vsock back-end, on the hybrid transport.
pub const HYBRID: &str = "v.sock";

/// The socket of a plain process's console. Of all sockets of a run directory its name is the longest.
pub const CONSOLE: &str = "console.sock";

/// The environment variable that names the directory in which run directories lie.
pub const ENVIRONMENT: &str = "PEPITA_RUN_DIR";

/// The environment variable that names the directory in which the logs of consoles are kept.
pub const LOG_ENVIRONMENT: &str = "PEPITA_LOG_DIR";

/// The longest path of a Unix socket, in bytes, without its final zero (unix(7)).
pub const SOCKET_PATH_CAP: usize = 107;
