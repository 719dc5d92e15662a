//! What the jail of one process is to be. Only values: `enter` makes them true.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The first argument of `pepita` with which it is the helper.
pub const HELPER: &str = "jail";

/// Where the programs and libraries of a host are, on the distributions that we know. A link among them, as `/lib` is where
/// everything is in `/usr`, is followed.
const PROGRAMS: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"];

/// The files by which libraries are found and times are shown.
const SETTINGS: [&str; 4] = ["/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime"];

/// The devices that any program may use.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// What a server of files has as root: the rights to read and write files as their owners, to make a directory its root, and
/// to give up rights.
const TO_SERVE: [Capability; 8] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::SysChroot,
];

/// What one has that makes and changes no file. Who opens the file of another without a trace in its times (`O_NOATIME`) has to
/// have `FOWNER`.
const TO_SERVE_READ_ONLY: [Capability; 4] =
    [Capability::DacReadSearch, Capability::Fowner, Capability::Setpcap, Capability::SysChroot];

/// Where the processes of a jail are shown. Settings of the kernel, which this file system leaves out, can be beside it.
pub(crate) const PROCESSES: &str = "/proc/processes";

/// How much of a jail there has to be.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Level {
    /// Every layer of the plan. One that cannot be had is an error that names it, and the program is not started.
    #[default]
    Full,
    /// Every layer that can be had. The others are told, and left out.
    BestEffort,
    /// No layer. The program is started as it is, without the helper.
    None,
}

/// The jail of one process. [`Plan::new`] is a jail with every layer and nothing in its root; what the program needs is
/// added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How much of it there has to be.
    pub level: Level,
    /// The user that the program becomes. `None` for an ordinary user, who cannot become another one, and for a program with
    /// capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// The capabilities that the program keeps, as root of its user namespace. Only servers of files have some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// The files, directories and devices of its root.
    pub binds: Vec<Bind>,
    /// The current directory of the program, which exists in its root: a bind, above one, or an empty directory.
    pub dir: PathBuf,
    /// The network that it may use.
    #[serde(default)]
    pub network: Network,
    /// Whether there is a `/proc/self`. The processes of the jail alone are shown.
    #[serde(default)]
    pub proc: bool,
    /// The limits of the process.
    #[serde(default)]
    pub limits: Limits,
    /// The filter of system calls that the jail brings. A program may bring its own in addition.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// The descriptors that the program is to have besides standard input, output and error. All others are closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<i32>,
}

/// A user and a group, which no other program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user id, other than 0.
    pub uid: u32,
    /// The group id, other than 0. The groups of the devices of the root are added to it.
    pub gid: u32,
}

/// A capability (capabilities(7)) that a server of files may keep: it reads and writes as the owners of the files.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::EnumIter,
    strum::IntoStaticStr,
    strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Capability {
    /// The right to give files away.
    Chown,
    /// The right to read, write and search whatever the modes of files say.
    DacOverride,
    /// The right to read and search whatever the modes of files say.
    DacReadSearch,
    /// The right to change modes and times of the files of others.
    Fowner,
    /// The right to keep the set-user-ID and set-group-ID bits of files that are written to.
    Fsetid,
    /// The right to make files in the groups of others.
    Setgid,
    /// The right to make files as others.
    Setuid,
    /// The right to give up capabilities for what is executed later, too.
    Setpcap,
    /// The right to make a directory its root (chroot(2)).
    SysChroot,
}

/// A file, a directory or a device of the host that is in the root of the jail. What is mounted below a directory is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The path on the host. Links are followed.
    pub source: PathBuf,
    /// The path in the jail. The directories above it are made, and are empty otherwise.
    pub target: PathBuf,
    /// What may be done with it there.
    pub access: Access,
    /// Whether the root is complete without it, when there is no such file on the host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// What may be done with a file or a directory in the jail. The modes and owners of the files hold besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read and execute: programs and libraries.
    Execute,
    /// Read: images, kernels, configurations.
    Read,
    /// Read and write, but not execute: the program's own directory, disks, pipes.
    Write,
    /// Use as a device. Nothing else in the jail is one.
    Device,
    /// Serve to a guest: read, write, and move from one directory to another, but not execute. Where what is mounted below
    /// the directory cannot be left out, the plan fails.
    Serve,
    /// Serve to a guest that may only read. As [`Access::Serve`] otherwise.
    ServeReadOnly,
}

/// The network that a program may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// No network: a network namespace in which nothing is up, and no TCP.
    #[default]
    None,
    /// The host's: QEMU itself makes the connections of a guest with a network of the kind `user`.
    Host,
}

