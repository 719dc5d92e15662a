//! The target of this name.
#![no_main]

pepita_fuzz::program!();
