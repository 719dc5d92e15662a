//! Container images for microVMs: they are pulled or imported, verified, kept by digest, and each gets one root file
//! system that any number of VMs share.
//!
//! An image may come from anybody. Its layers are never unpacked on the host: they are read into a tree in memory
//! ([`tree`], [`layer`]), and the tree is written as one ext4 image ([`ext4`]). No name in a layer ever names a file of
//! the host, and the program that reads them reaches no file but those of its store.

pub mod challenge;
pub mod commands;
pub mod config;
mod confine;
pub mod credentials;
pub mod digest;
pub mod error;
pub mod ext4;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod layer;
pub mod manifest;
pub mod origin;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod root;
pub mod source;
pub mod store;
pub mod tree;
