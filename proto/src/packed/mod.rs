//! Packed batches: operations and answers in columns over one arena.
//!
//! A batch is checked once, as a whole, and then walked as slices of the message that arrived: no copy and
//! no allocation per key or value. What is kept beyond the message must be copied out, as a slice pins it.
//! The module knows neither shards nor limits; lengths of keys and numbers of operations are the server's.
//!
//! Invariant: hostile columns are an [`Error`], never a panic, and cost no more than their own length.

mod answers;
mod op;
mod ops;

pub use answers::{AnswerRef, Answers, AnswersBuilder};
pub use op::Op;
pub use ops::{Ops, OpsBuilder, OpsIter};

/// Why columns are no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A column is neither empty nor as long as there are operations.
    #[error("column {column} has {got} entries: 0 or {expected} allowed")]
    Column {
        /// The column.
        column: &'static str,
        /// Its length.
        got: usize,
        /// The number of operations, or of items.
        expected: u64,
    },
    /// The lengths do not add up to the arena.
    #[error("arena has {got} bytes, its lengths add up to {expected} (truncated, or another message's columns)")]
    Arena {
        /// Bytes of the arena.
        got: usize,
        /// The sum of the lengths.
        expected: u64,
    },
    /// The operation kind is not known.
    #[error("operation {index} has kind {got}: not an OpKind this build knows")]
    Kind {
        /// Index of the operation.
        index: usize,
        /// The kind.
        got: u8,
    },
    /// The key group is not below the largest max parallelism.
    #[error("operation {index} has key group {got}: 0 to 32767 allowed")]
    KeyGroup {
        /// Index of the operation.
        index: usize,
        /// The key group.
        got: u32,
    },
    /// The verdict is not known.
    #[error("answer {index} has verdict {got}: 0 to 2 allowed")]
    Verdict {
        /// Index of the operation.
        index: usize,
        /// The verdict.
        got: u8,
    },
}

/// Returns the entry of a column; an empty column is all zeros.
fn entry<T: Copy + Default>(column: &[T], index: usize) -> T {
    column.get(index).copied().unwrap_or_default()
}

/// Checks that a column is empty or has one entry for each.
fn check_column<T>(name: &'static str, column: &[T], expected: usize) -> Result<(), Error> {
    if column.is_empty() || column.len() == expected {
        return Ok(());
    }
    Err(Error::Column { column: name, got: column.len(), expected: expected as u64 })
}

/// Empties a column that says nothing.
fn trim<T: Default + PartialEq>(mut column: Vec<T>) -> Vec<T> {
    if column.iter().all(|entry| *entry == T::default()) {
        column.clear();
    }
    column
}

/// Writes a deadline; 0 is none on the wire, so the first millisecond of 1970 becomes the one before.
fn deadline(expires_at_ms: Option<i64>) -> i64 {
    expires_at_ms.map_or(0, |ms| if ms == 0 { -1 } else { ms })
}

/// Reads a deadline.
fn read_deadline(entry: i64) -> Option<i64> {
    (entry != 0).then_some(entry)
}

/// Turns a length into a column entry; a longer slice could not be a part of any message.
fn len_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a part of a message is shorter than 4 GiB")
}
