//! Plots as SVG, which needs no library to be looked at.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use forebay_integration_tests::bench::rows::{Rows, Series};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 4] = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728"];

/// Writes one file per plot.
pub fn write(rows: &Rows, folder: &Path) -> Result<()> {
    let mut plots: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
    for series in &rows.series {
        plots.entry(series.plot).or_default().push(series);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, series) in plots {
        let path = folder.join(format!("{name}.svg"));
        fs::write(&path, svg(&series)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn svg(all: &[&Series]) -> String {
    let points = || all.iter().flat_map(|series| &series.points);
    let greatest = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (right, top) = (greatest(|point| point.0), greatest(|point| point.1) * 1.1);
    let place = |(x, y): (f64, f64)| {
        (MARGIN + x / right * (WIDTH - 2.0 * MARGIN), HEIGHT - MARGIN - y / top * (HEIGHT - 2.0 * MARGIN))
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let (x, y) = all.first().map_or(("", ""), |series| series.axes);
    let (base, end) = (HEIGHT - MARGIN, WIDTH - MARGIN);
    let _ = writeln!(svg, "<path d=\"M{MARGIN} {MARGIN}V{base}H{end}\" fill=\"none\" stroke=\"black\"/>");
    let _ = writeln!(svg, "<text x=\"{end}\" y=\"{}\" text-anchor=\"end\">{x}</text>", HEIGHT - 15.0);
    let _ = writeln!(svg, "<text x=\"10\" y=\"{}\">{y}</text>", MARGIN - 20.0);
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (_, at) = place((0.0, value));
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{at:.1}\" text-anchor=\"end\">{value:.1}</text>", MARGIN - 6.0);
    }
    for (series, colour) in all.iter().zip(COLOURS.iter().cycle()) {
        let placed: Vec<_> = series.points.iter().map(|point| place(*point)).collect();
        let line: Vec<_> = placed.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", line.join(" "));
        for ((px, py), (vx, vy)) in placed.iter().zip(&series.points) {
            let _ = writeln!(svg, "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{colour}\"/>");
            let _ = writeln!(svg, "<text x=\"{px:.1}\" y=\"{base}\" dy=\"16\" text-anchor=\"middle\">{vx}</text>");
            let _ = writeln!(svg, "<text x=\"{px:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{vy:.1}</text>", py - 8.0);
        }
        if let Some((x, y)) = placed.last() {
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>", y - 22.0, series.name);
        }
    }
    svg + "</svg>\n"
}
