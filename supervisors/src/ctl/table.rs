//! Formats the status as a table and as a tree, for people. Does no I/O.

use super::detail::{last_end, last_probe, launched, probe};
use super::view::{find, list, text};
use crate::format::{format_duration, phase_style, shown};
use anstyle::Style;
use pepita_supervisor::delay_in_words;
use serde_json::Value;
use std::time::Duration;

const HEAD: [&str; 9] = ["GROUP", "VM", "PHASE", "INC", "ATT", "CID", "PID", "SINCE", "NOTE"];

/// What `top` shows of the VMM, before the note.
const TOP: [&str; 2] = ["MEM", "CPU"];

/// The place of the note, which is the last column of a status.
const NOTE: usize = 8;

/// The column that gets a colour.
const PHASE: usize = 2;

/// Formats a row for each VM, and a line for each group that is down.
pub(super) fn status(status: &Value) -> String {
    let rows = list(&status["groups"]).iter().flat_map(rows_of).collect();
    let mut lines = table(rows);
    lines.extend(down(status));
    lines.extend(warnings(status));
    lines.join("\n")
}

/// Returns what people should know of the supervisor as a whole.
fn warnings(status: &Value) -> impl Iterator<Item = String> {
    let unsaved = status["unsaved"].as_str();
    let unsaved = unsaved.map(|why| format!("nothing can be saved: {}", shown(why)));
    let vms = list(&status["groups"]).iter().flat_map(|group| list(&group["vms"]));
    let plain = match vms.filter(|vm| vm["vmm"] == "process").count() {
        0 => None,
        1 => Some("1 VM is a plain process: nothing separates it from this host".to_owned()),
        plain => Some(format!("{plain} VMs are plain processes: nothing separates them from this host")),
    };
    unsaved.into_iter().chain(plain)
}

/// Formats a row for each of these VMs, and for those that were named what is known of their last end.
pub(super) fn status_of(status: &Value, vms: &[String], in_full: bool) -> String {
    let found = vms.iter().filter_map(|vm| find(status, vm));
    let mut lines = table(found.map(|(group, vm)| row(text(&group["name"]), vm)).collect());
    if in_full {
        let found = vms.iter().filter_map(|vm| find(status, vm));
        lines.extend(found.flat_map(|(_, vm)| launched(vm).chain(last_end(vm)).chain(last_probe(vm))));
    }
    lines.join("\n")
}

/// Formats the rows of as many VMs as there is room for, those first that need attention, and how many more there are.
pub(super) fn top(status: &Value, room: usize) -> Vec<String> {
    let mut rows: Vec<Vec<String>> = list(&status["groups"]).iter().flat_map(rows_of_top).collect();
    // Within a rank the order stays that of the configuration.
    rows.sort_by_key(|row| rank(&row[PHASE]));
    let down: Vec<String> = down(status).collect();
    let room = room.saturating_sub(down.len() + 1);
    let mut more = Vec::new();
    if rows.len() > room {
        more = rows.split_off(room.saturating_sub(1));
    }
    let mut head = HEAD.to_vec();
    head.splice(NOTE..NOTE, TOP);
    let mut lines = table_of(&head, rows);
    if !more.is_empty() {
        let mut phases: Vec<(&str, usize)> = Vec::new();
        for row in &more {
            match phases.iter_mut().find(|(phase, _)| *phase == row[PHASE]) {
                Some((_, count)) => *count += 1,
                None => phases.push((&row[PHASE], 1)),
            }
        }
        let phases: Vec<String> = phases.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
        lines.push(format!("… {} more: {}", more.len(), phases.join(", ")));
    }
    lines.extend(down);
    lines
}

/// Returns the place of a phase among those that need attention; the lowest needs it most.
fn rank(phase: &str) -> usize {
    const ORDER: [&str; 13] = [
        "failed",
        "unknown",
        "backoff",
        "unhealthy",
        "paused",
        "stopping",
        "starting",
        "running",
        "waiting",
        "stopped",
        "completed",
        "idle",
        "ready",
    ];
    // A phase of a later version may need attention.
    ORDER.iter().position(|known| *known == phase).unwrap_or(2)
}

fn rows_of(group: &Value) -> impl Iterator<Item = [String; 9]> {
    list(&group["vms"]).iter().map(|vm| row(text(&group["name"]), vm))
}

/// Returns the rows of a group for `top`: those of a status, with the memory and the CPU of the VMM.
fn rows_of_top(group: &Value) -> impl Iterator<Item = Vec<String>> {
    list(&group["vms"]).iter().map(|vm| {
        let mut row = row(text(&group["name"]), vm).to_vec();
        let percent = vm["vmm_cpu_percent"].as_u64().map_or_else(|| "-".to_owned(), |cpu| format!("{cpu}%"));
        let memory = vm["vmm_rss_kib"].as_u64();
        let memory = memory.map_or_else(|| "-".to_owned(), |kib| format!("{}M", kib.div_ceil(1024)));
        row.splice(NOTE..NOTE, [memory, percent]);
        row
    })
}

