//! Plots as SVG, which needs no library to be looked at.

mod bars;
mod curves;
mod line;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::rows::{Rows, Series};

pub use self::{
    bars::{Group, Ratio, groups, ratios},
    curves::{Curve, curves},
};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 4] = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728"];

/// Writes one file per plot of the rows' series.
pub fn write(rows: &Rows, folder: &Path) -> Result<()> {
    let mut plots: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
    for series in &rows.series {
        plots.entry(series.plot).or_default().push(series);
    }
    plots.into_iter().try_for_each(|(name, series)| save(folder, name, &line::svg(&series)))
}

/// Writes a plot under its name.
pub fn save(folder: &Path, name: &str, svg: &str) -> Result<()> {
    let path = folder.join(format!("{name}.svg"));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, svg));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// A white sheet.
fn sheet(height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    )
}

/// What the colours mean, in a line at the top.
fn legend<'a>(svg: &mut String, names: impl IntoIterator<Item = &'a str>) {
    let mut x = 10.0;
    for (name, colour) in names.into_iter().zip(COLOURS.iter().cycle()) {
        let _ = writeln!(svg, "<rect x=\"{x:.0}\" y=\"12\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{:.0}\" y=\"21\" font-size=\"11\">{name}</text>", x + 13.0);
        x += 24.0 + 5.8 * name.chars().count() as f64;
    }
}

/// A number as people read it.
fn human(number: f64) -> String {
    match number {
        number if number >= 1e6 => format!("{:.2} M", number / 1e6),
        number if number >= 1e5 => format!("{:.0} k", number / 1e3),
        number if number >= 1e4 => format!("{:.1} k", number / 1e3),
        number if number >= 100.0 => format!("{number:.0}"),
        number if number >= 10.0 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plot_is_a_whole_document_that_names_what_it_shows() {
        let ratio = |id: &str, value, target: &str| Ratio { id: id.into(), value, target: target.into() };
        let ratios = ratios(&[ratio("hot", 5.2, "≥ 10"), ratio("p99", 1.3, "≤ 1.5"), ratio("q3", 0.5, "–")]);
        let group = |name: &str| Group { name: name.into(), values: vec![1e6, 2e5] };
        let groups = groups("records/s", &["ours", "embedded"], &[group("q3"), group("q4")]);
        let curve = Curve { name: "redis".into(), points: vec![(50.0, 40.0), (99.9, 900.0), (100.0, 2e4)] };
        let curves = curves("latency, µs", &[curve]);
        for (svg, names) in [
            (ratios, ["hot", "5.20", "p99"]),
            (groups, ["q4", "embedded", "1.00 M"]),
            (curves, ["redis", "99.9", "latency, µs"]),
        ] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            names.iter().for_each(|name| assert!(svg.contains(name), "{name} in {svg}"));
        }
    }
}
