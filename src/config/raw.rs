//! The file as written: every key, and how its value is read. A key that is not here does not exist.
//!
//! Says nothing about what keys mean together; that is `check`. Merging is here: key by key, arrays as a whole.

use super::leaf;
use super::table::{Field, Table};
use super::words;
use crate::spec::{
    AutoShutdown, Cid, GroupName, OnExit, OnGiveUp, OnIntensityExceeded, OnStartFailure, OnUnhealthy,
    Orphans, Readiness, Restart, Signal, Strategy, VmName, Vmm,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// A table: its keys, their types, and how each is read.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty = $read:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub(super) struct $name { $(pub(super) $key: Field<$type>,)* }

        impl $name {
            fn read(table: &mut Table<'_>) -> Self {
                Self { $($key: table.leaf(stringify!($key), $read),)* }
            }
        }
    };
}

/// A table that a VM inherits key by key.
macro_rules! inherited {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty = $read:expr,)* }) => {
        table! { $(#[$doc])* $name { $($key: $type = $read,)* } }

        impl $name {
            fn over(self, below: &Self) -> Self {
                Self { $($key: self.$key.over(&below.$key),)* }
            }
        }
    };
}

inherited! {
    /// `[platform.pepita]`, and the same keys of a group and of a VM.
    RawMachine {
        vcpus: u32 = leaf::whole(1..=288),
        memory_mb: u32 = leaf::whole(32..=1 << 20),
        kernel_path: PathBuf = leaf::path,
        rootfs_path: PathBuf = leaf::path,
        vsock_base_port: u32 = leaf::whole(1..=u32::MAX - 1),
        vmm: Vmm = leaf::word(&words::VMM),
    }
}

inherited! {
    /// A `restart` table, without its backoff.
    RawRestart {
        policy: Restart = leaf::word(&words::POLICY),
        max_retries: u32 = leaf::whole(0..=u32::MAX),
        on_give_up: OnGiveUp = leaf::word(&words::ON_GIVE_UP),
        reset_after: Duration = leaf::duration,
        success_exit_codes: BTreeSet<i32> = leaf::codes,
        never_restart_exit_codes: BTreeSet<i32> = leaf::codes,
        always_restart_exit_codes: BTreeSet<i32> = leaf::codes,
    }
}

inherited! {
    /// A `backoff` table.
    RawBackoff {
        initial_delay: Duration = leaf::duration,
        max_delay: Duration = leaf::duration,
        multiplier: f64 = leaf::real(1.0..=1000.0),
        jitter: f64 = leaf::real(0.0..=1.0),
    }
}

inherited! {
    /// A `start` table.
    RawStart {
        ready: Readiness = leaf::word(&words::READY),
        timeout: Duration = leaf::period,
        on_failure: OnStartFailure = leaf::word(&words::ON_START_FAILURE),
    }
}

inherited! {
    /// A `stop` table.
    RawStop {
        signal: Signal = leaf::signal,
        timeout: Duration = leaf::duration,
    }
}

inherited! {
    /// A `health` table.
    RawHealth {
        interval: Duration = leaf::duration,
        timeout: Duration = leaf::period,
        retries: u32 = leaf::whole(1..=u32::MAX),
        start_period: Duration = leaf::duration,
        command: Vec<String> = leaf::command,
        watchdog: Duration = leaf::duration,
        on_unhealthy: OnUnhealthy = leaf::word(&words::ON_UNHEALTHY),
    }
}

table! {
    /// `[supervisor]`, without its backoff.
    RawSupervisor {
        name: GroupName = leaf::name,
        state_dir: PathBuf = leaf::path,
        control_socket: PathBuf = leaf::path,
        pepita: PathBuf = leaf::path,
        run_dir: PathBuf = leaf::path,
        max_parallel_launches: u32 = leaf::whole(1..=1024),
        intensity: u32 = leaf::whole(0..=u32::MAX),
        period: Duration = leaf::period,
        orphans: Orphans = leaf::word(&words::ORPHANS),
        on_exit: OnExit = leaf::word(&words::ON_EXIT),
        shutdown_timeout: Duration = leaf::duration,
    }
}

table! {
    /// The keys that only a group has.
    RawGroupKeys {
        name: GroupName = leaf::name,
        strategy: Strategy = leaf::word(&words::STRATEGY),
        intensity: u32 = leaf::whole(0..=u32::MAX),
        period: Duration = leaf::period,
        on_intensity_exceeded: OnIntensityExceeded = leaf::word(&words::ON_INTENSITY_EXCEEDED),
        auto_shutdown: AutoShutdown = leaf::word(&words::AUTO_SHUTDOWN),
        after: Vec<(String, Range<usize>)> = leaf::places,
    }
}

table! {
    /// The keys that only a VM has.
    RawVmKeys {
        name: VmName = leaf::name,
        command: Vec<String> = leaf::command,
        env: BTreeMap<String, String> = leaf::environment,
        cid: Cid = leaf::cid,
        standby: u32 = leaf::whole(0..=u32::MAX),
        autostart: bool = leaf::flag,
        significant: bool = leaf::flag,
    }
}

/// What a VM inherits: from the defaults, from its group, and what it says itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) machine: RawMachine,
    pub(super) restart: RawRestart,
    pub(super) backoff: RawBackoff,
    pub(super) start: RawStart,
    pub(super) stop: RawStop,
    pub(super) health: RawHealth,
}

