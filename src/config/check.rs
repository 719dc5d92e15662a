//! Interprets a file as a whole: fills in the defaults and checks keys against each other. Does not touch the disk.

use super::dependencies;
use super::diagnostic::Log;
use super::file::{File, ROOTS, Section};
use super::host::NeededMb;
use super::keywords::nearest;
use super::reader::{Layer, Written};
use super::value::placed;
use crate::spec::keys::Keyed;
use crate::spec::{Backoff, GroupSpec, HealthSpec, MachineSpec, StartOn, TreeSpec, VmSpec, Vmm};
use crate::spec::{ReachMistake, StandbyMistake, VmName};
use humantime::format_duration;
use pepita_wire::Ask;
use pepita_wire::agent::{Exec, Start};
use pepita_wire::port::{HostPlace, PORTS_CAP};
use pepita_wire::rundir::{CONSOLE, SOCKET_PATH_CAP as SOCKET_CAP};
use pepita_wire::storage::STORAGE_CAP;
use pepita_wire::world::NOT_ON_HOST;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// The meaning of a file. Valid only when no mistake was noted.
pub(super) struct Meaning<'r, 't> {
    pub(super) spec: TreeSpec,
    /// `[platform.pepita]` by itself, as an adapter takes it: images that it does not name are empty.
    pub(super) machine: MachineSpec,
    /// The files that must exist on this host.
    pub(super) images: Vec<&'r Written<'t>>,
}

/// Checks a file. Relative paths begin at `folder`; `run_dir` is the run directory of a file that names none.
pub(super) fn tree<'r, 't>(
    raw: &'r File<'t>,
    folder: &Path,
    run_dir: Option<&Path>,
    log: &Log<'_>,
) -> Meaning<'r, 't> {
    let mut spec = TreeSpec::blank();
    apply(&raw.supervisor, &mut spec);
    if spec.run_dir.is_none() && !raw.supervisor.is_wrong("run_dir") {
        spec.run_dir = run_dir.map(Path::to_owned);
    }
    control_socket(&spec, &raw.supervisor, log);
    backoff(&spec.backoff, &raw.supervisor, "", log);
    let mut images = Vec::new();
    for group in &raw.groups {
        let vms: Vec<VmSpec> = group.vms.iter().map(|raw| vm(raw, folder, log, &mut images)).collect();
        if let Some(run_dir) = &spec.run_dir {
            group.vms.iter().zip(&vms).for_each(|(raw, vm)| run_directory(run_dir, vm, raw, log));
        }
        named(group, log);
        // A group without a good name has a mistake, so that this placeholder never leaves this module.
        let mut meant = GroupSpec::new(GroupSpec::blank().name, vms);
        apply(&group.layer, &mut meant);
        spec.groups.push(meant);
    }
    disk_users(raw, &spec, log);
    dependencies::check(&raw.groups, log);
    published_twice(raw, &spec, log);
    standby(raw, &spec, log);
    reach(raw, &spec, log);
    sleepers(raw, &spec, log);
    let mut platform = VmSpec::blank();
    apply(&raw.defaults, &mut platform);
    Meaning { spec, machine: platform.machine, images }
}

/// Sets every key that is written and good.
fn apply<S: Keyed>(layer: &Layer<'_>, spec: &mut S) {
    for row in S::ROWS {
        if let Some(written) = layer.good(row.name) {
            let understood = row.set(spec, &written.value);
            debug_assert!(understood, "{}: {}", row.name, written.value);
        }
    }
}

fn vm<'r, 't>(
    raw: &'r Section<'t>,
    folder: &Path,
    log: &Log<'_>,
    images: &mut Vec<&'r Written<'t>>,
) -> VmSpec {
    let mut spec = VmSpec::blank();
    apply(&raw.layer, &mut spec);
    named(raw, log);
    machine(raw, &mut spec.machine, log, images);
    world(raw, spec.machine.vmm, log);
    images.extend(raw.layer.good("env_file"));
    exit_codes(&spec, &raw.layer, log);
    probes(&spec.health, &raw.layer, log);
    backoff(&spec.restart.backoff, &raw.layer, "restart.", log);
    // A plain process runs a program of the host, which may be named by a path from the file's folder, as every path.
    // The programs of a guest belong to the guest, and a bare name is looked for in PATH.
    if let (Vmm::Process, Some(program)) = (spec.machine.vmm, spec.command.first_mut())
        && Path::new(program).components().count() > 1
    {
        *program = placed(folder, Path::new(program)).to_string_lossy().into_owned();
    }
    orders(raw, &spec, log);
    storage(raw, &spec, log);
    spec
}

