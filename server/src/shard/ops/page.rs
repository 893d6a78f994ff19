//! Pages: how much one operation answers.

use std::ops::ControlFlow;

use forebay_proto::{packed::AnswersBuilder, reason::Refused, v1::ErrorReason as Reason};

use super::State;

/// Most bytes that one operation answers; what is longer is read in pages.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Most bytes that the operations of a batch answer together; one alone may answer more.
pub const BATCH_ANSWER_BYTES_MAX: usize = 32 << 20;

/// Refuses a batch whose answers would be too much for one message.
pub fn check_bytes(answers: &AnswersBuilder) -> Result<(), Refused> {
    if answers.bytes() <= BATCH_ANSWER_BYTES_MAX || answers.len() <= 1 {
        return Ok(());
    }
    let message = format!(
        "the answers to the first {} operations of the batch are over {BATCH_ANSWER_BYTES_MAX} bytes: read fewer at once",
        answers.len()
    );
    Err(Refused::new(Reason::BatchTooMany, message))
}

/// An answer that ends at a number of rows or at the most bytes.
pub struct Page<'a> {
    state: &'a State,
    limit: u32,
    rows: u32,
    bytes: usize,
}

impl<'a> Page<'a> {
    /// Starts an answer of at most `limit` rows; 0 is all.
    pub fn begin(state: &'a State, limit: u32, answers: &mut AnswersBuilder) -> Self {
        answers.begin_items();
        Self { state, limit, rows: 0, bytes: 0 }
    }

    /// Adds a row of these items; breaks, and says that there is more, once the page is full.
    pub fn push(&mut self, items: &[&[u8]], answers: &mut AnswersBuilder) -> Result<ControlFlow<()>, Refused> {
        let bytes: usize = items.iter().map(|item| item.len()).sum();
        let full = self.limit != 0 && self.rows == self.limit;
        if full || self.bytes + bytes > ANSWER_BYTES_MAX {
            if self.limit == 0 || self.rows == 0 {
                return Err(too_long(self.state));
            }
            answers.more();
            return Ok(ControlFlow::Break(()));
        }
        items.iter().for_each(|item| answers.push_item(item));
        self.rows += 1;
        self.bytes += bytes;
        Ok(ControlFlow::Continue(()))
    }
}

fn too_long(state: &State) -> Refused {
    let message =
        format!("what state {:?} holds there is over {ANSWER_BYTES_MAX} bytes: read it in pages (limit)", state.name());
    Refused::new(Reason::ListTooLong, message)
}
