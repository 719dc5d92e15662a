//! Written -> meant: fills in the defaults and holds keys against each other. Touches no disk.

use super::after;
use super::raw::{Layer, RawBackoff, RawGroup, RawSupervisor, RawTree, RawVm};
use super::table::{Field, Log, Written};
use crate::spec::{
    Backoff, DEFAULT_NAME, GroupSpec, HealthSpec, Intensity, MachineSpec, Port, RestartSpec, StartSpec,
    StopSpec, TreeSpec, VmSpec, Vmm,
};
use std::collections::HashMap;
use std::hash::Hash;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// The longest path of a Unix socket, in bytes: unix(7), less the NUL.
const SOCKET_CAP: usize = 107;

/// What a file means. Of worth only when no mistake was noted.
pub(super) struct Meant {
    pub(super) spec: TreeSpec,
    /// `[platform.pepita]` by itself.
    pub(super) machine: MachineSpec,
    /// What each VM has after merging, as `spec.groups[..].vms[..]`.
    pub(super) layers: Vec<Vec<Layer>>,
    /// The files that must exist.
    pub(super) images: Vec<Written<PathBuf>>,
}

/// Checks a file. Relative paths begin at `folder`.
pub(super) fn tree(raw: &RawTree, folder: &Path, log: &Log<'_>) -> Meant {
    let mut images = Vec::new();
    let mut spec = supervisor(&raw.supervisor, folder, log);
    spec.backoff = backoff(&raw.backoff, log);
    let mut layers = Vec::new();
    for raw_group in &raw.groups {
        let below = raw_group.layer.clone().over(&raw.defaults);
        let merged: Vec<_> = raw_group.vms.iter().map(|vm| vm.layer.clone().over(&below)).collect();
        let vms = raw_group.vms.iter().zip(&merged);
        let vms = vms.filter_map(|(raw, layer)| vm(raw, layer, folder, log, &mut images)).collect();
        spec.groups.extend(group(raw_group, vms, log));
        layers.push(merged);
    }
    let vms = || raw.groups.iter().flat_map(|group| &group.vms);
    unique(raw.groups.iter().map(|g| (&g.called, &g.keys.name)), |name| format!("group \"{name}\""), log);
    unique(vms().map(|vm| (&vm.called, &vm.keys.name)), |name| format!("vm \"{name}\""), log);
    unique(vms().map(|vm| (&vm.called, &vm.keys.cid)), |cid| format!("CID {cid}"), log);
    after::check(&raw.groups, log);
    let machine = platform(&raw.defaults, folder);
    Meant { spec, machine, layers, images }
}

fn supervisor(raw: &RawSupervisor, folder: &Path, log: &Log<'_>) -> TreeSpec {
    let name = raw.name.good().map_or(DEFAULT_NAME, |name| name.value.as_str());
    let default = TreeSpec::new(name);
    let path = |field: &Field<PathBuf>| field.good().map(|path| placed(folder, &path.value));
    let control_socket = path(&raw.control_socket);
    if let (Some(placed), Some(written)) = (&control_socket, raw.control_socket.good()) {
        let bytes = placed.as_os_str().len();
        if bytes > SOCKET_CAP {
            let problem = format!("{} has {bytes} bytes, too many for a socket", placed.display());
            let help = format!("use a path of at most {SOCKET_CAP} bytes");
            log.wrong(written.at.clone(), &written.path, problem, Some(help));
        }
    }
    let launches = raw.max_parallel_launches.good().and_then(|launches| usize::try_from(launches.value).ok());
    TreeSpec {
        state_dir: path(&raw.state_dir),
        control_socket,
        // A bare name is looked for later; anything else is a path.
        pepita: match raw.pepita.good() {
            Some(written) if written.value.components().count() > 1 => placed(folder, &written.value),
            Some(written) => written.value.clone(),
            None => default.pepita,
        },
        run_dir: path(&raw.run_dir),
        max_parallel_launches: launches.unwrap_or(default.max_parallel_launches),
        intensity: intensity(&raw.intensity, &raw.period, default.intensity),
        orphans: raw.orphans.or(default.orphans),
        on_exit: raw.on_exit.or(default.on_exit),
        shutdown_timeout: raw.shutdown_timeout.or(default.shutdown_timeout),
        ..default
    }
}

fn group(raw: &RawGroup, vms: Vec<VmSpec>, log: &Log<'_>) -> Option<GroupSpec> {
    let name = named(&raw.keys.name, raw.at.clone(), &raw.called, log)?;
    let default = GroupSpec::new(name, Vec::new());
    let after = raw.keys.after.or(Vec::new());
    let default_intensity = Intensity::default_for(raw.vms.len());
    Some(GroupSpec {
        strategy: raw.keys.strategy.or(default.strategy),
        intensity: intensity(&raw.keys.intensity, &raw.keys.period, default_intensity),
        on_intensity_exceeded: raw.keys.on_intensity_exceeded.or(default.on_intensity_exceeded),
        auto_shutdown: raw.keys.auto_shutdown.or(default.auto_shutdown),
        // Those that are no names are no groups either, and `after` says so.
        after: after.iter().filter_map(|(name, _)| name.parse().ok()).collect(),
        vms,
        ..default
    })
}

