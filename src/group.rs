//! The group supervisor.

mod child;
mod order;
mod roster;
mod round;

pub use order::{At, Command, End, Found, Order, Refused};
pub use roster::Roster;
