//! Completes a launch specification: finds and recognises files, decides each `auto`, searches for programs.

use crate::boot::Requested;
use crate::cli::{AccelChoice, VsockChoice};
use crate::disk::Catalogue;
use crate::error::{CallError, Result, call_error};
use crate::host::programs::{AGENT, BACKEND, QEMU, VIRTIOFSD, static_agent};
use crate::host::{kvm, ram, vhost_vsock};
use crate::image::installed::Kernels;
use crate::image::{build, init, kernel, memory, modules};
use crate::ops::container::used;
use crate::ops::shares::{check_places, for_shares, kept, shares};
use crate::ops::{jail, tap};
use crate::rundir::cid::Wanted;
use crate::rundir::{RunDir, tsc};
use crate::vm_config::{
    Accel, CPUS, Cid, DEFAULT_CPUS, DEFAULT_MEMORY_MB, Disk, INCARNATIONS, MAX_TIME_MS, MEMORY_MB, PORTS,
    READY_TIMEOUT_MS, Root, VmRequest, VmmKind,
};
use pepita_wire::agent::Start;
use pepita_wire::image::ImageRecord;
use pepita_wire::network::Network;
use pepita_wire::port::{BadPublish, PORTS_CAP};
use pepita_wire::reach::{BadReach, REACH_CAP, Reached};
use pepita_wire::record::{CallErrorKind, Transport};
use pepita_wire::rundir::LOG_ENVIRONMENT;
use pepita_wire::storage::{DISK_ENVIRONMENT, DiskSpec, SIZE_MB, mount_fault, name_fault};
use pepita_wire::world::{
    NOT_ON_HOST, ON_HOST, World, check_hostname, check_secret, check_sysctl, check_ulimit, check_user,
    check_workdir,
};
use pepita_wire::{Ask, DEFAULT_PORT, LaunchSpec, Publish, VmId, data};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Turns a specification into a complete request.
///
/// # Errors
/// When a field has a value that no VM can have, or a required file or program is missing or of the wrong kind.
///
/// `image` is the container image that the specification names.
pub(crate) fn resolve(
    run_dir: &RunDir,
    name: &VmId,
    spec: LaunchSpec,
    image: Option<&ImageRecord>,
) -> Result<Requested> {
    let incarnation = within("incarnation", spec.incarnation.unwrap_or(0), &INCARNATIONS)?;
    let cid = match spec.vsock_cid {
        None => Wanted::Any,
        Some(number) => Wanted::Fixed(Cid::try_from(number).map_err(|why| refused("vsock_cid", &why))?),
    };
    check_environment(&spec)?;
    let vmm: VmmKind = word("vmm", spec.vmm.as_deref())?;
    let base = VmRequest {
        name: name.to_string(),
        vmm,
        program: PathBuf::new(),
        accel: Accel::None,
        kernel: None,
        root: Root::Host(None),
        image: image.map(|image| used(image, &kept(&spec))).transpose()?,
        cpus: within("cpus", spec.cpus.unwrap_or(DEFAULT_CPUS), &CPUS)?,
        memory_mb: within("memory_mb", spec.memory_mb.unwrap_or(DEFAULT_MEMORY_MB), &MEMORY_MB)?,
        port: within("vsock_port", spec.vsock_port.unwrap_or(DEFAULT_PORT), &PORTS)?,
        transport: Transport::Hybrid,
        backend: None,
        command: spec.command.clone(),
        env: spec.env.clone(),
        world: world(&spec, vmm)?,
        secrets: secrets(&spec)?,
        labels: spec.labels.clone(),
        hold: spec.hold,
        ready_timeout_ms: within(
            "ready_timeout_ms",
            spec.ready_timeout_ms.unwrap_or(READY_TIMEOUT_MS),
            &(0..=MAX_TIME_MS),
        )?,
        cmdline_append: spec.cmdline_append.clone().unwrap_or_default(),
        tsc_khz: None,
        token_port: false,
        publish: publish(&spec)?,
        reach: reach(&spec, vmm)?,
        network: network(&spec, vmm)?,
        jail: jail::asked(&spec, vmm)?,
        tap: None,
        log_dir: log_dir(&spec)?,
        disks: disks(&spec, vmm)?,
        shares: shares(&spec, vmm)?,
        virtiofsd: None,
    };
    check_places(&base)?;
    let request = match vmm {
        VmmKind::Process => plain_process(&spec, base)?,
        VmmKind::Qemu => machine(run_dir, &spec, image, base)?,
    };
    let incarnation = Some(incarnation).filter(|number| *number > 0);
    Ok(Requested { request, cid, incarnation, before: None })
}

