//! The command line: every call, its options, and their help. Only definitions; [`crate::commands`] carries the calls
//! out.

mod cp;
mod daemon;
mod disk;
mod docker;
mod image;

pub use cp::{Cp, Place};
pub use daemon::{DaemonArgs, env_file};
pub use disk::{DiskArgs, DiskCall, Volume};
pub use docker::here;
pub use image::{Image, ImageArgs, ImageBuild, Kernel, PullChoice};

use crate::rundir::cid::Wanted;
use crate::vm_config::{CPUS, INCARNATIONS, MAX_TIME_MS, MEMORY_MB, PORTS, Uids, VmmKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use daemon::pair;
use pepita_jail::Level;
use pepita_wire::network::Network;
use pepita_wire::storage::DiskSpec;
use pepita_wire::world::{
    Ulimit, check_hostname, check_secret, check_sysctl, check_ulimit, check_user, check_workdir,
};
use pepita_wire::{Signal, VmId};
use std::path::PathBuf;
use std::time::Duration;
use strum::{EnumString, IntoStaticStr};

/// Boots microVMs on QEMU's microvm machine and looks after each with one small monitor process.
#[derive(Debug, Parser)]
#[command(
    name = "pepita",
    disable_version_flag = true,
    subcommand_required = false,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 ok, 4 no such VM, 64 usage, 65 unreadable, 66 bad image, 69 VMM missing, 70 internal, \
    73 name or CID taken, 74 I/O, 75 try again, 77 permission, 124 timeout. `run` in the foreground exits as the \
    daemon does: its code, 128 + signal, 126 or 127 when it cannot be executed, 125 when the VM failed."
)]
pub struct Cli {
    /// The directory in which every VM has its run directory [default: $PEPITA_RUN_DIR, else for root /run/pepita, for
    /// others $XDG_RUNTIME_DIR/pepita or a directory of their own]
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Print records and errors as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print the name and version; with --json also the contract and the usable VMMs
    #[arg(long, short = 'V')]
    pub version: bool,
    /// The call to carry out; absent with `--version`.
    #[command(subcommand)]
    pub call: Option<Request>,
}

/// The calls of `pepita`.
#[derive(Debug, Subcommand)]
pub enum Request {
    /// Boot a microVM and start its daemon
    Run(Box<Run>),
    /// Send a signal to the daemon: KILL ends the VM, STOP and CONT pause and resume its virtual CPUs; a paused VM refuses
    /// other signals
    Signal {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
        /// A name such as TERM, or a number
        #[arg(long, short, default_value = "TERM")]
        signal: Signal,
    },
    /// Print a VM's status record as JSON
    Status {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
    },
    /// End a VM and remove all traces of it; succeed when there is no such VM
    Destroy {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
        /// End the VM at once, even during a graceful stop; required when the files of the VM cannot be read
        #[arg(long, short)]
        force: bool,
        /// The time limit for the daemon to end after its signal
        #[arg(long, value_parser = duration, default_value = "30s")]
        timeout: Duration,
        /// The signal of a graceful stop [default: the stop signal of the VM's container image, else TERM]
        #[arg(long)]
        signal: Option<Signal>,
    },
    /// List the VMs of the run directory
    List {
        /// The form of the list
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Print the output of the console and the daemon
    Logs {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
        /// Follow the output until the VM has ended
        #[arg(long, short)]
        follow: bool,
        /// With --follow: go on with the next incarnations of the VM, until Ctrl-C
        #[arg(long, requires = "follow")]
        restarts: bool,
        /// Begin each line with the time at which it came and the number of the incarnation
        #[arg(long, short)]
        timestamps: bool,
        /// Print only the last N lines of what there is; `all` for all of them
        #[arg(long, value_name = "N")]
        tail: Option<Lines>,
        /// Print only output that is at most this old, for example 30s
        #[arg(long, value_parser = duration)]
        since: Option<Duration>,
        /// Print only output that is at least this old
        #[arg(long, value_parser = duration, conflicts_with = "follow")]
        until: Option<Duration>,
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
    },
    /// Wait until a VM has ended and print its exit record as JSON
    Wait {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
        /// Give up after this time
        #[arg(long, value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Run a command in a VM, beside its daemon; exit as the command does
    Exec(Exec),
    /// Print the output of a daemon from now on, until its VM ends; exit as `run` in the foreground does
    #[command(after_help = ATTACH_HELP)]
    Attach {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
        /// Pass INT, TERM and QUIT on to the daemon; with =false they end this program alone
        #[arg(
            long,
            value_name = "true|false",
            action = clap::ArgAction::Set,
            default_value_t = true,
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "true"
        )]
        sig_proxy: bool,
    },
    /// Copy files and directories between host and guest, as `docker cp` does
    Cp(Cp),
    /// Start a new monitor for a VM whose monitor has died
    Adopt {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
    },
    /// Start the daemon of a VM that was launched with --hold
    Start {
        /// The VM to which the call applies.
        #[command(flatten)]
        vm: Vm,
        /// The daemon to start.
        #[command(flatten)]
        daemon: DaemonArgs,
    },
    /// Pull and keep container images, and make root file systems
    #[command(subcommand)]
    Image(Image),
    /// List, grow and remove the disks of VMs
    Disk(DiskArgs),
    /// Install, list and remove the kernels that guests boot
    #[command(subcommand)]
    Kernel(Kernel),
    /// Check the host for each requirement, and give advice about those that are not met
    Doctor {
        /// Do not boot a guest
        #[arg(long)]
        no_boot: bool,
        /// Boot this kernel [default: the installed one (`pepita kernel`), else that of the running system]
        #[arg(long)]
        kernel: Option<PathBuf>,
        /// Boot this initramfs
        #[arg(long)]
        rootfs: Option<PathBuf>,
    },
    /// Print a completion script
    Completions {
        /// The shell that the script is for
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page of pepita, or of one call
    Man {
        /// The call, for example `run`
        call: Option<String>,
    },
}

/// The VM that a call is about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Vm {
    /// The VM's name
    #[arg(long = "name", short = 'n', value_name = "NAME")]
    named: Option<VmId>,
    /// The VM's name, as an argument
    #[arg(value_name = "NAME")]
    positional: Option<VmId>,
}

