//! Makes the report of a run of the benches: reads the figures that they have stored, adds the facts of this machine,
//! prints a table in Markdown, and writes `results.json`, `performance.md` and the plots beside the figures.
//!
//! `bench_report figures.jsonl` does this. `bench_report results.json --document FILE` puts such results between the two
//! marks of a document, and the plots beside it.

mod figures;
mod machine;
mod plots;
#[cfg(test)]
mod tests;
mod text;

use figures::Results;
use machine::Machine;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: bench_report figures.jsonl, or bench_report results.json --document FILE";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        [figures] => report(Path::new(figures)),
        [results, "--document", document] => fill(Path::new(results), Path::new(document)),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("bench_report: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Results with the machine that they are of.
#[derive(Serialize, Deserialize)]
struct Run {
    machine: Machine,
    #[serde(flatten)]
    results: Results,
}

/// Writes all files, and returns the report.
fn report(path: &Path) -> Result<String, String> {
    let results = Results::read(path)?;
    let machine = Machine::here(if results.is_release() { "release" } else { "debug" });
    let run = Run { machine, results };
    let folder = path.parent().unwrap_or(Path::new("."));
    let json = serde_json::to_string_pretty(&run).map_err(|e| e.to_string())?;
    write(&folder.join("results.json"), &format!("{json}\n"))?;
    let report = text::markdown(&run.results, &run.machine, &draw(&run.results, folder, "")?);
    write(&folder.join("performance.md"), &format!("# Figures of the last run\n\n{report}"))?;
    Ok(report)
}

/// Puts the results of a run into a document, and returns what was done.
fn fill(path: &Path, document: &Path) -> Result<String, String> {
    let json = std::fs::read_to_string(path)
        .map_err(|e| format!("{}: {e}; run `make bench` first", path.display()))?;
    let Run { machine, results } = serde_json::from_str(&json)
        .map_err(|e| format!("{}: {e}; run `make bench` again", path.display()))?;
    if !results.is_release() {
        return Err(format!(
            "{}: these figures are of programs without optimisation; `make bench` makes those for a document",
            path.display()
        ));
    }
    let former = std::fs::read_to_string(document).map_err(|e| format!("{}: {e}", document.display()))?;
    // Without its marks the document is left alone, and no plots are put beside it.
    text::fill(&former, "").map_err(|why| format!("{}: {why}", document.display()))?;
    let stem = document.file_stem().unwrap_or_default().to_string_lossy();
    let plots = draw(&results, document.parent().unwrap_or(Path::new(".")), &format!("{stem}-"))?;
    let filled = text::fill(&former, &text::markdown(&results, &machine, &plots))?;
    write(document, &filled)?;
    Ok(format!("{}: the figures of {} are in it", document.display(), machine.date))
}

/// Writes the plots as `<stem><name>.svg` into a folder, and returns their names with what they show.
fn draw(results: &Results, folder: &Path, stem: &str) -> Result<Vec<(String, &'static str)>, String> {
    let mut names = Vec::new();
    for (name, what, svg) in [
        ("ratios", "Ratios to the baselines", plots::ratios(results)),
        ("growth", "Growth with the number of VMs", plots::growth(results)),
    ] {
        let Some(svg) = svg else { continue };
        let file = format!("{stem}{name}.svg");
        write(&folder.join(&file), &svg)?;
        names.push((file, what));
    }
    Ok(names)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}
