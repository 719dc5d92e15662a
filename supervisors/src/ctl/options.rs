//! The command line of `pepitactl`.

use clap::{Args, Parser, Subcommand};
use pepita_supervisor::Signal;
use std::path::PathBuf;

/// Shows and controls a running pepitad.
#[derive(Debug, Parser)]
#[command(name = "pepitactl", version)]
#[command(
    after_help = "The supervisor is found at --socket, at the control_socket of --config, at $PEPITACTL_SOCKET, or at \
    /run/pepita-supervisor/control.sock.\n\
    Exit codes: 0 ok, 1 refused, 64 usage, 69 no supervisor there, 70 the supervisor ended or gave up, 75 not \
    ready in time, 77 permission, 78 mistakes in the configuration."
)]
pub struct Options {
    /// The supervisor's control socket
    #[arg(long, short, global = true, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// The supervisor's configuration file, which names the socket
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The command to execute.
    #[command(subcommand)]
    pub command: Ctl,
}

/// The commands of `pepitactl`.
#[derive(Debug, Subcommand)]
pub enum Ctl {
    /// A command for a running supervisor.
    #[command(flatten)]
    Ask(Ask),
    /// Wait until the supervisor answers and VMs are ready
    Wait {
        /// Names of VMs in the configuration [default: all VMs that are to run]
        #[arg(value_name = "VM")]
        vms: Vec<String>,
        /// Give up after this number of seconds
        #[arg(long, short, value_name = "SECONDS", default_value_t = 60)]
        timeout: u64,
    },
    /// Print the mistakes in a configuration file and advice about it, without a supervisor
    Check {
        /// The configuration file to check
        file: PathBuf,
    },
    /// Print a completion script
    Completions {
        /// The shell that the script is for
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// The commands that a running supervisor answers.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Show each VM with its phase and the time since the last change of phase
    Status {
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the groups with their strategies, and their VMs
    Tree,
    /// Start VMs at once, also VMs in backoff, and forget their failures
    Start(Vms),
    /// Stop VMs until a start command
    Stop(Vms),
    /// Stop and start VMs, and forget their failures
    Restart(Vms),
    /// Forget the failures of VMs, and start VMs that have given up
    Reset(Vms),
    /// Send a signal to the daemon of a VM
    Signal {
        /// The VM's name in the configuration
        vm: String,
        /// A name such as HUP, or a number
        signal: Signal,
    },
    /// Pause the virtual CPUs of VMs
    Pause(Vms),
    /// Resume the virtual CPUs of paused VMs
    Resume(Vms),
    /// Print the output of a VM's console and daemon
    Logs {
        /// The VM's name in the configuration
        vm: String,
        /// Continue with new output, also of the next incarnations, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// Print the last words of an earlier end: of the newest end, or of the Nth newest, up to 5
        #[arg(
            long,
            short,
            value_name = "N",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "1",
            value_parser = clap::value_parser!(u8).range(1..=5),
            conflicts_with = "follow"
        )]
        previous: Option<u8>,
    },
    /// Print the events: every change of a VM with the decision behind it
    Events {
        /// Continue with new output until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show what a reload would change
    Plan {
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Apply the configuration file as it is written now
    Reload {
        /// Restart the VMs whose configuration has changed
        #[arg(long)]
        restart: bool,
        /// Print what has changed as JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop all VMs in order and end the supervisor
    Shutdown {
        /// Leave the VMs running, for the next start to adopt
        #[arg(long, conflicts_with = "destroy")]
        leave: bool,
        /// Destroy the VMs at once
        #[arg(long)]
        destroy: bool,
    },
    /// Show each VM, redrawn with every change, until Ctrl-C
    Top,
}

/// The VMs that a command applies to.
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
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }
}
