use super::{fill, report};
use std::path::PathBuf;

/// Two sizes of one figure, a figure with a baseline that misses its aim, a table, and a missing peer.
const LINES: &str = r#"{"bench":"scale","what":"start","unit":"ms","median":50.0,"n":1,"profile":"release","vms":100}
{"bench":"scale","what":"start","unit":"ms","median":500.0,"n":1,"profile":"release","vms":1000}
{"bench":"restart","what":"SIGKILL & back","unit":"ms","median":12.0,"p99":30.0,"n":200,"profile":"release","baseline":"runit","baseline_value":6.0,"ratio":2.0,"ratio_aim":{"at_most":1.0}}
{"bench":"recovery","table":"Parts, in ms","columns":["part","spare","boot"],"rows":[["notice","8.1","8.2"],["kernel","","1380"]]}
{"bench":"restart","missing":"s6","why":"s6-supervise is not installed","install":"apt-get install s6"}
"#;

/// A document with its marks.
const DOCUMENT: &str = "# A\n\nbefore\n\n<!-- figures of the last run: begin (make performance-doc) -->\n\nold\n\n\
    <!-- figures of the last run: end -->\n\nafter\n";

fn folder(lines: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let figures = dir.path().join("figures.jsonl");
    std::fs::write(&figures, lines).expect("written");
    (dir, figures)
}

/// Writes a document into a folder of its own.
fn document(dir: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = dir.path().join("docs/performance.md");
    std::fs::create_dir_all(dir.path().join("docs")).expect("a folder");
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn a_figure_stands_beside_its_baseline_and_its_aim() {
    let (dir, figures) = folder(LINES);
    let text = report(&figures).expect("a report");
    assert!(
        text.contains("| SIGKILL & back |  | 200 | 12 ms | 30 ms | runit: 6 ms | 2 | ratio ≤ 1 | **no** |"),
        "{text}"
    );
    assert!(
        text.contains("- s6 (`restart`): s6-supervise is not installed. To get it: `apt-get install s6`.")
    );
    let table = "Parts, in ms (`recovery`):\n\n| part | spare | boot |\n| --- | --: | --: |\n| notice | 8.1 | 8.2 |\n| kernel |  | 1380 |\n";
    assert!(text.contains(table), "{text}");
    let json = std::fs::read_to_string(dir.path().join("results.json")).expect("written");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["figures"][2]["ratio"], 2.0);
    assert_eq!(json["missing"][0]["missing"], "s6");
    assert!(json["machine"]["cores"].as_u64().is_some_and(|cores| cores > 0), "{json}");
}

#[test]
fn growth_is_told_as_an_exponent_and_drawn() {
    let (dir, figures) = folder(LINES);
    let text = report(&figures).expect("a report");
    assert!(text.contains("| start | 100 VMs: 50 ms; 1000 VMs: 500 ms | 1.00 |"), "{text}");
    for (plot, element, count) in [("growth", "<circle", 2), ("ratios", "class=\"bar\"", 1)] {
        let svg = std::fs::read_to_string(dir.path().join(format!("{plot}.svg"))).expect("drawn");
        assert_eq!(svg.matches(element).count(), count, "{plot}: {svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{plot}: {svg}");
    }
    let svg = std::fs::read_to_string(dir.path().join("ratios.svg")).expect("drawn");
    assert!(svg.contains("SIGKILL &amp; back"), "{svg}");
}

#[test]
fn only_the_figures_of_a_document_are_replaced() {
    let (dir, figures) = folder(LINES);
    let document = document(&dir, DOCUMENT);
    report(&figures).expect("a report");
    for _ in 0..2 {
        fill(&dir.path().join("results.json"), &document).expect("filled");
    }
    let text = std::fs::read_to_string(&document).expect("a document");
    assert!(text.starts_with("# A\n\nbefore\n\n<!--") && text.ends_with("-->\n\nafter\n"), "{text}");
    assert_eq!(text.matches("| machine |").count(), 1, "{text}");
    assert!(!text.contains("old") && text.contains("](performance-ratios.svg)"), "{text}");
    assert!(dir.path().join("docs/performance-growth.svg").exists());
}

#[test]
fn a_document_gets_no_figures_of_a_build_without_optimisation() {
    let (dir, figures) = folder(&LINES.replacen("release", "debug", 1));
    let document = document(&dir, DOCUMENT);
    assert!(report(&figures).expect("a report").starts_with("**Built without optimisation"));
    let refused = fill(&dir.path().join("results.json"), &document).expect_err("refused");
    assert!(refused.contains("results.json") && refused.contains("make bench"), "{refused}");
    assert_eq!(std::fs::read_to_string(&document).expect("a document"), DOCUMENT);
}

#[test]
fn a_mistake_is_told_with_its_place() {
    for (lines, told) in [
        ("", "no figure"),
        (&format!("{LINES}{{\"bench\":1}}\n"), "line 6: "),
        (&LINES.replace("\"runit\"", "7"), "line 3: "),
    ] {
        let (_dir, figures) = folder(lines);
        let refused = report(&figures).expect_err("refused");
        assert!(refused.contains("figures.jsonl: ") && refused.contains(told), "{refused}");
    }
    let (dir, figures) = folder(LINES);
    let document = document(&dir, "# A\n");
    report(&figures).expect("a report");
    let refused = fill(&dir.path().join("results.json"), &document).expect_err("refused");
    assert!(refused.contains("performance.md: the line `<!-- figures"), "{refused}");
}
