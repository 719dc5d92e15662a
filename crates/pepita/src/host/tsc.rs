//! The frequency of the host's time stamp counter. An emulated guest that measures the frequency itself hangs in about
//! one boot of five, so the launcher measures it and passes it to the guest.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "reading the counter is an instruction, not a call")
)]

#[cfg(target_arch = "x86_64")]
use std::time::{Duration, Instant};

/// The duration of a measurement.
#[cfg(target_arch = "x86_64")]
const SPAN: Duration = Duration::from_millis(20);

/// Measures the frequency in kHz, for 20 ms. Returns `None` when the counter has stood still.
#[cfg(target_arch = "x86_64")]
pub fn measure_khz() -> Option<u64> {
    // SAFETY: RDTSC reads a register and is present on every x86-64.
    let ticks = || unsafe { core::arch::x86_64::_rdtsc() };
    // Clock and counter have to be read at the same moment. Another thread may get the CPU between the two readings, so
    // several pairs are read and the closest pair counts.
    let read = || {
        let pairs = (0..20).map(|_| {
            let (before, ticks, after) = (Instant::now(), ticks(), Instant::now());
            (after - before, before, ticks)
        });
        pairs.min_by_key(|(apart, ..)| *apart).map(|(_, at, ticks)| (at, ticks))
    };
    let (began, from) = read()?;
    std::thread::sleep(SPAN);
    let (ended, to) = read()?;
    let spent = ended - began;
    let nanos = u64::try_from(spent.as_nanos()).ok()?;
    (to.checked_sub(from)?).checked_mul(1_000_000)?.checked_div(nanos).filter(|khz| *khz > 0)
}

/// Returns `None`: this architecture has no such counter.
#[cfg(not(target_arch = "x86_64"))]
pub fn measure_khz() -> Option<u64> {
    None
}
