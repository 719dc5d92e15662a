//! Lists every key of the configuration file, with one row for each key.
//!
//! All code that treats keys alike is derived from these rows: reading and merging a file, resolving it to a
//! specification, the plan of a reload, the fingerprint, the form in which a specification is stored, and the JSON
//! schema. A new key is a field of a specification, its default in that specification's constructor, and a row here. A
//! field without a row, and a row without a field, do not compile.

use super::datum::Datum;
use super::{
    AutoShutdown, Backoff, GroupSpec, HealthSpec, IdleAction, IdleSpec, Intensity, Jail, MachineSpec,
    Network, OnExit, OnGiveUp, OnIntensityExceeded, OnStartFailure, OnUnhealthy, Orphans, Readiness, Restart,
    RestartSpec, SPARES_CAP, StartOn, StartSpec, StopSpec, Strategy, TreeSpec, VmName, VmSpec, Vmm,
    WorldSpec,
};
use serde_json::{Map, Value};
use strum::VariantNames;

/// The values that the file may hold for a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A boolean: `true` or `false`.
    Flag,
    /// A whole number between two bounds, both included.
    Whole(u32, u32),
    /// A number between two bounds, both included, with or without a point.
    Real(f64, f64),
    /// A duration such as `"30s"`; zero is allowed.
    Duration,
    /// A duration that is longer than zero.
    Period,
    /// One of a fixed set of words.
    Word(&'static Words),
    /// A name of at most this number of bytes.
    Name(usize),
    /// The names of groups.
    Names,
    /// A file or directory; a relative path begins at the configuration file's folder.
    Path,
    /// A container image: a reference, or `oci:DIR[:TAG]` or `docker-archive:FILE[:TAG]` with a path like other paths.
    Image,
    /// A program: a path like other paths, or a bare name that is looked for in PATH.
    Program,
    /// A program and its arguments; an empty list is no program.
    Command,
    /// A list of exit codes, 0 to 255 each.
    ExitCodes,
    /// A place that answers over HTTP, such as `127.0.0.1:80/healthz`; an empty text is none.
    HttpPlace,
    /// Published ports, such as `127.0.0.1:6379:6379`.
    Ports,
    /// Places that a daemon may dial, such as `db:5432`.
    Reach,
    /// A table of environment variables.
    Environment,
    /// A vsock address that a guest may have.
    Cid,
    /// A signal by its name or number.
    Signal,
    /// The name of a disk, as docker has it for volumes.
    DiskName,
    /// A size with a unit, such as `"10GiB"`, in MiB.
    Size,
    /// A directory of the guest at which something can be mounted.
    Mount,
    /// A list of tables that have these keys.
    Tables(&'static [Column]),
    /// The name of a guest.
    Hostname,
    /// A user of a guest, by name or number, and with a colon the group.
    User,
    /// A directory of a guest.
    GuestDirectory,
    /// A table of limits of a process, by their names: a number, or a text such as `"1024:4096"`.
    Ulimits,
    /// A table of settings of a kernel, by their names.
    Sysctls,
    /// A range of user ids, such as `"700000-765535"`.
    Uids,
    /// A list of `"NAME=FILE"`, where a relative path begins at the configuration file's folder.
    Secrets,
}

/// A key of a table that is an item of a list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Column {
    /// The key.
    pub name: &'static str,
    /// The name of the value in the form that is stored.
    pub field: &'static str,
    /// The values that the key may hold.
    pub kind: Kind,
    /// Whether each table must have the key.
    pub is_needed: bool,
    /// The description of the key, in one line.
    pub doc: &'static str,
}

/// Makes the keys of a list of tables. `as` stands before the name of the stored value, when that is another one.
macro_rules! columns {
    ($($name:literal $(as $field:literal)? $kind:expr, $needed:literal, $doc:literal;)*) => {
        &[$(Column {
            name: $name,
            field: columns!(@field $name $($field)?),
            kind: $kind,
            is_needed: $needed,
            doc: $doc,
        }),*]
    };
    (@field $name:literal) => { $name };
    (@field $name:literal $field:literal) => { $field };
}

