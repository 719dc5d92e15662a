//! The calls of `pepita image` and `pepita kernel`, and their options. Only definitions.

use super::daemon::DaemonArgs;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use strum::IntoStaticStr;

pub(super) const IMAGE_EXAMPLES: &str = "Examples:
  An initramfs with a static program in it, and the modules of the kernel that it is to boot with
    pepita image build --daemon target/x86_64-unknown-linux-musl/release/api \\
        --kernel-package /lib/modules/6.1.0-40-cloud-amd64 --output api.cpio
  A disk from a directory that has the program and its libraries; the command has arguments
    pepita image build --dir rootfs/ --output api.ext4 --env PORT=80 -- /usr/bin/api --verbose";

/// The argument of `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum PullChoice {
    /// Each time
    Always,
    /// When the image is not here
    Missing,
    /// Not at all
    Never,
}

/// The subcommands of `pepita kernel`.
#[derive(Debug, Subcommand)]
pub enum Kernel {
    /// Install a kernel with its modules; `pepita run` without --kernel boots the one that was installed last
    Install {
        /// The kernel's package: a .deb, or a directory with the kernel and its modules [default: Debian's present
        /// linux-image-cloud-amd64, downloaded by apt-get]
        #[arg(long, value_name = "DIR|DEB")]
        from: Option<PathBuf>,
    },
    /// List the installed kernels
    List,
    /// Remove an installed kernel; VMs that run it go on
    Remove {
        /// The kernel's release, as `pepita kernel list` shows it
        release: String,
    },
}

/// The subcommands of `pepita image`.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Make a root file system that contains the agent and a daemon
    Build(Box<ImageBuild>),
    /// Pull a container image from a registry
    Pull(ImageArgs),
    /// Take a container image from an OCI layout, or from a file of `docker save`
    Import(ImageArgs),
    /// List the container images
    #[command(visible_alias = "ls")]
    List(ImageArgs),
    /// Print what is known of a container image
    Inspect(ImageArgs),
    /// Remove container images
    #[command(visible_alias = "rm")]
    Remove(ImageArgs),
    /// Remove container images that nobody uses
    Prune(ImageArgs),
}

/// The arguments of a call that `pepita-image` carries out.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct ImageArgs {
    /// The arguments; --help lists them
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

/// The arguments of `pepita image build`.
#[derive(Debug, Args)]
#[command(after_help = IMAGE_EXAMPLES)]
pub struct ImageBuild {
    /// The daemon's program, statically linked unless --dir brings its libraries
    #[arg(long, value_name = "BIN")]
    pub daemon: Option<PathBuf>,
    /// A directory whose contents are copied into the root
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The file to write: a .cpio (initramfs) or an .ext4 (disk)
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// The kernel's package (a directory or a .deb), for the modules that the guest has to load
    #[arg(long, value_name = "DIR")]
    pub kernel_package: Option<PathBuf>,
    /// A module of that package that the guest loads in addition to the modules that every guest needs
    #[arg(long, value_name = "NAME")]
    pub module: Vec<String>,
    /// The guest agent [default: daemonctl beside pepita]
    #[arg(long, value_name = "BIN")]
    pub agent: Option<PathBuf>,
    /// The size of a disk in MiB [default: the required size plus 32]
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 0,
        hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(..=DISK_MB_MAX)
    )]
    pub size: u64,
    /// The daemon to start.
    #[command(flatten)]
    pub daemon_args: DaemonArgs,
}

/// The largest disk that `pepita image build` makes, in MiB: the largest ext4 file system with blocks of 4 KiB.
const DISK_MB_MAX: u64 = 16 << 20;
