//! A network device whose packets a program reads and writes: `/dev/net/tun` (Linux's Documentation/networking/tuntap).
#![expect(unsafe_code, reason = "the ioctl has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The path of the kernel's device.
pub const DEVICE: &str = "/dev/net/tun";

/// `IFF_TAP`: frames of Ethernet. `IFF_NO_PI`: nothing before them. `IFF_VNET_HDR`: but the header of virtio, by which a VMM
/// leaves checksums and segments to the kernel.
const FLAGS: i16 = 0x0002 | 0x1000 | 0x4000;

/// The longest name of a device, with its final zero (`IFNAMSIZ`).
const NAME_CAP: usize = 16;

/// `struct ifreq`: a name, and a union, of which the flags are used.
#[repr(C)]
pub struct Request {
    name: [u8; NAME_CAP],
    flags: i16,
    rest: [u8; 22],
}

mod sys {
    // linux/if_tun.h: TUNSETIFF, whose number is made with the size of an int.
    nix::ioctl_write_ptr_bad!(
        set_device,
        nix::request_code_write!(b'T', 202, size_of::<i32>()),
        super::Request
    );
}

/// Checks whether the device can be opened.
///
/// # Errors
/// The error of the kernel.
pub fn check() -> io::Result<()> {
    File::options().read(true).write(true).open(DEVICE).map(drop)
}

/// Makes a network device. It is there as long as the descriptor, or a copy of it, is open.
///
/// # Errors
/// EBUSY when another program has a device of this name.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    let mut request = Request { name: [0; NAME_CAP], flags: FLAGS, rest: [0; 22] };
    if name.is_empty() || name.len() >= NAME_CAP {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name is empty or too long"));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let file = File::options().read(true).write(true).open(DEVICE)?;
    // SAFETY: the descriptor is open, and the kernel reads and writes one `struct ifreq`, whose layout and size (40 bytes on
    // 64-bit Linux) `Request` has.
    unsafe { sys::set_device(file.as_raw_fd(), &raw const request) }?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_the_kernel_s() {
        assert_eq!(size_of::<Request>(), 40);
    }

    #[test]
    fn a_name_that_no_device_can_have_is_refused() {
        for name in ["", "sixteen-letters-"] {
            assert_eq!(open(name).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
        }
    }
}