/// The keys of `[[group.vm.disk]]`.
const DISK: &[Column] = columns! {
    "name" Kind::DiskName, true, "letters, digits, '_', '.' and '-'; a disk has one VM";
    "mount" Kind::Mount, true, "the directory in the guest; mounted before the daemon starts";
    "size" as "size_mb" Kind::Size, false,
        "of a new disk (else 10GiB, of which only what is written takes space); a smaller one grows to it at the next start";
    "path" Kind::Path, false, "a file or block device of yours; without it a file in disk_dir, made at the first start";
    "read_only" Kind::Flag, false, "the guest cannot write to it";
};

/// The keys of `[[group.vm.share]]`.
const SHARE: &[Column] = columns! {
    "path" Kind::Path, true, "a directory of the host; a relative path begins at this file's folder";
    "mount" Kind::Mount, true, "the directory in the guest; mounted before the daemon starts";
    "read_only" Kind::Flag, false, "true unless it is set to false: the guest cannot write to it, whatever it tries";
};

/// The words that a key may hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Words {
    /// The term for such a word, for messages.
    pub what: &'static str,
    /// Every word that the key accepts.
    pub list: &'static [&'static str],
    /// Other spellings that the file may use, each with the word that it stands for.
    pub aliases: &'static [(&'static str, &'static str)],
}

/// The tables in which a key may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The key stands in `[supervisor]`.
    Supervisor,
    /// The key stands in `[[group]]`.
    Group,
    /// The key stands in `[[group.vm]]`.
    Vm,
    /// In `[platform.pepita]`, `[[group]]` and `[[group.vm]]`.
    Machine,
    /// In `[defaults]`, `[[group]]` and `[[group.vm]]`.
    Policy,
}

/// The moment at which a change of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once, without touching a running VM.
    Live,
    /// At the next start of the VM. These keys make up the fingerprint.
    NextStart,
    /// At the next start of the supervisor. The name of a group or VM is its identity: with another name it is another
    /// group or VM.
    Fixed,
}

/// One key of a specification `S`.
#[derive(Debug)]
pub struct Row<S: 'static> {
    /// The key in full, such as `restart.backoff.max_delay`.
    pub name: &'static str,
    /// The values that the key may hold.
    pub kind: Kind,
    /// The tables in which the key may be written.
    pub scope: Scope,
    /// The moment at which a change takes effect.
    pub effect: Effect,
    /// The description of the key, in one line.
    pub doc: &'static str,
    has_default: bool,
    get: fn(&S) -> Value,
    set: fn(&mut S, &Value) -> bool,
}

/// A specification whose fields are the rows of a table.
pub trait Keyed: Sized + 'static {
    /// Every key, in the order of `config/reference.toml`.
    const ROWS: &'static [Row<Self>];

    /// Returns a specification with every default, and a placeholder for each key that has no default.
    fn blank() -> Self;
}

impl<S: Keyed> Row<S> {
    /// Returns the value in `spec`; `Null` when there is none.
    pub fn get(&self, spec: &S) -> Value {
        (self.get)(spec)
    }

    /// Sets the value in `spec`. Returns whether the value has the form that [`Row::get`] returns; if not, `spec` is
    /// not changed.
    #[must_use]
    pub fn set(&self, spec: &mut S, value: &Value) -> bool {
        (self.set)(spec, value)
    }

    /// Returns the default, if the key has a default that is always the same.
    pub fn default(&self) -> Option<Value> {
        let value = self.has_default.then(|| self.get(&S::blank()))?;
        (!value.is_null()).then_some(value)
    }
}

impl VmSpec {
    /// Returns every key with its value, as [`VmSpec::from_keys`] reads it. For storing.
    pub(crate) fn to_keys(&self) -> Map<String, Value> {
        Self::ROWS.iter().map(|row| (row.name.to_owned(), row.get(self))).collect()
    }

    /// Returns the specification that [`VmSpec::to_keys`] was called on. A missing key has its default; an unknown key
    /// was written by a newer version, and is left out.
    ///
    /// Returns the key whose value is of the wrong form.
    pub(crate) fn from_keys(keys: &Map<String, Value>) -> Result<Self, &'static str> {
        let mut spec = Self::blank();
        for row in Self::ROWS {
            match keys.get(row.name) {
                Some(value) if !row.set(&mut spec, value) => return Err(row.name),
                None if row.scope == Scope::Vm && row.name == "name" => return Err(row.name),
                Some(_) | None => {}
            }
        }
        Ok(spec)
    }
}

