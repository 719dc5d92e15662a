//! The host's TSC frequency, which an emulated guest is told: measuring it itself, it hangs in one boot of five.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "reading the counter is an instruction, not a call")
)]

use crate::host::process_id::boot_id;
use crate::rundir::RunDir;
use crate::rundir::files::{Sync, replace};
use crate::rundir::layout;
#[cfg(target_arch = "x86_64")]
use std::time::Instant;

/// The frequency in kHz, measured once in each boot of the host; `None` where there is no such counter.
pub fn khz(dir: &RunDir) -> Option<u64> {
    let path = dir.path().join(layout::CACHE).join("tsc");
    let boot = boot_id();
    let known = std::fs::read_to_string(&path).ok().and_then(|text| {
        let (id, khz) = text.trim().split_once(' ')?;
        (id == boot).then(|| khz.parse().ok()).flatten()
    });
    known.or_else(|| {
        let khz = measure()?;
        // Not being able to keep it costs the next boot 20 ms.
        let _ = replace(&path, format!("{boot} {khz}\n").as_bytes(), Sync::No);
        Some(khz)
    })
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<u64> {
    // SAFETY: RDTSC reads a register and is present on every x86-64.
    let ticks = || unsafe { core::arch::x86_64::_rdtsc() };
    // Both clocks at one moment: somebody else may get the CPU between looking at the one and at the other, so the
    // closest of several looks counts.
    let look = || {
        let looks = (0..20).map(|_| {
            let (before, ticks, after) = (Instant::now(), ticks(), Instant::now());
            (after - before, before, ticks)
        });
        looks.min_by_key(|(apart, ..)| *apart).map(|(_, at, ticks)| (at, ticks))
    };
    let (began, from) = look()?;
    std::thread::sleep(std::time::Duration::from_millis(20));
    let (ended, to) = look()?;
    let spent = ended - began;
    let nanos = u64::try_from(spent.as_nanos()).ok()?;
    (to.checked_sub(from)?).checked_mul(1_000_000)?.checked_div(nanos).filter(|khz| *khz > 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<u64> {
    None
}