/// Checks the disks and shares of a VM against each other.
fn storage(raw: &Section<'_>, spec: &VmSpec, log: &Log<'_>) {
    let disks = spec.disks.iter().map(|disk| ("disk", format!("disk {:?}", disk.name), &disk.mount));
    let shares = spec.shares.iter().map(|share| ("share", format!("share {:?}", share.path), &share.mount));
    let all: Vec<_> = disks.chain(shares).collect();
    let wrong = |key: &str, problem: String, help: &str| {
        if let Some(written) = raw.layer.good(key) {
            log.wrong(written.at(), &written.path, problem, Some(help.to_owned()));
        }
    };
    if spec.machine.vmm == Vmm::Process && !raw.layer.is_wrong("vmm") {
        for (key, used) in [("disk", !spec.disks.is_empty()), ("share", !spec.shares.is_empty())] {
            let problem = format!("a plain process has the host's file system, and no {key}s of its own");
            let help = format!("take the {key}s out, or use vmm = \"qemu\"");
            if used {
                wrong(key, problem, &help);
            }
        }
        return;
    }
    if let Some((key, ..)) = all.get(STORAGE_CAP) {
        let problem = format!("{} disks and shares are too many", all.len());
        wrong(key, problem, &format!("a VM has at most {STORAGE_CAP}"));
    }
    for (index, (key, name, mount)) in all.iter().enumerate() {
        let place = |mount: &str| mount.trim_end_matches('/').to_owned();
        for (_, before, _) in all[..index].iter().filter(|(.., before)| place(before) == place(mount)) {
            wrong(key, format!("{before} and {name} are both mounted at {mount}"), "use another directory");
        }
    }
}

/// Checks that no two VMs have the same disk.
fn disk_users(raw: &File<'_>, spec: &TreeSpec, log: &Log<'_>) {
    let mut users: HashMap<(&str, Option<&Path>), &str> = HashMap::new();
    let sections = raw.groups.iter().flat_map(|group| &group.vms);
    for (raw, vm) in sections.zip(spec.groups.iter().flat_map(|group| &group.vms)) {
        let Some(written) = raw.layer.good("disk") else { continue };
        for disk in &vm.disks {
            // A disk of the user's is the same one under any name.
            let key = match &disk.path {
                Some(path) => ("", Some(path.as_path())),
                None => (disk.name.as_str(), None),
            };
            if let Some(other) = users.insert(key, vm.name.as_str()) {
                let problem = format!("disk {:?} is also a disk of VM {other:?}", disk.name);
                let help = "a disk has one VM: use another name, or reach the other VM over the network";
                log.wrong(written.at(), &written.path, problem, Some(help.to_owned()));
            }
        }
    }
}

/// Checks that the guest agent will accept the orders that the keys make.
fn orders(raw: &Section<'_>, spec: &VmSpec, log: &Log<'_>) {
    let start = Start { command: spec.command.clone(), env: spec.env.clone(), ..Start::default() };
    let start = Ask::Start(start);
    let health =
        Exec { command: spec.health.command.clone().unwrap_or_default(), timeout_ms: u64::MAX, bulk: false };
    for (keys, ask) in [("command and env", start), ("health.command", Ask::Exec(health))] {
        if let Err(too_long) = ask.check_length() {
            let help = "let the daemon read the rest from a file".to_owned();
            log.wrong(raw.at.clone(), &format!("{}: {keys}", raw.called), too_long.to_string(), Some(help));
        }
    }
}

fn machine<'r, 't>(
    raw: &'r Section<'t>,
    machine: &mut MachineSpec,
    log: &Log<'_>,
    images: &mut Vec<&'r Written<'t>>,
) {
    // The VMM itself is not known, and so its requirements are not known either.
    if raw.layer.is_wrong("vmm") {
        return;
    }
    match machine.vmm {
        // A process boots no images, whatever the VM inherits.
        Vmm::Process => (machine.kernel, machine.rootfs, machine.image) = Default::default(),
        Vmm::Qemu => {
            let examples = [("kernel_path", "/boot/vmlinuz"), ("rootfs_path", "/var/lib/pepita/rootfs.ext4")];
            if ROOTS.iter().all(|key| raw.layer.has(key)) {
                let both = raw.layer.later(ROOTS[0], ROOTS[1]);
                let (at, path) =
                    both.map_or((raw.at.clone(), raw.called.clone()), |w| (w.at(), w.path.clone()));
                let help = "an image is the root: leave one of them out".to_owned();
                log.wrong(at, &path, "rootfs_path and image exclude each other", Some(help));
            }
            for (key, example) in examples {
                images.extend(raw.layer.good(key));
                if !raw.layer.has(key) && !raw.layer.has("image") {
                    let help =
                        format!("write {key} = {example:?} here, in its group or in [platform.pepita]");
                    log.missing(raw.at.clone(), &format!("{}: {key}", raw.called), &help);
                }
            }
        }
    }
}