impl Vm {
    /// Returns the VM's name.
    ///
    /// # Panics
    /// Never: the parser accepts no call without a name.
    pub fn name(&self) -> &VmId {
        self.named.as_ref().or(self.positional.as_ref()).expect("one of both is required")
    }
}

const ATTACH_HELP: &str = "Ctrl-P Ctrl-Q leaves the daemon as it is and exits with 0, and so does a terminal or a reader that goes away. Ctrl-C is \
a signal for the daemon (INT), which ends most daemons; with --sig-proxy=false it ends this program alone (130).
The standard input of a daemon is empty: nothing that is typed reaches it. `pepita exec -it NAME -- sh` opens a shell beside it, and \
`pepita logs` prints the output up to now.
Exit codes: the daemon's, 128 + the number of the signal that ended it, 125 when the VM failed.";

const EXEC_EXAMPLES: &str = "Examples:
  A shell in a running guest
    pepita exec -it api -- sh
  A file out of a guest, and one into it
    pepita exec api -- cat /etc/hosts > hosts
    pepita exec -i api -- tee /tmp/hosts < hosts > /dev/null
The command has the environment, the user and the directory of the daemon. INT, TERM and HUP are passed on to it; Ctrl-\\ ends this program. The command \
ends with this program, and what it leaves behind ends with it.
Exit codes: the command's, 128 + the number of the signal that ended it, 126 when it cannot be executed, 127 when it is not \
there, 125 when it could not be run for another reason, or its VM has ended.";

/// The arguments of `pepita exec`.
#[derive(Debug, Args)]
#[command(after_help = EXEC_EXAMPLES)]
pub struct Exec {
    /// The VM in which the command runs.
    #[command(flatten)]
    pub vm: Vm,
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
    #[arg(long, short, value_name = "K=V", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

const RUN_EXAMPLES: &str = r#"Examples:
  A container image in the foreground: its output, Ctrl-C stops it, the exit code is the daemon's
    pepita run --rm redis:7
  A microVM in the foreground: its output, Ctrl-C stops it, the exit code is the daemon's
    pepita kernel install
    pepita run --rootfs api.cpio --rm
  With a kernel of your own, in the background, ready to be asked
    pepita run --kernel vmlinuz --rootfs api.cpio --name api --daemon --wait-ready
    pepita logs --name api --follow
    pepita destroy --name api
  How long each part of the start took, for a daemon that says READY=1 (for another one: --timings=started)
    pepita run --rootfs api.cpio --timings
  Another command than the image's, with a secret that no process list shows
    echo KEY=s3cret | pepita run --kernel vmlinuz --rootfs api.cpio --env-file - -- /usr/bin/api --port 80
  As a program asks for it: every field has an option, and an unknown field is refused
    echo '{"name":"api","env":{"KEY":"s3cret"}}' | pepita run --kernel vmlinuz --rootfs api.cpio --spec -
  Without a VM, for developing (without any isolation)
    pepita run --vmm process --rm -- ./target/debug/api"#;

/// A number of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines(pub u64);

impl std::str::FromStr for Lines {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self(u64::MAX)),
            number => number.parse().map(Self).map_err(|_| "use a number of lines, or all"),
        }
    }
}

