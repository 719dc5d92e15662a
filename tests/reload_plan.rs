//! The plan of a reload, computed from two configurations.

use pepita_supervisor::config;
use pepita_supervisor::spec::{Change, GroupName, Plan, TreeSpec};
use std::path::Path;

const BEFORE: &str = r#"
[platform.pepita]
kernel_path = "/boot/vmlinuz"
rootfs_path = "/root.cpio"
[supervisor]
name = "edge"
[[group]]
name = "web"
[[group.vm]]
name = "api"
[[group.vm]]
name = "cache"
[[group]]
name = "storage"
[[group.vm]]
name = "db"
"#;

fn spec(text: &str) -> TreeSpec {
    config::parse(text, Path::new("/a.toml")).unwrap_or_else(|errors| panic!("{errors}")).spec
}

/// Returns the plan after replacing a line of `BEFORE`.
fn plan(line: &str, by: &str) -> Plan {
    assert!(BEFORE.contains(line));
    spec(BEFORE).diff(&spec(&BEFORE.replace(line, by)))
}

/// Returns the change of the first VM, after adding lines to it.
fn api(lines: &str) -> Change {
    plan("name = \"api\"", &format!("name = \"api\"\n{lines}")).groups[0].vms[0].change.clone()
}

#[test]
fn the_same_configuration_changes_nothing() {
    let plan = spec(BEFORE).diff(&spec(BEFORE));
    assert!(plan.is_empty());
    assert_eq!(plan.to_string().lines().filter(|line| line.ends_with(": unchanged")).count(), 5);
}

#[test]
fn policies_budgets_timeouts_and_probes_apply_at_once() {
    for (line, key) in [
        ("restart.policy = \"always\"", "restart.policy"),
        ("restart.max_retries = 5", "restart.max_retries"),
        ("restart.never_restart_exit_codes = [3]", "restart.never_restart_exit_codes"),
        ("restart.backoff.max_delay = \"2min\"", "restart.backoff.max_delay"),
        ("start.ready = \"notify\"", "start.ready"),
        ("stop.timeout = \"0s\"", "stop.timeout"),
        ("health.command = [\"/bin/true\"]", "health.command"),
        ("health.tcp = 6379", "health.tcp"),
        ("health.http = \"127.0.0.1:80/healthz\"", "health.http"),
        ("health.on_unhealthy = \"report\"", "health.on_unhealthy"),
        ("autostart = false", "autostart"),
    ] {
        assert_eq!(api(line), Change::Live(vec![key]));
    }
}

#[test]
fn machine_command_environment_and_cid_wait_for_a_start() {
    for (line, key) in [
        ("vcpus = 1", "vcpus"),
        ("memory_mb = 512", "memory_mb"),
        ("kernel_path = \"/other\"", "kernel_path"),
        ("rootfs_path = \"/other\"", "rootfs_path"),
        ("vsock_base_port = 6000", "vsock_base_port"),
        ("command = [\"/bin/x\"]", "command"),
        ("env = { A = \"b\" }", "env"),
        ("cid = 42", "cid"),
        ("user = \"redis\"", "user"),
        ("workdir = \"/data\"", "workdir"),
        ("hostname = \"a\"", "hostname"),
        ("env_file = \"a.env\"", "env_file"),
        ("secrets = [\"a=/b\"]", "secrets"),
        ("ulimits = { core = 0 }", "ulimits"),
        ("sysctls = { \"vm.x\" = 1 }", "sysctls"),
        ("read_only = true", "read_only"),
        ("privileged = true", "privileged"),
        ("network = \"user\"", "network"),
        ("reach = [\"10.0.0.7:443\"]", "reach"),
        ("jail = \"full\"", "jail"),
    ] {
        assert_eq!(api(line), Change::Restart { keys: vec![key], live: vec![] });
    }
    // An image hides the root file system of the platform.
    let keys = vec!["rootfs_path", "image"];
    assert_eq!(api("image = \"redis:7\""), Change::Restart { keys, live: vec![] });
}

