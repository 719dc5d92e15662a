//! What a new configuration changes in a running tree: the plan of a reload. Compares, carries nothing out.
//!
//! Specifications are taken apart field by field, so that a new field does not compile until someone has said here
//! whether it applies at once or with a new start.

use super::{
    Backoff, GroupName, GroupSpec, HealthSpec, Intensity, MachineSpec, RestartSpec, StartSpec, StopSpec,
    TreeSpec, VmName, VmSpec,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;

/// The keys that differ, as the configuration calls them.
type Keys = Vec<&'static str>;

/// What differs between two trees. Its `Display` is a line for the supervisor's keys, each group and each VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Keys of the supervisor that apply at once.
    pub live: Keys,
    /// Keys of the supervisor that apply only when it is restarted itself.
    pub fixed: Keys,
    /// The groups in their new order, then those that go.
    pub groups: Vec<GroupPlan>,
}

/// What differs in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlan {
    /// Which.
    pub name: GroupName,
    /// Of the group's own keys, and `order` when VMs have changed places. Never [`Change::Restart`].
    pub change: Change,
    /// Its VMs in their new order, then those that go.
    pub vms: Vec<VmPlan>,
}

/// What differs in a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPlan {
    /// Which.
    pub name: VmName,
    /// What.
    pub change: Change,
}

/// How something differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added {
        /// The group it is taken from: it must be gone there before it can start here.
        from: Option<GroupName>,
    },
    /// It goes.
    Removed,
    /// These apply at once and touch no running VM.
    Live(Keys),
    /// A running VM goes on as it is until its next start.
    Restart {
        /// What waits for the start.
        keys: Keys,
        /// What applies at once.
        live: Keys,
    },
    /// It is the same.
    Unchanged,
}

impl TreeSpec {
    /// What a reload from this tree to a new one changes. Groups and VMs are the same when their names are.
    pub fn diff(&self, new: &Self) -> Plan {
        let Self {
            name,
            state_dir,
            control_socket,
            pepita,
            run_dir,
            max_parallel_launches,
            intensity: Intensity { max_restarts, period },
            backoff,
            orphans,
            on_exit,
            shutdown_timeout,
            groups,
        } = self;
        let fixed = differing([
            ("name", *name != new.name),
            ("state_dir", *state_dir != new.state_dir),
            ("control_socket", *control_socket != new.control_socket),
            ("pepita", *pepita != new.pepita),
            ("run_dir", *run_dir != new.run_dir),
            // The executor is given its width for life.
            ("max_parallel_launches", *max_parallel_launches != new.max_parallel_launches),
        ]);
        let live = differing([
            ("intensity", *max_restarts != new.intensity.max_restarts),
            ("period", *period != new.intensity.period),
            ("backoff", *backoff != new.backoff),
            ("orphans", *orphans != new.orphans),
            ("on_exit", *on_exit != new.on_exit),
            ("shutdown_timeout", *shutdown_timeout != new.shutdown_timeout),
        ]);
        let homes: HashMap<&VmName, &GroupName> =
            groups.iter().flat_map(|group| group.vms.iter().map(|vm| (&vm.name, &group.name))).collect();
        let old: HashMap<&GroupName, &GroupSpec> = groups.iter().map(|group| (&group.name, group)).collect();
        let kept = new.groups.iter().map(|group| group_plan(old.get(&group.name).copied(), group, &homes));
        let gone = groups.iter().filter(|group| !new.groups.iter().any(|other| other.name == group.name));
        Plan { live, fixed, groups: kept.chain(gone.map(removed)).collect() }
    }
}

fn group_plan(old: Option<&GroupSpec>, new: &GroupSpec, homes: &HashMap<&VmName, &GroupName>) -> GroupPlan {
    let former = old.map_or(&[][..], |old| &old.vms);
    let kept = new.vms.iter().map(|vm| {
        let change = match former.iter().find(|old| old.name == vm.name) {
            Some(old) => vm_change(old, vm),
            None => Change::Added { from: homes.get(&vm.name).map(|&home| home.clone()) },
        };
        VmPlan { name: vm.name.clone(), change }
    });
    let gone = former.iter().filter(|old| !new.vms.iter().any(|vm| vm.name == old.name));
    let gone = gone.map(|vm| VmPlan { name: vm.name.clone(), change: Change::Removed });
    let change = match old {
        None => Change::Added { from: None },
        Some(old) => Change::of(Keys::new(), group_keys(old, new)),
    };
    GroupPlan { name: new.name.clone(), change, vms: kept.chain(gone).collect() }
}

