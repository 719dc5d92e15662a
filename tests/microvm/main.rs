//! The library against real microVMs: a real kernel, a real agent as PID 1, the real `pepita` in between.
//! None of this is skipped: a machine that cannot run it is told why, loudly.

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