fn vm(
    raw: &RawVm,
    layer: &Layer,
    folder: &Path,
    log: &Log<'_>,
    images: &mut Vec<Written<PathBuf>>,
) -> Option<VmSpec> {
    // Before the name: all of its mistakes are told, and not only that one.
    let machine = machine(raw, layer, folder, log, images);
    let restart = restart(layer, log);
    let name = named(&raw.keys.name, raw.at.clone(), &raw.called, log)?;
    let vmm = machine.vmm;
    let default = VmSpec::new(name, machine);
    let start = StartSpec {
        ready: layer.start.ready.or(default.start.ready),
        timeout: layer.start.timeout.or(default.start.timeout),
        on_failure: layer.start.on_failure.or(default.start.on_failure),
    };
    let stop = StopSpec {
        signal: layer.stop.signal.or(default.stop.signal),
        timeout: layer.stop.timeout.or(default.stop.timeout),
    };
    let health = HealthSpec {
        interval: layer.health.interval.or(default.health.interval),
        timeout: layer.health.timeout.or(default.health.timeout),
        retries: layer.health.retries.or(default.health.retries),
        start_period: layer.health.start_period.or(default.health.start_period),
        command: layer.health.command.or(default.health.command),
        watchdog: layer.health.watchdog.or(default.health.watchdog),
        on_unhealthy: layer.health.on_unhealthy.or(default.health.on_unhealthy),
    };
    Some(VmSpec {
        name: default.name,
        machine: default.machine,
        cid: raw.keys.cid.good().map(|cid| cid.value),
        command: command(raw.keys.command.or(default.command), vmm, folder),
        env: raw.keys.env.or(default.env),
        restart,
        start,
        stop,
        health,
        standby: raw.keys.standby.or(default.standby),
        autostart: raw.keys.autostart.or(default.autostart),
        significant: raw.keys.significant.or(default.significant),
    })
}

/// A plain process runs a program of the host, which may be named from the file's folder on, as every path. A guest's
/// programs are the guest's, and a bare name is looked for in PATH.
fn command(mut command: Vec<String>, vmm: Vmm, folder: &Path) -> Vec<String> {
    if let (Vmm::Process, Some(program)) = (vmm, command.first_mut())
        && Path::new(program).components().count() > 1
    {
        *program = placed(folder, Path::new(program)).to_string_lossy().into_owned();
    }
    command
}

fn machine(
    vm: &RawVm,
    layer: &Layer,
    folder: &Path,
    log: &Log<'_>,
    images: &mut Vec<Written<PathBuf>>,
) -> MachineSpec {
    let raw = &layer.machine;
    let mut image = |key: &str, example: &str, field: &Field<PathBuf>| match field {
        Field::Good(written) => {
            let path = placed(folder, &written.value);
            images.push(Written { value: path.clone(), ..written.clone() });
            path
        }
        Field::Wrong => PathBuf::new(),
        Field::Absent => {
            let help = format!("write {key} = {example:?} here, in its group or in [platform.pepita]");
            log.missing(vm.at.clone(), &format!("{}: {key}", vm.called), "missing", &help);
            PathBuf::new()
        }
    };
    let (kernel, rootfs) = match raw.vmm.or(Vmm::Qemu) {
        // Not even the name of a VMM is known: what it needs is not either.
        Vmm::Qemu if raw.vmm.is_wrong() => Default::default(),
        Vmm::Qemu => (
            image("kernel_path", "/boot/vmlinuz", &raw.kernel_path),
            image("rootfs_path", "/var/lib/pepita/rootfs.ext4", &raw.rootfs_path),
        ),
        // A process boots nothing, whatever it inherits.
        Vmm::Process => Default::default(),
    };
    emulated(layer, kernel, rootfs)
}

/// `[platform.pepita]` by itself, as an adapter takes it: images that are not named are empty.
fn platform(defaults: &Layer, folder: &Path) -> MachineSpec {
    let path =
        |field: &Field<PathBuf>| field.good().map(|path| placed(folder, &path.value)).unwrap_or_default();
    emulated(defaults, path(&defaults.machine.kernel_path), path(&defaults.machine.rootfs_path))
}

fn emulated(layer: &Layer, kernel: PathBuf, rootfs: PathBuf) -> MachineSpec {
    let (raw, default) = (&layer.machine, MachineSpec::qemu(kernel, rootfs));
    MachineSpec {
        vcpus: raw.vcpus.or(default.vcpus),
        memory_mb: raw.memory_mb.or(default.memory_mb),
        port: Port(raw.vsock_base_port.or(default.port.0)),
        vmm: raw.vmm.or(default.vmm),
        ..default
    }
}

