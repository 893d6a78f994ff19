//! What happened, as a running hash: two runs of a seed agree in it, or something is not deterministic.

use std::fmt::{self, Write as _};

use xxhash_rust::xxh3::Xxh3;

/// The trace of a run.
#[derive(Default)]
pub struct Trace {
    hasher: Xxh3,
    lines: u64,
    print: bool,
}

impl Trace {
    /// Starts a trace; `print` also shows it.
    pub fn new(print: bool) -> Self {
        Self { print, ..Self::default() }
    }

    /// Adds a line.
    pub fn line(&mut self, now_us: i64, line: fmt::Arguments<'_>) {
        self.lines += 1;
        self.hasher.update(&now_us.to_le_bytes());
        // Hashing cannot fail.
        let _ = self.write_fmt(line);
        if self.print {
            println!("{:>9}.{:03} {line}", now_us / 1000, now_us % 1000);
        }
    }

    /// Returns the hash of everything so far.
    pub fn digest(&self) -> u64 {
        self.hasher.digest()
    }

    /// Returns the number of lines.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.hasher.update(text.as_bytes());
        Ok(())
    }
}
