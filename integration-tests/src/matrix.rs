//! Matrices of what can go wrong: a run takes all cells or, turn by turn, a tenth.

use std::{env, fmt, io::Write as _};

/// Which cells of a matrix a run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// All.
    All,
    /// Every tenth, from this one on; ten runs with seeds that follow each other take all.
    Tenth(u64),
}

impl Share {
    /// As the variable `FOREBAY_MATRIX` says: `all`, or a number whose last digit picks the tenth, such as
    /// the count of commits.
    ///
    /// # Panics
    /// If it is something else.
    pub fn of_environment() -> Self {
        match env::var("FOREBAY_MATRIX").unwrap_or_default().as_str() {
            "all" => Self::All,
            "" => Self::Tenth(0),
            number => match number.parse::<u64>() {
                Ok(seed) => Self::Tenth(seed % 10),
                Err(_) => panic!("FOREBAY_MATRIX is {number:?}, allowed are `all` and a number"),
            },
        }
    }

    /// Whether the cell of this number is taken.
    pub fn takes(self, cell: usize) -> bool {
        match self {
            Self::All => true,
            Self::Tenth(first) => cell as u64 % 10 == first,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Tenth(first) => write!(f, "tenth {first}"),
        }
    }
}

/// What came of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The right content, or a state that is provably the same.
    Right,
    /// An error that says what is wrong.
    Clear(String),
    /// Wrong content was taken as right.
    Silent(String),
    /// No end within the deadline.
    Hanging,
}

/// What came of a matrix.
#[derive(Debug)]
pub struct Tally {
    title: &'static str,
    cells: Vec<(String, Outcome)>,
}

impl Tally {
    /// An empty one.
    pub fn new(title: &'static str) -> Self {
        Self { title, cells: Vec::new() }
    }

    /// Notes a cell.
    pub fn note(&mut self, cell: String, outcome: Outcome) {
        self.cells.push((cell, outcome));
    }

    /// Says how it went, past the test harness, which keeps what passing tests print.
    ///
    /// # Panics
    /// If a cell is silent or hangs.
    pub fn conclude(&self, share: Share) {
        let count = |is: fn(&Outcome) -> bool| self.cells.iter().filter(|(_, outcome)| is(outcome)).count();
        let silent = count(|outcome| matches!(outcome, Outcome::Silent(_)));
        let hanging = count(|outcome| matches!(outcome, Outcome::Hanging));
        let right = count(|outcome| matches!(outcome, Outcome::Right));
        let mut out = std::io::stderr().lock();
        for (cell, outcome) in &self.cells {
            if share == Share::All || matches!(outcome, Outcome::Silent(_) | Outcome::Hanging) {
                let _ = writeln!(out, "  {cell}: {outcome:?}");
            }
        }
        let _ = writeln!(
            out,
            "{} ({share}): right {right}, refused {}",
            self.title,
            self.cells.len() - right - silent - hanging
        );
        let _ = writeln!(out, "{}: cells {}, silent {silent}, hanging {hanging}", self.title, self.cells.len());
        drop(out);
        let bad = |(_, outcome): &&(String, Outcome)| matches!(outcome, Outcome::Silent(_) | Outcome::Hanging);
        let bad: Vec<_> = self.cells.iter().filter(bad).collect();
        assert!(bad.is_empty(), "{}: {bad:#?}", self.title);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_shares_take_every_cell_once() {
        for cell in 0..160 {
            let takers = (0..10).filter(|first| Share::Tenth(*first).takes(cell)).count();
            assert_eq!(takers, 1, "cell {cell}");
            assert!(Share::All.takes(cell));
        }
    }
}
