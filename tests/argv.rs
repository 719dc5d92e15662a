//! Checks that the launcher understands the arguments that the library passes: both sides of every command.

use pepita_launcher::cli::{Cli, Request, Run, RunOptions};
use pepita_launcher::rundir::cid::Wanted;
use pepita_launcher::vm_config::VmmKind;
use pepita_supervisor::executor::argv::{self, CONFIG_LABEL, Launch, OWNER_LABEL, SPARE_LABEL};
use pepita_supervisor::spec::{
    Cid, Incarnation, Jail, MachineSpec, Network, Port, Signal, VmName, VmSpec, Vmm, WorldSpec,
};
use pepita_wire::LaunchSpec;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Reads arguments as the launcher does.
fn understood(argv: Vec<OsString>) -> Cli {
    let words = std::iter::once(OsString::from("pepita")).chain(argv.clone());
    <Cli as clap::Parser>::try_parse_from(words).unwrap_or_else(|e| panic!("{argv:?}: {e}"))
}

fn run(launch: &Launch) -> Run {
    let cli = understood(argv::run(launch));
    assert!(cli.json && cli.run_dir.is_none());
    let Some(Request::Run(run)) = cli.call else { panic!("a run") };
    *run
}

fn name(text: &str) -> VmName {
    VmName::new(text).expect("a good name")
}

#[test]
fn calls_about_a_vm_mean_that_vm() {
    let vm = name("my-api");
    let about = |argv| {
        let cli = understood(argv);
        assert!(cli.json);
        cli.call.expect("a call")
    };
    assert!(matches!(about(argv::status(vm.id())), Request::Status { vm: v } if v.name() == vm.id()));
    assert!(matches!(about(argv::adopt(vm.id())), Request::Adopt { vm: v } if v.name() == vm.id()));
    assert!(
        matches!(about(argv::destroy(vm.id())), Request::Destroy { vm: v, force: true, .. } if v.name() == vm.id())
    );
    for number in [1, 9, 15, 64] {
        let signal = Signal::new(number).expect("a signal");
        let call = about(argv::signal(vm.id(), signal));
        assert!(matches!(call, Request::Signal { vm: v, signal: s } if v.name() == vm.id() && s == signal));
    }
    assert!(matches!(about(argv::list()), Request::List { .. }));
    let version = understood(argv::version());
    assert!(version.version && version.json && version.call.is_none());
}

fn launch() -> impl Strategy<Value = Launch> {
    let word = "[ -~äß€]{0,12}";
    let machine = (1_u32..=288, 32_u32..=1 << 20, 0_u32..u32::MAX, any::<bool>());
    let machine = machine.prop_map(|(vcpus, memory_mb, port, qemu)| {
        let machine =
            if qemu { MachineSpec::qemu("/a b/k=,ä", "/r,--x.cpio") } else { MachineSpec::process() };
        MachineSpec { vcpus, memory_mb, port: Port(port), ..machine }
    });
    let daemon = (vec(word, 0..5), btree_map("[A-Za-z_][A-Za-z0-9_.-]{0,8}", word, 0..5));
    let start = (3..u32::MAX, 1..u64::MAX, any::<bool>(), 1_u64..100_000_000, "[a-z][a-z0-9-]{0,50}[a-z0-9]");
    (machine, daemon, start).prop_map(
        |(machine, (command, env), (cid, incarnation, is_spare, timeout, vm))| {
            let mut spec = VmSpec { command, env, ..VmSpec::new(name(&vm), machine) };
            spec.start.timeout = Duration::from_millis(timeout);
            let cid = Cid::new(cid).expect("a good CID");
            Launch {
                spec: spec.into(),
                incarnation: Incarnation(incarnation),
                cid,
                owner: "edge".into(),
                image: None,
                spare_of: is_spare.then(|| name("b")),
                limit: Duration::MAX,
            }
        },
    )
}

#[test]
fn a_daemon_with_a_watchdog_is_told_the_interval_unless_the_configuration_does() {
    let mut spec = VmSpec::new(name("a"), MachineSpec::process());
    spec.health.watchdog = Duration::from_secs(4);
    let env = |spec: &VmSpec| {
        let (incarnation, cid) = (Incarnation(1), Cid::new(3).expect("a good CID"));
        let launch = Launch {
            spec: spec.clone().into(),
            incarnation,
            cid,
            owner: "edge".into(),
            image: None,
            spare_of: None,
            limit: Duration::MAX,
        };
        argv::specification(&launch).env
    };
    assert_eq!(env(&spec), [("WATCHDOG_USEC".to_owned(), "4000000".to_owned())].into());
    spec.env.insert("WATCHDOG_USEC".into(), "7".into());
    assert_eq!(env(&spec), spec.env);
}

