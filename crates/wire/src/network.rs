//! The network of a guest: which one a VM has, and what the guest agent gives to the guest's network card.

use core::net::Ipv4Addr;
use serde::{Deserialize, Serialize};
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
}

impl Network {
    /// Returns whether there is none.
    pub fn is_none(&self) -> bool {
        match self {
            Self::None => true,
            Self::User => false,
        }
    }

    /// Returns what the guest agent gives to the network card, if there is a card. The addresses are those that QEMU
    /// translates.
    pub fn card(self) -> Option<Card> {
        let host = |last| Ipv4Addr::new(10, 0, 2, last);
        match self {
            Self::None => None,
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
            other => Err(format!(
                "{other:?} is no network of a VM; there is none (ports are published and other VMs reached without \
                 one), and user (the guest reaches what the host reaches)"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_written_as_it_is_read_and_those_of_docker_are_refused_with_what_there_is() {
        for name in Network::VARIANTS {
            let network: Network = name.parse().expect("a network");
            assert_eq!((network.to_string().as_str(), network.is_none()), (*name, *name == "none"));
            assert_eq!(serde_json::to_value(network).expect("JSON"), *name);
            assert_eq!(network.card().is_none(), network.is_none());
        }
        for name in ["host", "bridge", "container:db", "my-net", "User", ""] {
            let why = name.parse::<Network>().expect_err("refused");
            assert!(Network::VARIANTS.iter().all(|there_is| why.contains(there_is)), "{why}");
        }
    }
}
