//! A guest's CID in the host's kernel: `/dev/vhost-vsock` (vsock(7)).
#![expect(unsafe_code, reason = "the ioctl has no safe wrapper")]

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// The path of the kernel's device, see vsock(7).
pub const DEVICE: &str = "/dev/vhost-vsock";

mod sys {
    // linux/vhost.h: VHOST_VSOCK_SET_GUEST_CID.
    nix::ioctl_write_ptr!(set_guest_cid, 0xaf, 0x60, u64);
}

/// Returns whether the host's kernel has vsock for guests.
pub fn is_available() -> bool {
    Path::new(DEVICE).exists()
}

/// Claims a CID for as long as the descriptor, or a copy of it, is open.
///
/// # Errors
/// EADDRINUSE when another program of this host holds the CID.
pub fn claim(cid: u32) -> std::io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open(DEVICE)?;
    // SAFETY: the descriptor is open, and the kernel reads exactly one u64 from the pointer.
    unsafe { sys::set_guest_cid(file.as_raw_fd(), &u64::from(cid)) }?;
    Ok(file.into())
}