/// Makes the rows of a specification. Each part is a structure, the way to it from the specification, and a row for
/// each of its fields; fields that are parts themselves, or not keys at all, stand behind `besides`.
macro_rules! rows {
    ($spec:ident; $(
        $part:ident $way:tt $scope:ident $(besides($($other:ident),*))? {
            $($field:ident $name:literal $kind:expr, $effect:ident, $doc:literal $(, no $default:ident)?;)*
        }
    )*) => {{
        // Destructures each part, so that every field has a row and every row a field: "pattern requires `..` due to
        // inaccessible fields" says that a field of the structure has no row.
        $(const _: fn(&$part) = |$part { $($field: _,)* $($($other: _,)*)? }| ();)*
        &[$($(Row {
            name: $name,
            kind: $kind,
            scope: Scope::$scope,
            effect: Effect::$effect,
            doc: $doc,
            has_default: true $(&& rows!(@no $default))?,
            get: |spec: &$spec| rows!(@at spec $way $field).to_json(),
            set: |spec: &mut $spec, value| match Datum::from_json(value) {
                Some(read) => { rows!(@at spec $way $field) = read; true }
                None => false,
            },
        },)*)*]
    }};
    (@no default) => { false };
    (@at $spec:ident [$($way:ident)*] $field:ident) => { $spec$(.$way)*.$field };
}

/// The words of an enumeration.
macro_rules! words {
    ($type:ty, $what:literal $(, $alias:literal = $word:literal)*) => {
        Kind::Word(&Words { what: $what, list: <$type>::VARIANTS, aliases: &[$(($alias, $word)),*] })
    };
}

/// Any whole number.
const ANY: Kind = Kind::Whole(0, u32::MAX);
const GROUP_NAME: Kind = Kind::Name(pepita_wire::name::NAME_CAP);

impl Keyed for TreeSpec {
    const ROWS: &'static [Row<Self>] = rows! { TreeSpec;
        TreeSpec [] Supervisor besides(intensity, backoff, groups) {
            name "name" GROUP_NAME, Fixed,
                "the supervisor's mark on its VMs, whose ids are \"duende-vm-<vm name>\"";
            state_dir "state_dir" Kind::Path, Fixed,
                "keeps desired state and counters; without it they are lost at exit";
            control_socket "control_socket" Kind::Path, Fixed, "where pepitactl finds the supervisor; without it nowhere";
            run_dir "run_dir" Kind::Path, Fixed,
                "the launcher's run directories; without it the launcher decides";
            log_dir "log_dir" Kind::Path, Fixed,
                "the logs of the consoles, a directory for each VM; without it in the run directories";
            pepita "pepita" Kind::Program, Fixed,
                "the launcher; a bare name is looked for beside our own program, then in PATH";
            disk_dir "disk_dir" Kind::Path, Fixed,
                "the disks of the VMs; without it the folder disks in state_dir, else the launcher decides";
            jail_uids "jail_uids" Kind::Uids, Fixed,
                "the user ids of which each VM of a root supervisor gets two for its jails; without it 700000-765535";
            // The executor cannot change its number of parallel launches while it runs.
            max_parallel_launches "max_parallel_launches" Kind::Whole(1, 1024), Fixed,
                "launches under way at once, 1 to 1024";
            orphans "orphans" words!(Orphans, "way with orphans"), Live,
                "adopt | destroy | refuse: VMs that a previous run left";
            on_exit "on_exit" words!(OnExit, "way to exit"), Live,
                "stop | leave: what the supervisor's end does to the VMs";
            shutdown_timeout "shutdown_timeout" Kind::Duration, Live,
                "for the ordered stop of the whole tree; then everything is destroyed";
        }
        Intensity [intensity] Supervisor {
            max_restarts "intensity" ANY, Live, "how many escalations of groups the root bears in a period";
            period "period" Kind::Period, Live, "the window in which escalations are counted";
        }
        // The delay of the restart of a group that has escalated.
        Backoff [backoff] Supervisor {
            initial "backoff.initial_delay" Kind::Duration, Live, "before the first restart of an escalated group";
            max "backoff.max_delay" Kind::Duration, Live, "the longest delay, before jitter";
            multiplier "backoff.multiplier" Kind::Real(1.0, 1000.0), Live, "growth of the delay, 1 to 1000";
            jitter "backoff.jitter" Kind::Real(0.0, 1.0), Live,
                "chance adds up to this part of the delay, 0 to 1";
        }
    };

    fn blank() -> Self {
        Self::new(crate::spec::DEFAULT_NAME)
    }
}