/// Returns the world of the daemon, without its secrets. A plain process is given no world of which it could only have a
/// part.
fn world(spec: &LaunchSpec, vmm: VmmKind) -> Result<World> {
    let LaunchSpec { hostname, user, workdir, ulimits, sysctls, read_only, privileged, secrets, .. } = spec;
    let world = World {
        hostname: hostname.clone(),
        user: user.clone(),
        workdir: workdir.clone(),
        ulimits: ulimits.clone(),
        sysctls: sysctls.clone(),
        read_only: *read_only,
        privileged: *privileged,
        secrets: BTreeMap::new(),
    };
    check_world(&world)?;
    if let Some(name) = secrets.keys().find(|name| check_secret(name).is_err()) {
        return Err(refused("secrets", &check_secret(name).expect_err("found as such")));
    }
    let asked = world.asked().into_iter().chain((!secrets.is_empty()).then_some("secrets"));
    match (vmm, asked.into_iter().find(|key| !ON_HOST.contains(key))) {
        (VmmKind::Process, Some(key)) => Err(refused(key, NOT_ON_HOST)),
        (VmmKind::Process | VmmKind::Qemu, _) => Ok(world),
    }
}

fn check_world(world: &World) -> Result<()> {
    let check =
        |field: &str, checked: std::result::Result<(), String>| checked.map_err(|why| refused(field, &why));
    check("hostname", world.hostname.as_deref().map_or(Ok(()), check_hostname))?;
    check("user", world.user.as_deref().map_or(Ok(()), check_user))?;
    check("workdir", world.workdir.as_deref().map_or(Ok(()), check_workdir))?;
    world.ulimits.keys().try_for_each(|name| check("ulimits", check_ulimit(name)))?;
    world.sysctls.iter().try_for_each(|(name, value)| check("sysctls", check_sysctl(name, value)))
}

/// Returns the files of secrets by absolute paths, after a look at each: a VM is not started for a secret that is missing.
fn secrets(spec: &LaunchSpec) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for (name, path) in &spec.secrets {
        let absolute = std::fs::canonicalize(path);
        files.insert(
            name.clone(),
            absolute.map_err(|e| kernel::missing(&format!("secret {name}"), path, &e))?,
        );
    }
    crate::monitor::secrets(&files).map_err(|why| call_error(CallErrorKind::BadImage, why))?;
    Ok(files)
}

/// Returns the directory for logs: that of the specification, else that of the environment.
fn log_dir(spec: &LaunchSpec) -> Result<Option<PathBuf>> {
    let from_environment =
        || std::env::var_os(LOG_ENVIRONMENT).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let absolute = |dir: PathBuf| std::path::absolute(&dir).map_err(|e| refused("log_dir", &e.to_string()));
    spec.log_dir.clone().or_else(from_environment).map(absolute).transpose()
}

/// Returns the disks, with a directory before what lies in it.
fn disks(spec: &LaunchSpec, vmm: VmmKind) -> Result<Vec<Disk>> {
    if spec.disks.is_empty() {
        return Ok(Vec::new());
    }
    if vmm == VmmKind::Process {
        return Err(refused("disks", "a plain process has the host's file system, and no disks of its own"));
    }
    let dir = disk_dir(spec.disk_dir.as_deref())?;
    let disk = |disk: &DiskSpec| {
        let DiskSpec { name, mount, size_mb, path, read_only } = disk.clone();
        if let Some(fault) = name_fault(&name).or_else(|| mount_fault(&mount)) {
            return Err(refused("disks", &fault));
        }
        let size_mb = size_mb.map(|size| within("disks: size_mb", size, &SIZE_MB)).transpose()?;
        let named = path.map(|path| std::path::absolute(&path).map_err(|e| refused("disks", &e.to_string())));
        let (file, dir) = match named.transpose()? {
            Some(file) => (file, None),
            None => (Catalogue::of(&dir).disk(&name), Some(dir.clone())),
        };
        Ok(Disk { mount: mount.trim_end_matches('/').to_owned(), name, file, dir, size_mb, read_only })
    };
    let mut disks: Vec<Disk> = spec.disks.iter().map(disk).collect::<Result<_>>()?;
    for (index, disk) in disks.iter().enumerate() {
        let before = &disks[..index];
        if before.iter().any(|other| other.name == disk.name || other.file == disk.file) {
            return Err(refused("disks", &format!("disk {} is named twice; a disk has one user", disk.name)));
        }
    }
    disks.sort_by_key(|disk| disk.mount.split('/').count());
    Ok(disks)
}