/// The arguments of `pepita run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct Run {
    /// A file with the specification of the VM as JSON; `-` is standard input. Options override its fields
    #[arg(long, value_name = "FILE")]
    pub spec: Option<PathBuf>,
    /// The container image to boot, in place of --rootfs: a reference such as redis:7, or oci:DIR or docker-archive:FILE,
    /// perhaps with :TAG
    #[arg(value_name = "IMAGE", conflicts_with_all = ["rootfs", "initrd"])]
    pub image: Option<String>,
    /// When to ask the registry for the image [default: missing]
    #[arg(long, value_enum, requires = "image")]
    pub pull: Option<PullChoice>,
    /// The program to run in place of the image's entrypoint and command
    #[arg(long, value_name = "PROGRAM", requires = "image")]
    pub entrypoint: Option<String>,
    /// The properties of the VM.
    #[command(flatten)]
    pub options: RunOptions,
    /// Return when the VMM runs
    #[arg(long, short, alias = "detach")]
    pub daemon: bool,
    /// With --daemon: return when the guest agent answers
    #[arg(long)]
    pub wait_ready: bool,
    /// Print how long each part of the start took: when the daemon has said READY=1 (ready), or has started (started), for
    /// which --daemon waits as long as for the agent's first answer
    #[arg(long, value_enum, value_name = "UNTIL", num_args = 0..=1, require_equals = true, default_missing_value = "ready")]
    pub timings: Option<TimedUntil>,
    /// In the foreground: remove all traces at the end
    #[arg(long)]
    pub rm: bool,
    /// The daemon to start.
    #[command(flatten)]
    pub daemon_args: DaemonArgs,
}

/// The end of the start whose parts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TimedUntil {
    /// The daemon has said `READY=1`.
    Ready,
    /// The daemon has started.
    Started,
}

