//! Reads the lines that the benches have stored.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a figure or its ratio is aimed to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

impl Aim {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// A figure of one run, as `benches/common/record.rs` writes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) bench: String,
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p99: Option<f64>,
    pub(crate) n: u64,
    pub(crate) profile: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) vms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) baseline_value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aim: Option<Aim>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ratio_aim: Option<Aim>,
}

/// A baseline that could not be measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Missing {
    pub(crate) bench: String,
    #[serde(rename = "missing")]
    pub(crate) peer: String,
    pub(crate) why: String,
    pub(crate) install: String,
}

/// Figures that make sense only beside each other, as a bench has laid them out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) bench: String,
    #[serde(rename = "table")]
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// All that the benches have stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) figures: Vec<Figure>,
    #[serde(default)]
    pub(crate) tables: Vec<Table>,
    pub(crate) missing: Vec<Missing>,
}

impl Results {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// The file that cannot be read; the line that is neither a figure, nor a table, nor a missing baseline; a file without
    /// figures.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("{}: {e}; `make bench` writes it", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut results = Self::default();
        for (number, line) in text.lines().enumerate() {
            let wrong = |e: serde_json::Error| format!("line {}: {e}", number + 1);
            let value: serde_json::Value = serde_json::from_str(line).map_err(wrong)?;
            match (value.get("missing"), value.get("table")) {
                (Some(_), _) => results.missing.push(serde_json::from_value(value).map_err(wrong)?),
                (None, Some(_)) => results.tables.push(serde_json::from_value(value).map_err(wrong)?),
                (None, None) => results.figures.push(serde_json::from_value(value).map_err(wrong)?),
            }
        }
        match results.figures.is_empty() {
            true => Err("no figure is in it".into()),
            false => Ok(results),
        }
    }

    /// Returns whether all figures are of programs that were built with optimisation.
    pub(crate) fn is_release(&self) -> bool {
        self.figures.iter().all(|figure| figure.profile == "release")
    }

    /// Returns the figures of which there is more than one number of VMs, smallest first, in the order of the file.
    pub(crate) fn growth(&self) -> Vec<Vec<&Figure>> {
        let mut rows: Vec<Vec<&Figure>> = Vec::new();
        for figure in self.figures.iter().filter(|figure| figure.vms.is_some()) {
            match rows.iter_mut().find(|row| row[0].bench == figure.bench && row[0].what == figure.what) {
                Some(row) => row.push(figure),
                None => rows.push(vec![figure]),
            }
        }
        for row in &mut rows {
            row.sort_by_key(|figure| figure.vms);
            row.dedup_by_key(|figure| figure.vms);
        }
        rows.retain(|row| row.len() > 1);
        rows
    }
}
