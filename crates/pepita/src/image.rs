//! Images that guests boot from: kernels, initramfs archives, disks, and the modules in them.

pub mod build;
pub mod cpio;
pub(crate) mod elf;
pub(crate) mod init;
pub mod installed;
pub mod kernel;
pub mod length;
pub(crate) mod libraries;
pub mod memory;
pub mod modules;
pub(crate) mod root;
mod scan;
pub(crate) mod scratch;
mod stage;
