//! The library against real microVMs: a real kernel, a real agent as PID 1, the real `pepita` in between. No test is
//! skipped: on a machine that cannot run them they fail with the reason.

mod adapter;
mod adoption;
mod comes_back;
mod faults;
mod foreign;
mod host;
mod inside;
mod link;
mod order;
mod soak;
mod world;