fn removed(group: &GroupSpec) -> GroupPlan {
    let vms = group.vms.iter().map(|vm| VmPlan { name: vm.name.clone(), change: Change::Removed });
    GroupPlan { name: group.name.clone(), change: Change::Removed, vms: vms.collect() }
}

fn group_keys(old: &GroupSpec, new: &GroupSpec) -> Keys {
    let GroupSpec {
        name: _,
        strategy,
        intensity: Intensity { max_restarts, period },
        on_intensity_exceeded,
        auto_shutdown,
        after,
        vms,
    } = old;
    // Of those in both: who comes and goes is told by itself.
    let order = |vms: &[VmSpec], other: &[VmSpec]| -> Vec<VmName> {
        let both = vms.iter().filter(|vm| other.iter().any(|o| o.name == vm.name));
        both.map(|vm| vm.name.clone()).collect()
    };
    differing([
        ("strategy", *strategy != new.strategy),
        ("intensity", *max_restarts != new.intensity.max_restarts),
        ("period", *period != new.intensity.period),
        ("on_intensity_exceeded", *on_intensity_exceeded != new.on_intensity_exceeded),
        ("auto_shutdown", *auto_shutdown != new.auto_shutdown),
        ("after", *after != new.after),
        ("order", order(vms, &new.vms) != order(&new.vms, vms)),
    ])
}

fn vm_change(old: &VmSpec, new: &VmSpec) -> Change {
    let VmSpec {
        name: _,
        machine: MachineSpec { vcpus, memory_mb, kernel, rootfs, port, vmm },
        cid,
        command,
        env,
        restart,
        start: StartSpec { ready, timeout, on_failure },
        stop: StopSpec { signal, timeout: stop_timeout },
        health,
        standby,
        autostart,
        significant,
    } = old;
    let machine = &new.machine;
    let keys = differing([
        ("vcpus", *vcpus != machine.vcpus),
        ("memory_mb", *memory_mb != machine.memory_mb),
        ("kernel_path", *kernel != machine.kernel),
        ("rootfs_path", *rootfs != machine.rootfs),
        ("vsock_base_port", *port != machine.port),
        ("vmm", *vmm != machine.vmm),
        ("cid", *cid != new.cid),
        ("command", *command != new.command),
        ("env", *env != new.env),
    ]);
    let live = restart_keys(restart, &new.restart).into_iter();
    let live = live.chain(differing([
        ("start.ready", *ready != new.start.ready),
        ("start.timeout", *timeout != new.start.timeout),
        ("start.on_failure", *on_failure != new.start.on_failure),
        ("stop.signal", *signal != new.stop.signal),
        ("stop.timeout", *stop_timeout != new.stop.timeout),
    ]));
    let live = live.chain(health_keys(health, &new.health)).chain(differing([
        ("standby", *standby != new.standby),
        ("autostart", *autostart != new.autostart),
        ("significant", *significant != new.significant),
    ]));
    Change::of(keys, live.collect())
}

fn restart_keys(old: &RestartSpec, new: &RestartSpec) -> Keys {
    let RestartSpec { policy, max_retries, on_give_up, reset_after, success, never, always, backoff } = old;
    let Backoff { initial, max, multiplier, jitter } = backoff;
    differing([
        ("restart.policy", *policy != new.policy),
        ("restart.max_retries", *max_retries != new.max_retries),
        ("restart.on_give_up", *on_give_up != new.on_give_up),
        ("restart.reset_after", *reset_after != new.reset_after),
        ("restart.success_exit_codes", *success != new.success),
        ("restart.never_restart_exit_codes", *never != new.never),
        ("restart.always_restart_exit_codes", *always != new.always),
        ("restart.backoff.initial_delay", *initial != new.backoff.initial),
        ("restart.backoff.max_delay", *max != new.backoff.max),
        ("restart.backoff.multiplier", *multiplier != new.backoff.multiplier),
        ("restart.backoff.jitter", *jitter != new.backoff.jitter),
    ])
}

