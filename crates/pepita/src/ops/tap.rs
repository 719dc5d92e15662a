//! The network device of the host that a VM asks for (`network = "tap"`): what the host has to have for it, and the address.

use crate::error::{Result, call_error};
use crate::host::programs::{IP, NFT};
use crate::host::tap;
use crate::rundir::{RunDir, addresses};
use crate::vm_config::Tap;
use pepita_wire::VmId;
use pepita_wire::network::{Card, Subnet};
use pepita_wire::record::CallErrorKind;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The variable with the network of the guests.
const SUBNET_ENVIRONMENT: &str = "PEPITA_SUBNET";

/// The files of name servers: the usual one, and that of systemd-resolved, which names itself in the usual one.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Leases an address for a VM, and returns its network device, which is not made yet.
///
/// # Errors
/// When the host lacks a right, a device or a program for it, or has no address left.
pub(super) fn lease(run_dir: &RunDir, name: &str) -> Result<Tap> {
    let [ip, nft] = requirements()?;
    let usage = |why: String| call_error(CallErrorKind::Usage, why);
    let name = VmId::new(name).map_err(|e| usage(e.to_string()))?;
    let wanted = std::env::var(SUBNET_ENVIRONMENT).ok().filter(|text| !text.is_empty());
    let wanted = wanted.map(|text| text.parse::<Subnet>()).transpose();
    let lease = addresses::lease(
        run_dir,
        &name,
        wanted.map_err(|why| usage(format!("{SUBNET_ENVIRONMENT}: {why}")))?,
    )?;
    let texts = RESOLVERS.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let card = Card {
        address: lease.address,
        prefix: lease.subnet.prefix(),
        gateway: lease.subnet.host(),
        name_servers: name_servers(&texts),
    };
    Ok(Tap { device: format!("{}-{}", addresses::device_prefix(run_dir), lease.number), card, ip, nft })
}

/// Returns the programs `ip` and `nft`, if this host can make such devices for VMs.
///
/// # Errors
/// A sentence with what is missing and the remedy.
pub(crate) fn requirements() -> Result<[PathBuf; 2]> {
    tap::check()?;
    Ok([IP.require()?, NFT.require()?])
}

/// Returns the name servers of the first file that has one which a guest can reach: none of this host's own.
fn name_servers(texts: &[String]) -> Vec<Ipv4Addr> {
    let servers = |text: &String| -> Vec<Ipv4Addr> {
        let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        let named = named.filter_map(|server| server.trim().parse().ok());
        // A resolver reads three (resolv.conf(5)).
        named.filter(|server: &Ipv4Addr| !server.is_loopback() && !server.is_unspecified()).take(3).collect()
    };
    texts.iter().map(servers).find(|servers| !servers.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_servers_of_a_guest_are_none_of_the_host_s_own() {
        let own = "nameserver 127.0.0.53\nnameserver ::1\nsearch x\n".to_owned();
        let real = "# of DHCP\nnameserver 10.0.0.1\nnameserver\t10.0.0.2\n".to_owned();
        assert_eq!(
            name_servers(&[own.clone(), real]),
            [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]
        );
        assert_eq!(name_servers(&[own]), Vec::<Ipv4Addr>::new());
    }
}