/// The options for the properties of a VM. An absent option leaves the field of the specification as it is.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// The guest's kernel: a bzImage or an uncompressed kernel [default: the kernel that `pepita kernel install`
    /// installed last]
    #[arg(long, short)]
    pub kernel: Option<PathBuf>,
    /// The guest's root: an initramfs (.cpio) or a disk (.ext4); with --vmm process an image.json
    #[arg(long, short)]
    pub rootfs: Option<PathBuf>,
    /// An initrd that mounts the disk [default: built from the kernel's modules, if there are any beside the kernel]
    #[arg(long)]
    pub initrd: Option<PathBuf>,
    /// The unpacked package of the kernel, for the modules of a disk's initrd
    #[arg(long, value_name = "DIR")]
    pub kernel_package: Option<PathBuf>,
    /// The guest's vsock address, or `auto` [default: auto]
    #[arg(long, value_name = "CID")]
    pub vsock_cid: Option<Wanted>,
    /// The VM's name [default: a random one]
    #[arg(long, short)]
    pub name: Option<VmId>,
    /// The number of virtual CPUs [default: 1]
    #[arg(long, visible_alias = "vcpus", value_parser = cpus())]
    pub cpus: Option<u32>,
    /// The memory in MiB, or with a suffix: 512M, 1G [default: 256]
    #[arg(long, short, value_parser = memory)]
    pub memory: Option<u64>,
    /// The port on which the guest agent listens [default: 5000]
    #[arg(long, value_name = "PORT", value_parser = ports())]
    pub vsock_port: Option<u32>,
    /// The transport to the guest's vsock [default: auto]
    #[arg(long, value_enum)]
    pub vsock: Option<VsockChoice>,
    /// A label for the VM, shown by status and list
    #[arg(long, value_name = "K=V", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Publish a port of the guest on the host: PORT:GUEST_PORT, ADDRESS:PORT:GUEST_PORT or unix:PATH:GUEST_PORT
    #[arg(long, short, value_name = "PORT:GUEST_PORT")]
    pub publish: Vec<String>,
    /// Let the daemon dial a place, and no other: ADDRESS:PORT, or NAME:PORT=ADDRESS:PORT, NAME:PORT=unix:PATH for a name
    /// that resolves in the guest
    #[arg(long, value_name = "PLACE[=TARGET]")]
    pub reach: Vec<String>,
    /// The guest's network: none; user: the guest reaches what this host reaches, ALSO SERVICES AT 127.0.0.1 of this host
    /// (in the guest at 10.0.2.2), and is reached by published ports alone; tap: this host reaches the guest at an address of
    /// its own, and the guest reaches other hosts, not this one (needs root, `ip` and `nft`) [default: none]
    #[arg(long, value_name = "none|user|tap")]
    pub network: Option<Network>,
    /// The number of this start of the VM [default: the number of the last start plus one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=*INCARNATIONS.end()))]
    pub incarnation: Option<u64>,
    /// Boot, but do not start the daemon until `pepita start`
    #[arg(long)]
    pub hold: bool,
    /// The time limit for the agent's first answer [default: 60s]
    #[arg(long, value_parser = duration)]
    pub ready_timeout: Option<Duration>,
    /// The kind of VMM [default: qemu]. `process` runs the agent as a plain process, WITHOUT ANY ISOLATION
    #[arg(long, value_enum)]
    pub vmm: Option<VmmKind>,
    /// How much of a jail there has to be for QEMU, the vsock back-end and virtiofsd: full refuses the launch when a layer cannot be
    /// had, best-effort goes on without it and says so [default: $PEPITA_JAIL, else full for root and best-effort for others]
    #[arg(long, value_name = "full|best-effort|none")]
    pub jail: Option<Level>,
    /// The user ids of which root's VM gets two for its jails [default: $PEPITA_JAIL_UIDS, else 700000-765535]
    #[arg(long, value_name = "FIRST-LAST")]
    pub jail_uids: Option<Uids>,
    /// The acceleration of the virtual CPUs [default: auto]
    #[arg(long, value_enum)]
    pub accel: Option<AccelChoice>,
    /// Words to add to the kernel's command line
    #[arg(long, value_name = "WORDS")]
    pub cmdline_append: Option<String>,
    /// A disk that is kept, at a directory of the guest: NAME:/PATH, and perhaps :ro, :rw or :size=10G. It is made at its
    /// first use [default size: 10GiB, of which only what is written takes space]. Or a directory of the host, with a
    /// slash in it: ./DIR:/PATH, read-only unless :rw is said
    #[arg(long, short = 'v', value_name = "NAME:/PATH[:OPTIONS]", value_parser = disk::volume)]
    pub volume: Vec<Volume>,
    /// The same in words: name=NAME,mount=/PATH and perhaps size=10G, ro, path=FILE (a file or block device of yours)
    #[arg(long, value_name = "K=V,...", value_parser = disk::disk)]
    pub disk: Vec<DiskSpec>,
    /// The directory of disks [default: $PEPITA_DISK_DIR, else `disks` in the data directory]
    #[arg(long, value_name = "DIR")]
    pub disk_dir: Option<PathBuf>,
    /// The directory for the console's log, in a directory for each VM [default: $PEPITA_LOG_DIR, else the run
    /// directory]
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
    /// The guest's name for itself [default: the VM's name]
    #[arg(long, value_name = "NAME", value_parser = checked(check_hostname))]
    pub hostname: Option<String>,
    /// The daemon's user: a name or number of the image, and its group [default: root]
    #[arg(long, short, value_name = "USER[:GROUP]", value_parser = checked(check_user))]
    pub user: Option<String>,
    /// The daemon's working directory in the guest [default: /]
    #[arg(long, short, value_name = "DIR", value_parser = checked(check_workdir))]
    pub workdir: Option<String>,
    /// A limit of the daemon, such as nofile=1024:4096 or core=unlimited
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    pub ulimit: Vec<(String, Ulimit)>,
    /// A setting of the guest's kernel, such as vm.overcommit_memory=1
    #[arg(long, value_name = "NAME=VALUE", value_parser = sysctl)]
    pub sysctl: Vec<(String, String)>,
    /// Make the guest's root read-only; /tmp, /run and /dev/shm stay writable
    #[arg(long)]
    pub read_only: bool,
    /// Give the daemon every capability, and let it gain privileges; without it, it has those of a container
    #[arg(long)]
    pub privileged: bool,
    /// A file of the host that the daemon alone can read, in memory, as /run/secrets/NAME
    #[arg(long, value_name = "NAME=FILE", value_parser = secret)]
    pub secret: Vec<(String, PathBuf)>,
}