#[test]
fn the_world_of_a_daemon_reaches_the_launcher_whole() {
    let mut spec = VmSpec::new(name("a"), MachineSpec::qemu("/k", "/r"));
    spec.world = WorldSpec {
        hostname: Some("cache".into()),
        user: Some("redis".into()),
        workdir: Some("/data".into()),
        env_file: Some("/etc/a.env".into()),
        secrets: [("key".to_owned(), "/etc/key".into())].into(),
        ulimits: [("nofile".to_owned(), "1:2".parse().expect("a limit"))].into(),
        sysctls: [("vm.x".to_owned(), "1".to_owned())].into(),
        read_only: true,
        privileged: true,
        network: Network::User,
    };
    spec.machine.jail = Some(Jail::BestEffort);
    let places = ["db:5432", "api:443=10.0.0.7:443"];
    spec.reach = places.iter().map(|place| place.parse().expect("a place")).collect();
    let (incarnation, cid) = (Incarnation(1), Cid::new(3).expect("a good CID"));
    let launch = Launch {
        spec: spec.into(),
        incarnation,
        cid,
        owner: "edge".into(),
        image: None,
        spare_of: None,
        limit: Duration::MAX,
    };
    let mut process = launch.clone();
    Arc::make_mut(&mut process.spec).machine =
        MachineSpec { jail: Some(Jail::Full), ..MachineSpec::process() };
    assert_eq!(argv::specification(&process).jail, None, "a plain process is in no jail");
    let written = serde_json::to_string(&argv::specification(&launch)).expect("JSON");
    let asked: LaunchSpec = serde_json::from_str(&written).expect("a specification");
    let world = WorldSpec {
        hostname: asked.hostname,
        user: asked.user,
        workdir: asked.workdir,
        env_file: asked.env_file,
        secrets: asked.secrets,
        ulimits: asked.ulimits,
        sysctls: asked.sysctls,
        read_only: asked.read_only,
        privileged: asked.privileged,
        network: asked.network,
    };
    assert_eq!(world, launch.spec.world);
    assert_eq!((asked.reach, asked.jail.as_deref()), (places.map(str::to_owned).into(), Some("best-effort")));
}

proptest! {
    #[test]
    fn every_launch_is_read_as_it_was_meant(launch in launch()) {
        let run = run(&launch);
        let (spec, machine) = (&launch.spec, &launch.spec.machine);
        let options = &run.options;
        prop_assert_eq!(options.name.as_ref(), Some(spec.name.id()));
        prop_assert_eq!(options.kernel.as_deref().unwrap_or(Path::new("")), &machine.kernel);
        prop_assert_eq!(options.rootfs.as_deref().unwrap_or(Path::new("")), &machine.rootfs);
        prop_assert!(matches!(options.vsock_cid, Some(Wanted::Fixed(cid)) if cid.to_string() == launch.cid.to_string()));
        prop_assert!(run.daemon && !run.wait_ready && !run.rm);
        prop_assert_eq!(run.spec.as_deref(), Some(Path::new("-")));

        // No other option stands beside the specification, where it would override a field.
        let RunOptions { initrd, kernel_package, cpus, memory, vsock_port, vsock, label, incarnation, hold, .. } = options;
        prop_assert!(initrd.is_none() && kernel_package.is_none() && cpus.is_none() && memory.is_none());
        prop_assert!(vsock_port.is_none() && vsock.is_none() && label.is_empty() && incarnation.is_none() && !hold);
        prop_assert!(options.ready_timeout.is_none() && options.vmm.is_none() && options.accel.is_none());
        prop_assert!(options.cmdline_append.is_none() && run.daemon_args.command.is_empty());
        prop_assert!(run.daemon_args.env.is_empty() && run.daemon_args.env_file.is_none());

        let text = serde_json::to_vec(&argv::specification(&launch)).expect("JSON");
        let asked: LaunchSpec = serde_json::from_slice(&text).expect("a specification");
        let labels = [(OWNER_LABEL, launch.owner.clone()), (CONFIG_LABEL, spec.fingerprint())];
        let labels = labels.into_iter().chain(launch.spare_of.iter().map(|vm| (SPARE_LABEL, vm.to_string())));
        let expected = LaunchSpec {
            incarnation: Some(launch.incarnation.0),
            vmm: Some(if machine.vmm == Vmm::Process { "process" } else { "qemu" }.to_owned()),
            cpus: Some(machine.vcpus),
            memory_mb: Some(machine.memory_mb.into()),
            vsock_port: Some(machine.port.0),
            ready_timeout_ms: Some(u64::try_from(spec.start.timeout.as_millis()).expect("short")),
            hold: launch.spare_of.is_some(),
            command: spec.command.clone(),
            env: spec.env.clone(),
            labels: labels.map(|(label, value)| (label.to_owned(), value)).collect(),
            ..LaunchSpec::default()
        };
        prop_assert_eq!(&asked, &expected);
        // A launch server gets the whole of it.
        let order = argv::order(&launch);
        prop_assert_eq!(&order.name, &options.name.as_ref().map(ToString::to_string));
        prop_assert_eq!((&order.kernel, &order.rootfs), (&options.kernel, &options.rootfs));
        prop_assert_eq!(order.vsock_cid, Some(launch.cid.get()));
        let rest = LaunchSpec { name: None, kernel: None, rootfs: None, vsock_cid: None, ..order };
        prop_assert_eq!(&rest, &expected);
        // The launcher knows the word for the VMM.
        prop_assert!(asked.vmm.expect("a word").parse::<VmmKind>().is_ok());
    }
}
