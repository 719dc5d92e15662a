//! Hardware virtualisation: whether KVM can boot a stock kernel here.

use std::path::Path;

/// The device `/dev/kvm`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// The device does not exist.
    Absent,
    /// The device cannot be opened, for this reason.
    Refused(String),
    /// The device opens.
    Opens,
}

/// Decides whether a stock kernel boots with KVM: the device must open, and the CPU must have the feature `vmx` or
/// `svm`. The device alone is not sufficient: on some hosts it opens, but stock kernels hang.
///
/// # Errors
/// When the device or the feature is missing; the message says which.
pub fn hardware(kvm: &Kvm, cpu_can: bool) -> Result<(), String> {
    match kvm {
        Kvm::Absent => Err("/dev/kvm does not exist".into()),
        Kvm::Refused(why) => Err(format!("/dev/kvm cannot be opened: {why}")),
        Kvm::Opens if cpu_can => Ok(()),
        Kvm::Opens => {
            Err("/dev/kvm opens, but the CPU has neither vmx nor svm: stock kernels do not boot under it"
                .into())
        }
    }
}

/// Returns whether the text of `/proc/cpuinfo` lists the feature `vmx` or `svm`.
pub fn cpu_can(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_ascii_whitespace).any(|flag| flag == "vmx" || flag == "svm")
}

/// Finds out whether KVM can boot a stock kernel on this host.
///
/// # Errors
/// When the device or the feature is missing; the message says which.
pub fn can_boot() -> Result<(), String> {
    hardware(&look(), cpu_flag())
}

/// Checks whether the device exists and opens.
pub fn look() -> Kvm {
    let device = Path::new("/dev/kvm");
    match (device.exists(), opens(device)) {
        (false, _) => Kvm::Absent,
        (true, Err(why)) => Kvm::Refused(why),
        (true, Ok(())) => Kvm::Opens,
    }
}

/// Returns whether the CPU of this host has the feature `vmx` or `svm`.
pub fn cpu_flag() -> bool {
    cpu_can(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// Opens a device for reading and writing, and closes it again.
///
/// # Errors
/// When the device does not open; the message says why.
pub fn opens(device: &Path) -> Result<(), String> {
    std::fs::File::options().read(true).write(true).open(device).map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_of_a_like_name_is_no_virtualisation() {
        assert!(cpu_can("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(!cpu_can("flags : fpu vmxx\nbugs : svm\n"));
    }
}
