//! Sorted sets: elements in byte order, per key group. Timers are a codec on them.

use std::ops::ControlFlow;

use forebay_proto::{packed::AnswersBuilder, reason::Refused};

use super::{Rows, State};
use crate::shard::key;

/// Counts the elements of a key group exactly, an `i64` in its codec.
pub(super) fn count(
    rows: &Rows<'_>,
    state: &State,
    prefix: &[u8],
    answers: &mut AnswersBuilder,
) -> Result<(), Refused> {
    let mut count = 0_i64;
    rows.scan(state, prefix, &key::successor(prefix), &mut |_, _, _| {
        count += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    // The order-preserving codec of i64: the sign bit is turned over.
    answers.value(&(count.cast_unsigned() ^ (1 << 63)).to_be_bytes(), None, None);
    Ok(())
}