impl Layer {
    /// What is written here, else what is written below, key by key.
    pub(super) fn over(self, below: &Self) -> Self {
        Self {
            machine: self.machine.over(&below.machine),
            restart: self.restart.over(&below.restart),
            backoff: self.backoff.over(&below.backoff),
            start: self.start.over(&below.start),
            stop: self.stop.over(&below.stop),
            health: self.health.over(&below.health),
        }
    }

    fn read(table: &mut Table<'_>) -> Self {
        let machine = RawMachine::read(table);
        Self { machine, ..Self::read_tables(table) }
    }

    /// Without the machine, which has a section of its own at the top of the file.
    fn read_tables(table: &mut Table<'_>) -> Self {
        let (restart, backoff) = table.within("restart", |table| {
            (RawRestart::read(table), table.within("backoff", |table| RawBackoff::read(table)))
        });
        Self {
            machine: RawMachine::default(),
            restart,
            backoff,
            start: table.within("start", |table| RawStart::read(table)),
            stop: table.within("stop", |table| RawStop::read(table)),
            health: table.within("health", |table| RawHealth::read(table)),
        }
    }
}

/// A `[[group.vm]]`.
#[derive(Debug)]
pub(super) struct RawVm {
    /// Its header.
    pub(super) at: Range<usize>,
    /// Its name for people: `group "web" vm "api"`.
    pub(super) called: String,
    pub(super) keys: RawVmKeys,
    pub(super) layer: Layer,
}

/// A `[[group]]`.
#[derive(Debug)]
pub(super) struct RawGroup {
    /// Its header.
    pub(super) at: Range<usize>,
    /// Its name for people: `group "web"`.
    pub(super) called: String,
    /// Its name as written, right or wrong.
    pub(super) name: Option<String>,
    pub(super) keys: RawGroupKeys,
    pub(super) layer: Layer,
    pub(super) vms: Vec<RawVm>,
}

/// The whole file.
#[derive(Debug)]
pub(super) struct RawTree {
    pub(super) supervisor: RawSupervisor,
    pub(super) backoff: RawBackoff,
    /// `[platform.pepita]` and `[defaults.*]`.
    pub(super) defaults: Layer,
    pub(super) groups: Vec<RawGroup>,
}

/// Reads the file's root.
pub(super) fn tree(root: &mut Table<'_>) -> RawTree {
    let machine = root.within("platform", |platform| platform.within("pepita", |t| RawMachine::read(t)));
    let (supervisor, backoff) = root.within("supervisor", |table| {
        (RawSupervisor::read(table), table.within("backoff", |table| RawBackoff::read(table)))
    });
    let defaults = root.within("defaults", Layer::read_tables);
    let groups = root.each("group", group);
    RawTree { supervisor, backoff, defaults: Layer { machine, ..defaults }, groups }
}

fn group(table: &mut Table<'_>) -> RawGroup {
    RawGroup {
        at: table.at(),
        called: table.owner().to_owned(),
        name: table.peek("name").map(str::to_owned),
        keys: RawGroupKeys::read(table),
        layer: Layer::read(table),
        vms: table.each("vm", vm),
    }
}

fn vm(table: &mut Table<'_>) -> RawVm {
    RawVm {
        at: table.at(),
        called: table.owner().to_owned(),
        keys: RawVmKeys::read(table),
        layer: Layer::read(table),
    }
}
