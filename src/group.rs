//! The group supervisor.

mod child;
mod order;
mod roster;
mod round;

pub use child::Wanted;
pub use order::{At, Command, End, Found, Mode, News, Order, Refused, Remembered};
pub use roster::Roster;
