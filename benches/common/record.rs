//! Stores what a bench has measured: a line of JSON for each figure in the file that `PEPITA_BENCH_RESULTS` names, for
//! `benches/report`. Without the variable nothing is written.
#![allow(dead_code, reason = "each bench uses a part of it")]

use serde_json::{Map, Value, json};
use std::io::Write;
use std::time::Duration;

/// What a figure is aimed to be.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

impl Aim {
    fn json(self) -> Value {
        match self {
            Self::AtMost(bound) => json!({ "at_most": bound }),
            Self::AtLeast(bound) => json!({ "at_least": bound }),
        }
    }
}

/// A figure of this run, with its baseline of the same run.
#[derive(Clone)]
pub(crate) struct Figure {
    line: Map<String, Value>,
    value: f64,
}

impl Figure {
    /// Returns a figure in this unit; `n` says how often it was measured.
    pub(crate) fn value(bench: &str, what: &str, unit: &str, value: f64, n: usize) -> Self {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let line = json!({
            "bench": bench, "what": what, "unit": unit, "median": value, "n": n, "profile": profile,
        });
        let Value::Object(line) = line else { unreachable!("an object") };
        Self { line, value }
    }

    /// Returns the median of these times, and the value below which 99 % of them lie, in milliseconds. The order of the
    /// times is of no importance.
    pub(crate) fn times(bench: &str, what: &str, times: &[Duration]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let [median, late] = [0.5, 0.99].map(|part| in_ms(percentile(&sorted, part)));
        let figure = Self::value(bench, what, "ms", median, sorted.len());
        // Of one time there is no distribution.
        if sorted.len() > 1 { figure.with("p99", late.into()) } else { figure }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.line.insert(key.to_owned(), value);
        self
    }

    /// Says how many VMs the tree had. Figures of the same name with other numbers show how the cost grows.
    pub(crate) fn among(self, vms: usize) -> Self {
        self.with("vms", vms.into())
    }

    /// Adds the baseline, in the same unit and measured in the same run.
    pub(crate) fn against(self, baseline: &str, value: f64) -> Self {
        let ratio = self.value / value;
        self.with("baseline", baseline.into())
            .with("baseline_value", value.into())
            .with("ratio", ratio.into())
    }

    /// Adds what the figure itself is aimed to be.
    pub(crate) fn aim(self, aim: Aim) -> Self {
        self.with("aim", aim.json())
    }

    /// Adds what the ratio to the baseline is aimed to be.
    pub(crate) fn ratio_aim(self, aim: Aim) -> Self {
        self.with("ratio_aim", aim.json())
    }

    /// Writes the figure.
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    pub(crate) fn record(self) {
        append(&Value::Object(self.line));
    }
}

/// Stores figures that make sense only beside each other, with a word for each row in its first column.
///
/// # Panics
///
/// When the file cannot be written.
pub(crate) fn table(bench: &str, title: &str, columns: &[&str], rows: &[Vec<String>]) {
    append(&json!({ "bench": bench, "table": title, "columns": columns, "rows": rows }));
}

/// Says which baseline could not be measured, why, and how to get it.
pub(crate) fn missing(bench: &str, peer: &str, why: &str, install: &str) {
    append(&json!({ "bench": bench, "missing": peer, "why": why, "install": install }));
}

fn append(line: &Value) {
    let Some(path) = std::env::var_os("PEPITA_BENCH_RESULTS") else { return };
    let path = std::path::Path::new(&path);
    // One call for the whole line: other processes may write to the file, too.
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .unwrap_or_else(|e| panic!("$PEPITA_BENCH_RESULTS: {}: {e}", path.display()));
}

/// Returns a duration in milliseconds.
pub(crate) fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Returns the value below which this part of the sorted values lies.
pub(crate) fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (last as f64 * part).round() as usize;
    sorted.get(index).copied().unwrap_or_default()
}
