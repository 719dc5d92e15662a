//! What the launcher needs of its host: processes, limits, devices, programs, time and chance. Knows no VM.

pub mod cgroup;
pub mod clock;
pub mod kvm;
pub mod process_id;
pub mod programs;
pub mod random;
pub mod setsid;
pub mod strays;
pub mod tsc;
pub mod vhost_vsock;
pub mod wait;
