//! Gives the guest's network card its address, its way to other networks and its name servers.

use crate::boot::Image;
use crate::{furnish, interface, system};
use pepita_wire::network::Card;
use std::fs::{read_dir, read_to_string};
use std::io;

/// The directory with an entry for each network interface.
const INTERFACES: &str = "/sys/class/net";

/// The driver of the card.
const DRIVER: &str = "virtio_net";

/// Brings up the network card.
///
/// # Errors
/// When there is no card, or no driver for it, or the kernel refuses a step.
pub(crate) fn bring_up(image: &Image, card: &Card) -> io::Result<()> {
    if number_of_card()?.is_none() {
        let modules = image.drivers.get(DRIVER).map_or(&[][..], Vec::as_slice);
        system::load_modules(modules).map_err(io::Error::other)?;
    }
    let number = number_of_card()?.ok_or_else(|| {
        io::Error::other(format!(
            "no card: the driver {DRIVER} is neither in the image nor beside the kernel; build the image, or install \
             the kernel, again"
        ))
    })?;
    interface::bring_up_card(number, card)?;
    furnish::name_servers(&card.name_servers);
    Ok(())
}

/// Returns the number of the network card: of an interface that has a device, which those of the kernel itself do not have.
fn number_of_card() -> io::Result<Option<u32>> {
    let has_device = |interface: &std::fs::DirEntry| interface.path().join("device").exists();
    let card = read_dir(INTERFACES)?.flatten().find(has_device);
    let number = |card: std::fs::DirEntry| {
        let number = read_to_string(card.path().join("ifindex"))?;
        number.trim().parse().map_err(io::Error::other)
    };
    card.map(number).transpose()
}