/// Returns the directory of disks: the one that is named, else that of the environment, else the user's.
///
/// # Errors
/// When none is named and the user has no home.
pub(crate) fn disk_dir(named: Option<&Path>) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let uid = rustix::process::geteuid().as_raw();
    let dir = named.map(Path::to_owned).or_else(|| variable(DISK_ENVIRONMENT).map(PathBuf::from));
    let own = || Some(data::directory(uid, variable)?.join(data::DISKS));
    let dir = dir.or_else(own).ok_or_else(|| {
        refused("disks", &format!("no place for them: set $HOME or ${DISK_ENVIRONMENT}, or use --disk-dir"))
    })?;
    std::path::absolute(&dir).map_err(|e| refused("disk_dir", &e.to_string()))
}

fn refused(field: &str, why: &str) -> CallError {
    call_error(CallErrorKind::Usage, format!("{field}: {why}"))
}

/// Refuses texts that execve(2) cannot pass on. Values may be secrets, so the error contains only names.
fn check_environment(spec: &LaunchSpec) -> Result<()> {
    if let Some(key) = spec.env.keys().find(|key| key.is_empty() || key.contains(['=', '\0'])) {
        return Err(refused("env", &format!("{key:?} is no name of a variable")));
    }
    if let Some((key, _)) = spec.env.iter().find(|(_, value)| value.contains('\0')) {
        return Err(refused("env", &format!("the value of {key} has a zero byte")));
    }
    if spec.command.iter().any(|word| word.contains('\0')) {
        return Err(refused("command", "a word has a zero byte"));
    }
    check_start(&Start { command: spec.command.clone(), env: spec.env.clone(), ..Start::default() })
}

/// Refuses a daemon whose command and environment are too long for the order to start it.
pub(crate) fn check_start(start: &Start) -> Result<()> {
    Ask::Start(start.clone())
        .check_length()
        .map_err(|too_long| refused("command and env", &too_long.to_string()))
}

/// Returns the ports to publish, each place of the host once.
fn publish(spec: &LaunchSpec) -> Result<Vec<Publish>> {
    let mut ports: Vec<Publish> = Vec::new();
    for text in &spec.publish {
        let port: Publish = text.parse().map_err(|e: BadPublish| refused("publish", &e.to_string()))?;
        if ports.iter().any(|other| other.host == port.host) {
            return Err(refused("publish", &format!("{} stands there twice", port.host)));
        }
        ports.push(port);
    }
    match ports.len() > PORTS_CAP {
        true => Err(refused("publish", &format!("{} ports; a VM has at most {PORTS_CAP}", ports.len()))),
        false => Ok(ports),
    }
}

/// Returns the places that the daemon may dial, each once.
fn reach(spec: &LaunchSpec, vmm: VmmKind) -> Result<Vec<Reached>> {
    let mut places: Vec<Reached> = Vec::new();
    for text in &spec.reach {
        let place: Reached = text.parse().map_err(|e: BadReach| refused("reach", &e.to_string()))?;
        if places.iter().any(|other| other.at == place.at) {
            return Err(refused("reach", &format!("{} stands there twice", place.at)));
        }
        places.push(place);
    }
    match (places.len(), vmm) {
        (0, _) => Ok(places),
        (_, VmmKind::Process) => Err(refused("reach", NOT_ON_HOST)),
        (count, _) if count > REACH_CAP => {
            Err(refused("reach", &format!("{count} places; a VM has at most {REACH_CAP}")))
        }
        (_, VmmKind::Qemu) => Ok(places),
    }
}

/// Returns the network of the guest.
fn network(spec: &LaunchSpec, vmm: VmmKind) -> Result<Network> {
    match (spec.network, vmm) {
        (Network::None, _) | (_, VmmKind::Qemu) => Ok(spec.network),
        (Network::User | Network::Tap, VmmKind::Process) => Err(refused("network", NOT_ON_HOST)),
    }
}

