//! The recoveries of a VM with a spare and of one without, killed in turn, and what clients of their ports meet.

use crate::client::{Client, connections};
use crate::common::{Aim, Figure, Place, all_ready, in_ms, missing, ms, table};
use crate::kill::{Recovery, recover};
use crate::{KINDS, PATIENCE, kills, median_and_late, spare_at_rest, vm, with_both_kinds};
use pepita_supervisor::tree::Tree;
use pepita_wire::record::Part;
use std::path::Path;
use std::time::Duration;

/// The guest kernel that boots sooner.
const SMALL_KERNEL: &str = ".guest/vmlinux-small";

/// What was measured of one kind.
#[derive(Default)]
struct Measured {
    recoveries: Vec<Recovery>,
    /// The longest wait of a client at each kill.
    stalls: Vec<Duration>,
    refused: usize,
}

/// Measures with Debian's kernel, and with the small one (`make kernel`), which may be missing.
pub(crate) async fn measure(place: &Place) {
    with_both_kinds(place, vm, |tree, ports| in_turn(tree, ports, "")).await;
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join(SMALL_KERNEL);
    if !small.exists() {
        return missing(
            "recovery",
            "the small kernel",
            &format!("{SMALL_KERNEL} is not there"),
            "make kernel",
        );
    }
    let vm = |name: &str, standby, port| {
        let mut vm = vm(name, standby, port);
        vm.machine.kernel.clone_from(&small);
        vm
    };
    with_both_kinds(place, vm, |tree, ports| in_turn(tree, ports, ", small kernel")).await;
}

/// Kills both VMs in turn. `with` ends the name of each figure.
async fn in_turn(tree: Tree, ports: [u16; 2], with: &'static str) {
    all_ready(&tree, &[], PATIENCE).await;
    let mut all: [Measured; 2] = Default::default();
    for round in 0..kills() {
        for (index, (name, standby)) in KINDS.iter().enumerate() {
            if *standby > 0 || round % 2 == 0 {
                once(&tree, name, ports[index], &mut all[index]).await;
            }
        }
    }
    for ((name, _), measured) in KINDS.iter().zip(&all) {
        measured.print(name);
    }
    let [warm, cold] = &all;
    let medians =
        all.each_ref().map(|it| median_and_late(&it.times(|recovery| recovery.ready))[0].as_secs_f64());
    println!("cold / warm{with}: {:.1}", medians[1] / medians[0]);
    tell_parts(warm, cold, with);
    let what = format!("SIGKILL of the VMM until Ready, with a warm spare{with}");
    let figure = Figure::times("recovery", &what, &warm.times(|it| it.ready));
    let figure = figure.against("cold restart", medians[1] * 1000.0);
    figure.aim(Aim::AtMost(20.0)).ratio_aim(Aim::AtMost(0.02)).record();
    let what = format!("a client's longest wait, with a warm spare{with}");
    let figure = Figure::times("recovery", &what, &warm.stalls);
    let figure = figure.against("cold restart", in_ms(median_and_late(&cold.stalls)[0]));
    figure.aim(Aim::AtMost(50.0)).record();
    let figure = Figure::value(
        "recovery",
        &format!("connections refused{with}"),
        "",
        warm.refused as f64,
        warm.stalls.len(),
    );
    figure.aim(Aim::AtMost(0.0)).record();
}

/// Kills a VM once without a client, which takes time from the guest, and once with one.
async fn once(tree: &Tree, name: &str, port: u16, measured: &mut Measured) {
    spare_at_rest(tree, name).await;
    measured.recoveries.push(recover(tree, name).await);
    spare_at_rest(tree, name).await;
    let client = Client::start(connections(port));
    tokio::time::sleep(Duration::from_millis(50)).await;
    recover(tree, name).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let met = client.end().await;
    measured.stalls.push(met.longest());
    measured.refused += met.refused;
}

impl Measured {
    fn times(&self, of: impl Fn(&Recovery) -> Duration) -> Vec<Duration> {
        self.recoveries.iter().map(of).collect()
    }

    fn print(&self, name: &str) {
        let told = |times: &[Duration]| {
            let [median, late] = median_and_late(times);
            format!("{} ({})", ms(median), ms(late))
        };
        println!(
            "{name}: {} kills, median (p99) since SIGKILL: VMM gone {}, decided {}, daemon runs {}, Ready {}",
            self.recoveries.len(),
            told(&self.times(|it| it.gone)),
            told(&self.times(|it| it.decided)),
            told(&self.times(|it| it.running)),
            told(&self.times(|it| it.ready))
        );
        println!(
            "{name}: a client's longest wait in each of {} kills {}, refused {}",
            self.stalls.len(),
            told(&self.stalls),
            self.refused
        );
    }

    /// Returns the median of a part and the value below which 99 % lie, or nothing for a part that there is not.
    fn part(&self, of: impl Fn(&Recovery) -> Option<Duration>) -> String {
        let times: Vec<Duration> = self.recoveries.iter().filter_map(of).collect();
        let [median, late] = median_and_late(&times).map(in_ms);
        if times.is_empty() { String::new() } else { format!("{median:.2} ({late:.2})") }
    }
}

/// Prints and stores the parts of both kinds of recovery, which are in the order of time.
fn tell_parts(warm: &Measured, cold: &Measured, with: &str) {
    type OfRecovery = fn(&Recovery) -> Duration;
    let before: [(&str, OfRecovery); 3] = [
        ("notice: the end of the VMM can be known", Recovery::noticed),
        ("decide: the monitor has judged the end, and the supervisor decided on it", |it| {
            it.decided - it.noticed()
        }),
        ("launch: the order reaches the monitor, and its report the supervisor", Recovery::on_the_way),
    ];
    let mut rows: Vec<Vec<String>> = before
        .iter()
        .map(|(what, of)| {
            vec![(*what).to_owned(), warm.part(|it| Some(of(it))), cold.part(|it| Some(of(it)))]
        })
        .collect();
    let timed = warm.recoveries.iter().chain(&cold.recoveries).flat_map(|it| &it.timings.parts);
    let mut parts: Vec<Part> = timed.map(|timed| timed.part).collect();
    parts.sort_unstable();
    parts.dedup();
    for part in parts {
        let of = |it: &Recovery| it.timings.us(part).map(Duration::from_micros);
        rows.push(vec![format!("{part}: {}", part.meaning()), warm.part(of), cold.part(of)]);
    }
    let last: [(&str, OfRecovery); 2] =
        [("in all", |it| it.ready), ("meanwhile: the kernel has freed the VMM, since SIGKILL", |it| it.gone)];
    rows.extend(last.iter().map(|(what, of)| {
        vec![(*what).to_owned(), warm.part(|it| Some(of(it))), cold.part(|it| Some(of(it)))]
    }));
    for row in &rows {
        println!("  {:<70} {:>18} {:>18}", row[0], row[1], row[2]);
    }
    let title = format!(
        "Where the time of a recovery goes{with}, in ms: the median (p99) of each part, of {} kills with a warm spare and {} without. \
         Medians of parts do not add up to that of the whole",
        warm.recoveries.len(),
        cold.recoveries.len()
    );
    table("recovery", &title, &["part", "with a warm spare", "booted anew"], &rows);
}