fn table(vms: Vec<[String; 9]>) -> Vec<String> {
    table_of(&HEAD, vms.into_iter().map(Vec::from).collect())
}

fn table_of(head: &[&str], vms: Vec<Vec<String>>) -> Vec<String> {
    let mut rows = vec![head.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()];
    rows.extend(vms);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    rows.iter().enumerate().map(|(n, row)| format_row(row, &widths, n == 0)).collect()
}

/// Returns a line for each group that is down.
fn down(status: &Value) -> impl Iterator<Item = String> {
    list(&status["groups"]).iter().filter_map(|group| {
        let ended = group["ended"]["reason"].as_str()?;
        Some(format!("group {} is down: {}", text(&group["name"]), shown(ended)))
    })
}

fn format_row(row: &[String], widths: &[usize], head: bool) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
        let style = match (head, column) {
            (true, _) => Style::new().bold(),
            (false, PHASE) => phase_style(cell),
            (false, _) => Style::new(),
        };
        // The last cell is not padded.
        let pad = if column + 1 == row.len() { 0 } else { width - cell.chars().count() };
        format!("{style}{cell}{style:#}{}", " ".repeat(pad))
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn row(group: &str, vm: &Value) -> [String; 9] {
    let number = |key: &str| vm[key].as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
    [
        group.to_owned(),
        text(&vm["name"]).to_owned(),
        text(&vm["phase"]).to_owned(),
        number("incarnation"),
        number("attempts"),
        number("cid"),
        number("vmm_pid"),
        since(vm),
        note(vm),
    ]
}

fn since(vm: &Value) -> String {
    format_duration(Duration::from_millis(vm["phase_ms"].as_u64().unwrap_or_default()))
}

/// Returns the details that the phase alone does not show.
fn note(vm: &Value) -> String {
    let mut notes = Vec::new();
    if let Some(reason) = vm["reason"].as_str() {
        notes.push(reason.to_owned());
    }
    if let Some(what) = vm["waits_for"].as_str() {
        notes.push(format!("waits for {what}"));
    }
    if let Some(ms) = vm["backoff"]["in_ms"].as_u64() {
        let delay = delay_in_words(Duration::from_millis(ms));
        notes.push(format!("restart in {delay}, after {}", text(&vm["backoff"]["ending"]["text"])));
    }
    if vm["probe"]["healthy"] == false && matches!(text(&vm["phase"]), "running" | "ready" | "unhealthy") {
        notes.extend(probe(&vm["probe"]).map(|probe| format!("probe {probe}")));
    }
    if let Some(standby) = vm["standby"].as_u64() {
        let ready = list(&vm["spares"]).iter().filter(|spare| spare["ready"] == true).count();
        notes.push(format!("{ready} of {standby} spares ready"));
    }
    if vm["needs_restart"] == true {
        notes.push("changed; a restart applies it".into());
    }
    shown(&notes.join("; ")).into_owned()
}

