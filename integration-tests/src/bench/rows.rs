//! What was measured, as a table and in `ratios.json`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::plot::Ratio;

/// The target of a row that has none: it is measured to be known.
pub const NO_TARGET: &str = "–";

/// Rows in the order in which they were measured, and series of points for plots.
#[derive(Debug, Default)]
pub struct Rows {
    rows: Vec<Row>,
    /// By name: points of (x, y).
    pub series: Vec<Series>,
}

/// A line of a plot.
#[derive(Debug)]
pub struct Series {
    /// The plot it belongs to.
    pub plot: &'static str,
    /// Its own name.
    pub name: String,
    /// What x and y are.
    pub axes: (&'static str, &'static str),
    /// The points.
    pub points: Vec<(f64, f64)>,
}

#[derive(Debug)]
struct Row {
    id: String,
    unit: &'static str,
    target: String,
    /// The figure itself: a ratio, or an absolute one.
    values: Vec<f64>,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Rows {
    /// A figure that stands by itself.
    pub fn absolute(&mut self, id: impl Into<String>, unit: &'static str, target: &str, values: Vec<f64>) {
        let row = Row { id: id.into(), unit, target: target.into(), ours: values.clone(), values, theirs: Vec::new() };
        self.add(row);
    }

    /// Ours divided by theirs, pair by pair.
    pub fn ratio(&mut self, id: impl Into<String>, unit: &'static str, target: &str, pairs: &[(f64, f64)]) {
        let values = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
        let (ours, theirs) = pairs.iter().copied().unzip();
        self.add(Row { id: id.into(), unit, target: target.into(), values, ours, theirs });
    }

    fn add(&mut self, row: Row) {
        if !row.target.is_empty() {
            let target = if row.target == NO_TARGET { String::new() } else { format!(" (target {})", row.target) };
            eprintln!("{}: {:.3} {}{target}", row.id, median(&row.values), row.unit);
        }
        self.rows.push(row);
    }

    /// True if there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The ratios for a plot.
    pub fn ratios(&self) -> Vec<Ratio> {
        let of = |row: &Row| Ratio { id: row.id.clone(), value: median(&row.values), target: row.target.clone() };
        self.rows.iter().filter(|row| !row.theirs.is_empty()).map(of).collect()
    }

    /// The rows for a terminal or a document.
    pub fn table(&self) -> String {
        let mut table =
            String::from("| id | target | median (least – greatest) | ours | against |\n|---|---|--:|--:|--:|\n");
        for row in &self.rows {
            let theirs = if row.theirs.is_empty() { String::new() } else { format!("{:.4}", median(&row.theirs)) };
            let _ = writeln!(
                table,
                "| `{}` | {} | {:.3} ({:.3} – {:.3}) | {:.4} {} | {theirs} |",
                row.id,
                row.target,
                median(&row.values),
                least(&row.values),
                greatest(&row.values),
                median(&row.ours),
                row.unit,
            );
        }
        table
    }

    /// Adds the rows to `ratios.json` and returns where it is.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("ratios.json");
        let write = || -> Result<()> {
            fs::create_dir_all(folder)?;
            let mut ratios: Map<String, Value> = match fs::read(&path) {
                Ok(text) => serde_json::from_slice(&text)?,
                Err(_) => Map::new(),
            };
            for row in &self.rows {
                let entry = json!({
                    "median": median(&row.values),
                    "min": least(&row.values),
                    "max": greatest(&row.values),
                    "runs": row.values.len(),
                    "ours": median(&row.ours),
                    "theirs": (!row.theirs.is_empty()).then(|| median(&row.theirs)),
                    "unit": row.unit,
                });
                ratios.insert(row.id.clone(), entry);
            }
            Ok(fs::write(&path, serde_json::to_string_pretty(&ratios)? + "\n")?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// `bench` in the target folder, wherever that is.
pub fn default_folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the own executable is not known: say --out")?;
    let target = own.ancestors().nth(2).context("the executable is in no target folder: say --out")?;
    Ok(target.join("bench"))
}

/// The median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        len if len.is_multiple_of(2) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        _ => sorted[middle],
    }
}

/// The value that so many of a hundred do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

/// The least value; infinity of nothing.
pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The greatest value; minus infinity of nothing.
pub fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}
