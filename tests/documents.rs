//! Holds code and documents together: cited clauses exist, and no file cites a document that is not in the repository.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The folders and the single files that are checked.
const PLACES: &[&str] = &[
    "src",
    "crates",
    "supervisors",
    "tests",
    "docs",
    "benches",
    "examples",
    "fuzz/src",
    "config",
    "scripts",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "Makefile",
    "Cargo.toml",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder of the repository can be read").flatten() {
            if entry.file_name() != "target" {
                collect(&entry.path(), found);
            }
        }
    } else if path
        .extension()
        .is_some_and(|e| ["rs", "md", "toml", "sh", "py"].iter().any(|known| e == *known))
        || path.ends_with("Makefile")
    {
        found.push(path.to_owned());
    }
}

/// Returns every text file of the repository except this one, whose patterns look like citations.
fn files() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for place in PLACES {
        collect(&root().join(place), &mut found);
    }
    found.retain(|path| !path.ends_with("tests/documents.rs"));
    found.sort();
    let read = |path: PathBuf| Some((path.clone(), std::fs::read_to_string(path).ok()?));
    found.into_iter().filter_map(read).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Returns the numbers after each "semantics " in a text: `semantics 4.1, 5 and 12.3` gives three.
fn cited(text: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    for after in text.split("semantics ").skip(1) {
        let mut rest = after;
        loop {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let number = rest[..end].trim_end_matches('.');
            if number.is_empty() {
                break;
            }
            numbers.push(number.to_owned());
            rest = &rest[number.len()..];
            let next = [", ", " and ", " to "].iter().find_map(|between| rest.strip_prefix(between));
            match next {
                Some(next) => rest = next,
                None => break,
            }
        }
    }
    numbers
}

/// Returns the numbers of the sections and clauses of `docs/semantics.md`, in the order of the file.
fn clauses() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/semantics.md")).expect("docs/semantics.md");
    let number = |line: &str| {
        let clause = line.strip_prefix("- **").and_then(|rest| rest.split("**").next());
        let section = || line.strip_prefix("## ").and_then(|rest| rest.split(". ").next());
        let number = clause.or_else(section)?;
        number.starts_with(|c: char| c.is_ascii_digit()).then(|| number.to_owned())
    };
    text.lines().filter_map(number).collect()
}

#[test]
fn citations_are_found_in_prose() {
    assert_eq!(cited("see semantics 4.1, 5 and 12.3. More"), ["4.1", "5", "12.3"]);
    assert_eq!(cited("(semantics 3 to 6), and the semantics of it"), ["3", "6"]);
}