/// The limits of a process (setrlimit(2)), both soft and hard. `None` leaves a limit as it is. There are no core files: they
/// would bring the guest's memory onto the host's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The number of open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// The number of threads of the user. In a user namespace of an ordinary user, those of the jail alone count
    /// (Linux 5.14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// The largest size to which a file can be written, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_size: Option<u64>,
}

/// A filter of system calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seccomp {
    /// No filter of the jail; the program may bring its own.
    None,
    /// All calls but those that no program in a jail needs: mounts, namespaces, keys, tracing, BPF, io_uring, kernel modules.
    /// QEMU adds its own filter (`-sandbox`).
    #[default]
    Common,
    /// The calls that vhost-device-vsock needs, and no others.
    Backend,
    /// The calls of [`Seccomp::Common`] without new processes and sockets, but with chroot(2). virtiofsd adds its own
    /// filter, which is a list of what it needs.
    Share,
}

impl Plan {
    /// Returns a jail with every layer, an empty root and nothing to keep.
    pub fn new(level: Level, user: Option<User>, dir: impl Into<PathBuf>) -> Self {
        Self {
            level,
            user,
            capabilities: Vec::new(),
            binds: Vec::new(),
            dir: dir.into(),
            network: Network::None,
            proc: false,
            limits: Limits::default(),
            seccomp: Seccomp::Common,
            keep: Vec::new(),
        }
    }

    /// Returns the jail of a server of files, which is root with few capabilities and sees its own processes. Its directory
    /// is to be added.
    pub fn of_file_server(level: Level, read_only: bool, dir: impl Into<PathBuf>) -> Self {
        let capabilities = if read_only { TO_SERVE_READ_ONLY.to_vec() } else { TO_SERVE.to_vec() };
        Self { capabilities, proc: true, seccomp: Seccomp::Share, ..Self::new(level, None, dir) }
    }

    /// Adds a file, a directory or a device under the path that it has on the host, so that paths in arguments mean the
    /// same in the jail.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, access: Access) -> Self {
        self.binds.push(Bind::same(path, access));
        self
    }

    /// Adds the programs and libraries of the host to read and execute, and the devices that any program may use.
    #[must_use]
    pub fn with_system(mut self) -> Self {
        let programs = PROGRAMS.map(|path| Bind::same(path, Access::Execute).optional());
        let settings = SETTINGS.map(|path| Bind::same(path, Access::Read).optional());
        let devices = DEVICES.map(|path| Bind::same(path, Access::Device));
        self.binds.extend(programs.into_iter().chain(settings).chain(devices));
        self
    }

    /// Adds a program with the right to execute it, unless it is among the programs of the host.
    #[must_use]
    pub fn with_program(mut self, path: &Path) -> Self {
        let is_there = |bind: &Bind| bind.access == Access::Execute && path.starts_with(&bind.target);
        if !self.binds.iter().any(is_there) {
            self.binds.push(Bind::same(path, Access::Execute));
        }
        self
    }

    /// Checks that the plan can be carried out as far as its values tell.
    ///
    /// # Errors
    /// Returns a sentence that names what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let paths = self.binds.iter().flat_map(|bind| [&bind.source, &bind.target]);
        let paths = paths.chain([&self.dir]);
        for path in paths {
            if !is_plain(path) {
                return Err(format!(
                    "{}: a path of a jail is absolute and has no `..` in it",
                    path.display()
                ));
            }
        }
        if self.binds.iter().any(|bind| bind.target == Path::new("/")) {
            return Err("/: the root of a jail is its own".into());
        }
        match self.user {
            Some(User { uid: 0, .. } | User { gid: 0, .. }) => {
                Err("the user and the group of a jail are not root".into())
            }
            Some(_) if !self.capabilities.is_empty() => {
                Err("a program with capabilities has no user of its own: they are those of root".into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn is_plain(path: &Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute() && path.components().all(|part| matches!(part, RootDir | Normal(_)))
}

impl Bind {
    /// Returns a file, a directory or a device under the path that it has on the host.
    pub fn same(path: impl Into<PathBuf>, access: Access) -> Self {
        let path = path.into();
        Self { source: path.clone(), target: path, access, optional: false }
    }

    /// Makes the root complete without it, when there is no such file on the host.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_files_is_root_and_has_no_user_of_its_own() {
        let user = Some(User { uid: 7, gid: 7 });
        let server = Plan::of_file_server(Level::Full, true, "/");
        assert_eq!(server.check(), Ok(()));
        assert!(!server.capabilities.contains(&Capability::DacOverride), "it only reads");
        assert_eq!(Plan::new(Level::Full, user, "/").check(), Ok(()));
        let both = Plan { user, ..server };
        assert!(both.check().is_err_and(|why| why.contains("no user of its own")));
    }
}
