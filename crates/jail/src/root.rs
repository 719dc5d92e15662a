//! Builds the root directory of a jail: an empty file system in memory, in which the files, directories and devices of the
//! plan are mounted, and nothing else exists.

use crate::answer::{Failure, What};
use crate::identity;
use crate::plan::{Access, Bind, PROCESSES, Plan, User};
use crate::raw::{Forbidden, restrict_mount, seal_mount};
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, Uid, chownat, mkdirat, mknodat, openat, stat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The size of the file system of the root: it holds directories and empty files alone.
const SIZE: &str = "256k";

/// Why a root was not built.
pub(crate) enum Stop {
    /// A file of the plan is missing or cannot be shown: the plan is wrong, whatever the level.
    File(Failure),
    /// The host does not let it happen.
    Layer(String),
}

impl Stop {
    fn layer(step: &str, errno: Errno) -> Self {
        let hint = match errno {
            Errno::NOSYS => " (Linux 5.12 or later is needed)",
            Errno::PERM | Errno::ACCESS => {
                " (mounts are forbidden here: a container without CAP_SYS_ADMIN, or, for an ordinary user, \
                 kernel.apparmor_restrict_unprivileged_userns=1)"
            }
            Errno::INVAL => {
                " (the root of this system is an initial RAM file system, or part of a locked mount)"
            }
            _ => "",
        };
        Self::Layer(format!("{step}: {errno}{hint}"))
    }

    fn file(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::File(Failure::new(What::File, format!("{}: {why}", path.display())))
    }
}

/// A file of the plan as a mount that is attached nowhere yet.
struct Piece<'a> {
    bind: &'a Bind,
    mount: OwnedFd,
    is_dir: bool,
    /// The number of a device that only its owner may use.
    closed: Option<(FileType, Dev)>,
}

/// Makes the root of the plan this process's root, in a mount namespace of its own, with or without `/proc`. The current
/// directory is the plan's.
pub(crate) fn build(plan: &Plan, with_proc: bool) -> Result<(), Stop> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| Stop::layer("making mounts private", e))?;
    let mut pieces: Vec<Piece<'_>> = Vec::new();
    for bind in &plan.binds {
        pieces.extend(piece(bind)?);
    }
    // What is below another one is mounted after it.
    pieces.sort_by_key(|piece| piece.bind.target.components().count());
    let root = memory("tmpfs", &[("size", SIZE), ("nr_inodes", "1k"), ("mode", "0755")], Devices::Forbidden)?;
    let fixed = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    // It covers the host's root, which stays this process's root until the next step but one.
    move_mount(&root, "", CWD, "/", fixed).map_err(|e| Stop::layer("mounting the root", e))?;
    fchdir(&root).map_err(|e| Stop::layer("entering the root", e))?;
    if let Some(user) = plan.user {
        give_devices(&mut pieces, user)?;
    }
    let mut made: Vec<&Path> = Vec::new();
    for piece in &pieces {
        let target = relative(&piece.bind.target);
        make_place(piece, &target, &made)?;
        move_mount(&piece.mount, "", CWD, &target, fixed).map_err(|e| Stop::file(&piece.bind.target, e))?;
        made.push(&piece.bind.target);
    }
    let dir = relative(&plan.dir);
    if !made.iter().any(|above| plan.dir.starts_with(above)) {
        make_dirs(&dir).map_err(|e| Stop::file(&plan.dir, e))?;
    }
    if with_proc {
        let place = relative(Path::new(PROCESSES));
        make_dirs(&place).map_err(|e| Stop::layer("/proc", e))?;
        let proc = memory("proc", &[("subset", "pid"), ("hidepid", "2")], Devices::Forbidden)?;
        move_mount(&proc, "", CWD, &place, fixed).map_err(|e| Stop::layer("mounting /proc", e))?;
        symlinkat(Path::new(PROCESSES).join("self"), CWD, "proc/self")
            .map_err(|e| Stop::layer("/proc/self", e))?;
    }
    // The root of the host is mounted on the new root's own directory, and taken away from there (pivot_root(2)).
    pivot_root(".", ".").map_err(|e| Stop::layer("pivot_root", e))?;
    unmount(".", UnmountFlags::DETACH).map_err(|e| Stop::layer("leaving the host's root", e))?;
    chdir("/").map_err(|e| Stop::layer("entering the root", e))?;
    seal_mount(&root).map_err(|e| Stop::layer("making the root read-only", e))?;
    chdir(&plan.dir).map_err(|e| Stop::file(&plan.dir, e))
}

/// Whether devices in a file system can be used.
#[derive(PartialEq, Eq)]
enum Devices {
    Allowed,
    Forbidden,
}

/// Returns a new file system of the kernel, which is attached nowhere.
fn memory(kind: &str, options: &[(&str, &str)], devices: Devices) -> Result<OwnedFd, Stop> {
    let failed = |e| Stop::layer(kind, e);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value).map_err(failed)?;
    }
    fsconfig_create(&context).map_err(failed)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NODEV, devices == Devices::Forbidden);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