fn health_keys(old: &HealthSpec, new: &HealthSpec) -> Keys {
    let HealthSpec { interval, timeout, retries, start_period, command, watchdog, on_unhealthy } = old;
    differing([
        ("health.interval", *interval != new.interval),
        ("health.timeout", *timeout != new.timeout),
        ("health.retries", *retries != new.retries),
        ("health.start_period", *start_period != new.start_period),
        ("health.command", *command != new.command),
        ("health.watchdog", *watchdog != new.watchdog),
        ("health.on_unhealthy", *on_unhealthy != new.on_unhealthy),
    ])
}

fn differing<const N: usize>(keys: [(&'static str, bool); N]) -> Keys {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

impl Change {
    fn of(keys: Keys, live: Keys) -> Self {
        match (keys.is_empty(), live.is_empty()) {
            (true, true) => Self::Unchanged,
            (true, false) => Self::Live(live),
            (false, true | false) => Self::Restart { keys, live },
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Added { from: None } => json!({ "change": "added" }),
            Self::Added { from: Some(from) } => json!({ "change": "added", "from": from.as_str() }),
            Self::Removed => json!({ "change": "removed" }),
            Self::Live(keys) => json!({ "change": "live", "live": keys }),
            Self::Restart { keys, live } => json!({ "change": "restart", "restart": keys, "live": live }),
            Self::Unchanged => json!({ "change": "unchanged" }),
        }
    }
}

impl Plan {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        let same = |change: &Change| *change == Change::Unchanged;
        let group = |group: &GroupPlan| same(&group.change) && group.vms.iter().all(|vm| same(&vm.change));
        self.live.is_empty() && self.fixed.is_empty() && self.groups.iter().all(group)
    }

    /// The VMs that have to be started anew for all of the new configuration to hold.
    pub fn needs_restart(&self) -> impl Iterator<Item = &VmName> {
        let vms = self.groups.iter().flat_map(|group| &group.vms);
        vms.filter(|vm| matches!(vm.change, Change::Restart { .. })).map(|vm| &vm.name)
    }

    /// `{supervisor: {live, fixed}, groups: [{name, change, .., vms: [{name, change, ..}]}]}`.
    pub fn to_json(&self) -> Value {
        let named = |name: &str, change: &Change| {
            let mut object = change.to_json();
            object["name"] = json!(name);
            object
        };
        let groups = self.groups.iter().map(|group| {
            let vms = group.vms.iter().map(|vm| named(vm.name.as_str(), &vm.change));
            let mut object = named(group.name.as_str(), &group.change);
            object["vms"] = vms.collect();
            object
        });
        json!({
            "supervisor": { "live": self.live, "fixed": self.fixed },
            "groups": groups.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { from: None } => f.write_str("added"),
            Self::Added { from: Some(from) } => write!(f, "added, taken from group \"{from}\""),
            Self::Removed => f.write_str("removed"),
            Self::Live(keys) => write!(f, "at once: {}", keys.join(", ")),
            Self::Restart { keys, live } => {
                write!(f, "needs a restart: {}", keys.join(", "))?;
                if live.is_empty() { Ok(()) } else { write!(f, "; at once: {}", live.join(", ")) }
            }
            Self::Unchanged => f.write_str("unchanged"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = Vec::new();
        if !self.live.is_empty() {
            lines.push(format!("supervisor: at once: {}", self.live.join(", ")));
        }
        if !self.fixed.is_empty() {
            let keys = self.fixed.join(", ");
            lines.push(format!("supervisor: only with a restart of the supervisor: {keys}"));
        }
        for GroupPlan { name: group, change, vms } in &self.groups {
            lines.push(format!("group \"{group}\": {change}"));
            let vm = |VmPlan { name, change }: &VmPlan| format!("group \"{group}\" vm \"{name}\": {change}");
            lines.extend(vms.iter().map(vm));
        }
        f.write_str(&lines.join("\n"))
    }
}