/// Refuses what only a VM can give a daemon.
fn world(raw: &Section<'_>, vmm: Vmm, log: &Log<'_>) {
    let of_guest =
        ["hostname", "user", "secrets", "sysctls", "read_only", "privileged", "reach", "network", "jail"];
    for (key, written) in of_guest.iter().filter_map(|key| Some((*key, raw.layer.good(key)?))) {
        // What is switched off, or empty, asks for nothing.
        let is_asked = |value: &Value| match value {
            Value::Bool(flag) => *flag,
            Value::Object(entries) => !entries.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::String(text) => !(matches!(key, "network" | "jail") && text == "none"),
            Value::Null | Value::Number(_) => true,
        };
        if vmm == Vmm::Process && is_asked(&written.value) {
            let help = Some("leave it out, or use vmm = \"qemu\"".to_owned());
            log.wrong(written.at(), &written.path, NOT_ON_HOST, help);
        }
    }
}

fn named(section: &Section<'_>, log: &Log<'_>) {
    if !section.layer.has("name") {
        let (at, path) = (section.at.clone(), format!("{}: name", section.called));
        log.missing(at, &path, "write name = \"…\" below this line");
    }
}

fn control_socket(spec: &TreeSpec, layer: &Layer<'_>, log: &Log<'_>) {
    if let (Some(path), Some(written)) = (&spec.control_socket, layer.good("control_socket")) {
        let bytes = path.as_os_str().len();
        if bytes > SOCKET_CAP {
            let problem = format!("{} has {bytes} bytes, too many for a socket", path.display());
            let help = format!("use a path of at most {SOCKET_CAP} bytes");
            log.wrong(written.at(), &written.path, problem, Some(help));
        }
    }
}

/// Checks that the memory of each VM is enough to boot its kernel and its root. The images exist.
pub(super) fn memory(raw: &File<'_>, spec: &TreeSpec, needed_mb: NeededMb<'_>, log: &Log<'_>) {
    // Most VMs share their images.
    let mut known: HashMap<(&Path, &Path), Option<u64>> = HashMap::new();
    for (raw, spec) in raw.groups.iter().zip(&spec.groups) {
        for (raw, vm) in raw.vms.iter().zip(&spec.vms).filter(|(_, vm)| vm.machine.vmm == Vmm::Qemu) {
            let MachineSpec { kernel, rootfs, memory_mb, .. } = &vm.machine;
            let needed = *known.entry((kernel, rootfs)).or_insert_with(|| needed_mb(kernel, rootfs));
            let Some(needed) = needed.filter(|needed| u64::from(*memory_mb) < *needed) else { continue };
            let problem =
                format!("{memory_mb} MiB are too little: this kernel and root need {needed} MiB to boot");
            let help = format!("use at least {needed}, and what the daemon needs");
            let path = format!("{}: memory_mb", raw.called);
            let written = raw.layer.good("memory_mb");
            let (at, path) =
                written.map_or((raw.at.clone(), path), |written| (written.at(), written.path.clone()));
            log.wrong(at, &path, problem, Some(help));
        }
    }
}

/// Checks that the sockets in the run directory of a VM can exist: the launcher would refuse the VM.
fn run_directory(run_dir: &Path, vm: &VmSpec, raw: &Section<'_>, log: &Log<'_>) {
    let Some(written) = raw.layer.good("name") else { return };
    let dir = run_dir.join(vm.name.id().as_str());
    let bytes = dir.join(CONSOLE).as_os_str().len();
    if bytes > SOCKET_CAP {
        let (dir, over) = (dir.display(), bytes - SOCKET_CAP);
        let problem =
            format!("the sockets in its run directory {dir} have paths that are {over} bytes too long");
        let help = format!("use a name, or a run_dir, that is {over} bytes shorter");
        log.wrong(written.at(), &written.path, problem, Some(help));
    }
}

/// Checks that what VMs reach is there.
fn reach(raw: &File<'_>, spec: &TreeSpec, log: &Log<'_>) {
    for mistake in spec.reach_mistakes() {
        let (vm, problem, help) = match mistake {
            ReachMistake::NoSuchVm { vm, name } => {
                let names = spec.groups.iter().flat_map(|group| &group.vms).map(|vm| vm.name.as_str());
                let help = match nearest(&name, names) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("say where the name leads: \"{name}:PORT=ADDRESS:PORT\""),
                };
                (vm, format!("{name} is no VM of this file"), help)
            }
            ReachMistake::Itself { vm } => {
                (vm, "a VM reaches itself at 127.0.0.1".to_owned(), "take it out".to_owned())
            }
            ReachMistake::TooMany { vm, name, count } => {
                let problem = format!("{count} ports of VM {name} are published or reached");
                (vm, problem, format!("at most {PORTS_CAP}"))
            }
        };
        if let Some(written) = raw.groups[vm.0].vms[vm.1].layer.good("reach") {
            log.wrong(written.at(), &written.path, problem, Some(help));
        }
    }
}

