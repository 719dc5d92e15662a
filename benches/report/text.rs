//! Writes the report as Markdown.

use crate::figures::{Aim, Figure, Results, Table};
use crate::machine::Machine;
use std::fmt::Write as _;

/// Between these lines of a document are the figures of the last run.
const BEGIN: &str = "<!-- figures of the last run: begin (make performance-doc) -->";
const END: &str = "<!-- figures of the last run: end -->";

/// Returns the figures, the growth and what is missing. `plots` are the names of the pictures with what they show.
pub(crate) fn markdown(results: &Results, machine: &Machine, plots: &[(String, &str)]) -> String {
    let mut text = String::new();
    if !results.is_release() {
        text.push_str("**Built without optimisation: these figures show only that the benches run.**\n\n");
    }
    let Machine { cpu, cores, memory_mib, kernel, accelerator, qemu, load, commit, date, profile } = machine;
    let _ = writeln!(text, "| machine | |\n| --- | --- |");
    for (name, value) in [
        ("commit", commit.clone()),
        ("date", date.clone()),
        ("build profile", profile.clone()),
        ("processor", format!("{cpu}, {cores} usable")),
        ("memory", format!("{memory_mib} MiB")),
        ("kernel", kernel.clone()),
        ("hardware virtualisation", accelerator.clone()),
        ("QEMU", qemu.clone()),
        ("load when the report was made", load.clone()),
    ] {
        let _ = writeln!(text, "| {name} | {} |", cell(&value));
    }
    text.push_str(
        "\n| bench | what | VMs | n | median | p99 | baseline (same run) | ratio | aim | met |\n\
         | --- | --- | --: | --: | --: | --: | --- | --: | --- | --- |\n",
    );
    for figure in &results.figures {
        row(&mut text, figure);
    }
    growth(&mut text, results);
    results.tables.iter().for_each(|it| table(&mut text, it));
    if !results.missing.is_empty() {
        text.push_str("\nNot measured, because something is missing:\n\n");
        for missing in &results.missing {
            let _ = writeln!(
                text,
                "- {} (`{}`): {}. To get it: `{}`.",
                missing.peer,
                missing.bench,
                cell(&missing.why),
                missing.install
            );
        }
    }
    for (name, what) in plots {
        let _ = writeln!(text, "\n![{what}]({name})");
    }
    text
}

fn row(text: &mut String, figure: &Figure) {
    let unit = if figure.unit.is_empty() { String::new() } else { format!(" {}", figure.unit) };
    let baseline = match (&figure.baseline, figure.baseline_value) {
        (Some(name), Some(value)) => format!("{name}: {}{unit}", number(value)),
        _ => String::new(),
    };
    let aims: Vec<String> = [
        figure.aim.map(|aim| format!("{}{unit}", bound(aim))),
        figure.ratio_aim.map(|aim| format!("ratio {}", bound(aim))),
    ]
    .into_iter()
    .flatten()
    .collect();
    let met = match is_met(figure) {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    };
    let _ = writeln!(
        text,
        "| {} | {} | {} | {} | {}{unit} | {} | {} | {} | {} | {met} |",
        figure.bench,
        cell(&figure.what),
        figure.vms.map(|vms| vms.to_string()).unwrap_or_default(),
        figure.n,
        number(figure.median),
        figure.p99.map(|late| format!("{}{unit}", number(late))).unwrap_or_default(),
        cell(&baseline),
        figure.ratio.map(number).unwrap_or_default(),
        aims.join(", "),
    );
}

/// Returns whether all aims of a figure are met, if it has any.
fn is_met(figure: &Figure) -> Option<bool> {
    let own = figure.aim.map(|aim| aim.is_met(figure.median));
    let ratio = figure.ratio_aim.map(|aim| figure.ratio.is_some_and(|ratio| aim.is_met(ratio)));
    match (own, ratio) {
        (None, None) => None,
        (own, ratio) => Some(own.unwrap_or(true) && ratio.unwrap_or(true)),
    }
}

fn growth(text: &mut String, results: &Results) {
    let rows = results.growth();
    if rows.is_empty() {
        return;
    }
    text.push_str(
        "\nGrowth with the number of VMs. The exponent is that of the power of the number with which the figure grows between the \
         smallest and the largest: 0 is a constant cost, 1 a linear one, 2 a quadratic one.\n\n\
         | what | figures | exponent |\n| --- | --- | --: |\n",
    );
    for row in rows {
        let values: Vec<String> = row
            .iter()
            .map(|figure| {
                format!("{} VMs: {} {}", figure.vms.unwrap_or(0), number(figure.median), figure.unit)
            })
            .collect();
        let exponent = exponent(row[0], row[row.len() - 1]).map(|it| format!("{it:.2}")).unwrap_or_default();
        let _ = writeln!(text, "| {} | {} | {exponent} |", cell(&row[0].what), values.join("; "));
    }
}

/// Writes a table of a bench. The first column is of words, the others are of numbers.
fn table(text: &mut String, table: &Table) {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|it| cell(it)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let _ = writeln!(text, "\n{} (`{}`):\n", table.title, table.bench);
    text.push_str(&line(&table.columns));
    let _ = writeln!(text, "| --- |{}", " --: |".repeat(table.columns.len().saturating_sub(1)));
    table.rows.iter().for_each(|row| text.push_str(&line(row)));
}

/// Returns the power of the number of VMs with which a figure grows.
fn exponent(first: &Figure, last: &Figure) -> Option<f64> {
    let vms = last.vms? as f64 / first.vms? as f64;
    (first.median > 0.0 && last.median > 0.0).then(|| (last.median / first.median).ln() / vms.ln())
}

fn bound(aim: Aim) -> String {
    match aim {
        Aim::AtMost(bound) => format!("≤ {}", number(bound)),
        Aim::AtLeast(bound) => format!("≥ {}", number(bound)),
    }
}

/// Returns a number with about three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.trunc() && size < 1e6 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Returns a text that stays in its cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// Puts the report between the two marks of a document.
///
/// # Errors
///
/// The mark that is not there, with what would be right.
pub(crate) fn fill(document: &str, report: &str) -> Result<String, String> {
    let lacks = |mark: &str| format!("the line `{mark}` is missing");
    let (before, rest) = document.split_once(BEGIN).ok_or_else(|| lacks(BEGIN))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| lacks(END))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", report.trim()))
}
