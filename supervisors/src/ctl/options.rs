//! The command line of `pepitactl`.

use crate::when::{Moment, duration, moment};
use clap::{Args, Parser, Subcommand};
use pepita_supervisor::Signal;
use std::path::PathBuf;
use std::time::Duration;

/// Shows and controls a running pepitad.
#[derive(Debug, Parser)]
#[command(name = "pepitactl", version)]
#[command(
    after_help = "A TARGET is the name of a VM (`api`, or its id `duende-vm-api`), the name of a group (`group:api` when a \
    VM has that name, too), or `all`.\n\
    The supervisor is found at --socket, at the control_socket of --config, at $PEPITACTL_SOCKET, or at \
    /run/pepita-supervisor/control.sock.\n\
    Exit codes: 0 ok, 1 refused, 64 usage, 69 no supervisor there, or it does not answer, 70 the supervisor ended or gave \
    up, or what the command waits for failed, 74 done but not saved, or the output \
    cannot be written, 75 not in time, 77 permission, 78 mistakes in the \
    configuration."
)]
pub struct Options {
    /// The supervisor's control socket
    #[arg(long, short, global = true, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
    /// The supervisor's configuration file, which names the socket
    #[arg(long, short, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Give up on a supervisor that gives no sign of life for this time
    #[arg(long, global = true, value_name = "TIME", value_parser = patience, default_value = "10s")]
    pub patience: Duration,
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
        /// What is to be ready [default: all VMs that are to run]
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// Give up after this time
        #[arg(long, short, value_name = "TIME", value_parser = duration, default_value = "60s")]
        timeout: Duration,
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
    /// Show each VM with its phase and the time since the last change of phase; a VM that is named, with its last words
    Status {
        /// What to show [default: everything]
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the groups with their strategies, and their VMs
    Tree,
    /// Start VMs at once, also VMs in backoff, forget their failures, and wait until they are ready
    Start {
        /// The VMs that are started.
        #[command(flatten)]
        targets: Targets,
        /// How long the command waits.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Stop VMs until a start command, and wait until they are down
    Stop {
        /// The VMs that are stopped.
        #[command(flatten)]
        targets: Targets,
        /// How long the command waits.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Stop and start VMs, forget their failures, and wait until they are ready; a group one VM after the other
    Restart {
        /// The VMs that are restarted.
        #[command(flatten)]
        targets: Targets,
        /// How long the command waits.
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Forget the failures of VMs, and start VMs that have given up
    Reset(Targets),
    /// Send a signal to the daemon of a VM, or to those of a group that run; one that is paused takes KILL and CONT alone
    Signal {
        /// The VM or group, or `all`
        #[arg(value_name = "TARGET")]
        target: String,
        /// A name such as HUP, or a number
        signal: Signal,
    },
    /// Pause the virtual CPUs of VMs
    Pause(Targets),
    /// Resume the virtual CPUs of paused VMs
    Resume(Targets),
    /// Print the output of the console and the daemon of VMs; of several in the order of time, each line with the VM's name
    Logs {
        /// The VMs and groups whose output is printed [default: everything]
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// Continue with new output, also of the next incarnations, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// Begin each line with the time at which it came and the number of the incarnation
        #[arg(long, short)]
        timestamps: bool,
        /// Print only the last N lines of each VM; `all` for all of them
        #[arg(long, short = 'n', value_name = "N", value_parser = lines)]
        tail: Option<String>,
        /// Print the last words of an earlier end: of the newest end, or of the Nth newest, up to 5
        #[arg(
            long,
            short,
            value_name = "N",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "1",
            value_parser = clap::value_parser!(u8).range(1..=5),
            conflicts_with_all = ["follow", "since", "until"]
        )]
        previous: Option<u8>,
        /// The time of the output.
        #[command(flatten)]
        span: Span,
    },
    /// Copy files and directories between host and guest; exit as `pepita cp` does
    Cp(Cp),
    /// List, grow and remove the disks of the VMs; exit as `pepita disk` does
    #[command(subcommand)]
    Disk(Disk),
    /// Run a command in a VM, beside its daemon; exit as the command does, or with 125 when it cannot be run
    Exec(Exec),
    /// Print the events: every change of a VM with the decision behind it
    Events {
        /// The VMs and groups that the events are about [default: everything]
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
        /// Continue with new output until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        /// The time of the events.
        #[command(flatten)]
        span: Span,
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
        /// Apply it even if that removes all VMs, or more than half of them
        #[arg(long)]
        allow_removal: bool,
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
    /// Show each VM, redrawn with every change, until Ctrl-C; what has failed comes first
    Top,
}

/// A copy, with the options of `pepita cp`.
#[derive(Debug, Args)]
pub struct Cp {
    /// What is copied: VM:PATH in a guest, a PATH of the host, or `-` for a tar archive from standard input
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where it goes: VM:PATH in a guest, a PATH of the host, or `-` for a tar archive to standard output
    #[arg(value_name = "TARGET")]
    pub target: String,
    /// Keep the owners' numbers (on the host this takes root)
    #[arg(long, short)]
    pub archive: bool,
    /// Follow a source that is a symbolic link
    #[arg(long, short = 'L')]
    pub follow_link: bool,
    /// Give up a copy out of a guest that is larger than this [default: 64GiB]
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
}

/// What is done with disks, with the options of `pepita disk`.
#[derive(Debug, Subcommand)]
pub enum Disk {
    /// List the disks: size, space taken on the host, user, place in the guest
    #[command(visible_alias = "ls")]
    List {
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a disk grow: now, or at the next start of the VM that uses it
    Grow {
        /// The disk's name
        name: String,
        /// The new size, such as 20GiB
        size: String,
        /// Print what is known of the disk then, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove disks with all that is on them; a disk in use is refused. At a terminal it is asked first
    #[command(visible_alias = "rm")]
    Remove {
        /// The disks' names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Do not ask, and a disk that is not there is no error
        #[arg(long, short)]
        force: bool,
    },
}

/// A command for a VM, with the options of `pepita exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// The name of the VM
    #[arg(value_name = "VM")]
    pub vm: String,
    /// Pass the standard input on to the command
    #[arg(long, short)]
    pub interactive: bool,
    /// Give the command a terminal, with the size and the type (TERM) of this one
    #[arg(long, short)]
    pub tty: bool,
    /// The user of the command in the guest: NAME or UID, perhaps with :GROUP [default: the daemon's]
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// The directory in which the command starts [default: the daemon's]
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<String>,
    /// A variable of the command's environment, in addition to those of the daemon
    #[arg(long, short, value_name = "K=V")]
    pub env: Vec<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// The VMs that a command applies to.
#[derive(Debug, Args)]
pub struct Targets {
    /// Names of VMs or groups, or `all`
    #[arg(required = true, value_name = "TARGET")]
    pub targets: Vec<String>,
}

/// How long a command waits for its effect.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Return when the supervisor has accepted the command
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
    /// Wait at most this long (75), and leave VMs whose turn has not come by then as they are [default: until it is done,
    /// or cannot be done]
    #[arg(long, short, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// The time of what is printed.
#[derive(Debug, Args)]
pub struct Span {
    /// Print only what is not older: 5min, or 2026-11-26T16:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    pub since: Option<Moment>,
    /// Print only what is not newer
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true, conflicts_with = "follow")]
    pub until: Option<Moment>,
}

/// Checks a number of lines, which the launcher reads.
fn lines(text: &str) -> Result<String, &'static str> {
    let is_good = text == "all" || text.parse::<u64>().is_ok();
    if is_good { Ok(text.to_owned()) } else { Err("use a number of lines, or all") }
}

/// Parses the limit of a supervisor's silence.
fn patience(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        short if short < Duration::from_millis(100) => Err("too short: use at least 100ms".to_owned()),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn numbers_beyond_range_are_refused_with_the_option_and_the_range() {
        for (args, option, range) in [
            (&["wait", "--timeout", "18446744073709551616"][..], "--timeout", "100years"),
            (&["wait", "--timeout", "18446744073709551615"], "--timeout", "100years"),
            (&["wait", "-t", "-1"], "-1", ""),
            (&["wait", "--timeout=-1"], "--timeout", "100years"),
            (&["stop", "a", "--timeout", "584542046091years"], "--timeout", "100years"),
            (&["start", "a", "--timeout", "1e9"], "--timeout", "100years"),
            (&["--patience", "0s", "status"], "--patience", "100ms"),
            (&["--patience", "99999999999999999999", "status"], "--patience", "100years"),
            (&["signal", "a", "65"], "<SIGNAL>", "65"),
            (&["signal", "a", "4294967297"], "<SIGNAL>", "4294967297"),
            (&["events", "--since", "@99999999999999999999"], "--since", "2026-"),
            (&["events", "--since", "99999999999y"], "--since", "2026-"),
            (&["logs", "a", "--tail", "-1"], "-1", ""),
            (&["logs", "a", "-n", "99999999999999999999"], "--tail", "number of lines"),
            (&["logs", "a", "--until", "+1000000-01-01T00:00:00Z"], "--until", "2026-"),
        ] {
            let all = ["pepitactl"].into_iter().chain(args.iter().copied());
            let error = Options::try_parse_from(all).expect_err("beyond range").to_string();
            assert!(error.contains(option) && error.contains(range), "{args:?}: {error}");
        }
    }
}
