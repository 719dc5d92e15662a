//! The rules of each crate: its rows, its pure files, its edges.

/// The rules of a crate.
pub(crate) struct Crate {
    /// The folder of its sources, from the top of the repository.
    pub(crate) dir: &'static str,
    /// The name of the crate in programs.
    pub(crate) name: &'static str,
    /// The rooms, lowest first. A room uses only rooms of rows above its own in this list.
    pub(crate) rows: &'static [&'static [&'static str]],
    /// Files and folders that decide: no actor, no runtime, no clock, no chance, no disk, no socket.
    pub(crate) pure: &'static [&'static str],
    /// The items that only some places may name.
    pub(crate) edges: &'static [(&'static str, &'static [&'static str])],
}

impl Crate {
    /// Returns the row of a room.
    pub(crate) fn row(&self, room: &str) -> Option<usize> {
        self.rows.iter().position(|rooms| rooms.contains(&room))
    }
}

/// Returns whether a full path is the path of a rule, or lies below it.
pub(crate) fn names(path: &str, rule: &str) -> bool {
    path.strip_prefix(rule).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Returns whether a full path leads to clock, chance, disk, socket, process or runtime.
pub(crate) fn touches_the_world(path: &str) -> bool {
    const WORLD: &[&str] = &[
        "fastrand",
        "getrandom",
        "nix",
        "ractor",
        "rustix",
        "std::env",
        "std::fs",
        "std::io::stderr",
        "std::io::stdin",
        "std::io::stdout",
        "std::net",
        "std::os::unix::net",
        "std::process",
        "std::thread",
        "tokio",
        "tokio_vsock",
        "vsock",
    ];
    WORLD.iter().any(|rule| names(path, rule))
        || path.ends_with("Instant::now")
        || path.ends_with("SystemTime::now")
}

pub(crate) const CRATES: &[Crate] = &[
    Crate {
        dir: "crates/wire/src",
        name: "pepita_wire",
        rows: &[
            // The numbers that both sides of the protocol know.
            &["lib"],
            &[
                "allowance",
                "chunk",
                "data",
                "environment",
                "error",
                "name",
                "network",
                "port",
                "probe",
                "protocol",
                "rundir",
                "signal",
                "stored",
                "storage",
                "text",
                "usage",
                "world",
            ],
            &["exit", "image", "line", "reach"],
            &["streams"],
            &["agent", "console", "launch", "record"],
            &["frame", "monitor", "serve"],
            &["conversation"],
        ],
        // The whole crate.
        pure: &[""],
        edges: &[],
    },
    Crate {
        dir: "crates/ports/src",
        name: "pepita_ports",
        rows: &[&["listen", "pair", "queue"], &["relay"], &["lib"]],
        pure: &[],
        edges: &[],
    },
    Crate {
        dir: "crates/copy/src",
        name: "pepita_copy",
        rows: &[&["error"], &["entry"], &["fuzzing", "pack", "place"], &["unpack"], &["lib"]],
        pure: &["entry.rs"],
        edges: &[],
    },
    Crate {
        dir: "crates/jail/src",
        name: "pepita_jail",
        rows: &[
            &["layer", "plan", "raw"],
            &["answer", "filter", "identity", "namespaces", "rules"],
            &["ledger", "root"],
            &["enter"],
            &["helper", "start"],
            &["fuzzing"],
            &["lib"],
        ],
        pure: &["answer.rs", "layer.rs", "ledger.rs", "plan.rs"],
        edges: &[("std::process::Command", &["helper.rs", "start.rs"])],
    },
    Crate {
        dir: "crates/guest/src",
        name: "pepita_guest",
        rows: &[
            &[
                "boot",
                "cgroup",
                "console",
                "copying",
                "environment",
                "first_use",
                "forwarding",
                "inherited",
                "interface",
                "options",
                "process",
                "reaper",
                "stream",
                "tail",
                "tcp",
                "terminal",
                "users",
            ],
            &["forerunner", "furnish", "panics", "probe", "reach", "state", "strays", "system"],
            &["network", "surroundings"],
            &["prepared"],
            &["agent"],
            &["notify"],
            &["end", "exec", "exec_stream", "forward", "mounts", "practice", "usage"],
            &["preparation"],
            &["daemon"],
            &["serve"],
            &["as_init", "as_process"],
            &["main"],
        ],
        pure: &["notify/datagram.rs", "options.rs", "probe/answer.rs", "state.rs", "tail.rs", "users.rs"],
        edges: &[],
    },
    Crate {
        dir: "crates/pepita/src",
        name: "pepita_launcher",
        rows: &[
            &["error", "vm_config"],
            &["host"],
            &["rundir"],
            &["client", "image", "qemu"],
            &["disk", "vmm"],
            &["monitor"],
            &["reconcile"],
            &["boot"],
            &["cli"],
            &["ops"],
            &["commands"],
            &["fuzzing"],
            &["lib"],
            &["main"],
        ],
        pure: &[
            "cli.rs",
            "cli/",
            "commands/doctor/diagnose.rs",
            "commands/order.rs",
            "image/cpio.rs",
            "image/elf.rs",
            "image/libraries.rs",
            "monitor/activity.rs",
            "monitor/evidence.rs",
            "monitor/life.rs",
            "monitor/life/",
            "monitor/qmp.rs",
            "monitor/timeline.rs",
            "monitor/console_scan.rs",
            "qemu.rs",
            "rundir/layout.rs",
            "vm_config.rs",
        ],
        edges: &[
            ("getrandom", &["host/random.rs"]),
            ("nix::unistd::fork", &["host/fork.rs"]),
            ("nix::ioctl_write_ptr", &["host/vhost_vsock.rs"]),
            ("nix::ioctl_write_ptr_bad", &["host/tun.rs"]),
            ("std::fs::rename", &["monitor/log.rs", "rundir.rs", "rundir/files.rs"]),
            ("std::os::unix::net::UnixStream::connect", &["client.rs", "monitor/dial.rs", "vmm.rs", "vmm/"]),
            (
                "std::process::Command",
                &[
                    "commands/doctor.rs",
                    "disk/tool.rs",
                    "host/inherited.rs",
                    "host/setsid.rs",
                    "host/tap.rs",
                    "host/view.rs",
                    "image/",
                    "ops/container.rs",
                    "ops/launch.rs",
                    "vmm/process.rs",
                ],
            ),
            // The wall clock is only reported and decides nothing: it may jump.
            ("std::time::SystemTime", &["host/clock.rs"]),
        ],
    },
    Crate {
        dir: "crates/images/src",
        name: "pepita_images",
        rows: &[
            &["challenge", "confine", "error", "progress"],
            &["digest"],
            &["credentials", "manifest", "reference", "tree"],
            &["config", "http", "layer"],
            &["root"],
            &["ext4"],
            &["store"],
            &["origin"],
            &["registry"],
            &["source"],
            &["commands", "fuzzing"],
            &["lib"],
            &["main"],
        ],
        pure: &["challenge.rs", "config.rs", "digest.rs", "manifest.rs", "origin.rs", "tree.rs"],
        edges: &[
            ("arcbox_ext4", &["ext4.rs"]),
            ("reqwest", &["http.rs", "registry.rs"]),
            ("std::fs::rename", &["store.rs"]),
            ("std::process::Command", &["credentials.rs"]),
        ],
    },
    Crate {
        dir: "src",
        name: "pepita_supervisor",
        rows: &[
            &["actor", "lock", "reply", "spec", "store"],
            &["claim", "policy", "ports"],
            &["config", "cid", "executor", "journal"],
            &["observe"],
            &["link", "monitor_client"],
            &["vm"],
            &["group"],
            &["tree"],
            &["control", "adapter"],
            &["platform"],
            &["fuzzing"],
            &["book", "lib"],
        ],
        pure: &[
            "spec.rs",
            "spec/",
            "policy.rs",
            "policy/",
            "config/",
            "cid/pool.rs",
            "executor/argv.rs",
            "vm/phase.rs",
            "vm/phase/",
            "vm/drowsiness.rs",
            "vm/health.rs",
            "vm/probe.rs",
            "group/machine.rs",
            "group/machine/",
            "tree/limits.rs",
            "tree/schedule.rs",
            "tree/check.rs",
            "tree/change.rs",
            "tree/recovery.rs",
            "tree/shutdown.rs",
            "tree/survey.rs",
            "tree/unseparated.rs",
            "adapter/name.rs",
            "adapter/daemon.rs",
            "control/session.rs",
        ],
        edges: &[
            ("fastrand", &["group.rs", "tree/root.rs"]),
            ("std::process::Command", &["executor/process.rs"]),
            ("tokio::process", &["executor/process.rs"]),
            (
                "tokio::net::UnixStream::connect",
                &["link/dial.rs", "link/handover.rs", "monitor_client.rs", "ports/handover.rs", "control/"],
            ),
            ("tokio_vsock::VsockStream::connect", &["link/dial.rs"]),
            // The wall clock is only reported and decides nothing: it may jump.
            ("std::time::SystemTime", &["observe/"]),
            ("std::env", &["adapter/place.rs", "executor/process.rs", "platform.rs"]),
            // Writes are made in one place, off the actors' threads.
            ("std::fs::rename", &["store/disk.rs"]),
            ("std::fs::write", &["store/disk.rs"]),
        ],
    },
    Crate {
        dir: "supervisors/src",
        name: "pepita_supervisors",
        rows: &[
            &["format", "inherited", "memory", "notify", "output", "when"],
            &["exit"],
            &["config", "demo", "printer"],
            &["ctl", "daemon"],
            &["lib"],
            &["bin"],
        ],
        pure: &[
            "ctl/lanes.rs",
            "ctl/options.rs",
            "ctl/outlook.rs",
            "ctl/table.rs",
            "ctl/targets.rs",
            "ctl/view.rs",
            "daemon/note.rs",
            "daemon/options.rs",
            "when.rs",
        ],
        edges: &[],
    },
];
