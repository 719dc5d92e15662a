//! The smallest and the largest value of every number and duration of the configuration, in a tree that starts, fails,
//! restarts, reloads and stops: nothing panics, nothing wraps, nothing spins.

use crate::support::{Fate, Host, Rig, group, tree, vm};
use pepita_supervisor::group::Command;
use pepita_supervisor::spec::keys::{Keyed, Kind, Row};
use pepita_supervisor::spec::{GroupSpec, Strategy, TreeSpec, VmSpec};
use serde_json::{Value, json};
use std::time::Duration;

/// Returns the smallest and the largest value of a number or duration.
fn extremes(kind: Kind) -> Vec<Value> {
    match kind {
        Kind::Whole(min, max) => vec![json!(min), json!(max)],
        Kind::Real(min, max) => vec![json!(min), json!(max)],
        Kind::Duration => vec![json!("0s"), json!("1ns"), json!("100years")],
        Kind::Period => vec![json!("1ns"), json!("100years")],
        Kind::Flag
        | Kind::Ports
        | Kind::Reach
        | Kind::Word(_)
        | Kind::Name(_)
        | Kind::Names
        | Kind::Path
        | Kind::Image
        | Kind::Program
        | Kind::Command
        | Kind::ExitCodes
        | Kind::HttpPlace
        | Kind::Environment
        | Kind::Cid
        | Kind::Signal
        | Kind::DiskName
        | Kind::Size
        | Kind::Mount
        | Kind::Tables(_)
        | Kind::Hostname
        | Kind::User
        | Kind::GuestDirectory
        | Kind::Ulimits
        | Kind::Sysctls
        | Kind::Uids
        | Kind::Secrets => Vec::new(),
    }
}

/// Returns a specification for each extreme value of each key, with the key and the value.
fn each<S: Keyed + Clone>(base: &S) -> Vec<(String, S)> {
    let with = |row: &Row<S>, value: Value| {
        let mut spec = base.clone();
        assert!(row.set(&mut spec, &value), "{} = {value}", row.name);
        (format!("{} = {value}", row.name), spec)
    };
    S::ROWS.iter().flat_map(|row| extremes(row.kind).into_iter().map(move |value| with(row, value))).collect()
}

async fn lives(name: String, spec: TreeSpec) {
    println!("{name}");
    let host = Host::new();
    let rig = Rig::on(host, spec.clone()).await;
    for _ in 0..3 {
        rig.pass(Duration::from_millis(300)).await;
        if rig.host.alive().iter().any(|vm| vm == "a") {
            rig.host.end("a", Fate::Exit(3));
        }
    }
    rig.tree.status().to_json();
    // The tree may have given up by then, which refuses what follows.
    let _ = rig.tree.command("a", Command::Restart).await;
    let _ = rig.tree.reload(spec, true).await;
    rig.pass(Duration::from_secs(2)).await;
    rig.tree.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_smallest_and_the_largest_value_of_every_key_work() {
    let base = || vm("a");
    let around = |vm: VmSpec| tree([group("web", Strategy::OneForAll, [vm, self::vm("b")])]);
    let mut count = 0;
    let dir = tempfile::tempdir().expect("a directory");
    for (name, mut vm) in each(&base()) {
        if name.starts_with("idle.") {
            // What sleeps needs a port.
            let port = format!("unix:{}:80", dir.path().join("a.sock").display());
            vm.publish.push(port.parse().expect("a port"));
        }
        lives(name, around(vm)).await;
        count += 1;
    }
    let web: GroupSpec = around(base()).groups.remove(0);
    for (name, group) in each(&web) {
        lives(format!("group: {name}"), tree([group])).await;
        count += 1;
    }
    for (name, spec) in each(&around(base())) {
        lives(format!("supervisor: {name}"), spec).await;
        count += 1;
    }
    assert!(count > 50, "{count}");
}
