//! What lies where in a VM's run directory, `<runtime>/pepita/<name>/`: the part that other programs than `pepita` may read.

/// The monitor's control socket. It speaks [`crate::ToGuest::Request`] and [`crate::ToHost::Answer`], without hello.
pub const CONTROL: &str = "ctl.sock";

/// The token for a hello to the guest agent. Mode 0600.
pub const TOKEN: &str = "token";

/// The exit record, once the VM has ended.
pub const EXIT: &str = "exit.json";

/// The vsock back-end's Unix socket, on the hybrid transport.
pub const HYBRID: &str = "v.sock";

/// The environment variable that names the directory in which run directories lie.
pub const ENVIRONMENT: &str = "PEPITA_RUN_DIR";

/// The longest path of a Unix socket, in bytes, without its final zero (unix(7)).
pub const SOCKET_PATH_CAP: usize = 107;
