//! The frequency of the host's time stamp counter, kept in the cache for as long as the host runs.

use crate::host::process_id::boot_id;
use crate::host::tsc::measure_khz;
use crate::rundir::RunDir;
use crate::rundir::files::{Sync, replace};

/// Returns the frequency in kHz, which is measured once in each boot of the host; `None` where it cannot be measured.
pub fn khz(dir: &RunDir) -> Option<u64> {
    let path = dir.cache().join("tsc");
    let boot = boot_id();
    let known = std::fs::read_to_string(&path).ok().and_then(|text| {
        let (id, khz) = text.trim().split_once(' ')?;
        (id == boot).then(|| khz.parse().ok()).flatten()
    });
    known.or_else(|| {
        let khz = measure_khz()?;
        // When the cache cannot be written, the next boot measures again, which takes 20 ms.
        let _ = replace(&path, format!("{boot} {khz}\n").as_bytes(), Sync::No);
        Some(khz)
    })
}