/// Formats the groups with their strategies, and their VMs below them.
pub(super) fn tree(status: &Value) -> String {
    let mut lines = vec![format!("{} (pid {})", text(&status["name"]), status["pid"])];
    let groups = list(&status["groups"]);
    for (n, group) in groups.iter().enumerate() {
        let last = n + 1 == groups.len();
        let after: Vec<&str> = list(&group["after"]).iter().map(text).collect();
        let after = if after.is_empty() { String::new() } else { format!(", after {}", after.join(", ")) };
        let ended = group["ended"]["reason"].as_str();
        let ended = ended.map(|why| format!(", down: {}", shown(why))).unwrap_or_default();
        let window = text(&group["window"]["text"]);
        lines.push(format!(
            "{}{}: {}, window {window}{after}{ended}",
            if last { "└── " } else { "├── " },
            text(&group["name"]),
            text(&group["strategy"]),
        ));
        let vms = list(&group["vms"]);
        for (m, vm) in vms.iter().enumerate() {
            let phase = text(&vm["phase"]);
            let style = phase_style(phase);
            let note = Some(note(vm)).filter(|note| !note.is_empty()).map(|note| format!(" ({note})"));
            lines.push(format!(
                "{}{}{} #{} {style}{phase}{style:#} {}{}",
                if last { "    " } else { "│   " },
                if m + 1 == vms.len() { "└── " } else { "├── " },
                text(&vm["name"]),
                vm["incarnation"],
                since(vm),
                note.unwrap_or_default(),
            ));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn example() -> Value {
        json!({ "name": "edge", "pid": 7, "groups": [
            { "name": "db", "window": { "text": "0/6 in 1m" }, "strategy": "one_for_one", "after": [], "ended": null, "vms": [
                { "name": "a", "phase": "ready", "incarnation": 2, "attempts": 0, "cid": 3, "vmm_pid": 99,
                  "needs_restart": true, "phase_ms": 61_000 } ] },
            { "name": "web", "window": { "text": "1/6 in 1m" }, "strategy": "rest_for_one", "after": ["db"], "ended": { "reason": "why" }, "vms": [
                { "name": "long-name", "phase": "backoff", "incarnation": 1, "attempts": 1, "cid": null, "vmm_pid": null,
                  "needs_restart": false, "phase_ms": 0, "backoff": { "in_ms": 900, "attempt": 1, "ending": { "text": "exit 1" } } } ] },
        ] })
    }

    #[test]
    fn the_columns_of_the_table_are_aligned() {
        let expected = "\
GROUP  VM         PHASE    INC  ATT  CID  PID  SINCE  NOTE
db     a          ready    2    0    3    99   1m01s  changed; a restart applies it
web    long-name  backoff  1    1    -    -    0s     restart in 0.9 s, after exit 1
group web is down: why";
        assert_eq!(plain(&status(&example())), expected);
    }

    #[test]
    fn the_top_shows_first_what_needs_attention_and_counts_the_rest() {
        let vm = |name: &str, phase: &str| json!({ "name": name, "phase": phase, "phase_ms": 0 });
        let mut vms: Vec<Value> = (0..25).map(|n| vm(&format!("v{n}"), "ready")).collect();
        vms[20] = vm("broken", "failed");
        vms[0]["vmm_rss_kib"] = 143_000.into();
        vms[0]["vmm_cpu_percent"] = 12.into();
        vms[10] = vm("slow", "starting");
        let status = json!({ "groups": [{ "name": "g", "vms": vms }] });
        let lines: Vec<String> = top(&status, 8).iter().map(|line| plain(line)).collect();
        assert_eq!(lines.len(), 8, "{lines:#?}");
        assert!(
            lines[1].contains("broken") && lines[2].contains("slow") && lines[3].contains("v0"),
            "{lines:#?}"
        );
        assert!(lines[0].ends_with("SINCE  MEM   CPU  NOTE"), "{}", lines[0]);
        assert!(lines[3].ends_with("0s     140M  12%") && lines[4].ends_with("0s     -     -"), "{lines:#?}");
        assert_eq!(lines[7], "… 19 more: 19 ready");
        // With room for all there is no such line, and with none there is still one.
        assert_eq!(top(&status, 100).len(), 26);
        assert!(
            top(&status, 0)
                .last()
                .is_some_and(|line| line.starts_with("… 25 more: 1 failed, 1 starting, 23 ready"))
        );
    }

    #[test]
    fn words_of_a_guest_do_not_steer_the_terminal() {
        let evil = "\u{1b}]0;x\u{7}\n\u{9b}2J";
        let ending = json!({ "text": evil, "evidence": [evil], "console": [evil] });
        let status = json!({ "name": "edge", "pid": 7, "groups": [
            { "name": "g", "strategy": "one_for_one", "ended": { "reason": evil }, "vms": [
                { "name": "a", "phase": "failed", "reason": evil, "failure": { "ending": ending } },
                { "name": "b", "phase": "backoff", "backoff": { "in_ms": 5, "ending": ending } },
                { "name": "c", "phase": "unhealthy", "probe": { "healthy": false, "failures": 3, "text": evil } } ] } ] });
        let vms = ["a", "b", "c"].map(str::to_owned);
        for text in [
            super::status(&status),
            tree(&status),
            status_of(&status, &vms, true),
            top(&status, 9).join("\n"),
        ] {
            let styled = text.replace('\n', "");
            let plain = plain(&text);
            assert!(!plain.contains(|c: char| c.is_control() && c != '\n'), "{plain:?}");
            assert!(plain.contains(r"\x1b]0;x\x07\n\x9b2J"), "{plain}");
            assert!(!styled.contains('\u{7}') && !styled.contains('\u{9b}'));
        }
    }

    #[test]
    fn what_a_probe_has_found_is_shown_in_full_and_in_a_note_when_it_is_bad() {
        let vm = |name: &str, phase: &str, healthy: bool| {
            let probe = json!({ "healthy": healthy, "failures": if healthy { 0 } else { 2 }, "text": "HTTP 503 Busy" });
            json!({ "name": name, "phase": phase, "incarnation": 1, "attempts": 0, "phase_ms": 0, "probe": probe })
        };
        let vms = [vm("a", "unhealthy", false), vm("b", "ready", true), vm("c", "backoff", false)];
        let status = json!({ "groups": [{ "name": "g", "vms": vms }] });
        let names = ["a", "b", "c"].map(str::to_owned);
        let expected = "\
GROUP  VM  PHASE      INC  ATT  CID  PID  SINCE  NOTE
g      a   unhealthy  1    0    -    -    0s     probe failed, 2 in a row: HTTP 503 Busy
g      b   ready      1    0    -    -    0s
g      c   backoff    1    0    -    -    0s
a probe: failed, 2 in a row: HTTP 503 Busy
b probe: good: HTTP 503 Busy
c probe: failed, 2 in a row: HTTP 503 Busy";
        assert_eq!(plain(&status_of(&status, &names, true)), expected);
    }

    #[test]
    fn what_the_launcher_knows_is_shown_in_full() {
        let usage = json!({ "rss_kib": 9000, "pss_kib": 3072, "cpu_ms": 62_000, "processes": [
            { "role": "vmm", "rss_kib": 8000, "pss_kib": 2560 }, { "role": "monitor", "rss_kib": 512 } ] });
        let disks = json!([{ "name": "data", "mount": "/data", "size_kib": 1_048_576, "host_kib": 2048, "used_kib": 1536 }]);
        let guest =
            json!({ "memory_kib": 116_326, "available_kib": 98_304, "cpu_ms": 3000, "daemon_cpu_ms": 2000 });
        let vm = json!({ "name": "a", "phase": "ready", "incarnation": 1, "attempts": 0, "phase_ms": 0, "usage": usage,
            "vmm": "qemu", "timings": { "total_us": 1_380_600, "parts": [
                { "part": "claims", "us": 449 }, { "part": "kernel", "us": 1_380_151 } ] }, "guest": guest, "disks": disks, "address": "10.88.0.6",
            "limits": { "memory_kib": 360_448, "cpu_percent": 150, "open_files": 1024, "log_kib": 51_200 },
            "jail": { "level": "best-effort", "processes": { "vmm": { "uid": 700_000, "layers": {
                "landlock": { "is": "missing", "why": "no kernel for it" }, "root": { "is": "in-force" } } } } },
            "image": { "reference": "docker.io/library/redis:7", "digest": "sha256:ab" },
            "standby": 2, "spares": [{ "id": "duende-vm-a-spare-1", "ready": true, "vmm_pid": 7, "usage": usage },
                { "id": "duende-vm-a-spare-2", "ready": false, "cid": null, "vmm_pid": null }],
            "ports": ["127.0.0.1:6379:6379", "127.0.0.1:81:80", "unix:/run/a.sock:80"], "port_use": [
                { "port": "127.0.0.1:6379:6379", "open": 3, "waiting": 0 },
                { "port": "127.0.0.1:81:80", "open": null, "waiting": null } ] });
        let status = json!({ "groups": [{ "name": "g", "vms": [vm] }] });
        let expected = "\
GROUP  VM  PHASE  INC  ATT  CID  PID  SINCE  NOTE
g      a   ready  1    0    -    -    0s     1 of 2 spares ready
a image: docker.io/library/redis:7 sha256:ab
a start: 0.4 ms (claims) + 1380.2 ms (kernel) = 1380.6 ms
a address: 10.88.0.6
a ports: 127.0.0.1:6379:6379 (3 open, 0 waiting), 127.0.0.1:81:80 (open unknown, waiting unknown), unix:/run/a.sock:80
a disk data: size 1024.0 MiB, on the host 2.0 MiB, used in the guest at /data 1.5 MiB, free there unknown
a host: memory 3.0 MiB (vmm 2.5, monitor 0.5), CPU 1m02s
a limits: memory 352.0 MiB, CPU 150 %, processes none, open files 1024, file size none, disk weight none, log 50.0 MiB
a jail: best-effort, vmm as user 700000; without landlock: no kernel for it
a guest: memory 113.6 MiB, available 96.0 MiB, CPU 3s; daemon: memory unknown, CPU 2s
a spare duende-vm-a-spare-1: ready, process 7, memory 3.0 MiB (vmm 2.5, monitor 0.5), CPU 1m02s
a spare duende-vm-a-spare-2: not ready";
        assert_eq!(plain(&status_of(&status, &["a".to_owned()], true)), expected);
        assert_eq!(status_of(&status, &["a".to_owned()], false).lines().count(), 2);
    }

    #[test]
    fn the_tree_has_its_branches() {
        let expected = "\
edge (pid 7)
├── db: one_for_one, window 0/6 in 1m
│   └── a #2 ready 1m01s (changed; a restart applies it)
└── web: rest_for_one, window 1/6 in 1m, after db, down: why
    └── long-name #1 backoff 0s (restart in 0.9 s, after exit 1)";
        assert_eq!(plain(&tree(&example())), expected);
    }
}
