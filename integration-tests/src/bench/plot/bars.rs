//! Bars: ratios with their targets, and groups of figures.

use std::fmt::Write as _;

use super::{COLOURS, HEIGHT, MARGIN, WIDTH, human, legend, sheet};

const ROW: f64 = 24.0;
/// Where the bars of ratios begin, behind their names.
const NAMES: f64 = 210.0;
const MET: &str = "#2ca02c";
const NOT_MET: &str = "#d62728";
const PLAIN: &str = "#1f77b4";

/// A ratio, and what it should be: `≥ 2`, `≤ 1.5`, or anything else for no target.
#[derive(Debug, Clone)]
pub struct Ratio {
    /// Its name.
    pub id: String,
    /// What was measured.
    pub value: f64,
    /// What it should be.
    pub target: String,
}

impl Ratio {
    fn target(&self) -> Option<f64> {
        self.target.split_once(' ').and_then(|(_, number)| number.parse().ok())
    }

    fn is_met(&self) -> Option<bool> {
        let target = self.target()?;
        Some(if self.target.starts_with('≤') { self.value <= target } else { self.value >= target })
    }
}

/// Draws a bar per ratio, from 1 on a scale of powers of ten, and a line where its target is.
pub fn ratios(ratios: &[Ratio]) -> String {
    let all = || ratios.iter().flat_map(|ratio| [Some(ratio.value), ratio.target()]).flatten().filter(|it| *it > 0.0);
    let (low, high) = all().fold((0.5_f64, 2.0_f64), |(low, high), it| (low.min(it), high.max(it)));
    let (low, high) = (low.log10() - 0.05, high.log10() + 0.05);
    let place = |value: f64| NAMES + (value.max(1e-9).log10() - low) / (high - low) * (WIDTH - NAMES - MARGIN);
    let (one, height) = (place(1.0), ROW * (ratios.len() as f64 + 2.0));
    let mut svg = sheet(height);
    let _ = writeln!(svg, "<text x=\"10\" y=\"16\">ours divided by theirs; a black line is the target</text>");
    for (row, ratio) in ratios.iter().enumerate() {
        let (top, end) = (ROW * (row as f64 + 1.0), place(ratio.value));
        let colour = ratio.is_met().map_or(PLAIN, |met| if met { MET } else { NOT_MET });
        let (from, width) = (one.min(end), (end - one).abs().max(1.0));
        let middle = top + ROW / 2.0 + 4.0;
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", NAMES - 8.0, ratio.id);
        let bar = ROW - 8.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{bar}\" fill=\"{colour}\"/>",
            top + 4.0
        );
        if let Some(target) = ratio.target() {
            let (at, bottom) = (place(target), top + ROW - 2.0);
            let _ = writeln!(
                svg,
                "<path d=\"M{at:.1} {:.1}V{bottom:.1}\" stroke=\"black\" stroke-width=\"2\"/>",
                top + 2.0
            );
        }
        let label = format!("{} ({})", human(ratio.value), ratio.target);
        let beside = from.max(end).max(ratio.target().map_or(0.0, place)) + 6.0;
        let _ = writeln!(svg, "<text x=\"{beside:.1}\" y=\"{middle}\">{label}</text>");
    }
    let bottom = ROW * (ratios.len() as f64 + 1.0);
    let _ = writeln!(svg, "<path d=\"M{one:.1} {ROW}V{bottom}\" stroke=\"grey\"/>");
    let _ = writeln!(svg, "<text x=\"{one:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1</text>", bottom + 14.0);
    svg + "</svg>\n"
}

/// Figures of the same thing by different sides.
#[derive(Debug, Clone)]
pub struct Group {
    /// What was measured.
    pub name: String,
    /// A figure by side; one that is 0 is left out.
    pub values: Vec<f64>,
}

/// Draws a bar per figure, side by side in their groups, on a scale of powers of ten.
pub fn groups(unit: &str, sides: &[&str], groups: &[Group]) -> String {
    let powers = || groups.iter().flat_map(|group| &group.values).filter(|it| **it > 0.0).map(|it| it.log10());
    let (low, high) = powers().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), it| (low.min(it), high.max(it)));
    let (low, high) = if low.is_finite() { ((low - 0.3).floor(), (high + 0.1).ceil()) } else { (0.0, 1.0) };
    let base = HEIGHT - MARGIN / 2.0;
    let tall = |power: f64| (power - low) / (high - low) * (base - MARGIN);
    let width = (WIDTH - 2.0 * MARGIN) / groups.len().max(1) as f64;
    let bar = (width - 12.0) / sides.len().max(1) as f64;
    let mut svg = sheet(HEIGHT);
    legend(&mut svg, sides.iter().copied());
    let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{unit}</text>", MARGIN - 16.0);
    let _ = writeln!(svg, "<path d=\"M{MARGIN} {MARGIN}V{base}H{}\" fill=\"none\" stroke=\"black\"/>", WIDTH - MARGIN);
    for power in low as i32..=high as i32 {
        let y = base - tall(f64::from(power));
        let value = human(10_f64.powi(power));
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{y:.1}\" text-anchor=\"end\">{value}</text>", MARGIN - 6.0);
        let _ = writeln!(svg, "<path d=\"M{MARGIN} {y:.1}H{}\" stroke=\"lightgrey\"/>", WIDTH - MARGIN);
    }
    for (place, group) in groups.iter().enumerate() {
        let left = MARGIN + 6.0 + width * place as f64;
        let middle = left + (width - 12.0) / 2.0;
        let _ =
            writeln!(svg, "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", base + 16.0, group.name);
        let figures = group.values.iter().zip(COLOURS.iter().cycle()).enumerate();
        for (side, (value, colour)) in figures.filter(|(_, (value, _))| **value > 0.0) {
            let (x, tall) = (left + bar * side as f64, tall(value.log10()));
            let y = base - tall;
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{colour}\"/>",
                bar - 2.0
            );
            let at = x + bar / 2.0 - 1.0;
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"8\">{}</text>",
                y - 3.0,
                human(*value)
            );
        }
    }
    svg + "</svg>\n"
}
