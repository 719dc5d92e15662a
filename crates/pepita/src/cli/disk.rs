//! The options of disks, and the calls of `pepita disk`. Only definitions.

use clap::{Args, Subcommand};
use pepita_wire::storage::{self, DiskSpec, ShareSpec, mount_fault, name_fault};
use std::path::PathBuf;

/// The arguments of `pepita disk`.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// The directory of disks [default: $PEPITA_DISK_DIR, else `disks` in the data directory]
    #[arg(long, global = true, value_name = "DIR")]
    pub disk_dir: Option<PathBuf>,
    /// What is to be done.
    #[command(subcommand)]
    pub call: DiskCall,
}

/// What `-v` names.
#[derive(Debug, Clone)]
pub enum Volume {
    /// A disk that outlives the VM.
    Disk(DiskSpec),
    /// A directory of the host.
    Share(ShareSpec),
}

/// The subcommands of `pepita disk`.
#[derive(Debug, Subcommand)]
pub enum DiskCall {
    /// List the disks: size, space taken on the host, user, place in the guest
    #[command(visible_alias = "ls")]
    List,
    /// Let a disk grow: now, or at the next start of the VM that uses it
    Grow {
        /// The disk's name
        name: String,
        /// The new size, such as 20GiB
        #[arg(value_parser = storage::size_mb)]
        size: u64,
    },
    /// Remove disks with all that is on them, as `docker volume rm` does; a disk in use is refused. At a terminal it is asked
    /// first
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

/// Parses `NAME:/PATH` and perhaps options, as `docker run -v` has them: a list with commas after a second colon.
///
/// A source with a slash is a directory of the host, as for docker. It is read-only unless `rw` is said, which differs from
/// docker.
pub(super) fn volume(text: &str) -> Result<Volume, String> {
    let mut parts = text.splitn(3, ':');
    let (name, mount) = (parts.next().unwrap_or_default(), parts.next());
    let Some(mount) = mount else {
        let wanted = "NAME:/PATH or DIR:/PATH is wanted: the name of a disk, or a directory of the host (with a slash in \
                      it), and its place in the guest";
        return Err(wanted.to_owned());
    };
    if name.contains('/') || matches!(name, "." | "..") {
        return share(name, mount, parts.next()).map(Volume::Share);
    }
    let disk = DiskSpec { name: name.to_owned(), mount: mount.to_owned(), ..DiskSpec::default() };
    let mut options = parts.next().into_iter().flat_map(|options| options.split(','));
    let disk = named_disk(options.try_fold(disk, |disk, option| match option.split_once('=') {
        None if option == "rw" => Ok(DiskSpec { read_only: false, ..disk }),
        None if option == "ro" => Ok(DiskSpec { read_only: true, ..disk }),
        Some(("size", size)) => Ok(DiskSpec { size_mb: Some(storage::size_mb(size)?), ..disk }),
        None | Some(_) => Err(format!("unknown option {option:?}; ro, rw and size=10G are known")),
    })?)?;
    Ok(Volume::Disk(disk))
}

fn share(path: &str, mount: &str, options: Option<&str>) -> Result<ShareSpec, String> {
    if let Some(fault) = mount_fault(mount) {
        return Err(fault);
    }
    let share = ShareSpec { path: path.into(), mount: mount.to_owned(), read_only: true };
    options.into_iter().flat_map(|options| options.split(',')).try_fold(share, |share, option| match option {
        "ro" => Ok(ShareSpec { read_only: true, ..share }),
        "rw" => Ok(ShareSpec { read_only: false, ..share }),
        _ => Err(format!("unknown option {option:?} of a directory of the host; ro and rw are known")),
    })
}

/// Parses `name=NAME,mount=/PATH` and perhaps more, as `docker run --mount` has them.
pub(super) fn disk(text: &str) -> Result<DiskSpec, String> {
    named_disk(text.split(',').try_fold(
        DiskSpec::default(),
        |disk, option| match option.split_once('=') {
            Some(("name", name)) => Ok(DiskSpec { name: name.to_owned(), ..disk }),
            Some(("mount", mount)) => Ok(DiskSpec { mount: mount.to_owned(), ..disk }),
            Some(("path", path)) if !path.is_empty() => Ok(DiskSpec { path: Some(path.into()), ..disk }),
            Some(("size", size)) => Ok(DiskSpec { size_mb: Some(storage::size_mb(size)?), ..disk }),
            None if option == "ro" => Ok(DiskSpec { read_only: true, ..disk }),
            None | Some(_) => {
                Err(format!("unknown option {option:?}; name=, mount=, size=, path= and ro are known"))
            }
        },
    )?)
}

fn named_disk(disk: DiskSpec) -> Result<DiskSpec, String> {
    match name_fault(&disk.name).or_else(|| mount_fault(&disk.mount)) {
        Some(fault) => Err(fault),
        None => Ok(disk),
    }
}
