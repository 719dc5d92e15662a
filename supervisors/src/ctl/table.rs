//! Formats the status as a table and as a tree, for people. Does no I/O.

use crate::format::{format_duration, phase_style};
use anstyle::Style;
use serde_json::Value;
use std::time::Duration;

const HEAD: [&str; 9] = ["GROUP", "VM", "PHASE", "INC", "ATT", "CID", "PID", "SINCE", "NOTE"];

/// The column that gets a colour.
const PHASE: usize = 2;

/// Formats a row for each VM, and a line for each group that is down.
pub(super) fn status(status: &Value) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for group in list(&status["groups"]) {
        let vms = list(&group["vms"]);
        rows.extend(vms.iter().map(|vm| row(text(&group["name"]), vm)));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut lines: Vec<String> =
        rows.iter().enumerate().map(|(n, row)| format_row(row, &widths, n == 0)).collect();
    for group in list(&status["groups"]) {
        if let Some(ended) = group["ended"]["reason"].as_str() {
            lines.push(format!("group {} is down: {ended}", text(&group["name"])));
        }
    }
    lines.join("\n")
}

fn format_row(row: &[String; 9], widths: &[usize], head: bool) -> String {
    let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
        let style = match (head, column) {
            (true, _) => Style::new().bold(),
            (false, PHASE) => phase_style(cell),
            (false, _) => Style::new(),
        };
        // The last cell is not padded.
        let pad = if column + 1 == HEAD.len() { 0 } else { width - cell.chars().count() };
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
    if let Some(ms) = vm["backoff"]["in_ms"].as_u64() {
        let seconds = Duration::from_millis(ms).as_secs_f64();
        notes.push(format!("restart in {seconds:.1} s, after {}", text(&vm["backoff"]["ending"]["text"])));
    }
    if vm["needs_restart"] == true {
        notes.push("changed; a restart applies it".into());
    }
    notes.join("; ")
}

/// Formats the groups with their strategies, and their VMs below them.
pub(super) fn tree(status: &Value) -> String {
    let mut lines = vec![format!("{} (pid {})", text(&status["name"]), status["pid"])];
    let groups = list(&status["groups"]);
    for (n, group) in groups.iter().enumerate() {
        let last = n + 1 == groups.len();
        let after: Vec<&str> = list(&group["after"]).iter().map(text).collect();
        let after = if after.is_empty() { String::new() } else { format!(", after {}", after.join(", ")) };
        let ended = group["ended"]["reason"].as_str().map(|why| format!(", down: {why}")).unwrap_or_default();
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

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
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
