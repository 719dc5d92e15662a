//! What `pepitactl` is called with.

use clap::{Args, Parser, Subcommand};
use pepita_supervisor::spec::Signal;
use std::path::PathBuf;

/// Shows and steers a running pepitad.
#[derive(Debug, Parser)]
#[command(name = "pepitactl", version)]
#[command(
    after_help = "The supervisor is found at --socket, at the control_socket of --config, at $PEPITACTL_SOCKET, or at \
    /run/pepita-supervisor/control.sock.\n\
    Exit codes: 0 ok, 1 refused, 64 usage, 69 no supervisor there, 70 it went away or gave up, 75 not \
    ready in time, 77 permission, 78 mistakes in the configuration."
)]
pub struct Options {
    /// The supervisor's control socket
    #[arg(long, short, global = true, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// The supervisor's configuration file, which names the socket
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Ctl,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Ctl {
    /// Show each VM: where it is, and since when
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the groups with their strategies, and their VMs
    Tree,
    /// Start VMs; forgets their failures, cuts a backoff short
    Start(Vms),
    /// Stop VMs until they are started again
    Stop(Vms),
    /// Stop and start VMs; forgets their failures
    Restart(Vms),
    /// Forget the failures of VMs, and start those that had given up
    Reset(Vms),
    /// Send a signal to the daemon of a VM
    Signal {
        /// The VM's name in the configuration
        vm: String,
        /// A name such as HUP, or a number
        signal: Signal,
    },
    /// Stop the virtual CPUs of VMs
    Pause(Vms),
    /// Let them run again
    Resume(Vms),
    /// Print what a VM's console and daemon have written
    Logs {
        /// The VM's name in the configuration
        vm: String,
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
    },
    /// Print what has happened: every change with the decision behind it
    Events {
        /// Go on with what comes
        #[arg(long, short)]
        follow: bool,
        /// A JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Wait until the supervisor is there and VMs are ready
    Wait {
        /// Names of VMs in the configuration [default: all that are to be up]
        #[arg(value_name = "VM")]
        vms: Vec<String>,
        /// Give up after so many seconds
        #[arg(long, short, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Show what a reload would change
    Plan {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Take the configuration file as it is written now
    Reload {
        /// Restart the VMs that differ
        #[arg(long)]
        restart: bool,
        /// Show what has changed as JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what is wrong with a configuration file, or good to know about it; needs no supervisor
    Check {
        /// Which
        file: PathBuf,
    },
    /// Stop everything in order and end the supervisor
    Shutdown {
        /// Leave the VMs running; the next run takes them over
        #[arg(long, conflicts_with = "destroy")]
        leave: bool,
        /// Destroy them at once
        #[arg(long)]
        destroy: bool,
    },
    /// Show each VM, redrawn with every change, until Ctrl-C
    Top,
    /// Print a completion script
    Completions {
        /// For this shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// Which VMs.
#[derive(Debug, Args)]
pub struct Vms {
    /// Names of VMs in the configuration
    #[arg(required = true, value_name = "VM")]
    pub vms: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_shapes_are_consistent() {
        Options::command().debug_assert();
    }
}
