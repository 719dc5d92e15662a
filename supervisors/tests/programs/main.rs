//! The programs as they are: real processes, real signals, real sockets. The VMs are plain processes (`vmm = "process"`),
//! quick and many; nothing else differs from VMs in QEMU. Where the supervisor itself is killed, they are microVMs, too.

mod adoption;
mod chaos;
mod ctl;
mod daemon;
mod host;
mod service;
mod signals;
mod small;
mod upgrade;
