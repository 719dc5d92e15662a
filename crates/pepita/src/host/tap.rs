//! The network device of a VM on this host (`network = "tap"`): a link to one guest, with an address and with rules that
//! keep the guest to itself.
//!
//! The device has no persistence: it is gone, with its address and its way, when the last descriptor of it is closed,
//! however the VMM has ended. Only its rules stay, and name a device that is not there; the next start of a VM removes
//! them. Guests share no link, so that none sees or imitates another.

use super::tun;
use crate::error::{Result, call_error, eprint_line};
use crate::host::inherited;
use crate::vm_config::Tap;
use pepita_wire::record::CallErrorKind;
use pepita_wire::text::shown;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// The number of `CAP_NET_ADMIN` (capabilities(7)).
const NET_ADMIN: u32 = 12;

/// The beginning of the names of the tables of rules; the name of a device follows.
const TABLE: &str = "pepita-";

/// What is said of a host that may not have such a device.
const ADVICE: &str = "as a service of systemd: AmbientCapabilities=CAP_NET_ADMIN and DeviceAllow=/dev/net/tun; network = \
                      \"user\" needs no rights";

/// Checks whether this process may make such a device.
///
/// # Errors
/// A sentence with what is missing and the remedy.
pub fn check() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let why = match (has_net_admin(&status), tun::check()) {
        (false, _) => {
            "it needs the capability CAP_NET_ADMIN, which this process does not have: run it as root, or"
                .to_owned()
        }
        (true, Err(e)) => format!(
            "{}: {e}: the device has to be there, for reading and writing (modprobe tun);",
            tun::DEVICE
        ),
        (true, Ok(())) => return Ok(()),
    };
    Err(call_error(CallErrorKind::Permission, format!("network = \"tap\": {why} {ADVICE}")))
}

/// Returns whether a process with this status (proc_pid_status(5)) has the capability for networks.
fn has_net_admin(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    effective.is_some_and(|set| set >> NET_ADMIN & 1 == 1)
}

/// Returns whether this host carries packets on, without which a guest reaches no other host.
pub fn forwards() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// Makes the device of a VM. It is there as long as the descriptor, or a copy of it, is open.
///
/// # Errors
/// When the device is in use, or `ip` or `nft` refuses a step; the error has their words. Nothing is left then.
pub fn up(tap: &Tap) -> Result<OwnedFd> {
    let failed = |why: String| {
        call_error(CallErrorKind::TryAgain, format!("network device {} of the VM: {why}", tap.device))
    };
    let device = tun::open(&tap.device).map_err(|e| failed(e.to_string()))?;
    // The rules come before the first packet.
    let made = run(&tap.nft, &["-f", "-"], &rules(tap)).and_then(|_| {
        // The rules are about IPv4, and drop all of IPv6. A kernel without IPv6 has no such file.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", tap.device), "1");
        run(&tap.ip, &["-batch", "-"], &steps(tap))
    });
    if let Err(why) = made {
        down(tap);
        let advice = match why.contains("File exists") {
            true => {
                "; another VM has the address: give the VMs of each run directory a network of their own (PEPITA_SUBNET)"
            }
            false => "",
        };
        return Err(failed(format!("{why}{advice}")));
    }
    if !forwards() {
        eprint_line(format_args!(
            "pepita monitor: network tap: this host carries no packets on (net.ipv4.ip_forward is 0), so the guest reaches no \
             other host"
        ));
    }
    remove_stale(tap);
    Ok(device)
}

/// Removes the rules of a device that is no longer there.
pub fn down(tap: &Tap) {
    // There may be none.
    let _ = run(&tap.nft, &["delete", "table", "inet", &table(&tap.device)], "");
}

/// Removes the rules that VMs have left which ended together with their monitors.
fn remove_stale(tap: &Tap) {
    let tables = run(&tap.nft, &["-j", "list", "tables", "inet"], "").unwrap_or_default();
    // These are the devices of the network namespace of this process, as its rules are. (Those of /sys/class/net are of the
    // namespace in which sysfs was mounted.) They are looked at after the rules: a device is there before it has rules.
    let Ok(devices) = std::fs::read_to_string("/proc/self/net/dev") else { return };
    for handle in stale(&tables, &devices) {
        // By its handle: rules of this name may have been made anew meanwhile.
        let _ = run(&tap.nft, &["delete", "table", "inet", "handle", &handle.to_string()], "");
    }
}

/// Returns the handles of the rules whose device is not among `devices`, a text of the kernel with one in each line.
/// `tables` is what nft(8) lists, as JSON (libnftables-json(5)).
pub(crate) fn stale(tables: &str, devices: &str) -> Vec<u64> {
    let there: Vec<&str> = devices.lines().filter_map(|line| Some(line.trim().split_once(':')?.0)).collect();
    let listed: serde_json::Value = serde_json::from_str(tables).unwrap_or_default();
    let tables = listed["nftables"].as_array().into_iter().flatten().map(|entry| &entry["table"]);
    let handle = |table: &serde_json::Value| {
        let device = table["name"].as_str()?.strip_prefix(TABLE)?;
        let is_stale = is_ours(device) && !there.contains(&device);
        table["handle"].as_u64().filter(|_| is_stale)
    };
    tables.filter_map(handle).collect()
}

