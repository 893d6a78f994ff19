//! Output: an answer as tables for people or as one JSON document for programs.

use std::io::{IsTerminal as _, stdout};

use bytesize::ByteSize;
use clap::ValueEnum;
use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde_json::Value as Json;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns.
    Table,
    /// One JSON document.
    Json,
}

/// What a command has to say.
#[derive(Debug, Default)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// For programs.
    pub json: Json,
    /// For people at either, on stderr.
    pub notes: Vec<String>,
    /// True if the answer is a no: exit code 1, with the answer on stdout as ever.
    pub no: bool,
}

impl Answer {
    /// Makes an answer without notes, a yes.
    pub fn new(text: String, json: Json) -> Self {
        Self { text, json, ..Self::default() }
    }

    /// Returns what goes to stdout, with a newline at its end unless it is empty.
    pub fn print(&self, format: Format) -> String {
        let text = match format {
            Format::Table => self.text.trim_end().to_owned(),
            Format::Json => format!("{:#}", self.json),
        };
        if text.is_empty() { text } else { text + "\n" }
    }
}

/// Lays rows out in columns.
pub fn columns<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    lay_out(heads, rows)
}

/// Lays rows out in columns, without those from `always` on that are empty in every row.
pub fn filled_columns<const N: usize>(heads: [&str; N], always: usize, rows: Vec<[String; N]>) -> String {
    let shown: [bool; N] =
        std::array::from_fn(|column| column < always || rows.iter().any(|row| !row[column].is_empty()));
    let kept = |column: &usize| shown[*column];
    let heads: Vec<_> = (0..N).filter(kept).map(|column| heads[column]).collect();
    lay_out(heads, rows.iter().map(|row| (0..N).filter(kept).map(|column| row[column].clone()).collect::<Vec<_>>()))
}

/// Lays rows out. Heads are bold on a terminal, unless NO_COLOR is set.
fn lay_out<'a, R: IntoIterator<Item = String>>(
    heads: impl IntoIterator<Item = &'a str>,
    rows: impl IntoIterator<Item = R>,
) -> String {
    let bold = stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if bold {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let head = |head: &str| if bold { Cell::new(head).add_attribute(Attribute::Bold) } else { Cell::new(head) };
    table.set_header(heads.into_iter().map(head));
    table.add_rows(rows.into_iter().map(|row| row.into_iter().collect::<Vec<String>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Lays named facts out one a line.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let facts: Vec<_> = facts.into_iter().collect();
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default() + 2;
    facts.into_iter().map(|(name, value)| format!("{:<width$}{value}", format!("{name}:")) + "\n").collect()
}

/// Shows a number of bytes.
pub fn bytes(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// Shows a moment, given in milliseconds since 1970; `-` for none.
pub fn moment(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms) if ms > 0 => {
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
            humantime::format_rfc3339_seconds(at).to_string()
        }
        _ => "-".to_owned(),
    }
}

/// Shows a length of time, given in milliseconds.
pub fn duration(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_millis(ms)).to_string()
}

/// Shows the name of an enum's value as people type it: without prefix, in small letters.
pub fn plain(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let text = columns(["KEY", "VALUE"], [["ada".into(), "1".into()], ["x".into(), "lovelace".into()]]);
        assert_eq!(text, "KEY  VALUE\nada  1\nx    lovelace");
    }

    #[test]
    fn a_column_that_is_empty_may_be_left_out() {
        let rows = |last: &str| vec![["a".to_owned(), String::new(), last.to_owned()]];
        let heads = ["KEY", "VERSION", "EXPIRES"];
        assert_eq!(filled_columns(heads, 1, rows("soon")), "KEY  EXPIRES\na    soon");
        assert_eq!(filled_columns(heads, 1, rows("")), "KEY\na");
    }

    #[test]
    fn json_is_one_document_and_an_empty_table_is_nothing() {
        let answer = Answer::new(String::new(), serde_json::json!({"a": 1}));
        assert_eq!(
            (answer.print(Format::Json).as_str(), answer.print(Format::Table).as_str()),
            ("{\n  \"a\": 1\n}\n", "")
        );
    }

    #[test]
    fn times_names_and_sizes_are_readable() {
        assert_eq!((moment(0), moment(1_357_045_200_000)), ("-".into(), "2013-01-01T13:00:00Z".into()));
        assert_eq!((duration(90_000), bytes(8 << 20)), ("1m 30s".into(), "8.0 MiB".into()));
        assert_eq!(plain("DURABILITY_WAL_SYNC", "DURABILITY_"), "wal-sync");
        assert_eq!(facts([("a", "1".into()), ("long", "2".into())]), "a:    1\nlong: 2\n");
    }
}
