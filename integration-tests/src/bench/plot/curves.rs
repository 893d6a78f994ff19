//! Curves of latency by percentile, both on scales of powers of ten.

use std::fmt::Write as _;

use super::{COLOURS, HEIGHT, MARGIN, WIDTH, legend, sheet};

/// The last percentile that is drawn: there, one in 100,000 is above.
const LAST: f64 = 99.999;
const TICKS: [f64; 6] = [50.0, 90.0, 99.0, 99.9, 99.99, LAST];

/// A distribution.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Whose it is.
    pub name: String,
    /// Percentiles and what is not exceeded.
    pub points: Vec<(f64, f64)>,
}

/// Draws the distributions.
pub fn curves(unit: &str, curves: &[Curve]) -> String {
    let values = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.1.max(1.0).log10());
    let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(it), high.max(it)));
    // Nothing to show is a sheet with axes.
    let (low, high) = if low.is_finite() { (low.floor(), high.ceil().max(low.floor() + 1.0)) } else { (0.0, 1.0) };
    let (base, end) = (HEIGHT - MARGIN, WIDTH - MARGIN);
    // Whole powers of ten of what is left above: 90, 99, 99.9.
    let across = |percent: f64| MARGIN + (end - MARGIN) * nines(percent) / nines(LAST);
    let up = |value: f64| base - (value.max(1.0).log10() - low) / (high - low) * (base - MARGIN);
    let mut svg = sheet(HEIGHT);
    legend(&mut svg, curves.iter().map(|curve| curve.name.as_str()));
    let _ = writeln!(svg, "<path d=\"M{MARGIN} {MARGIN}V{base}H{end}\" fill=\"none\" stroke=\"black\"/>");
    let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{unit}</text>", MARGIN - 16.0);
    let _ = writeln!(svg, "<text x=\"{end}\" y=\"{}\" text-anchor=\"end\">percentile</text>", HEIGHT - 15.0);
    for power in low as i32..=high as i32 {
        let value = 10_f64.powi(power);
        let y = up(value);
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y:.1}\" text-anchor=\"end\">{value}</text>", MARGIN - 6.0);
        let _ = writeln!(svg, "<path d=\"M{MARGIN} {y:.1}H{end}\" stroke=\"lightgrey\"/>");
    }
    for percent in TICKS {
        let x = across(percent);
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{percent}</text>", base + 16.0);
        let _ = writeln!(svg, "<path d=\"M{x:.1} {MARGIN}V{base}\" stroke=\"lightgrey\"/>");
    }
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let drawn = curve.points.iter().filter(|(percent, _)| *percent <= LAST);
        let line: Vec<_> = drawn.map(|(percent, value)| format!("{:.1},{:.1}", across(*percent), up(*value))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            line.join(" ")
        );
    }
    svg + "</svg>\n"
}

/// How many nines a percentile has: 1 for 90, 2 for 99.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}
