//! Copies of files and directories between host and guest, as a tar stream ([`pack`], [`unpack`]).
//!
//! Two programs use this crate: the guest agent and the launcher, so that neither needs a program of the image. A crate for
//! archives would make the smallest part of it, and would find its files by path: here every file is found below an open
//! directory, component by component and without following a link, so that no name of a sender leads out of the target,
//! whatever else changes the target meanwhile. Extended attributes are not copied.

mod entry;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod pack;
mod place;
mod unpack;

pub use error::{CopyError, Report};
pub use pack::pack;
pub use unpack::{Owner, Sender, Unpacking, unpack};