#[test]
fn a_plan_asks_for_a_restart_exactly_when_the_fingerprint_differs() {
    for lines in ["vcpus = 1", "cid = 9", "vmm = \"process\"", "stop.signal = \"INT\"", "standby = 1", ""] {
        let text = BEFORE.replace("name = \"api\"", &format!("name = \"api\"\n{lines}"));
        let vm = |tree: &TreeSpec| tree.groups[0].vms[0].clone();
        let (old, new) = (spec(BEFORE), spec(&text));
        let asked = old.diff(&new).needs_restart().count() == 1;
        assert_eq!(asked, !vm(&new).was_started_with(&vm(&old).fingerprint()), "{lines}");
    }
}

#[test]
fn each_vm_and_group_has_its_line() {
    let after = r#"
[platform.pepita]
kernel_path = "/boot/vmlinuz"
rootfs_path = "/root.cpio"
[supervisor]
name = "edge"
on_exit = "leave"
state_dir = "/var/lib/x"
run_dir = "/run/x"
[[group]]
name = "web"
strategy = "one_for_all"
[[group.vm]]
name = "proxy"
[[group.vm]]
name = "api"
memory_mb = 512
restart.policy = "always"
[[group.vm]]
name = "db"
[[group]]
name = "jobs"
[[group.vm]]
name = "job"
"#;
    let plan = spec(BEFORE).diff(&spec(after));
    assert_eq!(
        plan.to_string(),
        r#"supervisor: at once: on_exit
supervisor: only with a restart of the supervisor: state_dir, run_dir
group "web": at once: strategy, intensity
group "web" vm "proxy": added
group "web" vm "api": needs a restart: memory_mb; at once: restart.policy
group "web" vm "db": added, taken from group "storage"
group "web" vm "cache": removed
group "jobs": added
group "jobs" vm "job": added
group "storage": removed
group "storage" vm "db": removed"#
    );
    let names: Vec<_> = plan.needs_restart().map(|vm| vm.as_str()).collect();
    assert_eq!(names, ["api"]);
    let json = plan.to_json();
    assert_eq!(json["supervisor"]["fixed"], serde_json::json!(["state_dir", "run_dir"]));
    let group = &json["groups"][0];
    assert_eq!((&group["name"], &group["change"]), (&"web".into(), &"live".into()));
    assert_eq!(
        group["vms"][1],
        serde_json::json!({
            "name": "api", "change": "restart", "restart": ["memory_mb"], "live": ["restart.policy"],
            "outdated": false,
        })
    );
    assert_eq!(group["vms"][2]["from"], "storage");
}

#[test]
fn another_order_of_the_same_vms_is_a_change() {
    let swapped = BEFORE.replace("api", "x").replace("cache", "api").replace("\"x\"", "\"cache\"");
    assert_eq!(spec(BEFORE).diff(&spec(&swapped)).groups[0].change, Change::Live(vec!["order"]));
    // A VM that is inserted between others is no change of the order.
    let more =
        plan("[[group.vm]]\nname = \"cache\"", "[[group.vm]]\nname = \"z\"\n[[group.vm]]\nname = \"cache\"");
    assert_eq!(more.groups[0].change, Change::Live(vec!["intensity"]));
    assert_eq!(more.groups[0].name, GroupName::new("web").expect("good"));
}

#[test]
fn keys_of_the_supervisor_that_it_holds_for_life_are_named() {
    for (line, key) in [
        ("name = \"other\"", "name"),
        ("name = \"edge\"\nstate_dir = \"/x\"", "state_dir"),
        ("name = \"edge\"\ncontrol_socket = \"/x\"", "control_socket"),
        ("name = \"edge\"\npepita = \"/x\"", "pepita"),
        ("name = \"edge\"\nmax_parallel_launches = 9", "max_parallel_launches"),
        ("name = \"edge\"\nrun_dir = \"/x\"", "run_dir"),
    ] {
        let plan = plan("name = \"edge\"", line);
        assert_eq!((plan.fixed.as_slice(), plan.live.len()), (&[key][..], 0));
        assert!(!plan.is_empty());
    }
}
