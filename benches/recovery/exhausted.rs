//! Kills that are faster than the boots of spares: what has no spare is booted anew.

use crate::common::{Figure, Place, all_ready, in_ms, ms, spare_ready};
use crate::kill::{Recovery, recover};
use crate::{PATIENCE, free_port, kills, median_and_late, vm};
use std::time::Duration;

pub(crate) async fn measure(place: &Place) {
    let group = Place::group("exhausted", vec![vm("busy", 1, free_port())]);
    let work = move |tree: pepita_supervisor::tree::Tree| async move {
        all_ready(&tree, &[], PATIENCE).await;
        spare_ready(&tree, "busy", PATIENCE).await;
        let mut all: Vec<Recovery> = Vec::new();
        for _ in 0..kills().div_ceil(5).max(2) {
            all.push(recover(&tree, "busy").await);
        }
        spare_ready(&tree, "busy", PATIENCE).await;
        let later = recover(&tree, "busy").await;
        let (warm, cold): (Vec<Recovery>, Vec<Recovery>) = all.iter().cloned().partition(Recovery::is_warm);
        let times = |of: &[Recovery]| of.iter().map(|it| it.ready).collect::<Vec<Duration>>();
        let [median, _] = median_and_late(&times(&cold));
        println!(
            "each kill right after Ready: {} recoveries with a spare, {} booted anew (median {}); after a pause: {}",
            warm.len(),
            cold.len(),
            ms(median),
            if later.is_warm() { "with a spare" } else { "booted anew" },
        );
        let figure = |what: &str, count: usize| {
            Figure::value("recovery", what, "", count as f64, all.len()).record();
        };
        figure("each kill right after Ready: recoveries with a spare", warm.len());
        figure("each kill right after Ready: recoveries by a boot", cold.len());
        figure("and one kill after the next spare is ready: with a spare", usize::from(later.is_warm()));
        if let [_, ..] = cold[..] {
            let figure =
                Figure::times("recovery", "SIGKILL until Ready when the spare still boots", &times(&cold));
            figure.against("with a spare, in the same run", in_ms(later.ready)).record();
        }
    };
    place.with(vec![group], work).await;
}
