//! The memory of the host.

/// Returns how much memory the host has, with its swap space, in MiB.
pub fn total_mb() -> u64 {
    let info = rustix::system::sysinfo();
    let units = u128::from(info.totalram) + u128::from(info.totalswap);
    u64::try_from((units * u128::from(info.mem_unit)) >> 20).unwrap_or(u64::MAX)
}