/// The argument of `--accel`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, IntoStaticStr, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum AccelChoice {
    /// KVM where /dev/kvm opens and the CPU has vmx or svm, else TCG
    #[default]
    Auto,
    /// Hardware virtualisation by the kernel (KVM)
    Kvm,
    /// Emulation by QEMU (TCG), without hardware support
    Tcg,
}

/// The argument of `--vsock`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, IntoStaticStr, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum VsockChoice {
    /// vhost where /dev/vhost-vsock opens, else hybrid
    #[default]
    Auto,
    /// The host kernel's AF_VSOCK
    Vhost,
    /// A Unix socket of vhost-device-vsock
    Hybrid,
}

/// The argument of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people
    Table,
    /// One name per line
    Name,
    /// Status records as JSON
    Json,
}

fn ports() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(*PORTS.start())..=i64::from(*PORTS.end()))
}

fn cpus() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(i64::from(*CPUS.start())..=i64::from(*CPUS.end()))
}

/// Parses `30s`, `5min`, or a bare number of seconds, up to [`MAX_TIME_MS`].
fn duration(text: &str) -> Result<Duration, String> {
    let millis = text.strip_suffix("ms").and_then(|digits| digits.parse().ok());
    // humantime 2.4 panics on sums that just miss the largest `Duration`. Such a sum is too long in any case.
    let is_long = text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 10);
    let parsed = match (text.parse(), millis) {
        (Ok(seconds), _) => Duration::from_secs(seconds),
        (Err(_), Some(millis)) => Duration::from_millis(millis),
        (Err(_), None) if is_long => Duration::MAX,
        (Err(_), None) => {
            humantime::parse_duration(text).map_err(|e| format!("{e}; for example 30s or 5min"))?
        }
    };
    let longest = Duration::from_millis(MAX_TIME_MS);
    match parsed <= longest {
        true => Ok(parsed),
        false => Err(format!("longer than {}", humantime::format_duration(longest))),
    }
}

/// Parses a number of MiB, or a number with a suffix.
fn memory(text: &str) -> Result<u64, String> {
    let bad = || "a number of MiB, or with a suffix: 512M, 1G".to_owned();
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1024),
        _ => (text, 1),
    };
    let mib = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(bad)?;
    if MEMORY_MB.contains(&mib) { Ok(mib) } else { Err("between 32M and 1024G".into()) }
}