impl Keyed for GroupSpec {
    const ROWS: &'static [Row<Self>] = rows! { GroupSpec;
        GroupSpec [] Group besides(intensity, vms) {
            name "name" GROUP_NAME, Fixed, "1 to 63 of a-z, 0-9 and '-', unique in the file", no default;
            strategy "strategy" words!(Strategy, "strategy"), Live, "one_for_one | one_for_all | rest_for_one";
            on_intensity_exceeded "on_intensity_exceeded" words!(OnIntensityExceeded, "answer to too many restarts"), Live,
                "escalate | stop_group | delay";
            auto_shutdown "auto_shutdown" words!(AutoShutdown, "automatic shutdown"), Live,
                "never | any_significant | all_significant";
            after "after" Kind::Names, Live,
                "groups that are Ready before this one starts, and stopped after it";
        }
        Intensity [intensity] Group {
            max_restarts "intensity" ANY, Live,
                "restarts that are borne in a period; without it the larger of 6 and 3 for each VM", no default;
            period "period" Kind::Period, Live, "the window in which restarts are counted";
        }
    };

    fn blank() -> Self {
        Self::new("unnamed".parse().expect("a good name"), Vec::new())
    }
}

impl Keyed for VmSpec {
    const ROWS: &'static [Row<Self>] = rows! { VmSpec;
        VmSpec [] Vm besides(machine, world, restart, start, stop, health, idle) {
            name "name" Kind::Name(VmName::CAP), Fixed, "1 to 53 of a-z, 0-9 and '-', unique in the whole file", no default;
            command "command" Kind::Command, NextStart,
                "the daemon and its arguments; [] = what the image names; with vmm = \"process\" a path begins at this file's folder";
            env "env" Kind::Environment, NextStart, "the daemon's environment: { RUST_LOG = \"info\" }";
            cid "cid" Kind::Cid, NextStart, "a fixed vsock CID, from 3; without it one that is free";
            publish "publish" Kind::Ports, Live,
                "ports of the guest on the host: [ADDRESS:]PORT:GUEST_PORT or unix:PATH:GUEST_PORT; clients wait while the VM restarts";
            reach "reach" Kind::Reach, NextStart,
                "what the daemon may dial: VM:PORT (a VM of this file), ADDRESS:PORT or NAME:PORT=ADDRESS:PORT; needs no network";
            standby "standby" Kind::Whole(0, SPARES_CAP), Live,
                "warm spares: VMs that are booted ahead, one of which takes the place of the VM when it ends";
            autostart "autostart" Kind::Flag, Live, "started with its group";
            significant "significant" Kind::Flag, Live, "counts for the group's auto_shutdown";
            disks "disk" Kind::Tables(DISK), NextStart, "disks with ext4, which outlive the VM";
            shares "share" Kind::Tables(SHARE), NextStart, "directories of the host that the guest sees (virtiofs)";
        }
        WorldSpec [world] Vm {
            user "user" Kind::User, NextStart,
                "the daemon's user in the guest: a name or uid, or user:group; without it the image's, else root";
            workdir "workdir" Kind::GuestDirectory, NextStart,
                "the daemon's working directory, made if absent; without it the image's, else /";
            hostname "hostname" Kind::Hostname, NextStart, "the guest's name for itself; without it the VM's name";
            env_file "env_file" Kind::Path, NextStart,
                "more of the environment, one K=V a line, read at each launch; env wins";
            secrets "secrets" Kind::Secrets, NextStart,
                "files of the host, read at each start: /run/secrets/NAME, in memory, for the daemon's user alone", no default;
            ulimits "ulimits" Kind::Ulimits, NextStart,
                "limits: { nofile = 65536, core = \"0:unlimited\" }; nofile is 1024:524288 without";
            sysctls "sysctls" Kind::Sysctls, NextStart,
                "settings of the guest's kernel: { \"vm.overcommit_memory\" = 1 }";
            read_only "read_only" Kind::Flag, NextStart, "the root; /tmp, /run and /dev/shm stay writable";
            privileged "privileged" Kind::Flag, NextStart,
                "every capability, and setuid programs work; without it those of a container";
            network "network" words!(Network, "network"), NextStart,
                "none | user: the guest reaches what the host reaches, also the host's services at 127.0.0.1 (as 10.0.2.2) | tap: the host reaches the guest at an address";
        }
        MachineSpec [machine] Machine {
            vcpus "vcpus" Kind::Whole(1, 288), NextStart, "virtual CPUs, 1 to 288";
            memory_mb "memory_mb" Kind::Whole(32, 1 << 20), NextStart, "memory in MiB";
            kernel "kernel_path" Kind::Path, NextStart, "the guest's kernel; needed with vmm = \"qemu\", except with image: the kernel of `pepita kernel install`";
            rootfs "rootfs_path" Kind::Path, NextStart,
                "an initramfs (cpio) or an ext4 image; with vmm = \"qemu\" this or image is needed";
            image "image" Kind::Image, NextStart,
                "a container image in place of rootfs_path: \"redis:7\", \"oci:DIR\" or \"docker-archive:FILE\"; pulled when it is missing";
            port "vsock_base_port" Kind::Whole(1, u32::MAX - 1), NextStart, "the vsock port of the guest agent";
            vmm "vmm" words!(Vmm, "vmm"), NextStart,
                "qemu | process: no VM at all, a process of the host without any isolation";
            jail "jail" words!(Jail, "jail"), NextStart,
                "full | best-effort | none: how much of a jail QEMU, the vsock back-end and virtiofsd must be in; without it full for root, best-effort for others";
        }
        RestartSpec [restart] Policy besides(backoff) {
            policy "restart.policy"
                // These words are OTP's.
                words!(Restart, "restart policy", "permanent" = "always", "transient" = "on-failure", "temporary" = "never"),
                Live, "always | on-failure | never | unless-stopped (or permanent, transient, temporary)";
            max_retries "restart.max_retries" ANY, Live, "consecutive failures before giving up; 0 = no limit";
            on_give_up "restart.on_give_up" words!(OnGiveUp, "answer to giving up"), Live,
                "fail (this VM) | escalate (its group)";
            reset_after "restart.reset_after" Kind::Duration, Live, "Ready for so long forgets the failures";
            success "restart.success_exit_codes" Kind::ExitCodes, Live, "a clean end";
            never "restart.never_restart_exit_codes" Kind::ExitCodes, Live, "not restarted, whatever the policy";
            always "restart.always_restart_exit_codes" Kind::ExitCodes, Live, "restarted, whatever the policy";
        }
        Backoff [restart backoff] Policy {
            initial "restart.backoff.initial_delay" Kind::Duration, Live, "before the first restart";
            max "restart.backoff.max_delay" Kind::Duration, Live, "the longest delay, before jitter";
            multiplier "restart.backoff.multiplier" Kind::Real(1.0, 1000.0), Live,
                "growth of the delay with each attempt, 1 to 1000";
            jitter "restart.backoff.jitter" Kind::Real(0.0, 1.0), Live,
                "chance adds up to this part of the delay, 0 to 1";
        }
        StartSpec [start] Policy {
            on "start.on" words!(StartOn, "cause of a start"), Live,
                "boot (its group starts it) | connection (the first client of a port does; the VM is idle until then)";
            ready "start.ready" words!(Readiness, "sign of being ready"), Live,
                "started (the daemon runs) | notify (it has sent READY=1, as with sd_notify) | health (its first good probe)";
            timeout "start.timeout" Kind::Period, Live, "from launch to Ready";
            on_failure "start.on_failure" words!(OnStartFailure, "answer to a failed start"), Live,
                "retry (the restart policy decides) | abort (the group's start fails)";
        }
        StopSpec [stop] Policy {
            signal "stop.signal" Kind::Signal, Live, "a name or a number; without it the image's stop signal, else TERM";
            timeout "stop.timeout" Kind::Duration, Live, "then the VM is destroyed; \"0s\" = at once";
        }
        IdleSpec [idle] Policy {
            after "idle.after" Kind::Duration, Live,
                "without a client, the VM is put to sleep after so long; the next client wakes it; \"0s\" = never";
            action "idle.do" words!(IdleAction, "way to sleep"), Live,
                "pause (its virtual CPUs stand still; it wakes in milliseconds) | stop (it wakes within a boot)";
        }
        HealthSpec [health] Policy {
            interval "health.interval" Kind::Duration, Live, "between two probes; \"0s\" = none";
            timeout "health.timeout" Kind::Period, Live, "for one probe";
            retries "health.retries" Kind::Whole(1, u32::MAX), Live, "failed probes in a row that make the VM unhealthy";
            start_period "health.start_period" Kind::Duration, Live,
                "failed probes do not count so long after the start";
            command "health.command" Kind::Command, Live,
                "run in the guest, exit 0 = healthy; [] = the agent's ping only; without it the image's health check, else the ping";
            tcp "health.tcp" Kind::Whole(0, 65535), Live,
                "instead of a command: a port at 127.0.0.1 of the guest that accepts connections; 0 = none";
            http "health.http" Kind::HttpPlace, Live,
                "instead of a command: answers a GET with 200 to 399, such as \"127.0.0.1:80/healthz\"; \"\" = none";
            watchdog "health.watchdog" Kind::Duration, Live,
                "the daemon must send WATCHDOG=1 this often; \"0s\" = off";
            on_unhealthy "health.on_unhealthy" words!(OnUnhealthy, "answer to being unhealthy"), Live,
                "restart (it is a failure) | report (it is an event)";
            stop_timeout "health.stop_timeout" Kind::Duration, Live,
                "for an unhealthy daemon to end after stop.signal; then the VM is destroyed; \"0s\" = at once";
        }
    };

    fn blank() -> Self {
        Self::new("unnamed".parse().expect("a good name"), MachineSpec::qemu("", ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn hold<S: Keyed + PartialEq + std::fmt::Debug>() {
        for row in S::ROWS {
            let mut spec = S::blank();
            let value = row.get(&spec);
            assert!(row.set(&mut spec, &value), "{}", row.name);
            assert_eq!(spec, S::blank(), "{}", row.name);
            assert!(!row.set(&mut spec, &serde_json::json!({ "no": ["value"] })), "{}", row.name);
            // Every word of the file must be a word of the specification.
            let Kind::Word(words) = row.kind else { continue };
            for word in words.list.iter().chain(words.aliases.iter().map(|(_, word)| word)) {
                assert!(row.set(&mut spec, &(*word).into()), "{}: {word}", row.name);
                assert_eq!(row.get(&spec), *word);
            }
        }
    }

    #[test]
    fn what_a_row_returns_it_sets() {
        hold::<TreeSpec>();
        hold::<GroupSpec>();
        hold::<VmSpec>();
    }

    #[test]
    fn a_key_of_a_group_is_either_its_own_or_one_that_its_vms_inherit() {
        let inherited =
            VmSpec::ROWS.iter().filter(|row| row.scope != Scope::Vm).map(|row| (row.name, row.scope));
        let all = || GroupSpec::ROWS.iter().map(|row| (row.name, row.scope)).chain(inherited.clone());
        let names: HashSet<_> = all().map(|(name, _)| name).collect();
        assert_eq!(names.len(), all().count());
        // The section of the file is the first word of the name, except for the keys of the machine.
        assert!(all().all(|(name, scope)| name.contains('.') == (scope == Scope::Policy)));
    }

    #[test]
    fn a_specification_is_stored_and_read_again() {
        let mut spec = VmSpec::blank();
        spec.machine.kernel = "/k".into();
        spec.restart.never.insert(3);
        spec.env.insert("A".into(), "b".into());
        spec.cid = crate::spec::Cid::new(9).ok();
        let mut keys = spec.to_keys();
        assert_eq!(VmSpec::from_keys(&keys), Ok(spec.clone()));
        // A key that a newer version wrote is no obstacle, and a key that an older version did not write has its
        // default.
        keys.insert("a_later_key".into(), 1.into());
        keys.remove("standby");
        assert_eq!(VmSpec::from_keys(&keys), Ok(spec));
        keys.insert("stop.signal".into(), "NONE".into());
        assert_eq!(VmSpec::from_keys(&keys), Err("stop.signal"));
        assert_eq!(VmSpec::from_keys(&Map::new()), Err("name"));
    }
}