/// Returns whether a launcher gives its devices such names: `p`, eight hexadecimal digits, and a number.
fn is_ours(device: &str) -> bool {
    let parts = device.strip_prefix('p').and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(hash, number)| {
        hash.len() == 8 && u32::from_str_radix(hash, 16).is_ok() && number.parse::<u32>().is_ok()
    })
}

fn table(device: &str) -> String {
    format!("{TABLE}{device}")
}

/// Returns the steps of ip(8) that give the device the address of the host on it, and the way to the guest. The guest is
/// known by its hardware address, and nobody is asked for it.
fn steps(tap: &Tap) -> String {
    let (device, guest, host, mac) = (&tap.device, tap.card.address, tap.card.gateway, tap.mac());
    format!(
        "address add {host}/32 dev {device} noprefixroute\n\
         link set dev {device} up\n\
         route add {guest}/32 dev {device} src {host}\n\
         neighbour replace {guest} lladdr {mac} nud permanent dev {device}\n"
    )
}

/// Returns the rules of nft(8), in place of those that are there: the guest has its own address and no other, it answers
/// this host and asks it nothing, it asks other hosts under the address of this host, and no other host or guest asks it.
fn rules(tap: &Tap) -> String {
    let (device, guest, table) = (&tap.device, tap.card.address, table(&tap.device));
    format!(
        "table inet {table}\n\
         delete table inet {table}\n\
         table inet {table} {{\n\
         chain from_guest {{ type filter hook prerouting priority raw; \
         iifname \"{device}\" ip saddr != {guest} drop; iifname \"{device}\" meta nfproto ipv6 drop; }}\n\
         chain to_host {{ type filter hook input priority filter; \
         iifname \"{device}\" ct state established,related accept; iifname \"{device}\" reject with icmpx admin-prohibited; }}\n\
         chain to_guest {{ type filter hook forward priority filter; \
         oifname \"{device}\" ct state established,related accept; oifname \"{device}\" reject with icmpx admin-prohibited; }}\n\
         chain to_others {{ type nat hook postrouting priority srcnat; \
         ip saddr {guest} oifname != \"{device}\" masquerade; }}\n\
         }}\n"
    )
}

/// Runs a program with a text as its input, and returns its output.
fn run(program: &Path, args: &[&str], input: &str) -> std::result::Result<String, String> {
    let name = program.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let failed = |e: std::io::Error| format!("{name}: {e}");
    let mut command = Command::new(program);
    inherited::clean_environment(&mut command);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // A program that does not read it to its end says why.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let words = String::from_utf8_lossy(&output.stderr);
            let words =
                words.lines().map(str::trim).filter(|line| !line.is_empty()).take(3).collect::<Vec<_>>();
            Err(format!("{name}: {}", shown(&words.join("; "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm_config::tests::tap;

    #[test]
    fn the_capability_is_read_from_the_status_of_a_process() {
        assert!(has_net_admin("Name:\tx\nCapEff:\t000001fffeffffff\n"));
        assert!(
            !has_net_admin("CapEff:\t0000000000000000\n")
                && !has_net_admin("CapEff:\tx\n")
                && !has_net_admin("")
        );
    }

    #[test]
    fn a_guest_has_its_address_and_no_other_and_asks_the_host_nothing() {
        let rules = rules(&tap());
        for part in
            ["saddr != 10.213.7.2 drop", "iifname \"p0badcafe-2\" reject", "oifname \"p0badcafe-2\" reject"]
        {
            assert!(rules.contains(part), "{rules}");
        }
        let steps = steps(&tap());
        assert!(steps.contains("lladdr 02:fd:0a:d5:07:02 nud permanent dev p0badcafe-2\n"), "{steps}");
    }

    #[test]
    fn rules_whose_device_is_gone_are_stale_and_those_of_other_programs_are_not_ours() {
        let names =
            ["pepita-p0badcafe-2", "pepita-p0badcafe-3", "pepita-pdeadbeef-3", "pepita-mine", "other"];
        let table =
            |(name, handle)| serde_json::json!({"table": {"family": "inet", "name": name, "handle": handle}});
        let tables: Vec<_> = names.iter().zip(7_u64..).map(table).collect();
        let listed = serde_json::json!({"nftables": tables}).to_string();
        let devices = "Inter-| Receive\n face |bytes\n    lo: 1 2\np0badcafe-2: 3 4\n";
        assert_eq!((stale(&listed, devices), stale("", devices)), (vec![8, 9], Vec::new()));
    }
}
