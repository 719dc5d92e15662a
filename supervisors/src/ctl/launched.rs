//! What the launcher knows of a VM, and its supervisor does not: the image, the address, the ports with their connections, the
//! parts of its start, the disks, the memory and CPU time on the host and in the guest, the limits.

use pepita_supervisor::VmName;
use pepita_supervisor::control::{Call, Client};
use pepita_wire::StatusRecord;
use pepita_wire::record::PortUse;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The time limit for an answer of the launcher, which waits 3 s for a monitor that does not answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Adds what the launcher knows to these VMs of a status. Nothing is added to a VM that does not run, or of which the
/// launcher says nothing in time.
pub(super) async fn add(client: &mut Client, status: &mut Value, vms: &[String]) {
    // Without an answer the rest of the status is shown.
    let Ok(version) = client.call(Call::Version).await else { return };
    let Some(pepita) = version["pepita"].as_str() else { return };
    let run_dir = version["run_dir"].as_str().map(|dir| ["--run-dir".into(), dir.into()]);
    let run_dir: Vec<OsString> = run_dir.into_iter().flatten().collect();
    let ids = vms.iter().filter_map(|name| VmName::new(name).ok()).map(|vm| vm.id().to_string());
    let ids: Vec<String> = ids.chain(spares_of(status, vms)).collect();
    let mut asked = JoinSet::new();
    for id in ids {
        let mut command = Command::new(pepita);
        command.args(&run_dir).args(["status", "--json", "--name", &id]);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        asked.spawn(async move { Some((id, timeout(LIMIT, command.output()).await.ok()?.ok()?)) });
    }
    let answers = asked.join_all().await.into_iter().flatten();
    let records = answers.filter_map(|(id, output)| Some((id, serde_json::from_slice(&output.stdout).ok()?)));
    let records: HashMap<String, StatusRecord> = records.collect();
    for group in status["groups"].as_array_mut().into_iter().flatten() {
        for vm in group["vms"].as_array_mut().into_iter().flatten() {
            if let Some(record) = vm["id"].as_str().and_then(|id| records.get(id)) {
                fill(vm, record);
            }
            for spare in vm["spares"].as_array_mut().into_iter().flatten() {
                let usage = spare["id"].as_str().and_then(|id| records.get(id)?.usage.as_ref());
                if let Some(usage) = usage {
                    spare["usage"] = json!(usage);
                }
            }
        }
    }
}

/// Returns the launcher's names for the warm spares of these VMs.
fn spares_of(status: &Value, vms: &[String]) -> Vec<String> {
    let groups = status["groups"].as_array().into_iter().flatten();
    let all = groups.flat_map(|group| group["vms"].as_array().into_iter().flatten());
    let wanted = all.filter(|vm| vm["name"].as_str().is_some_and(|name| vms.iter().any(|it| it == name)));
    let spares = wanted.flat_map(|vm| vm["spares"].as_array().into_iter().flatten());
    spares.filter_map(|spare| spare["id"].as_str().map(str::to_owned)).collect()
}

/// Adds the fields of a VM.
fn fill(vm: &mut Value, record: &StatusRecord) {
    if record.exit.is_some() {
        return;
    }
    if let Some(image) = &record.image {
        vm["image"] = json!({ "reference": image.reference, "digest": image.digest });
    }
    if !record.ports.is_empty() {
        vm["ports"] = json!(record.ports);
    }
    if !record.port_use.is_empty() {
        vm["port_use"] = json!(with_waiting(&record.port_use, &vm["port_use"]));
    }
    if let Some(address) = &record.address {
        vm["address"] = json!(address);
    }
    if let Some(timings) = &record.timings {
        vm["timings"] = json!(timings);
    }
    if let Some(usage) = &record.usage {
        vm["usage"] = json!(usage);
    }
    if let Some(jail) = &record.jail {
        vm["jail"] = json!(jail);
    }
    if let Some(limits) = &record.host_limits {
        vm["limits"] = json!(limits);
    }
    if let Some(guest) = &record.guest {
        vm["guest"] = json!(guest);
    }
    if !record.disks.is_empty() {
        vm["disks"] = json!(record.disks);
    }
}

/// Returns the use of the ports, with the number of waiting clients that the supervisor has told where the monitor does not
/// tell it.
fn with_waiting(told: &[PortUse], of_supervisor: &Value) -> Vec<PortUse> {
    let known: Vec<PortUse> = serde_json::from_value(of_supervisor.clone()).unwrap_or_default();
    let waiting = |port: &str| known.iter().find(|known| known.port == port)?.waiting;
    let with =
        |told: &PortUse| PortUse { waiting: told.waiting.or_else(|| waiting(&told.port)), ..told.clone() };
    told.iter().map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pepita_wire::ExitRecord;
    use pepita_wire::record::{HostLimits, HostUsage, Part, ProcessUsage, TimedPart, Timings};

    #[test]
    fn what_the_launcher_knows_is_added_to_a_vm_that_runs() {
        let usage = HostUsage::of(vec![ProcessUsage { rss_kib: 7, ..ProcessUsage::default() }]).map(Box::new);
        let mut record =
            StatusRecord { ports: vec!["127.0.0.1:80:80".into()], usage, ..StatusRecord::default() };
        let mut vm = json!({ "name": "a" });
        fill(&mut vm, &record);
        assert_eq!((&vm["ports"][0], &vm["usage"]["rss_kib"]), (&json!("127.0.0.1:80:80"), &json!(7)));
        record.address = Some(std::net::Ipv4Addr::new(10, 88, 0, 6));
        fill(&mut vm, &record);
        assert_eq!(vm["address"], "10.88.0.6");
        assert!(vm.get("image").is_none() && vm.get("port_use").is_none(), "{vm}");
        // A monitor of an earlier version says nothing of connections, and the supervisor knows who waits.
        let port = |open, waiting| PortUse { port: "127.0.0.1:80:80".into(), open, waiting };
        record.port_use = vec![port(None, None)];
        vm["port_use"] = json!([port(None, Some(2))]);
        fill(&mut vm, &record);
        assert_eq!(vm["port_use"], json!([{ "port": "127.0.0.1:80:80", "open": null, "waiting": 2 }]));
        record.port_use = vec![port(Some(3), Some(1))];
        fill(&mut vm, &record);
        assert_eq!(vm["port_use"], json!([{ "port": "127.0.0.1:80:80", "open": 3, "waiting": 1 }]));
        record.host_limits = Some(Box::new(HostLimits { processes: Some(513), ..HostLimits::default() }));
        fill(&mut vm, &record);
        assert_eq!(vm["limits"], json!({ "processes": 513 }));
        let parts = vec![TimedPart { part: Part::Daemon, us: 7 }];
        record.timings = Some(Box::new(Timings { total_us: 7, parts }));
        fill(&mut vm, &record);
        assert_eq!(vm["timings"], json!({ "total_us": 7, "parts": [{ "part": "daemon", "us": 7 }] }));
        record.exit = Some(ExitRecord::default());
        let mut ended = json!({ "name": "a" });
        fill(&mut ended, &record);
        assert_eq!(ended, json!({ "name": "a" }));
    }
}
