//! The network of a guest: which one a VM has, and what the guest agent gives to the guest's network card.

use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use strum::{Display, VariantNames};

/// The network of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, Display, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Network {
    /// No network card. Ports are published, and places dialled (`reach`), over vsock.
    #[default]
    None,
    /// A card behind the address translation of QEMU (slirp): the guest reaches what the user of its VMM reaches, and
    /// nobody reaches the guest.
    User,
    /// A card that is a network device of the host: host and guest reach each other at addresses of their own.
    Tap,
}

impl Network {
    /// Returns whether there is none.
    pub fn is_none(&self) -> bool {
        match self {
            Self::None => true,
            Self::User | Self::Tap => false,
        }
    }

    /// Returns what the guest agent gives to the network card, if every VM with this network has the same: the addresses are
    /// those that QEMU translates.
    pub fn card(self) -> Option<Card> {
        let host = |last| Ipv4Addr::new(10, 0, 2, last);
        match self {
            Self::None | Self::Tap => None,
            Self::User => {
                Some(Card { address: host(15), prefix: 24, gateway: host(2), name_servers: vec![host(3)] })
            }
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "user" => Ok(Self::User),
            "tap" => Ok(Self::Tap),
            other => Err(format!(
                "{other:?} is no network of a VM; there is none (ports are published and other VMs reached without \
                 one), user (the guest reaches what the host reaches), and tap (the guest has an address that the host \
                 reaches)"
            )),
        }
    }
}

/// What the guest agent gives to the guest's network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The address of the card.
    pub address: Ipv4Addr,
    /// The number of bits of an address that name its network.
    pub prefix: u8,
    /// The next station on the way to all other networks.
    pub gateway: Ipv4Addr,
    /// The name servers, for an `/etc/resolv.conf` that the image leaves open.
    #[serde(default)]
    pub name_servers: Vec<Ipv4Addr>,
}

/// A network of guests: its first address is the host's, and the others are those of guests.
///
/// ```
/// use pepita_wire::network::Subnet;
///
/// let subnet: Subnet = "10.213.7.0/24".parse()?;
/// assert_eq!(subnet.address(2).to_string(), "10.213.7.2");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Returns one of the 256 networks from which one is taken when none is chosen.
    pub fn usual(third: u8) -> Self {
        Self { first: Ipv4Addr::new(10, 213, third, 0), prefix: 24 }
    }

    /// Returns the number of bits of an address that name the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Returns the address with a number in this network.
    pub fn address(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() | number)
    }

    /// Returns the address of the host.
    pub fn host(self) -> Ipv4Addr {
        self.address(1)
    }

    /// Returns the numbers of the addresses that guests may have: neither the host's nor the last one, which means all.
    pub fn guests(self) -> std::ops::Range<u32> {
        2..(1 << (32 - u32::from(self.prefix))) - 1
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            |why: &str| format!("{text:?} is no network of guests: {why}; write one such as 10.213.7.0/24");
        let (first, prefix) = text.split_once('/').ok_or_else(|| bad("there is no / in it"))?;
        let first: Ipv4Addr = first.parse().map_err(|_| bad("no IPv4 address before the /"))?;
        let prefix = prefix.parse().ok().filter(|prefix| (16..=29).contains(prefix));
        let prefix: u8 = prefix.ok_or_else(|| bad("a number from 16 to 29 stands behind the /"))?;
        if first.to_bits() << prefix != 0 {
            return Err(bad("the address is not the first one of the network"));
        }
        // RFC 6598, which the standard library does not name yet.
        let is_shared = first.octets()[0] == 100 && first.octets()[1] & 0xc0 == 64;
        if !first.is_private() && !is_shared {
            return Err(bad(
                "the addresses are not private ones (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10)",
            ));
        }
        Ok(Self { first, prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_written_as_it_is_read_and_those_of_docker_are_refused_with_what_there_is() {
        for name in Network::VARIANTS {
            let network: Network = name.parse().expect("a network");
            assert_eq!((network.to_string().as_str(), network.is_none()), (*name, *name == "none"));
            assert_eq!(serde_json::to_value(network).expect("JSON"), *name);
            assert_eq!(network.card().is_some(), *name == "user");
        }
        for name in ["host", "bridge", "container:db", "my-net", "User", ""] {
            let why = name.parse::<Network>().expect_err("refused");
            assert!(Network::VARIANTS.iter().all(|there_is| why.contains(there_is)), "{why}");
        }
    }

    #[test]
    fn a_network_of_guests_is_private_and_has_room_for_them() {
        let subnet: Subnet = "10.213.7.0/29".parse().expect("a network");
        assert_eq!((subnet.to_string().as_str(), subnet.host()), ("10.213.7.0/29", [10, 213, 7, 1].into()));
        assert_eq!(subnet.guests().collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        for (text, word) in [
            ("10.213.7.0", "no /"),
            ("x/24", "no IPv4"),
            ("10.213.7.0/30", "16 to 29"),
            ("10.0.0.0/8", "16 to 29"),
            ("10.213.7.1/24", "not the first"),
            ("8.8.8.0/24", "not private"),
            ("127.0.0.0/24", "not private"),
        ] {
            let why = text.parse::<Subnet>().expect_err(text);
            assert!(why.contains(word), "{why}");
        }
    }
}
