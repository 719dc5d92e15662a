//! The programs as they are: real processes, real signals, real sockets. The VMs are plain processes (`vmm = "process"`),
//! so that no image is needed; nothing else differs from VMs in QEMU.

mod adoption;
mod ctl;
mod daemon;
mod host;
mod service;
mod signals;
mod small;
