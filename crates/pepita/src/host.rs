//! Access to the host: processes, limits, devices, programs, time and randomness. Knows nothing about VMs.

pub mod cgroup;
pub mod clock;
pub mod inherited;
pub mod kvm;
pub mod limits;
pub mod open_files;
pub mod patience;
pub mod process_id;
pub mod programs;
pub mod ram;
pub mod random;
pub mod rights;
pub mod setsid;
pub mod sign;
pub mod signals;
pub mod strays;
pub mod tap;
pub mod terminal;
pub mod tsc;
pub mod tun;
pub mod unfinished;
pub mod usage;
pub mod users;
pub mod vhost_vsock;
pub mod view;
pub mod wait;
