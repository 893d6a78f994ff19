//! Lines through few points, each with its figures beside it.

use std::fmt::Write as _;

use super::{COLOURS, HEIGHT, MARGIN, WIDTH, sheet};
use crate::bench::rows::Series;

pub(super) fn svg(all: &[&Series]) -> String {
    let points = || all.iter().flat_map(|series| &series.points);
    let greatest = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let (right, top) = (greatest(|point| point.0), greatest(|point| point.1) * 1.1);
    let place = |(x, y): (f64, f64)| {
        (MARGIN + x / right * (WIDTH - 2.0 * MARGIN), HEIGHT - MARGIN - y / top * (HEIGHT - 2.0 * MARGIN))
    };
    let mut svg = sheet(HEIGHT);
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