/// Returns the modules that the initrd loads beside those of every initrd.
fn when_needed(spec: &LaunchSpec) -> Vec<&'static str> {
    let network = match spec.network {
        Network::None => None,
        Network::User | Network::Tap => Some(modules::FOR_NETWORK),
    };
    network.into_iter().chain(for_shares(spec)).collect()
}

/// Parses a word; an absent word means the default.
fn word<T: FromStr + Default>(field: &str, text: Option<&str>) -> Result<T> {
    let read = |text: &str| text.parse().map_err(|_| refused(field, &format!("{text:?} is none")));
    text.map_or_else(|| Ok(T::default()), read)
}

fn within<T: PartialOrd + std::fmt::Display>(field: &str, value: T, range: &RangeInclusive<T>) -> Result<T> {
    match range.contains(&value) {
        true => Ok(value),
        false => {
            Err(refused(field, &format!("{value} is not between {} and {}", range.start(), range.end())))
        }
    }
}

/// Completes the fields of a request that only a plain process has.
fn plain_process(spec: &LaunchSpec, base: VmRequest) -> Result<VmRequest> {
    let is_json = |path: &&PathBuf| path.extension().is_some_and(|e| e == "json");
    let image = spec.rootfs.as_ref().filter(is_json);
    let image = image.map(|path| std::fs::canonicalize(path).map_err(|e| kernel::missing("image", path, &e)));
    let image = image.transpose()?;
    // A VM that is held gets its command from the order that starts its daemon.
    if base.command.is_empty() && !base.hold && !image.as_deref().is_some_and(may_name_command) {
        let why = "none is given, and no image names one: what is the plain process to run? Name it after `--`, for \
                   example `pepita run --vmm process -- /bin/cat`";
        return Err(refused("command", why));
    }
    let command = from_here(base.command);
    Ok(VmRequest { program: AGENT.require()?, root: Root::Host(image), command, ..base })
}

/// Returns whether the description of an image names a command. The agent says what is wrong with a file that cannot be
/// read.
fn may_name_command(description: &Path) -> bool {
    let Ok(text) = std::fs::read(description) else { return true };
    serde_json::from_slice(&text).map_or(true, |image: serde_json::Value| {
        image["command"].as_array().is_some_and(|all| !all.is_empty())
    })
}

/// Refuses a VM with more memory than the host has, which it could not use: the tables of its kernel alone, made for all
/// of it, can fill the host.
fn check_memory(memory_mb: u64, host_mb: u64) -> Result<()> {
    if memory_mb <= host_mb {
        return Ok(());
    }
    let most = host_mb.min(*MEMORY_MB.end());
    let why = format!(
        "{memory_mb} MiB are more than this machine has, which is {host_mb} MiB with its swap space; from {} to {most} \
         MiB are possible here",
        MEMORY_MB.start()
    );
    Err(refused("memory_mb", &why))
}

/// Makes the path of a program of this host absolute, because the agent has another current directory.
fn from_here(mut command: Vec<String>) -> Vec<String> {
    if let Some(program) = command.first_mut()
        && program.contains('/')
        && let Ok(path) = std::path::absolute(&*program)
    {
        *program = path.to_string_lossy().into_owned();
    }
    command
}

