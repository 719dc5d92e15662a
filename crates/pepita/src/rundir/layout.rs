//! The names of the files in a VM's run directory and in the directory of run directories. The files that other
//! programs may use are named in [`pepita_wire::rundir`].

pub use pepita_wire::rundir::{CONSOLE, CONTROL, EXIT, HYBRID, TOKEN};

/// The file whose lock the monitor holds as long as it lives: the claim of the VM's name.
pub const LOCK: &str = "lock";
/// The configuration of the VM ([`crate::vm_config::VmConfig`]). The file has the mode 0600, because it contains the
/// daemon's environment.
pub const CONFIG: &str = "spec.json";
/// The state of the VM ([`crate::rundir::files::State`]).
pub const STATE: &str = "state.json";
/// The token that is valid for the first hello. The guest's agent takes it from a port; an older agent finds it on the
/// kernel's command line.
pub const BOOT_TOKEN: &str = "boot.token";
/// QEMU's options that other users of the host must not read.
pub const OPTIONS: &str = "boot.cfg";
/// The socket of the vsock back-end for QEMU.
pub const BACKEND: &str = "vh.sock";
/// The directory in which a back-end in a jail makes its sockets. It is removed when they are made.
pub const VSOCK: &str = "vsock";
/// The socket of the server of a share, until QEMU's connection is made.
pub const SHARE: &str = "share.sock";
/// The socket of QEMU's monitor protocol.
pub const QMP: &str = "qmp.sock";
/// The guest's console, as QEMU names it: a pair of pipes.
pub const CONSOLE_PIPES: &str = "console";
/// The pipe that the console reads; no process writes to it.
pub const CONSOLE_IN: &str = "console.in";
/// The pipe that the console writes to.
pub const CONSOLE_OUT: &str = "console.out";
/// The output of the guest's console.
pub const CONSOLE_LOG: &str = "console.log";
/// The index of the console's log: the offset in the log at each moment.
pub const CONSOLE_INDEX: &str = "console.index";
/// The output of monitor, VMM and back-end.
pub const MONITOR_LOG: &str = "monitor.log";
/// The pipe into which VMM and back-end write their output, for the monitor.
pub const MONITOR_PIPE: &str = "log.pipe";
/// A link to the directory of the console's log, when the log is kept elsewhere (`--log-dir`).
pub const LOGS: &str = "logs";
/// The notify socket of a plain process (sd_notify(3)).
pub const NOTIFY: &str = "notify.sock";
/// A file that reserves space on the disk for the exit record.
pub const RESERVE: &str = "reserve";

/// The directory of claims on CIDs, in the directory of run directories.
pub const CIDS: &str = ".cids";
/// The directory with the addresses of VMs on network devices of the host, in the directory of run directories.
pub const NETWORK: &str = ".network";
/// The last words of the last ends of each VM, in the directory of run directories.
pub const ENDS: &str = ".ends";
/// The cache, in the directory of run directories. Its contents can be created again at any time.
pub const CACHE: &str = ".cache";
/// The prefix of the names of run directories that are being removed. No VM can have such a name.
pub const GONE: &str = ".gone-";

/// The files of which each shows that a VM is, or was, in a run directory.
pub const TRACES: [&str; 4] = [CONFIG, STATE, EXIT, CONTROL];

/// The beginnings of the names of files that are in a run directory several times: older logs, ports of the vsock
/// back-end, and files that are being written.
const BEGINNINGS: [&str; 3] = [CONSOLE_LOG, MONITOR_LOG, HYBRID];

/// Returns whether a file of this name belongs into the run directory of a VM.
pub fn is_known(name: &str) -> bool {
    let known = [LOCK, CONFIG, STATE, EXIT, CONTROL, CONSOLE_PIPES, CONSOLE_INDEX, LOGS, RESERVE, VSOCK];
    // A file that is being written has `.tmp-` in the place of what comes behind the last dot.
    let stem = |name: &str| name.rsplit_once('.').map_or(name.to_owned(), |(stem, _)| stem.to_owned());
    let is_written = |known: &str| {
        name.split_once(".tmp-").is_some_and(|(beginning, _)| beginning == known || beginning == stem(known))
    };
    known.iter().chain(&TRANSIENT).any(|known| name == *known || is_written(known))
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// The files that are removed when a VM has ended: every socket and pipe except the control socket, and the files with tokens.
pub const TRANSIENT: [&str; 12] = [
    HYBRID,
    BACKEND,
    SHARE,
    QMP,
    CONSOLE,
    CONSOLE_IN,
    CONSOLE_OUT,
    NOTIFY,
    TOKEN,
    BOOT_TOKEN,
    OPTIONS,
    MONITOR_PIPE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_a_vm_are_known_and_others_are_not() {
        for name in [
            "lock",
            "state.json",
            "state.tmp-12",
            "token.tmp-1",
            "boot.tmp-9",
            "console.log.3",
            "v.sock_5000",
        ] {
            assert!(is_known(name), "{name}");
        }
        for name in ["a.jpg", "2025", "notes", "state.json.orig", "locks", "main.tmp-3"] {
            assert!(!is_known(name), "{name}");
        }
    }
}
