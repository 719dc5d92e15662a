//! The lines about one VM below the table of a status.

use super::view::{list, text};
use crate::format::{format_duration, shown};
use pepita_wire::record::{JailStatus, Timings};
use serde_json::Value;
use std::time::Duration;

/// Formats what is known of the last end of a VM: the evidence and the last output.
pub(super) fn last_end(vm: &Value) -> Vec<String> {
    let Some(ending) = vm["failure"]["ending"].as_object().or(vm["backoff"]["ending"].as_object()) else {
        return Vec::new();
    };
    let name = text(&vm["name"]);
    let all = |key: &str| ending.get(key).map_or(&[][..], list).iter().filter_map(Value::as_str);
    let mut lines = vec![format!("{name} ended: {}", shown(ending.get("text").map_or("-", text)))];
    lines.extend(all("evidence").map(|line| format!("  evidence: {}", shown(line))));
    lines.extend(all("console").map(|line| format!("  output: {}", shown(line))));
    lines
}

/// Formats what the launcher knows of a VM: the image, the address, the ports, the memory and CPU time on the host.
pub(super) fn launched(vm: &Value) -> impl Iterator<Item = String> {
    let name = text(&vm["name"]);
    let image = vm["image"]["reference"].as_str();
    let image =
        image.map(|image| format!("{name} image: {} {}", shown(image), shown(text(&vm["image"]["digest"]))));
    let address = vm["address"].as_str().map(|address| format!("{name} address: {}", shown(address)));
    let start = serde_json::from_value::<Timings>(vm["timings"].clone()).ok();
    let start = start.map(|timings| format!("{name} start: {timings}"));
    let ports = ports(vm);
    let ports = (!ports.is_empty()).then(|| format!("{name} ports: {}", shown(&ports.join(", "))));
    let disks = list(&vm["disks"]).iter().map(|it| format!("{name} disk {}", shown(&disk(it))));
    let disks: Vec<String> = disks.collect();
    let host = host(vm).map(|host| format!("{name} host: {host}"));
    // A plain process has no guest.
    let guest = (host.is_some() && vm["vmm"] != "process").then(|| format!("{name} guest: {}", guest(vm)));
    let limits = vm["limits"].is_object().then(|| format!("{name} limits: {}", limits(&vm["limits"])));
    let jail =
        serde_json::from_value(vm["jail"].clone()).ok().map(|told| format!("{name} jail: {}", jail(&told)));
    let spares: Vec<String> =
        list(&vm["spares"]).iter().map(|it| format!("{name} spare {}", spare(it))).collect();
    image
        .into_iter()
        .chain(start)
        .chain(address)
        .chain(ports)
        .chain(disks)
        .chain(host)
        .chain(limits)
        .chain(jail)
        .chain(guest)
        .chain(spares)
}

/// Returns `duende-vm-a-spare-1: ready, process 7, memory 141.2 MiB (vmm 139.0, monitor 2.2), CPU 2s`.
fn spare(spare: &Value) -> String {
    let state = if spare["ready"] == true { "ready" } else { "not ready" };
    let process = spare["vmm_pid"].as_u64().map(|pid| format!(", process {pid}")).unwrap_or_default();
    let host = host(spare).map(|host| format!(", {host}")).unwrap_or_default();
    format!("{}: {state}{process}{host}", shown(text(&spare["id"])))
}

/// Returns `full, backend as user 700001, vmm as user 700000`, and the layers that are missing.
fn jail(jail: &JailStatus) -> String {
    let users = jail.processes.iter().filter_map(|(what, process)| Some((what, process.uid?)));
    let users: String = users.map(|(what, uid)| format!(", {} as user {uid}", shown(what))).collect();
    let missing =
        jail.shortfall().map(|missing| format!("; without {}", shown(&missing))).unwrap_or_default();
    format!("{}{users}{missing}", shown(&jail.level))
}

/// Returns `memory 352.0 MiB, CPU 150 %, processes none, open files 1024, file size none, disk weight none, log 50.0 MiB`.
fn limits(limits: &Value) -> String {
    let number = |key: &str| limits[key].as_u64();
    let plain = |key| number(key).map_or_else(|| "none".to_owned(), |number| number.to_string());
    let mib = |key| number(key).map_or_else(|| "none".to_owned(), |_| mib(&limits[key]));
    let cpu = number("cpu_percent").map_or_else(|| "none".to_owned(), |percent| format!("{percent} %"));
    format!(
        "memory {}, CPU {cpu}, processes {}, open files {}, file size {}, disk weight {}, log {}",
        mib("memory_kib"),
        plain("processes"),
        plain("open_files"),
        mib("file_size_kib"),
        plain("io_weight"),
        mib("log_kib"),
    )
}