/// Opens a file of the plan as a mount of its own. Returns `None` for one that may be missing, and is.
fn piece(bind: &Bind) -> Result<Option<Piece<'_>>, Stop> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = match open_tree(CWD, &bind.source, flags) {
        // An ordinary user may not show a directory without what is mounted below it (mount_namespaces(7)).
        Err(Errno::INVAL) if matches!(bind.access, Access::Serve | Access::ServeReadOnly) => {
            let why = "file systems are mounted below it, which only root may leave out; share the directories below them";
            return Err(Stop::file(&bind.source, why));
        }
        Err(Errno::INVAL) => open_tree(CWD, &bind.source, flags | OpenTreeFlags::AT_RECURSIVE),
        opened => opened,
    };
    let mount = match mount {
        Ok(mount) => mount,
        Err(Errno::NOENT | Errno::NOTDIR) if bind.optional => return Ok(None),
        // The file was looked for and found: mounts are what is refused.
        Err(e @ (Errno::PERM | Errno::NOSYS)) => return Err(Stop::layer("open_tree", e)),
        Err(e) => return Err(Stop::file(&bind.source, e)),
    };
    let stat = statat(&mount, "", AtFlags::EMPTY_PATH).map_err(|e| Stop::file(&bind.source, e))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    if is_device != (bind.access == Access::Device) {
        let why =
            if is_device { "it is a device, and the plan does not say so" } else { "it is not a device" };
        return Err(Stop::file(&bind.source, why));
    }
    let forbidden = match bind.access {
        Access::Execute => Forbidden { write: true, execute: false, devices: true },
        Access::Read | Access::ServeReadOnly => Forbidden { write: true, execute: true, devices: true },
        Access::Write | Access::Serve => Forbidden { write: false, execute: true, devices: true },
        // A device is written to all the same; its mode and its owner stay as they are.
        Access::Device => Forbidden { write: true, execute: true, devices: false },
    };
    restrict_mount(&mount, forbidden).map_err(|e| Stop::layer("mount_setattr", e))?;
    let closed = (is_device && identity::is_closed(&stat)).then_some((kind, stat.st_rdev));
    Ok(Some(Piece { bind, mount, is_dir: kind == FileType::Directory, closed }))
}

/// Makes a node of its own for each device that only its owner may use, for the user of the jail: on some hosts `/dev/kvm` is
/// root's alone. Where the system lets no node be made, the device is shown as it is. The current directory is the new root.
fn give_devices(pieces: &mut [Piece<'_>], user: User) -> Result<(), Stop> {
    const PLACE: &str = "nodes";
    if pieces.iter().all(|piece| piece.closed.is_none()) {
        return Ok(());
    }
    let failed = |e| Stop::layer("a directory for devices", e);
    let nodes = memory("tmpfs", &[("size", SIZE), ("mode", "0755")], Devices::Allowed)?;
    mkdirat(CWD, PLACE, Mode::from_raw_mode(0o755)).map_err(failed)?;
    move_mount(&nodes, "", CWD, PLACE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed)?;
    for (index, piece) in pieces.iter_mut().enumerate() {
        let Some((kind, number)) = piece.closed else { continue };
        let name = Path::new(PLACE).join(index.to_string());
        let node = || -> rustix::io::Result<OwnedFd> {
            mknodat(CWD, &name, kind, Mode::RUSR | Mode::WUSR, number)?;
            chownat(
                CWD,
                &name,
                Some(Uid::from_raw(user.uid)),
                Some(Gid::from_raw(user.gid)),
                AtFlags::empty(),
            )?;
            let node =
                open_tree(CWD, &name, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
            restrict_mount(&node, Forbidden { execute: true, ..Forbidden::default() })?;
            Ok(node)
        };
        if let Ok(node) = node() {
            piece.mount = node;
        }
    }
    unmount(PLACE, UnmountFlags::DETACH).map_err(failed)?;
    unlinkat(CWD, PLACE, AtFlags::REMOVEDIR).map_err(failed)
}

/// Makes the empty directory or file on which a piece is mounted. Inside another piece nothing is made: it is the host's.
fn make_place(piece: &Piece<'_>, target: &Path, made: &[&Path]) -> Result<(), Stop> {
    let path = &piece.bind.target;
    if made.iter().any(|above| path.starts_with(above)) {
        return match stat(target) {
            Ok(_) => Ok(()),
            Err(_) => Err(Stop::file(path, "the directory that is shown around it has no such file")),
        };
    }
    let place = match (piece.is_dir, target.parent()) {
        (true, _) => make_dirs(target),
        (false, parent) => parent.map_or(Ok(()), make_dirs).and_then(|()| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            openat(CWD, target, flags, Mode::from_raw_mode(0o444)).map(drop)
        }),
    };
    place.map_err(|e| Stop::file(path, e))
}

/// Makes directories below the current one.
fn make_dirs(path: &Path) -> rustix::io::Result<()> {
    let mut at = PathBuf::new();
    for part in path.components() {
        at.push(part);
        match mkdirat(CWD, &at, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn relative(path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    if relative.as_os_str().is_empty() { PathBuf::from(".") } else { relative.to_owned() }
}
