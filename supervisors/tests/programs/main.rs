//! Tests of the programs with real processes, real signals and real sockets. The VMs are plain processes (`vmm =
//! "process"`), because plain processes start quickly; everything else is the same as with VMs in QEMU. The tests that
//! kill the supervisor itself use microVMs, too.

mod adoption;
mod chaos;
mod containers;
mod ctl;
mod daemon;
mod daemons;
mod documents;
mod events;
mod host;
mod idle;
mod injection;
mod limits;
mod looking_in;
mod output;
mod ports;
mod probes;
mod relay;
mod repair;
mod service;
mod signals;
mod small;
mod spares;
mod stored_ports;
mod supervisor_kills;
mod two;
mod unreachable;
mod upgrade;
mod vanished;
mod world;
