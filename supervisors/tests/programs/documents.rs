//! Tests that the programs accept every call in the README and in `docs/`.

use crate::host::program;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Options of all three programs that take a value and may stand before the command.
const WITH_VALUE: &[&str] = &["--config", "-c", "--socket", "-s", "--run-dir"];

/// Commands that have commands.
const GROUPS: &[&str] = &["image", "kernel", "disk"];

/// Calls in code spans and in blocks of shell, as words.
fn calls(text: &str) -> Vec<Vec<&str>> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line.starts_with("```sh");
        } else if inside {
            lines.extend(line.split('#').next().unwrap_or_default().split(';'));
        }
    }
    lines.extend(text.split('`').filter(|span| !span.contains('\n')));
    let words = lines.into_iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| words.first().is_some_and(|first| is_ours(first)) && words.len() > 1).collect()
}

fn is_ours(word: &str) -> bool {
    ["pepita", "pepitad", "pepitactl"].contains(&word.rsplit('/').next().unwrap_or_default())
}

/// Returns the options of a call, each short one apart (`-it`). What follows `--` is another program's.
fn flags(words: &[&str]) -> Vec<String> {
    let ours = words.iter().take_while(|word| **word != "--");
    let flags = ours.filter(|word| word.starts_with('-') && word.len() > 1);
    flags
        .flat_map(|flag| match flag.strip_prefix("--") {
            Some(long) => vec![format!("--{}", long.split('=').next().unwrap_or_default())],
            None => flag[1..].chars().map(|short| format!("-{short}")).collect(),
        })
        .collect()
}

/// Returns the output of `--help` of a command; `None` if there is no such command.
fn help(program_name: &str, command: &[&str]) -> Option<String> {
    let output =
        Command::new(program(program_name)).args(command).arg("--help").output().expect("the program runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_programs_understand_what_the_documents_show() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents: Vec<_> =
        std::fs::read_dir(top.join("docs")).expect("docs").flatten().map(|e| e.path()).collect();
    documents.push(top.join("README.md"));
    let mut helps = BTreeMap::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for document in documents {
        let text = std::fs::read_to_string(&document).expect("a document");
        for words in calls(&text) {
            count += 1;
            let name = words[0].rsplit('/').next().unwrap_or_default();
            let mut command = Vec::new();
            let mut rest = words[1..].iter();
            while let Some(word) = rest.next() {
                if WITH_VALUE.contains(word) {
                    rest.next();
                } else if word.starts_with('-') || !word.chars().all(|c| c.is_ascii_lowercase()) {
                    break;
                } else if command.is_empty() || matches!(&command[..], [group] if GROUPS.contains(group)) {
                    command.push(*word);
                } else {
                    break;
                }
            }
            let help =
                helps.entry((name.to_owned(), command.join(" "))).or_insert_with(|| help(name, &command));
            let Some(help) = help else {
                wrong.push(format!("{}: {}: no such command", document.display(), words.join(" ")));
                continue;
            };
            for flag in flags(&words) {
                if !help.split(|c: char| c.is_whitespace() || ",[]".contains(c)).any(|word| word == flag) {
                    wrong.push(format!("{}: {}: no {flag}", document.display(), words.join(" ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 20, "only {count} calls were found");
}