/// Returns a number of KiB in MiB, and a word for one that is not known.
fn mib(kib: &Value) -> String {
    kib.as_u64().map_or_else(|| "unknown".to_owned(), |kib| format!("{:.1} MiB", kib as f64 / 1024.0))
}

/// Returns `data: size 1024.0 MiB, on the host 55.0 MiB, used in the guest at /data 12.0 MiB, free there 911.0 MiB`.
fn disk(disk: &Value) -> String {
    format!(
        "{}: size {}, on the host {}, used in the guest at {} {}, free there {}",
        text(&disk["name"]),
        mib(&disk["size_kib"]),
        mib(&disk["host_kib"]),
        text(&disk["mount"]),
        mib(&disk["used_kib"]),
        mib(&disk["available_kib"]),
    )
}

/// Returns `memory 113.6 MiB, available 96.0 MiB, CPU 3s; daemon: memory 5.0 MiB, CPU 2s`.
fn guest(vm: &Value) -> String {
    let guest = &vm["guest"];
    if guest.is_null() {
        return "unknown".to_owned();
    }
    let time = |ms: &Value| {
        ms.as_u64().map_or_else(|| "unknown".to_owned(), |ms| format_duration(Duration::from_millis(ms)))
    };
    format!(
        "memory {}, available {}, CPU {}; daemon: memory {}, CPU {}",
        mib(&guest["memory_kib"]),
        mib(&guest["available_kib"]),
        time(&guest["cpu_ms"]),
        mib(&guest["daemon_memory_kib"]),
        time(&guest["daemon_cpu_ms"]),
    )
}

/// Returns each port of a VM with its use: `127.0.0.1:6379:6379 (3 open, 0 waiting)`.
fn ports(vm: &Value) -> Vec<String> {
    let in_use = list(&vm["port_use"]);
    let with_use = in_use.iter().map(|port| {
        let number = |key: &str, word: &str| match port[key].as_u64() {
            Some(number) => format!("{number} {word}"),
            None => format!("{word} unknown"),
        };
        format!("{} ({}, {})", text(&port["port"]), number("open", "open"), number("waiting", "waiting"))
    });
    // A launcher of an earlier version tells the ports alone.
    let others = list(&vm["ports"]).iter().filter_map(Value::as_str);
    let others = others.filter(|name| !in_use.iter().any(|port| port["port"] == *name)).map(str::to_owned);
    with_use.chain(others).collect()
}

/// Returns `memory 141.2 MiB (vmm 139.0, monitor 2.2), CPU 1m02s`. Memory that is shared with others counts in parts, where
/// that is known.
fn host(vm: &Value) -> Option<String> {
    let mib = |process: &Value| {
        let kib = process["pss_kib"].as_u64().or(process["rss_kib"].as_u64()).unwrap_or_default();
        format!("{:.1}", kib as f64 / 1024.0)
    };
    let usage = vm["usage"].as_object()?;
    let parts = list(&vm["usage"]["processes"]).iter();
    let parts: Vec<String> =
        parts.map(|part| format!("{} {}", shown(text(&part["role"])), mib(part))).collect();
    let cpu = Duration::from_millis(usage.get("cpu_ms").and_then(Value::as_u64).unwrap_or_default());
    Some(format!("memory {} MiB ({}), CPU {}", mib(&vm["usage"]), parts.join(", "), format_duration(cpu)))
}

/// Formats the newest result of the probes of a VM.
pub(super) fn last_probe(vm: &Value) -> Option<String> {
    Some(format!("{} probe: {}", text(&vm["name"]), probe(&vm["probe"])?))
}

/// Returns `failed, 3 in a row: connection refused`.
pub(super) fn probe(probe: &Value) -> Option<String> {
    let said = shown(probe["text"].as_str()?);
    Some(match (probe["healthy"].as_bool(), probe["failures"].as_u64()) {
        (Some(true), _) => format!("good: {said}"),
        (_, Some(failures @ 2..)) => format!("failed, {failures} in a row: {said}"),
        _ => format!("failed: {said}"),
    })
}
