//! What the jails of a VM's processes hold, and what is said of them.
//!
//! QEMU gets its disks, its sockets and the device of its network open, and opens the kernel, the initrd and the pipes of the
//! console by their names. The back-end gets an empty directory, in which it makes its sockets; the monitor takes them out
//! of it, and the directory away. The server of a share gets its directory.

use super::process::refusal;
use crate::error::Result;
use crate::rundir::layout;
use crate::vm_config::{Accel, Jail, Root, VmConfig};
use pepita_jail::Network as JailNetwork;
use pepita_jail::{Access, Bind, Failure, Layer, Level, Limits, Plan, Report, Seccomp, Standing, User, What};
use pepita_wire::network::Network;
use pepita_wire::record::{JailStatus, LayerStatus, ProcessJail};
use pepita_wire::storage::ShareSpec;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The names of the processes in the status.
const VMM: &str = "vmm";
const BACKEND: &str = "backend";

/// The device of KVM.
const KVM: &str = "/dev/kvm";

/// The file from which QEMU takes the name server of a guest with a network of the kind `user`.
const RESOLVER: &str = "/etc/resolv.conf";

/// Where a program that is not among those of the host has what it needs, beside the directory in which it is.
const BESIDE: [&str; 4] = ["lib", "lib64", "libexec", "share/qemu"];

/// Where a directory of the host that holds programs or settings is in the jail of its server, which needs those of the host.
const SHARED: &str = "/share";

/// The most files that QEMU and the back-end open.
const OPEN_FILES: u64 = 65_536;

/// A setting of the kernel that virtiofsd reads when it starts, whatever its limit of open files is.
const FILE_MAX: &str = "/proc/sys/fs/file-max";

/// The most files that the server of a share opens: one for each that its guest knows.
const SERVED_FILES: u64 = 1_000_000;

/// The threads of QEMU beside the virtual CPUs: 64 for disks, and some of its own.
const THREADS: u64 = 128;

/// The largest file of a program that writes none, in bytes.
const SMALL_FILE: u64 = 1 << 20;

/// The jails of a VM's processes.
#[derive(Debug)]
pub(super) struct Jails {
    level: Level,
    dir: PathBuf,
    /// The users of QEMU and the back-end.
    users: Option<(User, User)>,
    /// Why root's VM has no users of its own.
    without_users: Option<String>,
    status: JailStatus,
}

impl Jails {
    /// Returns the jails of a VM whose run directory is `dir`; `None` = its processes are in none. `QEMU`'s user gets the
    /// files of `given`, in the run directory.
    ///
    /// # Errors
    /// When the system gives no file away, and every layer has to be there.
    pub(super) fn of(config: &VmConfig, dir: &Path, given: &[&str]) -> Result<Option<Self>> {
        let Some(Jail { level, .. }) = config.request.jail else { return Ok(None) };
        let status = JailStatus { level: level.to_string(), ..JailStatus::default() };
        let (dir, users) = (dir.to_owned(), config.users().map(|users| (users.vmm, users.backend)));
        let mut jails = Self { level, dir, users, without_users: None, status };
        for file in given {
            jails.give(file, |(vmm, _)| vmm)?;
        }
        Ok(Some(jails))
    }

    /// Gives a file of the run directory to one of the users. It stays in the group of root, which uses it where no layer lets
    /// the process become that user. Who cannot give a file away cannot become another user either.
    fn give(&mut self, name: &str, to: impl Fn((User, User)) -> User) -> Result<()> {
        let Some(user) = self.users.map(to) else { return Ok(()) };
        let give = || -> std::io::Result<()> {
            let meta = std::fs::symlink_metadata(name)?;
            let mode = if meta.is_dir() { 0o770 } else { 0o660 };
            std::fs::set_permissions(name, Permissions::from_mode(mode))?;
            chown(name, Some(user.uid), None)
        };
        let Err(e) = give() else { return Ok(()) };
        let why = format!(
            "a file cannot be given to user {}: {e}; name user ids that this system has (--jail-uids)",
            user.uid
        );
        if self.level == Level::Full {
            return Err(refusal(Failure::new(What::Layer(Layer::Uid), why)));
        }
        (self.users, self.without_users) = (None, Some(why));
        Ok(())
    }

    /// Makes the directory for the sockets of the back-end.
    ///
    /// # Errors
    /// When it cannot be made, or cannot be given away and has to be.
    pub(super) fn make_sockets_dir(&mut self) -> Result<()> {
        let made = std::fs::DirBuilder::new();
        made.create(layout::VSOCK).map_err(|e| crate::error::io(Path::new(layout::VSOCK), e))?;
        self.give(layout::VSOCK, |(_, backend)| backend)
    }

    /// Returns the jail of QEMU, which is `program`. `longest` is the size of the largest of its disks, in bytes.
    pub(super) fn of_vmm(&self, config: &VmConfig, program: &Path, longest: u64) -> Plan {
        let request = &config.request;
        let mut plan = self.plan(program, self.users.map(|(vmm, _)| vmm));
        let own = |name: &str| self.dir.join(name);
        for pipe in [layout::CONSOLE_IN, layout::CONSOLE_OUT] {
            plan = plan.with(own(pipe), Access::Write);
        }
        let initrd = match &request.root {
            Root::Initramfs(archive) => Some(archive),
            Root::Disk { initrd, .. } => initrd.as_ref(),
            Root::Shared { initrd, .. } => Some(initrd),
            Root::Host(_) => None,
        };
        for file in request.kernel.iter().chain(initrd) {
            plan = plan.with(file, Access::Read);
        }
        plan.binds.push(Bind::same(own(layout::OPTIONS), Access::Read).optional());
        if request.accel == Accel::Kvm {
            plan = plan.with(KVM, Access::Device);
        }
        if request.network == Network::User {
            plan.binds.push(Bind::same(RESOLVER, Access::Read).optional());
            plan.network = JailNetwork::Host;
        }
        // The guest's memory is a file, too.
        let file_size = longest.max(request.memory_mb << 20).max(SMALL_FILE);
        let threads = Some(THREADS + u64::from(request.cpus));
        plan.limits = Limits { open_files: Some(OPEN_FILES), threads, file_size: Some(file_size) };
        plan
    }