/// Checks that a client can connect to each VM that waits for one.
fn sleepers(raw: &File<'_>, spec: &TreeSpec, log: &Log<'_>) {
    for (group, vm) in spec.unreachable_sleepers() {
        let layer = &raw.groups[group].vms[vm].layer;
        let (key, without) = match spec.groups[group].vms[vm].start.on {
            StartOn::Connection => ("start.on", "start.on = \"boot\""),
            StartOn::Boot => ("idle.after", "idle.after = \"0s\""),
        };
        if let (Some(written), false) = (layer.good(key), layer.is_wrong("publish")) {
            let problem =
                "a VM that waits for a client needs a port: it publishes none, and no VM reaches one";
            let help = format!("write publish = [\"127.0.0.1:8080:80\"] for this VM, or {without}");
            log.wrong(written.at(), &written.path, problem.to_owned(), Some(help));
        }
    }
}

/// Checks that no two VMs publish the same place of the host.
fn published_twice(raw: &File<'_>, spec: &TreeSpec, log: &Log<'_>) {
    let mut first: HashMap<&HostPlace, &VmName> = HashMap::new();
    for (raw, group) in raw.groups.iter().zip(&spec.groups) {
        for (raw, vm) in raw.vms.iter().zip(&group.vms) {
            for port in &vm.publish {
                let other = *first.entry(&port.host).or_insert(&vm.name);
                if other != &vm.name
                    && let Some(written) = raw.layer.good("publish")
                {
                    let problem = format!("{} is also published by VM {other}", port.host);
                    let help = "publish each port for one VM".to_owned();
                    log.wrong(written.at(), &written.path, problem, Some(help));
                }
            }
        }
    }
}

/// Checks that VMs with warm spares can have them.
fn standby(raw: &File<'_>, spec: &TreeSpec, log: &Log<'_>) {
    for StandbyMistake { vm, name: _, problem, help } in spec.standby_mistakes() {
        if let Some(written) = raw.groups[vm.0].vms[vm.1].layer.good("standby") {
            log.wrong(written.at(), &written.path, problem, Some(help));
        }
    }
}

fn exit_codes(spec: &VmSpec, layer: &Layer<'_>, log: &Log<'_>) {
    let keys = ["restart.never_restart_exit_codes", "restart.always_restart_exit_codes"];
    let [Some(never), Some(always)] = keys.map(|key| layer.good(key)) else { return };
    let (earlier, later) =
        if never.at().start > always.at().start { (always, never) } else { (never, always) };
    for code in spec.restart.never.intersection(&spec.restart.always) {
        let help = Some(format!("take {code} out of one of the two"));
        let problem = format!("exit code {code} is also in {}", earlier.path);
        log.wrong(later.at(), &later.path, problem, help);
    }
}

/// Checks that a VM is probed in one way.
fn probes(spec: &HealthSpec, layer: &Layer<'_>, log: &Log<'_>) {
    let HealthSpec { command, tcp, http, .. } = spec;
    let ways = [
        ("health.command", "[]", command.as_ref().is_some_and(|command| !command.is_empty())),
        ("health.tcp", "0", *tcp != 0),
        ("health.http", "\"\"", http.is_some()),
    ];
    let set = ways.iter().filter(|(_, _, is_set)| *is_set);
    let mut written: Vec<_> =
        set.filter_map(|(key, none, _)| Some((*key, *none, layer.good(key)?))).collect();
    written.sort_by_key(|(_, _, written)| written.at().start);
    let [(first, none, earlier), later @ ..] = &written[..] else { return };
    for (_, _, later) in later {
        let problem = format!("a VM has one kind of probe, and {} is set, too", earlier.path);
        let help = format!("take one of them out, or write {first} = {none} where the other is to hold");
        log.wrong(later.at(), &later.path, problem, Some(help));
    }
}

fn backoff(spec: &Backoff, layer: &Layer<'_>, prefix: &str, log: &Log<'_>) {
    let keys = ["initial_delay", "max_delay"].map(|key| format!("{prefix}backoff.{key}"));
    if spec.initial <= spec.max || keys.iter().any(|key| layer.is_wrong(key)) {
        return;
    }
    if let Some(written) = layer.later(&keys[0], &keys[1]) {
        let (initial, max) = (format_duration(spec.initial), format_duration(spec.max));
        let problem = format!("initial_delay ({initial}) is longer than max_delay ({max})");
        let help = "set both, the shorter one first".to_owned();
        log.wrong(written.at(), &written.path, problem, Some(help));
    }
}
