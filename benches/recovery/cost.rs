//! What a warm spare costs: its memory and its processor time at rest, beside those of the VM itself, and the round trips of a
//! client of another VM while a spare boots, beside the same with nothing that boots.

use crate::client::{Client, Met, trips};
use crate::common::{Figure, Place, all_ready, in_ms, spare_ready, table};
use crate::kill::recover;
use crate::{PATIENCE, free_port, kills, median_and_late, number, vm};
use pepita_supervisor::tree::Tree;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Returns the number of spares whose cost is measured.
fn spares() -> u32 {
    u32::try_from(number("PEPITA_RECOVERY_SPARES", 2)).expect("few")
}

/// How long a client measures while nothing boots, in each round.
const QUIET: Duration = Duration::from_secs(1);

pub(crate) async fn measure(place: &Place) {
    let port = free_port();
    let kept = Place::group("kept", vec![vm("kept", 0, free_port())]);
    let neighbour = Place::group("neighbour", vec![vm("neighbour", 0, port)]);
    let work = move |tree: Tree| async move {
        all_ready(&tree, &[], PATIENCE).await;
        let before = pss_kib(std::process::id());
        let mut spec = tree.spec().await.expect("a tree that runs");
        spec.groups[0].vms[0].standby = spares();
        tree.reload(spec, false).await.expect("applied");
        // The group tells its new number of spares a moment later.
        while tree.status().vm("kept").is_none_or(|vm| vm.standby != spares()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        spare_ready(&tree, "kept", PATIENCE).await;
        at_rest(&tree, before).await;
        neighbours(&tree, port).await;
    };
    place.with(vec![kept, neighbour], work).await;
}

/// Returns the memory of a process in KiB, shared memory divided among its users.
fn pss_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a process that runs");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("such a line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Returns the processor time of a process, with all its threads.
fn used(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs").flatten();
    let nanos = tasks.filter_map(|task| {
        let told = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        told.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Returns the processes of a VM with what they are, from the process of its VMM.
fn processes(vmm: u32) -> BTreeMap<&'static str, u32> {
    let status = std::fs::read_to_string(format!("/proc/{vmm}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    let monitor: u32 = parent.trim().parse().expect("a number");
    let children = std::fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children"));
    let children = children.unwrap_or_default();
    let others = children.split_whitespace().flat_map(str::parse).filter(|pid| *pid != vmm);
    others.map(|backend| ("vsock back-end", backend)).chain([("QEMU", vmm), ("monitor", monitor)]).collect()
}

/// Tells what spares and their VM use while nothing happens. `before` is the memory of the supervisor without spares.
async fn at_rest(tree: &Tree, before: u64) {
    let status = tree.status();
    let kept = status.vm("kept").expect("there is such a VM");
    let spares: Vec<_> = kept.spares.iter().filter_map(|spare| spare.vmm_pid).map(processes).collect();
    let own = processes(kept.vmm_pid.expect("it runs"));
    let share = pss_kib(std::process::id()).saturating_sub(before) / spares.len() as u64;
    let mib = |kib: u64| kib as f64 / 1024.0;
    let of_spares =
        |role: &str| spares.iter().map(|all| pss_kib(all[role])).sum::<u64>() / spares.len() as u64;
    let (mut rows, mut sums) = (Vec::new(), [0, 0]);
    for (role, pid) in &own {
        let [spare, vm] = [of_spares(role), pss_kib(*pid)];
        sums = [sums[0] + spare, sums[1] + vm];
        rows.push(vec![
            format!("memory of the {role}, MiB"),
            format!("{:.2}", mib(spare)),
            format!("{:.2}", mib(vm)),
        ]);
    }
    rows.push(vec![
        "memory of the supervisor for it, MiB".into(),
        if share == 0 { "not measurable".into() } else { format!("{:.2}", mib(share)) },
        String::new(),
    ]);
    sums[0] += share;

    let seconds = number("PEPITA_RECOVERY_REST_SECONDS", 30);
    let all_used = |all: &BTreeMap<&str, u32>| all.values().map(|pid| used(*pid)).sum::<Duration>();
    let began = Instant::now();
    let at_first = (spares.iter().map(all_used).sum::<Duration>(), all_used(&own));
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let at_last = (spares.iter().map(all_used).sum::<Duration>(), all_used(&own));
    let percent = |used: Duration| used.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let of_spare = percent((at_last.0 - at_first.0) / u32::try_from(spares.len()).expect("few"));
    let of_vm = percent(at_last.1 - at_first.1);
    rows.push(vec![
        "processor time at rest, % of a core".into(),
        format!("{of_spare:.3}"),
        format!("{of_vm:.3}"),
    ]);
    for row in &rows {
        println!("  {:<42} spare {:>8}  the VM itself {:>8}", row[0], row[1], row[2]);
    }
    let title = format!(
        "What a warm spare costs, the mean of {} (memory that is shared counts in parts)",
        spares.len()
    );
    table("recovery", &title, &["", "spare", "the VM itself"], &rows);
    let n = spares.len();
    let figure = Figure::value("recovery", "memory of a warm spare", "MiB", mib(sums[0]), n);
    figure.against("the VM itself", mib(sums[1])).record();
    let what = format!("processor time of a warm spare at rest, over {seconds} s");
    let figure = Figure::value("recovery", &what, "% of a core", of_spare, n);
    figure.against("the VM itself", of_vm).record();
}

/// Measures the round trips of a client of another VM: while nothing boots, and while a spare does, in turn.
async fn neighbours(tree: &Tree, port: u16) {
    let client = Client::start(trips(port));
    let (mut quiet, mut booting) = (Met::default(), Met::default());
    for _ in 0..kills().div_ceil(5) {
        spare_ready(tree, "kept", PATIENCE).await;
        client.met();
        tokio::time::sleep(QUIET).await;
        quiet.waits.extend(client.met().waits);
        // The VM is Ready again at once. From then on one spare less than wanted is there, and one boots.
        recover(tree, "kept").await;
        client.met();
        spare_ready(tree, "kept", PATIENCE).await;
        booting.waits.extend(client.met().waits);
    }
    let refused = client.end().await.refused;
    assert_eq!(refused, 0, "nobody has touched the other VM");
    let row = |what: &str, met: &Met| {
        let [median, late] = median_and_late(&met.waits).map(|time| format!("{:.3}", in_ms(time)));
        vec![
            what.to_owned(),
            met.waits.len().to_string(),
            median,
            late,
            format!("{:.3}", in_ms(met.longest())),
        ]
    };
    let rows = [row("nothing boots", &quiet), row("a spare boots", &booting)];
    for row in &rows {
        println!(
            "  a neighbour's client, {}: {} round trips, median {} ms, p99 {} ms, longest {} ms",
            row[0], row[1], row[2], row[3], row[4]
        );
    }
    let title = "The round trips of a client of another VM, in ms";
    table("recovery", title, &["meanwhile", "round trips", "median", "p99", "longest"], &rows);
    let what = "round trip of another VM's client while a spare boots";
    let figure = Figure::times("recovery", what, &booting.waits);
    figure.against("nothing boots", in_ms(median_and_late(&quiet.waits)[0])).record();
}
