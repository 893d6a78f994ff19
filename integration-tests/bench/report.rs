//! What was measured, as ratios, tables and files.

use std::{collections::HashMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use forebay_integration_tests::bench::{
    machine::Machine,
    rows::{Rows, greatest, least, median},
};

use crate::plan::{self, Comparison, Target, Work};

const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

/// Rates by what was measured, one per run.
#[derive(Default)]
pub struct Report {
    rates: HashMap<(Target, Work), Vec<f64>>,
}

/// Median, least and greatest of the runs.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// One comparison, measured.
pub struct Row {
    comparison: Comparison,
    /// Ours and theirs, by run.
    pairs: Vec<(f64, f64)>,
}

impl Report {
    /// Adds the rate of the next run.
    pub fn add(&mut self, target: Target, work: Work, rate: f64) {
        self.rates.entry((target, work)).or_default().push(rate);
    }

    /// Returns the comparisons that were measured.
    pub fn rows(&self) -> Vec<Row> {
        let row = |comparison: Comparison| {
            let (ours, theirs) = (self.rates.get(&comparison.ours)?, self.rates.get(&comparison.theirs)?);
            Some(Row { comparison, pairs: ours.iter().copied().zip(theirs.iter().copied()).collect() })
        };
        plan::comparisons().into_iter().filter_map(row).collect()
    }
}

fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let values: Vec<_> = values.collect();
    Spread { median: median(&values), min: least(&values), max: greatest(&values) }
}

/// Writes a rate as people read it.
pub fn human(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2} M", rate / 1e6),
        rate if rate >= 1e5 => format!("{:.0} k", rate / 1e3),
        rate if rate >= 1e3 => format!("{:.1} k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}

impl Row {
    fn cells(&self) -> [String; 5] {
        let rate = |rates: Spread| {
            let Spread { median, min, max } = rates;
            format!("{} ({} – {})", human(median), human(min), human(max))
        };
        let Spread { median, min, max } = spread(self.pairs.iter().map(|(ours, theirs)| ours / theirs));
        let (ours, theirs) = (self.comparison.ours.0, self.comparison.theirs.0);
        [
            self.comparison.id.clone(),
            format!("{} / {}", ours.durability(), theirs.durability()),
            rate(spread(self.pairs.iter().map(|pair| pair.0))),
            rate(spread(self.pairs.iter().map(|pair| pair.1))),
            format!("{median:.2} ({min:.2} – {max:.2})"),
        ]
    }
}

const HEAD: [&str; 5] = ["id", "durability: ours / theirs", "Forebay, ops/s", "against, ops/s", "ratio"];

/// Writes the rows for a terminal.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut table = String::new();
    for line in &lines {
        let cells: Vec<_> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(table, "{}", cells.join("  ").trim_end());
    }
    table
}

/// The rows for `ratios.json`.
pub fn figures(rows: &[Row]) -> Rows {
    let mut figures = Rows::default();
    for row in rows {
        figures.ratio(&row.comparison.id, "ops/s", "", &row.pairs);
    }
    figures
}

/// Replaces what stands between the marker comments of a document.
pub fn write_markdown(rows: &[Row], machine: &Machine, path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.with_context(|| format!("{} has no {BEGIN} … {END}", path.display()))?;
    let runs = rows.iter().map(|row| row.pairs.len()).max().unwrap_or(0);
    let load_after = machine.load_after();
    let mut table = format!("{runs} runs on {machine}, after: {load_after}.\n\n");
    let _ = writeln!(table, "| {} |\n|---|---|--:|--:|--:|", HEAD.join(" | "));
    for row in rows {
        let [id, cells @ ..] = row.cells();
        let _ = writeln!(table, "| `{id}` | {} |", cells.join(" | "));
    }
    let text = format!("{before}{BEGIN}\n{table}{END}{after}");
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
