//! Faults that VMs must survive: the real program, real microVMs (QEMU) and plain processes. All are one test program, which
//! limits how many VMs run at once. `PEPITA_LONG=1` repeats each fault as often as is promised.

mod claims;
mod cycles;
mod deaths;
mod ends;
mod guest;
#[path = "../host/mod.rs"]
mod host;
mod images;
mod logs;
mod pauses;
mod starts;
mod stop_escalation;
