//! What the programs `pepitad` and `pepitactl` are made of. They add to the library what belongs to a program: arguments,
//! signals, the environment, a terminal, the service manager.

pub mod config;
pub mod ctl;
pub mod daemon;
pub mod exit;
pub mod line;
pub mod notify;
pub mod printer;
