//! Images that guests boot from: kernels, initramfs archives, disks, and the modules in them.

pub mod build;
pub mod cpio;
pub(crate) mod init;
pub mod kernel;
pub mod length;
pub mod modules;