#[test]
fn every_cited_clause_exists() {
    let known: BTreeSet<String> = clauses().into_iter().collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, text) in files() {
        for number in cited(&text) {
            count += 1;
            if !known.contains(&number) {
                wrong.push(format!("{}: semantics {number}", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "no such clause in docs/semantics.md:\n{}", wrong.join("\n"));
    assert!(count > 50, "only {count} citations were found: does this test still see them?");
}

#[test]
fn clauses_are_numbered_without_gaps() {
    let (mut section, mut clause) = (0, 0);
    for number in clauses() {
        match number.split_once('.') {
            None => (section, clause) = (section + 1, 0),
            Some(_) => clause += 1,
        }
        let expected = if clause == 0 { section.to_string() } else { format!("{section}.{clause}") };
        assert_eq!(number, expected, "docs/semantics.md");
    }
    assert_eq!(section, 20);
}

#[test]
fn no_file_cites_a_document_that_is_not_here() {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let here: BTreeSet<String> = files().iter().map(|(path, _)| name(path)).collect();
    let mut wrong = Vec::new();
    for (path, text) in files() {
        for (at, _) in text.match_indices(".md") {
            let stem =
                text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-')).next();
            let cited = format!("{}.md", stem.unwrap_or_default());
            if cited != ".md" && !here.contains(&cited) {
                wrong.push(format!("{}: {cited}", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "documents that are not in the repository:\n{}", wrong.join("\n"));
}

/// Returns the paths of files and folders of the repository in the code spans of a text: `src/cid.rs`, `docs/`.
fn named_paths(text: &str) -> Vec<&str> {
    const TOPS: &[&str] = &[
        "src/",
        "crates/",
        "supervisors/",
        "tests/",
        "docs/",
        "benches/",
        "examples/",
        "fuzz/",
        "config/",
        "scripts/",
    ];
    let spans = text.split('`').skip(1).step_by(2);
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let paths = spans.chain(links).filter(|span| TOPS.iter().any(|top| span.starts_with(top)));
    paths.filter(|path| path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))).collect()
}

#[test]
fn every_file_that_a_document_names_exists() {
    let mut wrong = Vec::new();
    for (path, text) in files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "md")) {
        for named in named_paths(text) {
            let near = path.parent().expect("a folder").join(named);
            if !root().join(named).exists() && !near.exists() {
                wrong.push(format!("{}: {named}", shown(path)));
            }
        }
    }
    assert!(wrong.is_empty(), "files that are not there:\n{}", wrong.join("\n"));
}

/// Returns the variants of an enum in kebab-case, as events and records spell them.
fn variants(name: &str, folders: &[&str]) -> BTreeSet<String> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut found);
    }
    let rust = found.iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let items = rust.flat_map(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", shown(path))).items
    });
    let mut enums = items.filter_map(|item| match item {
        syn::Item::Enum(item) if item.ident == name => Some(item),
        _ => None,
    });
    let item = enums.next().unwrap_or_else(|| panic!("no enum {name} in {folders:?}"));
    item.variants.iter().map(|variant| kebab(&variant.ident.to_string())).collect()
}

fn kebab(name: &str) -> String {
    let mut word = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(c.to_ascii_lowercase());
    }
    word
}

/// Returns the words of all tables of `docs/semantics.md` that begin with this heading.
fn words(heading: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("docs/semantics.md")).expect("docs/semantics.md");
    let start = format!("| {heading} |");
    let tables =
        text.split(start.as_str()).skip(1).map(|table| table.split("\n\n").next().unwrap_or_default());
    let rows = tables.flat_map(|table| table.lines().skip(1));
    rows.filter_map(|row| row.split('`').nth(1).map(str::to_owned)).collect()
}

#[test]
fn the_words_of_the_code_are_those_of_the_semantics() {
    let mut kinds = variants("Exit", &["crates/wire/src"]);
    kinds.extend(variants("Ending", &["src/policy"]).into_iter().filter(|kind| kind != "exit"));
    assert_eq!(words("kind"), kinds, "semantics 3.8");
    assert_eq!(words("phase"), variants("VmPhase", &["src/observe"]), "semantics 2.1");
    assert_eq!(words("action"), variants("Action", &["src/observe", "src/policy"]), "semantics 10.2");
}

#[test]
fn every_key_that_a_document_names_is_in_the_code() {
    let files = files();
    let is_code = |path: &Path| path.extension().is_some_and(|e| e == "rs" || e == "toml");
    let is_document = |path: &Path| {
        path.starts_with(root().join("docs")) || path.ends_with("README.md") && path.parent() == Some(root())
    };
    let is_key = |word: &&str| word.contains('_') && !word.contains(|c: char| c.is_ascii_uppercase());
    let code: Vec<&str> =
        files.iter().filter(|(path, _)| is_code(path)).map(|(_, text)| text.as_str()).collect();
    let known = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names: BTreeSet<&str> = code.iter().flat_map(|text| text.split(|c| !known(c))).collect();
    let mut wrong = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| is_document(path)) {
        let spans = text.split('`').skip(1).step_by(2);
        for word in spans.flat_map(|span| span.split(|c| !known(c))).filter(|word| is_key(word)) {
            if !names.contains(word) {
                wrong.push(format!("{}: {word}", shown(path)));
            }
        }
    }
    assert!(wrong.is_empty(), "words that the code does not know:\n{}", wrong.join("\n"));
}