fn restart(layer: &Layer, log: &Log<'_>) -> RestartSpec {
    let (raw, default) = (&layer.restart, RestartSpec::default());
    if let (Some(never), Some(always)) =
        (raw.never_restart_exit_codes.good(), raw.always_restart_exit_codes.good())
    {
        for code in never.value.intersection(&always.value) {
            let (one, other) =
                if never.at.start > always.at.start { (never, always) } else { (always, never) };
            let help = Some(format!("take {code} out of one of the two"));
            log.wrong(one.at.clone(), &one.path, format!("exit code {code} is also in {}", other.path), help);
        }
    }
    RestartSpec {
        policy: raw.policy.or(default.policy),
        max_retries: raw.max_retries.or(default.max_retries),
        on_give_up: raw.on_give_up.or(default.on_give_up),
        reset_after: raw.reset_after.or(default.reset_after),
        success: raw.success_exit_codes.or(default.success),
        never: raw.never_restart_exit_codes.or(default.never),
        always: raw.always_restart_exit_codes.or(default.always),
        backoff: backoff(&layer.backoff, log),
    }
}

fn backoff(raw: &RawBackoff, log: &Log<'_>) -> Backoff {
    let default = Backoff::default();
    let meant = Backoff {
        initial: raw.initial_delay.or(default.initial),
        max: raw.max_delay.or(default.max),
        multiplier: raw.multiplier.or(default.multiplier),
        jitter: raw.jitter.or(default.jitter),
    };
    let known = !raw.initial_delay.is_wrong() && !raw.max_delay.is_wrong();
    if known && meant.initial > meant.max {
        let shown = humantime::format_duration;
        let problem = format!(
            "initial_delay ({}) is longer than max_delay ({})",
            shown(meant.initial),
            shown(meant.max)
        );
        if let Some(written) = later(&raw.initial_delay, &raw.max_delay) {
            let help = "set both, the shorter one first".to_owned();
            log.wrong(written.at.clone(), &written.path, problem, Some(help));
        }
    }
    meant
}

fn intensity(max_restarts: &Field<u32>, period: &Field<Duration>, default: Intensity) -> Intensity {
    Intensity { max_restarts: max_restarts.or(default.max_restarts), period: period.or(default.period) }
}

fn named<T: Clone>(
    name: &Field<T>,
    header: std::ops::Range<usize>,
    called: &str,
    log: &Log<'_>,
) -> Option<T> {
    match name {
        Field::Good(name) => Some(name.value.clone()),
        Field::Wrong => None,
        Field::Absent => {
            log.missing(header, &format!("{called}: name"), "missing", "write name = \"…\" below this line");
            None
        }
    }
}

/// Of two keys that do not fit together, the one further down: that is where the reader last changed something.
pub(super) fn later<'w, T>(one: &'w Field<T>, other: &'w Field<T>) -> Option<&'w Written<T>> {
    [one.good(), other.good()].into_iter().flatten().max_by_key(|written| written.at.start)
}

fn unique<'r, T: Eq + Hash + 'r>(
    all: impl Iterator<Item = (&'r String, &'r Field<T>)>,
    say: impl Fn(&T) -> String,
    log: &Log<'_>,
) {
    let mut first: HashMap<&T, (&String, usize)> = HashMap::new();
    for (owner, field) in all {
        let Some(written) = field.good() else { continue };
        let line = log.source.place(written.at.clone()).line;
        let Some((owner, line)) = first.get(&written.value) else {
            first.insert(&written.value, (owner, line));
            continue;
        };
        let help = format!("{owner} has it already, in line {line}; it must be unique in the whole tree");
        let problem = format!("duplicate {}", say(&written.value));
        log.wrong(written.at.clone(), &written.path, problem, Some(help));
    }
}

/// A path as the file means it: relative ones begin at the file's folder. Steps up at its start are taken in words,
/// so that the same file is the same configuration from whichever directory the program was started.
fn placed(folder: &Path, written: &Path) -> PathBuf {
    let mut place = folder.to_owned();
    let mut rest = written.components().peekable();
    rest.next_if_eq(&Component::CurDir);
    while rest.peek() == Some(&Component::ParentDir)
        && matches!(place.components().next_back(), Some(Component::Normal(_)))
    {
        place.pop();
        rest.next();
    }
    // An absolute path replaces the folder.
    place.extend(rest);
    if place.as_os_str().is_empty() { PathBuf::from(".") } else { place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_files_folder() {
        for (folder, written, meant) in [
            ("/etc/pepita", "images/vmlinuz", "/etc/pepita/images/vmlinuz"),
            ("/etc/pepita", "./run", "/etc/pepita/run"),
            ("/etc/pepita", "../run/x", "/etc/run/x"),
            ("/etc/pepita", "/boot/vmlinuz", "/boot/vmlinuz"),
            ("/", "../x", "/../x"),
            ("", "../x", "../x"),
            ("..", "../x", "../../x"),
            ("", ".", "."),
        ] {
            let placed = placed(Path::new(folder), Path::new(written));
            assert_eq!(placed.as_os_str(), meant, "{folder} {written}");
        }
    }
}
