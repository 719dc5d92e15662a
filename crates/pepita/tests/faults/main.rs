//! Tests of faults, with the real program, real microVMs (QEMU) and plain processes. All tests are in one test program,
//! which limits the number of VMs at the same time. `PEPITA_LONG=1` repeats each fault as often as the requirements
//! say.

mod claims;
mod cycles;
mod deaths;
mod disks;
mod ends;
mod exec;
mod foreground;
mod guest;
#[path = "../host/mod.rs"]
mod host;
mod images;
mod jail;
mod logs;
mod pauses;
mod promotions;
mod shares;
mod starts;
mod stop_escalation;
#[path = "../terminal/mod.rs"]
mod terminal;
mod timings;
mod vanished;
mod world;