/// Completes the fields of a request that only a real VM has.
fn machine(
    run_dir: &RunDir,
    spec: &LaunchSpec,
    image: Option<&ImageRecord>,
    base: VmRequest,
) -> Result<VmRequest> {
    let needed = |what: &str, path: Option<PathBuf>, advice: &str| {
        let absent = || call_error(CallErrorKind::Usage, format!("--{what} is needed; {advice}"));
        path.ok_or_else(absent)
    };
    check_memory(base.memory_mb, ram::total_mb())?;
    let installed = || Kernels::of_user().ok().and_then(|kernels| kernels.default());
    let advice = "`pepita kernel install` installs a kernel for every launch";
    let named_kernel = needed("kernel", spec.kernel.clone().or_else(installed), advice)?;
    let advice = "name an image, such as redis:7, or make a root file system with `pepita image build`";
    let rootfs = match image {
        Some(_) => PathBuf::new(),
        None => needed("rootfs", spec.rootfs.clone(), advice)?,
    };
    let kernel = kernel::prepare(run_dir, &named_kernel)?;
    let root = match image {
        Some(image) => shared_root(run_dir, spec, &named_kernel, image)?,
        None => {
            let (image, kind) = build::recognise(&rootfs)?;
            match kind {
                build::Kind::Initramfs => Root::Initramfs(image),
                build::Kind::Disk => Root::Disk { image, initrd: initrd(run_dir, spec, &named_kernel)? },
            }
        }
    };
    if let Some(needed_mb) = memory::needed_mb(&kernel, &root).filter(|needed| base.memory_mb < *needed) {
        let why = format!(
            "memory_mb = {} is too little: this kernel and rootfs need at least {needed_mb} MiB to boot, and the daemon \
             needs memory, too",
            base.memory_mb
        );
        return Err(call_error(CallErrorKind::BadImage, why));
    }
    let accel = match word("accel", spec.accel.as_deref())? {
        AccelChoice::Kvm => Accel::Kvm,
        AccelChoice::Tcg => Accel::Tcg,
        AccelChoice::Auto if kvm::can_boot().is_ok() => Accel::Kvm,
        AccelChoice::Auto => Accel::Tcg,
    };
    let transport = match word("vsock", spec.vsock.as_deref())? {
        VsockChoice::Vhost => Transport::Vhost,
        VsockChoice::Hybrid => Transport::Hybrid,
        VsockChoice::Auto if vhost_vsock::is_available() => Transport::Vhost,
        VsockChoice::Auto => Transport::Hybrid,
    };
    let token_port = match &root {
        Root::Initramfs(archive)
        | Root::Disk { initrd: Some(archive), .. }
        | Root::Shared { initrd: archive, .. } => init::takes_its_token(archive),
        // The agent in the disk is not looked at.
        Root::Disk { initrd: None, .. } | Root::Host(_) => false,
    };
    let tap = match base.network {
        Network::None | Network::User => None,
        Network::Tap => Some(tap::lease(run_dir, &base.name)?),
    };
    let virtiofsd = (!base.shares.is_empty()).then(|| VIRTIOFSD.require()).transpose()?;
    Ok(VmRequest {
        token_port,
        virtiofsd,
        tap,
        program: QEMU.require()?,
        accel,
        kernel: Some(jail::shown(run_dir, base.jail, kernel)?),
        root: jail::shown_root(run_dir, base.jail, root)?,
        transport,
        backend: if transport == Transport::Hybrid { Some(BACKEND.require()?) } else { None },
        tsc_khz: if accel == Accel::Tcg { tsc::khz(run_dir) } else { None },
        ..base
    })
}

/// Returns the initrd that mounts a disk: the initrd that was named, or an initrd that is built from the kernel's
/// modules. Returns `None` for a kernel without modules, which has the driver of the disk built in.
fn initrd(run_dir: &RunDir, spec: &LaunchSpec, kernel: &Path) -> Result<Option<PathBuf>> {
    if let Some(initrd) = &spec.initrd {
        return std::fs::canonicalize(initrd).map(Some).map_err(|e| kernel::missing("initrd", initrd, &e));
    }
    match package(spec, kernel) {
        Some(package) => {
            let (agent, what) = (static_agent()?, build::Initrd::HandsOver);
            build::initrd(run_dir, &agent, Some(&package), what, &when_needed(spec)).map(Some)
        }
        None => Ok(None),
    }
}

/// Returns the root of a container image, with the initrd that mounts it.
fn shared_root(run_dir: &RunDir, spec: &LaunchSpec, kernel: &Path, image: &ImageRecord) -> Result<Root> {
    let package = package(spec, kernel);
    if package.is_none() && kernel::loads_modules(kernel)? {
        let why = format!(
            "kernel {}: its modules are not beside it; name them with --kernel-package, or install a kernel with \
             `pepita kernel install`",
            kernel.display()
        );
        return Err(call_error(CallErrorKind::BadImage, why));
    }
    let what = build::Initrd::Shares;
    let initrd = build::initrd(run_dir, &static_agent()?, package.as_deref(), what, &when_needed(spec))?;
    Ok(Root::Shared { image: image.root.clone(), initrd })
}