    /// Returns the jail of the back-end, which is `program`.
    pub(super) fn of_backend(&self, program: &Path) -> Plan {
        let plan = self.plan(program, self.users.map(|(_, backend)| backend));
        let limits =
            Limits { open_files: Some(OPEN_FILES), threads: Some(THREADS), file_size: Some(SMALL_FILE) };
        let plan = Plan { limits, seccomp: Seccomp::Backend, ..plan };
        plan.with(self.dir.join(layout::VSOCK), Access::Write)
    }

    /// Returns the jail of the server of a share, which is `program`, and the path of the shared directory in it.
    pub(super) fn of_share(&self, share: &ShareSpec, program: &Path) -> (Plan, PathBuf) {
        let plan = Plan::of_file_server(self.level, share.read_only, "/");
        let mut plan = with_host(plan, program);
        let access = if share.read_only { Access::ServeReadOnly } else { Access::Serve };
        plan.binds.push(Bind::same(FILE_MAX, Access::Read).optional());
        let holds_others = plan.binds.iter().any(|bind| bind.target.starts_with(&share.path));
        let target = if holds_others { PathBuf::from(SHARED) } else { share.path.clone() };
        plan.binds.push(Bind { target: target.clone(), ..Bind::same(&share.path, access) });
        // What a guest writes is as large as its file system lets it be.
        let file_size = share.read_only.then_some(SMALL_FILE);
        plan.limits = Limits { open_files: Some(SERVED_FILES), threads: Some(THREADS), file_size };
        (plan, target)
    }

    fn plan(&self, program: &Path, user: Option<User>) -> Plan {
        with_host(Plan::new(self.level, user, &self.dir), program)
    }

    /// Notes what is said of the jail of QEMU.
    pub(super) fn note_vmm(&mut self, report: &Report) {
        let record = self.record_of(report, self.users.map(|(vmm, _)| vmm));
        self.status.processes.insert(VMM.into(), record);
    }

    /// Notes what is said of the jail of the back-end.
    pub(super) fn note_backend(&mut self, report: &Report) {
        let record = self.record_of(report, self.users.map(|(_, backend)| backend));
        self.status.processes.insert(BACKEND.into(), record);
    }

    /// Notes what is said of the jail of the server of a share. The VM's processes have its directory in the guest in the name.
    pub(super) fn note_share(&mut self, mount: &str, report: &Report) {
        let record = record(report, None);
        self.status.processes.insert(format!("share {mount}"), record);
    }

    /// Returns the record of a process that is to have a user of its own.
    fn record_of(&self, report: &Report, user: Option<User>) -> ProcessJail {
        let mut record = record(report, user);
        if let Some(why) = &self.without_users {
            record.layers.insert(Layer::Uid.name().into(), LayerStatus::Missing { why: why.clone() });
        }
        record
    }

    /// Returns what is said of all jails.
    pub(super) fn into_status(self) -> JailStatus {
        self.status
    }
}

/// Returns the path of a program, for a jail the one that it really has: what a link names may be missing there. A program
/// that is not there tells itself when it is started.
pub(super) fn program_of(program: &Path, jails: Option<&Jails>) -> PathBuf {
    let resolved = jails.and_then(|_| program.canonicalize().ok());
    resolved.unwrap_or_else(|| program.to_owned())
}

/// Adds the programs and libraries of the host, and `program` with what it has beside it.
fn with_host(plan: Plan, program: &Path) -> Plan {
    let mut plan = plan.with_system();
    if plan.binds.iter().any(|bind| program.starts_with(&bind.target)) {
        return plan;
    }
    let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let beside = BESIDE.iter().filter(|_| prefix != Path::new("/"));
    plan.binds.extend(beside.map(|name| Bind::same(prefix.join(name), Access::Execute).optional()));
    plan.with_program(program)
}

fn record(report: &Report, user: Option<User>) -> ProcessJail {
    let status = |(layer, standing): (Layer, &Standing)| {
        let status = match standing.clone() {
            Standing::InForce { note } => LayerStatus::InForce { note },
            Standing::LeftOut { why } => LayerStatus::LeftOut { why },
            Standing::Missing { why } => LayerStatus::Missing { why },
        };
        (layer.name().to_owned(), status)
    };
    let has_uid = matches!(report.of(Layer::Uid), Some(Standing::InForce { .. }));
    ProcessJail {
        uid: user.filter(|_| has_uid).map(|user| user.uid),
        layers: report.iter().map(status).collect(),
    }
}

/// Notes whether a cgroup limits the processes.
pub fn note_limits(jail: &mut JailStatus, is_limited: bool) {
    let status = match is_limited {
        true => LayerStatus::InForce { note: None },
        false => LayerStatus::LeftOut { why: "the launcher may make no cgroup (v2) on this host".into() },
    };
    for process in jail.processes.values_mut() {
        process.layers.insert(Layer::Cgroup.name().into(), status.clone());
    }
}
