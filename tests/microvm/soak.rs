//! Many boots in a row: none of them hangs.

use crate::host::{Host, guest};
use pepita_wire::StatusRecord;
use std::time::Instant;

/// The number of boots: `PEPITA_SOAK_BOOTS` (default 5).
#[test]
fn boots_in_a_row_do_not_hang() {
    let boots: u32 = std::env::var("PEPITA_SOAK_BOOTS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let host = Host::new();
    let (kernel, rootfs) = (guest("vmlinuz"), guest("ticker.cpio"));
    let (kernel, rootfs) = (kernel.to_str().expect("UTF-8"), rootfs.to_str().expect("UTF-8"));
    let mut times = Vec::new();
    for boot in 1..=boots {
        let began = Instant::now();
        let run =
            ["run", "--name", "soak", "--kernel", kernel, "--rootfs", rootfs, "--memory", "128", "--daemon"];
        let output = host.pepita(&[&run[..], &["--wait-ready", "--ready-timeout", "60s", "--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "boot {boot} of {boots}: {error}");
        let status: StatusRecord = serde_json::from_slice(&output.stdout).expect("a status record");
        assert!(status.agent.ready, "boot {boot} of {boots}: {status:?}");
        times.push(began.elapsed().as_millis());
        assert!(host.pepita(&["destroy", "--name", "soak", "--force"]).status.success());
    }
    times.sort_unstable();
    println!("{boots} boots: {} ms median, {} ms at most", times[times.len() / 2], times[times.len() - 1]);
    host.assert_nothing_left();
}