/// Returns a parser of a text that has to pass a check.
fn checked(
    check: fn(&str) -> Result<(), String>,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static {
    move |text| check(text).map(|()| text.to_owned())
}

/// Parses `NAME=SOFT[:HARD]`.
fn ulimit(text: &str) -> Result<(String, Ulimit), String> {
    let (name, limit) = pair(text).map_err(|_| "NAME=SOFT[:HARD] is wanted, such as nofile=1024:4096")?;
    check_ulimit(&name)?;
    Ok((name, limit.parse()?))
}

/// Parses `NAME=VALUE`.
fn sysctl(text: &str) -> Result<(String, String), String> {
    let (name, value) = pair(text).map_err(|_| "NAME=VALUE is wanted, such as vm.overcommit_memory=1")?;
    check_sysctl(&name, &value)?;
    Ok((name, value))
}

/// Parses `NAME=FILE`.
fn secret(text: &str) -> Result<(String, PathBuf), String> {
    let (name, file) = pair(text).map_err(|_| "NAME=FILE is wanted, such as key=/etc/app.key")?;
    check_secret(&name)?;
    if file.is_empty() {
        return Err(format!("{name}: the name of the file is empty"));
    }
    Ok((name, file.into()))
}

#[cfg(test)]
mod tests {
    use super::image::IMAGE_EXAMPLES;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_exit_code() {
        use pepita_wire::record::CallErrorKind as K;
        let help = Cli::command().render_help().to_string();
        let kinds = [
            (K::NoSuchVm, "no such VM"),
            (K::Usage, "usage"),
            (K::Unreadable, "unreadable"),
            (K::BadImage, "bad image"),
            (K::VmmMissing, "VMM missing"),
            (K::Internal, "internal"),
            (K::NameTaken, "name or CID taken"),
            (K::CidTaken, "name or CID taken"),
            (K::Io, "I/O"),
            (K::TryAgain, "try again"),
            (K::Permission, "permission"),
            (K::Timeout, "timeout"),
        ];
        for (kind, words) in kinds {
            assert!(help.contains(&format!(" {} {words}", kind.exit_code())), "{kind:?}: {help}");
        }
    }

    #[test]
    fn the_examples_in_the_help_are_calls() {
        let mut read = 0;
        for text in [RUN_EXAMPLES, IMAGE_EXAMPLES] {
            let joined = text.replace("\\\n", " ");
            let calls = joined.lines().filter_map(|line| Some(line[line.find("pepita ")?..].to_owned()));
            for call in calls.filter(|call| call.contains(" --")) {
                let words: Vec<&str> = call.split_whitespace().collect();
                Cli::try_parse_from(&words).unwrap_or_else(|e| panic!("{call}: {e}"));
                read += 1;
            }
        }
        assert_eq!(read, 11);
    }

    #[test]
    fn a_name_is_an_option_or_an_argument_and_there_is_one() {
        for call in ["status", "destroy", "logs", "wait", "attach", "adopt", "start", "signal"] {
            let good: [&[&str]; 3] = [&["--name", "a"], &["-n", "a"], &["a"]];
            for name in good {
                assert!(Cli::try_parse_from(["pepita", call].iter().chain(name)).is_ok(), "{call} {name:?}");
            }
            let bad: [&[&str]; 4] = [&[], &["a", "--name", "a"], &["a", "b"], &["../x"]];
            for name in bad {
                assert!(Cli::try_parse_from(["pepita", call].iter().chain(name)).is_err(), "{call} {name:?}");
            }
        }
    }

    #[test]
    fn both_dialects_are_understood() {
        let parse = |args: &[&str]| Cli::try_parse_from(args.iter()).expect("a good call").call;
        let Some(Request::Run(run)) =
            parse(&["pepita", "run", "--vcpus", "2", "--memory", "1G", "--name", "a", "--", "/bin/x", "--y"])
        else {
            panic!("a run")
        };
        assert_eq!((run.options.cpus, run.options.memory), (Some(2), Some(1024)));
        assert_eq!(run.daemon_args.command, ["/bin/x", "--y"]);
        for signal in ["TERM", "SIGTERM", "15"] {
            let call = parse(&["pepita", "signal", "--name", "a", "--signal", signal]);
            assert!(matches!(call, Some(Request::Signal { signal: Signal::TERM, .. })));
        }
    }

    #[test]
    fn a_number_beyond_its_range_is_refused_by_every_call_that_takes_one() {
        let calls: [&[&str]; 8] = [
            &["wait", "--name", "a", "--timeout"],
            &["destroy", "--name", "a", "--timeout"],
            &["logs", "--name", "a", "--since"],
            &["run", "--ready-timeout"],
            &["run", "--cpus"],
            &["run", "--memory"],
            &["run", "--vsock-port"],
            &["run", "--incarnation"],
        ];
        for call in calls {
            for number in ["18446744073709551615", "99999999999999999999999", "1000000000000years"] {
                let words = ["pepita"].iter().chain(call).chain([&number]);
                assert!(Cli::try_parse_from(words).is_err(), "{call:?} {number}");
            }
        }
        let size = ["pepita", "image", "build", "--output", "x", "--size", "18446744073709551615"];
        assert!(Cli::try_parse_from(size).is_err());
    }

    #[test]
    fn bad_names_and_numbers_are_refused() {
        for args in [
            ["--name", "../x"],
            ["--name", "-rf"],
            ["--name", ""],
            ["--memory", "much"],
            ["--memory", "1"],
            ["--cpus", "0"],
            ["--vsock-cid", "2"],
            ["--env", "=novalue"],
            ["--hostname", "a_b"],
            ["--network", "bridge"],
            ["--user", "a:b:c"],
            ["--workdir", "data"],
            ["--ulimit", "nofile"],
            ["--ulimit", "files=1"],
            ["--ulimit", "nofile=2:1"],
            ["--sysctl", "vm.x"],
            ["--sysctl", "../x=1"],
            ["--secret", "a/b=/c"],
            ["--secret", "key="],
        ] {
            assert!(Cli::try_parse_from(["pepita", "run", args[0], args[1]]).is_err(), "{args:?}");
        }
    }
}