/// Returns the directory with the modules of a kernel: the one that was named, or one that lies beside the kernel.
fn package(spec: &LaunchSpec, kernel: &Path) -> Option<PathBuf> {
    let beside = || {
        let kernel = std::fs::canonicalize(kernel).ok()?;
        let release = kernel.file_name()?.to_str()?.strip_prefix("vmlinuz-").unwrap_or_default().to_owned();
        let dir = kernel.parent()?;
        let installed = (!release.is_empty()).then(|| Path::new("/lib/modules").join(&release));
        let unpacked = dir.parent().map(|top| top.join("lib/modules").join(&release));
        installed.into_iter().chain([dir.join("modules")]).chain(unpacked).find(|dir| dir.is_dir())
    };
    spec.kernel_package.clone().or_else(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(spec: LaunchSpec) -> Result<Requested> {
        let dir = tempfile::tempdir().expect("a directory");
        let run_dir = RunDir::choose(Some(dir.path())).expect("ours");
        resolve(&run_dir, &VmId::new("a").expect("a name"), spec, None)
    }

    #[test]
    fn memory_that_the_machine_does_not_have_is_refused_with_the_bounds() {
        assert!(check_memory(1024, 1024).is_ok());
        let e = check_memory(1 << 20, 24152).expect_err("refused");
        assert_eq!(
            (e.kind, &e.message[..]),
            (
                CallErrorKind::Usage,
                "memory_mb: 1048576 MiB are more than this machine has, which is 24152 MiB with its swap space; from 32 \
                 to 24152 MiB are possible here"
            )
        );
        // The files are looked for only afterwards.
        let spec = LaunchSpec { memory_mb: Some(ram::total_mb() + 1), ..LaunchSpec::default() };
        assert!(resolved(spec).expect_err("refused").message.starts_with("memory_mb"));
    }

    #[test]
    fn a_value_that_no_vm_can_have_is_refused_by_the_name_of_its_field() {
        let env = |key: &str, value: &str| LaunchSpec {
            env: [(key.to_owned(), value.to_owned())].into(),
            ..LaunchSpec::default()
        };
        let process = |spec: LaunchSpec| LaunchSpec { vmm: Some("process".into()), ..spec };
        let secret = |path: &str| [("key".to_owned(), PathBuf::from(path))].into();
        let cases: [(&str, LaunchSpec); 21] = [
            ("user", LaunchSpec { user: Some("a:b:c".into()), ..LaunchSpec::default() }),
            ("workdir", LaunchSpec { workdir: Some("data".into()), ..LaunchSpec::default() }),
            ("hostname", LaunchSpec { hostname: Some(String::new()), ..LaunchSpec::default() }),
            (
                "sysctls",
                LaunchSpec { sysctls: [("x".to_owned(), String::new())].into(), ..LaunchSpec::default() },
            ),
            ("privileged", process(LaunchSpec { privileged: true, ..LaunchSpec::default() })),
            ("secrets", process(LaunchSpec { secrets: secret("/dev/null"), ..LaunchSpec::default() })),
            ("read_only", process(LaunchSpec { read_only: true, ..LaunchSpec::default() })),
            ("network", process(LaunchSpec { network: Network::User, ..LaunchSpec::default() })),
            ("env", env("A=B", "x")),
            ("env", env("A", "x\0")),
            ("command", LaunchSpec { command: vec!["a\0".into()], ..LaunchSpec::default() }),
            ("command and env", env("A", &"x".repeat(256 << 10))),
            (
                "command and env",
                LaunchSpec { command: vec!["\"".repeat(200 << 10)], ..LaunchSpec::default() },
            ),
            ("cpus", LaunchSpec { cpus: Some(0), ..LaunchSpec::default() }),
            ("memory_mb", LaunchSpec { memory_mb: Some(1), ..LaunchSpec::default() }),
            ("vsock_cid", LaunchSpec { vsock_cid: Some(2), ..LaunchSpec::default() }),
            ("vsock_port", LaunchSpec { vsock_port: Some(u32::MAX), ..LaunchSpec::default() }),
            ("ready_timeout_ms", LaunchSpec { ready_timeout_ms: Some(u64::MAX), ..LaunchSpec::default() }),
            ("incarnation", LaunchSpec { incarnation: Some(u64::MAX), ..LaunchSpec::default() }),
            ("vmm", LaunchSpec { vmm: Some("xen".into()), ..LaunchSpec::default() }),
            ("--rootfs", LaunchSpec { kernel: Some("/k".into()), ..LaunchSpec::default() }),
        ];
        for (field, spec) in cases {
            let e = resolved(spec).expect_err("refused");
            assert_eq!(e.kind, CallErrorKind::Usage, "{field}");
            assert!(e.message.starts_with(field), "{}", e.message);
        }
    }
}
