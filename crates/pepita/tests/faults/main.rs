//! Faults that VMs must survive: the real program, real microVMs (QEMU) and plain processes. One test program for all, so
//! that it can hold down how many VMs run at once; `PEPITA_LONG=1` repeats each fault as often as it is promised for.

mod claims;
mod cycles;
mod deaths;
mod ends;
mod guest;
#[path = "../host/mod.rs"]
mod host;
mod images;
mod ladder;
mod logs;
mod pauses;
mod starts;
