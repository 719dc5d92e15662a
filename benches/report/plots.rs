//! Draws the figures as SVG.

use crate::figures::{Aim, Figure, Results};
use crate::text::number;
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;

/// The height of a bar with the room around it.
const ROW: f64 = 22.0;

/// The room for the names of the bars.
const NAMES: f64 = 430.0;

/// The size of one picture of growth.
const PANEL: (f64, f64) = (440.0, 230.0);

const STYLE: &str = "<style>text{font:12px sans-serif;fill:#222}.small{font-size:10px;fill:#555}\
    .end{text-anchor:end}.mid{text-anchor:middle}</style>";

fn start(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <title>{title}</title>{STYLE}\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\">{title}</text>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Returns the colour of a bar: green where the aim of the ratio is met, red where it is missed.
fn colour(figure: &Figure, ratio: f64) -> &'static str {
    match figure.ratio_aim.map(|aim| aim.is_met(ratio)) {
        None => "#5b8db8",
        Some(true) => "#5a9e6f",
        Some(false) => "#c0605a",
    }
}

fn bound(aim: Aim) -> f64 {
    let (Aim::AtMost(bound) | Aim::AtLeast(bound)) = aim;
    bound
}

/// Draws a bar for each ratio to a baseline, from 1, on a logarithmic scale. A dark tick is the aim.
pub(crate) fn ratios(results: &Results) -> Option<String> {
    let bars: Vec<_> = results
        .figures
        .iter()
        .filter_map(|figure| {
            let ratio = figure.ratio.filter(|ratio| ratio.is_finite() && *ratio > 0.0)?;
            Some((figure, figure.baseline.as_deref()?, ratio))
        })
        .collect();
    if bars.is_empty() {
        return None;
    }
    let height = 60.0 + ROW * bars.len() as f64;
    let mut svg = start(
        height,
        "Ratio to the baseline of the same run, logarithmic from 1; a tick is the aim: green met, red missed",
    );
    let aims =
        bars.iter().filter_map(|(figure, ..)| figure.ratio_aim.map(bound)).filter(|bound| *bound > 0.0);
    let shown = bars.iter().map(|(.., ratio)| *ratio).chain(aims);
    let reach = shown.map(|ratio| ratio.log10().abs()).fold(0.3, f64::max);
    let room = WIDTH - NAMES - 70.0;
    let x = |ratio: f64| NAMES + room * (ratio.log10().clamp(-reach, reach) / reach + 1.0) / 2.0;
    for (n, (figure, baseline, ratio)) in bars.iter().enumerate() {
        let top = 35.0 + ROW * n as f64;
        let (from, to) = (x(1.0).min(x(*ratio)), x(1.0).max(x(*ratio)));
        let _ = writeln!(
            svg,
            "<text class=\"end small\" x=\"{}\" y=\"{}\">{}</text>\
             <rect x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" class=\"bar\" fill=\"{}\"/>\
             <text class=\"small\" x=\"{:.1}\" y=\"{}\">{}</text>",
            NAMES - 6.0,
            top + 14.0,
            escape(&format!("{}: {} / {baseline}", figure.bench, figure.what)),
            top + 4.0,
            (to - from).max(1.0),
            ROW - 8.0,
            colour(figure, *ratio),
            to + 4.0,
            top + 14.0,
            number(*ratio),
        );
        if let Some(aim) = figure.ratio_aim {
            let at = x(bound(aim));
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{}\" stroke=\"#222\" stroke-width=\"2\"/>",
                top + ROW - 2.0
            );
        }
    }
    let one = x(1.0);
    let _ = writeln!(
        svg,
        "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"30\" y2=\"{}\" stroke=\"#888\"/>\n</svg>",
        height - 15.0
    );
    Some(svg)
}

/// Draws each figure over the number of VMs, both logarithmic, with a grey line for a cost that grows with the number.
pub(crate) fn growth(results: &Results) -> Option<String> {
    // A logarithm has no place for 0.
    let point = |figure: &&Figure| figure.vms.map(|vms| (vms as f64, figure.median)).filter(|it| it.1 > 0.0);
    let rows = results.growth().into_iter().filter_map(|row| {
        let points: Vec<(f64, f64)> = row.iter().filter_map(point).collect();
        (points.len() > 1).then_some((row[0], points))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return None;
    }
    let height = 40.0 + PANEL.1 * rows.len().div_ceil(2) as f64;
    let mut svg =
        start(height, "Growth with the number of VMs (both axes logarithmic; grey: proportional growth)");
    for (n, (figure, points)) in rows.iter().enumerate() {
        let (first, last) = (points[0], points[points.len() - 1]);
        let (left, top) = (PANEL.0 * (n % 2) as f64 + 15.0, 40.0 + PANEL.1 * (n / 2) as f64);
        let (width, tall) = (PANEL.0 - 60.0, PANEL.1 - 75.0);
        let factor = last.0 / first.0;
        let low = points.iter().map(|point| point.1).fold(f64::MAX, f64::min);
        let high = points.iter().map(|point| point.1).fold(first.1 * factor, f64::max);
        let part = |value: f64, low: f64, high: f64| (value / low).log10() / (high / low).log10().max(1e-9);
        let x = |vms: f64| left + 20.0 + (width - 20.0) * part(vms, first.0, last.0);
        let y = |value: f64| top + 25.0 + tall * (1.0 - part(value, low, high));
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{}\">{}</text>\
             <rect x=\"{left}\" y=\"{}\" width=\"{width}\" height=\"{}\" fill=\"none\" stroke=\"#ccc\"/>\
             <line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#bbb\" stroke-dasharray=\"4\"/>",
            top + 12.0,
            escape(&format!("{} ({})", figure.what, figure.unit)),
            top + 18.0,
            tall + 14.0,
            x(first.0),
            y(first.1),
            x(last.0),
            y(first.1 * factor),
        );
        let line: Vec<String> =
            points.iter().map(|(vms, value)| format!("{:.1},{:.1}", x(*vms), y(*value))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"#b8485b\" stroke-width=\"2\"/>",
            line.join(" ")
        );
        for (vms, value) in points {
            let (at, up) = (x(*vms), y(*value));
            let _ = writeln!(
                svg,
                "<circle cx=\"{at:.1}\" cy=\"{up:.1}\" r=\"3\" fill=\"#b8485b\"/>\
                 <text class=\"small\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
                 <text class=\"small mid\" x=\"{at:.1}\" y=\"{:.1}\">{vms}</text>",
                at + 5.0,
                up - 7.0,
                number(*value),
                top + tall + 46.0,
            );
        }
    }
    svg.push_str("</svg>\n");
    Some(svg)
}
